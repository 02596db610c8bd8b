"""Commands that are run as root leave files that the service, who is somebody else, can read."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from services import keys
from services.keeping import files, ring
from services.keeping.backup import KeyFiles, backup, restore
from services.keeping.errors import KeepingError
from services.moving.sqlite_side import SqliteSide
from services.store.sqlite import SqliteStore
from tests.served import AUDIENCE

ROOT = os.geteuid() == 0
# Where this machine's user can give nothing away, the owner is that user.
USER, GROUP = (65532, 65532) if ROOT else (os.geteuid(), os.getegid())


def silent(done: int, total: int) -> None:
    """No bar."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The service's folder, with its keys."""
    folder = tmp_path / "service"
    folder.mkdir()
    for name in ("server.key", "pepper"):
        keys.create(folder / name, b"\x07" * 32)
        os.chown(folder / name, USER, GROUP)
    os.chown(folder, USER, GROUP)
    return folder


def read_by_service(path: Path) -> bytes:
    """As the service reads it: from its folder, as its user."""
    command = ["cat", path.name]
    if not ROOT:
        return subprocess.run(command, cwd=path.parent, check=True, capture_output=True).stdout
    return subprocess.run(
        command, cwd=path.parent, check=True, capture_output=True,
        user=USER, group=GROUP, extra_groups=(),
    ).stdout  # fmt: skip


def databases(folder: Path) -> list[Path]:
    """The database, under whatever name, and what lies beside it."""
    return sorted(folder.glob("rookery.db*"))


def all_are_the_services(folder: Path) -> None:
    """Each file is the service's alone, and it can read it."""
    for row in sorted(folder.iterdir()):
        found = row.stat()
        assert (found.st_uid, found.st_gid) == (USER, GROUP), row.name
        assert stat.S_IMODE(found.st_mode) == 0o600, row.name
        read_by_service(row)


def test_keys_that_root_rotates_are_still_the_service_s(place: Path) -> None:
    """The new key, the statements that lead to it, the new pepper and the one before."""
    ring.rotate_identity(place / "server.key", audience=AUDIENCE, now_ms=1, overlap_ms=1)
    ring.rotate_pepper(place / "pepper")
    assert len(list(place.iterdir())) == 4
    all_are_the_services(place)


def test_a_file_is_replaced_with_its_mode_and_its_group(place: Path) -> None:
    """What a group could read, it can read afterwards."""
    path = place / "server.key"
    path.chmod(0o640)
    files.write_whole(path, b"other")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, GROUP, 0o640)


def test_who_cannot_write_for_the_owner_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, and the file is as it was. Needs a second user, whom only root can be."""
    if not ROOT:
        return
    path = place / "statement"
    path.write_bytes(b"root's")
    monkeypatch.chdir(place)
    os.seteuid(USER)
    try:
        with pytest.raises(KeepingError, match="run this as that user"):
            files.write_whole(Path(path.name), b"other")
    finally:
        os.seteuid(0)
    assert path.read_bytes() == b"root's"
    assert path.stat().st_uid == 0
    assert not list(place.glob(".*"))


@pytest.mark.parametrize("there", [True, False])
async def test_a_database_that_root_restores_is_the_service_s(
    place: Path, tmp_path: Path, *, there: bool
) -> None:
    """It takes after the one before, or the folder where there is none; so does its lock."""
    database = place / "rookery.db"
    await (await SqliteStore.open(database)).close()
    key_files = KeyFiles(place / "server.key", place / "pepper", "audience.test")
    backup(database, tmp_path / "copy.db", key_files, silent)
    if not there:
        for row in databases(place):
            row.unlink()
    restore(tmp_path / "copy.db", database, key_files, silent, replace=True)
    all_are_the_services(place)


async def test_a_database_that_root_makes_belongs_to_the_owner_of_its_folder(place: Path) -> None:
    """As `migrate-store` makes it, with its log while it is open."""
    side = SqliteSide(place / "rookery.db", filled=True)
    await side.seize(b"of1")
    made = databases(place)
    assert {row.name for row in made} >= {
        "rookery.db.lock", "rookery.db.moving", "rookery.db.moving-wal",
    }  # fmt: skip
    for row in made:
        assert (row.stat().st_uid, row.stat().st_gid) == (USER, GROUP), row.name
    await side.finish(b"", bytes(8), bytes(32))
    await side.close()
    all_are_the_services(place)
