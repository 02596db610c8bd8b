"""What a publisher keeps and pins: rounds that were begun, windows, panels, key files."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from client import keyfile
from client.analyst import panel as panels
from client.analyst.journal import Journal, Plan
from client.analyst.panel import PinnedParty
from client.analyst.schedule import Window, next_free, overlapping, when_ms
from client.errors import UserError
from client.keyfile import KeyFileError

PLAN = Plan(b"\x01" * 16, "cuisine", b"\x02" * 32, 100, 200, (b"\x03" * 32, b"\x04" * 32))
KEYS = [bytes([at]) * 32 for at in (1, 2, 3)]


def test_a_plan_is_there_until_it_is_collected_or_over(tmp_path: Path) -> None:
    """The next run finds it, as it was written."""
    journal = Journal.beside(tmp_path / "a.key")
    assert journal.folder == tmp_path / "a.key.rounds"
    assert journal.plans() == []
    with journal.locked():
        journal.write(PLAN)
    assert stat.S_IMODE(journal.folder.stat().st_mode) == 0o700
    assert journal.plans() == [PLAN]
    assert journal.unfinished(PLAN.spec_hash, now_ms=199) == PLAN
    assert journal.unfinished(PLAN.spec_hash, now_ms=200) is None
    assert journal.unfinished(b"\x09" * 32, now_ms=150) is None
    journal.finish(PLAN)
    assert journal.plans() == [replace(PLAN, collected=True)]
    assert journal.unfinished(PLAN.spec_hash, now_ms=150) is None
    journal.forget(PLAN)
    assert journal.plans() == []


def test_two_runs_do_not_begin_rounds_at_once(tmp_path: Path) -> None:
    """They would ask parties for two rounds of one window."""
    journal = Journal.beside(tmp_path / "a.key")
    with journal.locked(), pytest.raises(UserError, match="is at work"), journal.locked():
        pass
    with journal.locked():
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 2}', b"[1]", b"\xff"])
def test_a_damaged_plan_is_named(tmp_path: Path, content: bytes) -> None:
    """It is not skipped: a round that was begun stands in it."""
    journal = Journal.beside(tmp_path / "a.key")
    journal.folder.mkdir()
    (journal.folder / "00.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        journal.plans()


def test_a_round_opens_now_then_or_next() -> None:
    """`next` is the first window that overlaps none."""
    assert when_ms("now", 5) == 5
    assert when_ms("next", 5) is None
    assert when_ms("+2s", 5) == 2_005
    assert when_ms("1970-01-01T00:00:01Z", 5) == 1_000
    for text in ("", "tomorrow", "+1", "2027-01-01"):
        with pytest.raises(UserError, match="--open"):
            when_ms(text, 5)
    busy = [Window(100, 200), Window(0, 50), Window(240, 300)]
    assert next_free(busy, 10, 40) == 50
    assert next_free(busy, 10, 60) == 300
    assert next_free([], 10, 60) == 10
    assert overlapping(busy, Window(50, 100)) is None
    assert overlapping(busy, Window(50, 101)) == Window(100, 200)


def test_a_panel_is_a_file_or_the_command_line(tmp_path: Path) -> None:
    """Addresses are for publishers; readers need keys alone."""
    file = tmp_path / "panel.toml"
    rows = "".join(
        f'[[party]]\naddress = "p{at}:7453"\nkey = "{key.hex()}"\n' for at, key in enumerate(KEYS)
    )
    file.write_text(f'publishers = ["{KEYS[0].hex()}"]\n{rows}')
    read = panels.read(file)
    assert read.keys == tuple(KEYS)
    assert read.publishers == {KEYS[0]}
    assert read.parties[1] == PinnedParty(KEYS[1], "p1:7453")
    given = panels.joined(None, [f"[::1]:5={KEYS[0].hex()}", KEYS[1].hex()], [KEYS[2].hex()])
    assert given.parties == (PinnedParty(KEYS[0], "[::1]:5"), PinnedParty(KEYS[1]))
    assert panels.joined(file, [], [KEYS[2].hex()]).publishers == {KEYS[0], KEYS[2]}
    with pytest.raises(UserError, match="not by both"):
        panels.joined(file, [KEYS[1].hex()], [])
    with pytest.raises(UserError, match="given twice"):
        panels.joined(None, [KEYS[1].hex()] * 2, [])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("party = 5", "it holds publishers"),
        ('[[party]]\naddress = "a:1"', "it holds publishers"),
        ("[[party]]\nkey = 5", "it holds publishers"),
        ('[[party]]\nkey = "00"', "a party's key is not a public key of 64 hex digits"),
        ('publishers = ["zz"]', "a publisher is not a public key"),
        ("parties = []", "parties is no field"),
        ("x", "is not TOML"),
    ],
)
def test_a_panel_file_of_another_form_says_what_is_wrong(
    tmp_path: Path, content: str, sentence: str
) -> None:
    """And where."""
    (tmp_path / "panel.toml").write_text(content)
    with pytest.raises(UserError, match=sentence):
        panels.read(tmp_path / "panel.toml")
    with pytest.raises(UserError, match="can't be read"):
        panels.read(tmp_path / "missing.toml")


def test_a_key_file_is_its_owners_and_never_overwritten(tmp_path: Path) -> None:
    """What is readable by others, or no key, is refused without showing it."""
    path = tmp_path / "new" / "a.key"
    keyfile.create(path, KEYS[0])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keyfile.read(path) == KEYS[0]
    with pytest.raises(FileExistsError):
        keyfile.create(path, KEYS[1])
    assert keyfile.read(path) == KEYS[0]
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keyfile.read(path)
    path.chmod(0o600)
    path.write_text("ab" * 31)
    with pytest.raises(KeyFileError, match="is no key file") as caught:
        keyfile.read(path)
    assert "abab" not in str(caught.value)
    with pytest.raises(KeyFileError, match="is missing"):
        keyfile.read(tmp_path / "b.key")
