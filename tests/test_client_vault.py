"""The vault: what survives, what a copy of the file shows, who may open it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.localkey import KeyFile, Passphrase
from client.vault import FileVault, MemoryVault, Vault, needs_passphrase
from client.vaulterrors import (
    VaultBusy,
    VaultDamaged,
    VaultExists,
    VaultKeyMissing,
    VaultLocked,
    VaultMissing,
)

CHEAP = {"ops": 1, "memory_bytes": 8192}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is kept."""
    return tmp_path / "home" / "device.db"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_changes_are_put_and_removed(kind: str, path: Path) -> None:
    """Every kind of vault holds what was put last and forgets what was removed."""
    vault: Vault = MemoryVault() if kind == "memory" else FileVault.create(path, KeyFile())
    vault.apply({"a": b"1", "b": b"2", "": b""})
    vault.apply({"a": b"3", "b": None, "never": None})
    assert vault.load() == {"a": b"3", "": b""}
    vault.close()
    vault.close()


def test_state_survives_the_process(path: Path) -> None:
    """What `apply` returned from is there after reopening."""
    vault = FileVault.create(path, KeyFile())
    vault.apply({"name": b"value" * 5000})
    vault.close()
    again = FileVault.open(path, KeyFile())
    assert again.load() == {"name": b"value" * 5000}
    again.close()


def test_a_failed_apply_changes_nothing(path: Path) -> None:
    """A batch that can't be written whole is not written at all."""
    vault = FileVault.create(path, KeyFile())
    vault.apply({"a": b"1"})
    with pytest.raises(Exception, match=r"format|too long|ushort"):
        vault.apply({"a": b"2", "x" * 70_000: b"name too long"})
    assert vault.load() == {"a": b"1"}
    vault.close()


def test_files_are_for_their_owner_alone(path: Path) -> None:
    """State and key file have mode 0600 whatever the umask says."""
    old = os.umask(0)
    try:
        vault = FileVault.create(path, KeyFile())
        vault.apply({"a": b"1"})
    finally:
        os.umask(old)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name
    vault.close()


def test_a_copy_without_the_key_shows_neither_names_nor_values(path: Path) -> None:
    """Names and values stand nowhere in the file, also not of rows that were removed."""
    vault = FileVault.create(path, KeyFile())
    vault.apply({"secret-name": b"secret-value", "gone-name": b"gone-value"})
    vault.apply({"gone-name": None})
    vault.close()
    data = b"".join(file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".key")
    for word in (b"secret-name", b"secret-value", b"gone-name", b"gone-value"):
        assert word not in data


