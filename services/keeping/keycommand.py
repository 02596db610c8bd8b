"""`rookery-server keys`: what the commands say. Never a secret half."""

from __future__ import annotations

import argparse
import json
import secrets as randomness
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from crypto import enrol
from crypto.primitives import sign_keypair
from services import keys
from services.audit.local import noted
from services.config import Config, of_arguments
from services.keeping import ring
from services.keeping.current import Trusted
from services.keeping.errors import KeepingError
from services.keeping.foreseen import FORESEEN
from services.listed import Listed

__all__ = ["FORESEEN", "make", "retire", "rotate", "rows_of", "show"]

_DAY_MS = 86_400_000
_STARTS_AT_LEAST = 6
NEVER_PINNED = (
    "clients that pinned a key before {old} and did not come since must be given the new one by"
    " hand (--server-key)"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One key."""

    kind: str
    id: str
    """The public half, or of a pepper its mark."""
    state: str
    since: str
    file: str


def show(arguments: argparse.Namespace) -> None:
    """Lists all keys."""
    config = of_arguments(arguments)
    rows = list(rows_of(config, _now_ms()))
    if arguments.json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    wide = max(len(row.kind) for row in rows)
    for row in rows:
        since = f", since {row.since}" if row.since else ""
        print(f"{row.kind:{wide}}  {row.id}  {row.state}{since}  {row.file}".rstrip())


def make(arguments: argparse.Namespace) -> None:
    """Makes one key."""
    config = of_arguments(arguments)
    secret = randomness.token_bytes(keys.KEY_BYTES)
    path = _path(config, arguments.which)
    with noted(config, f"keys make {arguments.which}"):
        keys.create(path, secret)
    print(f"ok: {path}, {arguments.which} {_id(arguments.which, secret)}")


def rotate(arguments: argparse.Namespace) -> None:
    """Puts a new key in force."""
    config = of_arguments(arguments)
    path = _path(config, arguments.which)
    if arguments.which == "pepper":
        with noted(config, "keys rotate pepper"):
            old, new = ring.rotate_pepper(path)
        print(
            f"ok: pepper {new.hex()} is in force; accounts under {old.hex()} count until"
            f" `keys retire pepper {old.hex()}`"
        )
        return
    if not 0 <= arguments.overlap_days <= 3650:
        raise KeepingError("--overlap-days: 0 to 3650")
    now_ms = _now_ms()
    overlap_ms = int(arguments.overlap_days * _DAY_MS)
    with noted(config, "keys rotate identity"):
        old, new = ring.rotate_identity(
            path, audience=config.audience, now_ms=now_ms, overlap_ms=overlap_ms
        )
    print(
        f"ok: server_key {new.hex()} is in force; receipts by {old.hex()} count until"
        f" {_day(now_ms + overlap_ms)}. Keep a copy of {path} and {path}{ring.SUCCESSIONS}"
    )


def retire(arguments: argparse.Namespace) -> None:
    """Forgets a key of before."""
    config = of_arguments(arguments)
    path = _path(config, arguments.which)
    if arguments.which == "pepper":
        marks = [enrol.pepper_mark(keys.read(row)) for row in ring.peppers_before(path)]
        mark = _find(arguments.key, marks)
        with noted(config, "keys retire pepper"):
            ring.retire_pepper(path, mark)
        print(f"ok: accounts under pepper {mark.hex()} count no more")
        return
    statements = ring.read_successions(path, audience=config.audience)
    old = _find(arguments.key, [row.old for _, row in statements])
    with noted(config, "keys retire identity"):
        count = ring.retire_identity(path, old, audience=config.audience, now_ms=_now_ms())
    print(f"ok: {count} successions less; " + NEVER_PINNED.format(old=old.hex()[:16]))


def rows_of(config: Config, now_ms: int) -> Iterator[Row]:
    """Every key that the configuration names."""
    yield from _identity_rows(config, now_ms)
    yield from _pepper_rows(config)
    yield from _wake_rows(config)
    trusted = Trusted.of(config)
    for kind, rows in (
        ("token issuer", trusted.issuers),
        ("publisher", trusted.publishers),
        ("analyst", trusted.analysts),
        ("policy publisher", trusted.policy),
    ):
        yield from (_listed_row(kind, row, now_ms) for row in rows)


def _identity_rows(config: Config, now_ms: int) -> Iterator[Row]:
    path = Path(config.identity_key_file)
    identity = ring.read_identity(path, audience=config.audience)
    following = path.with_name(path.name + ring.NEXT)
    if following.exists():
        public = sign_keypair(keys.read(following))[0]
        yield _row("identity", public, "made, not in force: rotate again", following)
    yield _row("identity", identity.public, "signs receipts", path)
    leading = set(identity.successions)
    for data, row in reversed(ring.read_successions(path, audience=config.audience)):
        if data not in leading:
            state = f"names {row.new.hex()[:16]}…, which leads not to the key in force"
        elif now_ms < row.until_ms:
            state = f"receipts by it count until {_day(row.until_ms)}"
        else:
            state = "over; leads to the key in force"
        yield Row("identity", row.old.hex(), state, _day(row.made_ms), "")


def _pepper_rows(config: Config) -> Iterator[Row]:
    path = Path(config.pepper_file)
    secret = keys.read(path)
    yield _row("pepper", enrol.pepper_mark(secret), "in force", path)
    for file in ring.peppers_before(path):
        mark = enrol.pepper_mark(keys.read(file))
        yield _row("pepper", mark, "before: accounts under it count", file)


def _wake_rows(config: Config) -> Iterator[Row]:
    if config.wake_gateway:
        path = Path(config.wake_key_file)
        yield _row("wake", sign_keypair(keys.read(path))[0], "signs calls of the gateway", path)


def _listed_row(kind: str, row: Listed, now_ms: int) -> Row:
    if row.until_ms is None:
        state = "trusted"
    elif row.is_valid(now_ms):
        state = f"trusted until {_day(row.until_ms - 1)}"
    else:
        state = f"over since {_day(row.until_ms)}"
    return Row(kind, row.key.hex(), state, "", "")


def _row(kind: str, public: bytes, state: str, file: Path) -> Row:
    changed_ms = file.stat().st_mtime_ns // 1_000_000
    return Row(kind, public.hex(), state, _day(changed_ms), str(file))


def _find(start: str, known: Iterable[bytes]) -> bytes:
    found = {row for row in known if row.hex().startswith(start.lower())}
    if len(start) < _STARTS_AT_LEAST or len(found) != 1:
        raise KeepingError(f"no key, or more than one, begins with {start!r}: see `keys list`")
    return found.pop()


def _path(config: Config, which: str) -> Path:
    files = {"identity": config.identity_key_file, "pepper": config.pepper_file}
    return Path({**files, "wake": config.wake_key_file}[which])


def _id(which: str, secret: bytes) -> str:
    public = enrol.pepper_mark(secret) if which == "pepper" else sign_keypair(secret)[0]
    return public.hex()


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(ms / 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
