"""What the command line says to a person who mistypes: in process, without a service."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from client.cli import pair
from client.cli.main import main
from client.cli.output import Output, brief, clean
from client.localkey import Passphrase
from client.remoteerrors import RemoteError
from client.vault import FileVault
from tests.cli_process import PROGRAM
from tests.service_process import environment


def test_a_passphrase_without_a_terminal_is_one_sentence(tmp_path: Path) -> None:
    """It names the variable that helps."""
    state = tmp_path / "a.db"
    FileVault.create(state, Passphrase("x", ops=1, memory_bytes=1 << 14)).close()
    run = subprocess.run(
        [*PROGRAM, "device", "list", "--state", str(state)], env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    assert run.returncode == 1
    assert "ROOKERY_PASSPHRASE" in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("verb", ["like", "get"])
def test_a_half_life_is_more_than_0(
    verb: str, days: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything else would destroy the score."""
    with pytest.raises(SystemExit, match="2"):
        main(["device", verb, "a/b", f"--half-life={days}"])
    assert "--half-life is more than 0" in capsys.readouterr().err


def test_the_program_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` is a line and code 0."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("rookery ")


def test_values_can_not_steer_the_terminal() -> None:
    """Control characters are escaped; a list has one line each, of bounded length."""
    assert clean("a\x1b[2J\nb") == "a\\x1b[2J\nb"
    assert brief("a\nb\u202e") == "a\\nb\\u202e"
    assert len(brief("x" * 30_000)) < 250


def test_what_is_no_six_digits_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not burn the one attempt."""
    typed = iter(["", "abcdef", "12345", "123 456"])

    async def line() -> str:
        return next(typed)

    monkeypatch.setattr(pair, "read_line", line)
    assert asyncio.run(pair._digits(Output(as_json=False))) == "123456"


def test_a_code_is_only_shown_where_there_are_no_words_for_it() -> None:
    """People get the sentence; the reason stands in --json."""
    assert "[" not in str(RemoteError("UNREACHABLE", status="UNAVAILABLE"))
    assert "[NEW]" in str(RemoteError("NEW", status="INTERNAL"))
