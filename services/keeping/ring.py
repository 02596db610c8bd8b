"""Key files, and what lies beside them while one key takes another's place.

Beside an identity key `NAME`: `NAME.next`, the key that will follow it; `NAME.successions`, a
line of hex for each succession, public. Beside a pepper: `NAME.before-…`, those whose rows still
count. A command that is cut off anywhere leaves a state from which the same command goes on.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crypto import enrol, succession
from crypto.errors import CryptoError
from crypto.primitives import sign_keypair
from crypto.succession import SUCCESSIONS_MAX, Succession
from services import keys
from services.keeping import files
from services.keeping.errors import KeepingError
from services.keys import KEY_BYTES, KeyFileError

NEXT, SUCCESSIONS, BEFORE = ".next", ".successions", ".before-"
_FILE_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity key, and the statements that lead to it, oldest first. repr hides the key."""

    seed: bytes
    successions: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Identity(public {self.public.hex()}, secret hidden)"

    @property
    def public(self) -> bytes:
        """The half that devices pin."""
        return sign_keypair(self.seed)[0]


@dataclass(frozen=True, slots=True)
class Pepper:
    """The pepper in force, and those before whose rows count. repr hides all."""

    secret: bytes
    before: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Pepper({enrol.pepper_mark(self.secret).hex()}, {len(self.before)} before)"


def read_identity(path: Path, *, audience: str) -> Identity:
    """KeyFileError."""
    seed = keys.read(path)
    by_new = {row.new: (data, row) for data, row in read_successions(path, audience=audience)}
    at, found = sign_keypair(seed)[0], list[bytes]()
    while (step := by_new.pop(at, None)) is not None:
        data, row = step
        found.append(data)
        at = row.old
    return Identity(seed, tuple(reversed(found)))


def read_pepper(path: Path) -> Pepper:
    """KeyFileError."""
    secret = keys.read(path)
    before = {keys.read(row): None for row in peppers_before(path)}
    # A rotation that was cut off has named the one in force already.
    before.pop(secret, None)
    return Pepper(secret, tuple(before))


def peppers_before(path: Path) -> list[Path]:
    """The files of peppers that are not in force any more."""
    start = path.name + BEFORE
    try:
        return sorted(row for row in path.parent.iterdir() if row.name.startswith(start))
    except OSError:
        return []


def read_successions(path: Path, *, audience: str) -> list[tuple[bytes, Succession]]:
    """All statements beside an identity key; KeyFileError if one is not of this deployment."""
    file = path.with_name(path.name + SUCCESSIONS)
    try:
        with file.open("rb") as opened:
            lines = opened.read(_FILE_BYTES_MAX).split()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"{file}: can't be read ({error.strerror})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            data = bytes.fromhex(line.decode("ascii"))
            found.append((data, succession.open_(data, audience=audience)))
        except (ValueError, CryptoError):
            raise KeyFileError(
                f"{file}: line {number} is no succession of the deployment {audience!r}"
            ) from None
    return found


def rotate_identity(
    path: Path, *, audience: str, now_ms: int, overlap_ms: int
) -> tuple[bytes, bytes]:
    """Puts a new key in force; the public halves of the one before and the new one.

    First the statement is on the disk, then the key: receipts are never signed by a key that
    nobody can be led to. The old key's secret half is not kept.
    """
    with _locked(path):
        old = keys.read(path)
        old_pk = sign_keypair(old)[0]
        statements = read_successions(path, audience=audience)
        named = {row.new for _, row in statements if row.old == old_pk}
        following = path.with_name(path.name + NEXT)
        if not following.exists():
            if named:
                raise KeepingError(
                    f"{path}: this key has named its successor {min(named).hex()} already, which"
                    " clients may have pinned: put that key in its place"
                )
            keys.create(following, secrets.token_bytes(KEY_BYTES))
            files.sync_folder(path.parent)
        new = keys.read(following)
        new_pk = sign_keypair(new)[0]
        if named and named != {new_pk}:
            raise KeepingError(
                f"{following}: is not the successor that {path} has named: put that one in place"
            )
        if not named:
            if len(statements) >= SUCCESSIONS_MAX:
                raise KeepingError(f"{path}: retire successions first, {SUCCESSIONS_MAX} are many")
            made = succession.make(
                old, new, audience=audience, made_ms=now_ms, until_ms=now_ms + overlap_ms
            )
            _write_successions(path, [*(data for data, _ in statements), made])
        files.replace(following, path)
    return old_pk, new_pk


def retire_identity(path: Path, public: bytes, *, audience: str, now_ms: int) -> int:
    """Nobody is led on from this key any more, nor from those before it. How many statements
    went. KeepingError while receipts by it still count."""
    with _locked(path):
        statements = read_successions(path, audience=audience)
        by_new = {row.new: row.old for _, row in statements}
        if not any(row.old == public for _, row in statements):
            raise KeepingError(f"{path}: no succession leads on from that key")
        over = {public}
        at = public
        while (at := by_new.get(at, b"")) and at not in over:
            over.add(at)
        if any(now_ms < row.until_ms for _, row in statements if row.old in over):
            raise KeepingError(f"{path}: receipts by it, or by one before, still count")
        left = [data for data, row in statements if row.old not in over]
        _write_successions(path, left)
    return len(statements) - len(left)


def rotate_pepper(path: Path) -> tuple[bytes, bytes]:
    """Puts a new pepper in force and keeps the one before; their marks."""
    with _locked(path):
        old = keys.read(path)
        mark = enrol.pepper_mark(old)
        kept = path.with_name(path.name + BEFORE + mark.hex())
        if not kept.exists():
            kept.hardlink_to(path)
            files.sync_folder(path.parent)
        new = secrets.token_bytes(KEY_BYTES)
        files.write_whole(path, _line(new))
    return mark, enrol.pepper_mark(new)


def retire_pepper(path: Path, mark: bytes) -> None:
    """Rows of this pepper count no more."""
    with _locked(path):
        if mark == enrol.pepper_mark(keys.read(path)):
            raise KeepingError(f"{path}: is in force; rotate it first")
        for file in peppers_before(path):
            if enrol.pepper_mark(keys.read(file)) == mark:
                file.unlink()
                files.sync_folder(path.parent)
                return
        raise KeepingError(f"{path}: no pepper before it has that mark")


def _write_successions(path: Path, statements: Sequence[bytes]) -> None:
    lines = b"".join(map(_line, statements))
    files.write_whole(path.with_name(path.name + SUCCESSIONS), lines, like=path)


def _line(data: bytes) -> bytes:
    return data.hex().encode("ascii") + b"\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One command at a time changes what lies beside a key."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeepingError(f"{path.parent}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeepingError(f"{path.parent}: another command changes keys here") from None
        yield
    finally:
        os.close(folder)