def test_a_second_process_is_refused_in_words(path: Path) -> None:
    """Two processes on one state would fork the chain, so the second one gets VaultBusy."""
    vault = FileVault.create(path, KeyFile())
    vault.apply({"a": b"1"})
    code = (
        "import sys; from pathlib import Path\n"
        "from client.vault import FileVault\nfrom client.localkey import KeyFile\n"
        "try: FileVault.open(Path(sys.argv[1]), KeyFile())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.startswith("VaultBusy another process is using")
    vault.apply({"b": b"2"})
    assert vault.load() == {"a": b"1", "b": b"2"}
    vault.close()


def test_a_second_vault_of_the_same_process_is_refused_and_leaves_the_lock(path: Path) -> None:
    """A refused opening in the same process does not let go of the first one's lock."""
    vault = FileVault.create(path, KeyFile())
    for _ in range(2):
        with pytest.raises(VaultBusy):
            FileVault.open(path, KeyFile())
    with pytest.raises(VaultExists):
        FileVault.create(path, KeyFile())
    vault.close()
    FileVault.open(path, KeyFile()).close()


def test_another_key_file_is_refused(path: Path, tmp_path: Path) -> None:
    """A key that didn't make the vault gives VaultLocked and changes nothing."""
    FileVault.create(path, KeyFile()).close()
    FileVault.create(tmp_path / "other.db", KeyFile()).close()
    with pytest.raises(VaultLocked, match="does not open"):
        FileVault.open(path, KeyFile(tmp_path / "other.db.key"))


def test_a_lost_key_file_is_named(path: Path) -> None:
    """Without its key file the error names the file that is missing."""
    FileVault.create(path, KeyFile()).close()
    path.with_name("device.db.key").unlink()
    with pytest.raises(VaultKeyMissing, match=r"device\.db\.key is missing"):
        FileVault.open(path, KeyFile())


def test_a_key_file_that_others_can_read_is_refused(path: Path) -> None:
    """A key file of mode 0644 is no secret."""
    FileVault.create(path, KeyFile()).close()
    path.with_name("device.db.key").chmod(0o644)
    with pytest.raises(VaultKeyMissing, match="chmod 600"):
        FileVault.open(path, KeyFile())


def test_a_passphrase_opens_and_a_wrong_one_does_not(path: Path) -> None:
    """The cost stands in the vault: opening needs the passphrase and nothing else."""
    FileVault.create(path, Passphrase("correct horse", **CHEAP)).close()
    assert needs_passphrase(path)
    FileVault.open(path, Passphrase("correct horse")).close()
    with pytest.raises(VaultLocked, match="this passphrase"):
        FileVault.open(path, Passphrase("battery staple"))
    with pytest.raises(VaultLocked, match="a key file"):
        FileVault.open(path, KeyFile())
    assert "horse" not in repr(Passphrase("correct horse"))


def test_a_missing_state_names_the_command_that_makes_one(path: Path) -> None:
    """Opening nothing says what to run."""
    with pytest.raises(VaultMissing, match="rookery device init"):
        FileVault.open(path, KeyFile())


def test_a_file_that_is_no_vault_is_refused(path: Path) -> None:
    """Other files are called damaged and are not touched."""
    path.parent.mkdir()
    content = b"not a database at all, " * 100
    path.write_bytes(content)
    with pytest.raises(VaultDamaged):
        FileVault.open(path, KeyFile())
    with pytest.raises(VaultExists):
        FileVault.create(path, KeyFile())
    assert path.read_bytes() == content


def test_a_making_that_was_cut_off_can_be_repeated(path: Path) -> None:
    """A file that a killed process left empty counts as none."""
    path.parent.mkdir()
    path.touch(0o600)
    with pytest.raises(VaultMissing):
        FileVault.open(path, KeyFile())
    FileVault.create(path, KeyFile()).close()
    FileVault.open(path, KeyFile()).close()


@pytest.mark.parametrize("tamper", ["swap", "flip", "rename"])
def test_a_changed_row_is_noticed(path: Path, tamper: str) -> None:
    """A row's value only opens under its own name and unchanged."""
    vault = FileVault.create(path, KeyFile())
    vault.apply({"a": b"1", "b": b"2"})
    vault.close()
    db = sqlite3.connect(path)
    (name_a, value_a), (name_b, value_b) = db.execute("SELECT name, value FROM row").fetchall()
    if tamper == "swap":
        db.execute("UPDATE row SET value = ? WHERE name = ?", (value_b, name_a))
        db.execute("UPDATE row SET value = ? WHERE name = ?", (value_a, name_b))
    elif tamper == "flip":
        changed = bytes((value_a[0] ^ 1,)) + value_a[1:]
        db.execute("UPDATE row SET value = ? WHERE name = ?", (changed, name_a))
    else:
        db.execute("UPDATE row SET name = ? WHERE name = ?", (bytes(16), name_a))
    db.commit()
    db.close()
    again = FileVault.open(path, KeyFile())
    with pytest.raises(VaultDamaged):
        again.load()
    again.close()


def test_an_expensive_forged_cost_is_not_spent(path: Path) -> None:
    """A vault can't make its reader hash for hours or fill its memory."""
    FileVault.create(path, Passphrase("p", **CHEAP)).close()
    db = sqlite3.connect(path)
    cost = (2**31).to_bytes(4, "big") + (2**40).to_bytes(8, "big")
    db.execute("UPDATE meta SET value = ? WHERE name = 'cost'", (cost,))
    db.commit()
    db.close()
    with pytest.raises(VaultDamaged):
        FileVault.open(path, Passphrase("p"))
