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

    async def line(*, blank: bool) -> str:
        assert blank
        return next(typed)

    monkeypatch.setattr(pair, "read_line", line)
    assert asyncio.run(pair._digits(Output(as_json=False))) == "123456"


@pytest.mark.parametrize("reason", ["UNREACHABLE", "OP_INVALID", "NEW"])
def test_a_sentence_has_no_code(reason: str) -> None:
    """People get the sentence; the reason stands in --json."""
    sentence = str(RemoteError(reason, status="INTERNAL"))
    assert reason not in sentence
    assert "[" not in sentence


def test_a_limit_is_named_in_words() -> None:
    """A limit of the service is not shown as a slug."""
    error = RemoteError("QUOTA", status="RESOURCE_EXHAUSTED", metadata={"limit": "account_devices"})
    assert "account devices" in str(error)


def test_a_blank_line_is_nothing_typed(tmp_path: Path) -> None:
    """Where a key is wanted, it is not a key that is too short."""
    assert _recover(tmp_path, "\n") == "rookery: nothing was typed\n"


def _recover(tmp_path: Path, typed: str) -> str:
    """What `recover` says to what is typed as the recovery key."""
    run = subprocess.run(
        [
            *PROGRAM, "device", "recover", "--account", "00" * 32, "--state", tmp_path / "a.db",
            "--server", "127.0.0.1:1", "--audience", "x", "--server-key", "11" * 32,
        ],
        env=environment(), input=typed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    return run.stderr


def test_a_recovery_key_that_is_too_short_is_said_without_a_rule(tmp_path: Path) -> None:
    """The rule's name is for programs."""
    err = _recover(tmp_path, "A" * 35 + "\n")
    assert err == "rookery: a recovery key has 36 characters, not 35\n"
