"""Starting anew: everything that apps recorded goes, on all devices; for a week this one can undo.

The undo is one row of this device's vault, sealed as all of it, and of no other device. Shares
of scores are removed by the devices that added them, when they learn of the reset. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from client import values, views, writing
from client.core import Core
from client.errors import BadValue, NothingThere, RowsError
from client.gate import Admitted, Kind, SignalRefused
from client.profile import Name
from client.rows import Changes, Rows
from client.values import Value

RESET: Final = Name(".rookery/reset", "all")
"""`[id, at_ms, whether it counts]`: the newest reset, undone or not."""
UNDO_ROW: Final = "shell/reset/undo"
FOLLOWED_ROW: Final = "shell/reset/followed"
"""Id of the reset that this device has followed."""
UNDO_MS: Final = 7 * 86_400_000
ID_BYTES: Final = 16
_CLOSED: Final = frozenset({"no-policy", "paused"})
"""Rules of the gate by which nothing is recorded at all for now."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Undone:
    """What came back, and what did not."""

    restored: int
    refused: int
    """No longer agreed to, declared or admitted by the policy, or too many by now."""
    newer: int
    """Written anew since the reset, and left as it is."""


def reset(core: Core, *, id_: bytes, now_ms: int) -> tuple[int, Changes]:
    """Removes everything that apps recorded; how much it was, and the rows to store with it."""
    settings: list[Value] = []
    scores: list[Value] = []
    for name in _settings(core):
        here, at_ms = core.local.value(name) is not None, views.written_ms(core, name)
        settings.append([*name, views.value(core, name), at_ms, here])
        writing.remove(core, name, now_ms)
    for name in _scores(core):
        parts = views.shares(core, *name).items()
        shares: list[Value] = [[index, part.total, part.changed_ms] for index, part in parts]
        scores.append([*name, shares])
        writing.remove_score(core, name, now_ms)
    views.put(core, RESET, [id_, max(0, now_ms), True], now_ms)
    undo = values.encode([id_, now_ms + UNDO_MS, settings, scores])
    return len(settings) + len(scores), {UNDO_ROW: undo, FOLLOWED_ROW: id_}


def _settings(core: Core) -> list[Name]:
    return [
        Name(collection, key)
        for collection in views.collections(core)
        for key in views.names_in(core, collection)
        if "#" not in key
    ]


def _scores(core: Core) -> list[Name]:
    return [
        Name(collection, key)
        for collection in views.collections(core)
        for key in views.scores(core, collection)
    ]


def follow(core: Core, rows: Rows, *, now_ms: int) -> tuple[int, Changes]:
    """Another device's reset: this one removes its own shares of scores, and what stays here,
    as far as they are older. How many, and the rows to store with it."""
    newest = _newest(core)
    if newest is None or rows.get(FOLLOWED_ROW) == newest[0]:
        return 0, {}
    id_, at_ms, counts = newest
    removed = _remove_own(core, at_ms, now_ms) if counts else 0
    return removed, {FOLLOWED_ROW: id_}


def _newest(core: Core) -> tuple[bytes, int, bool] | None:
    match views.value(core, RESET):
        case [bytes() as id_, int() as at_ms, bool() as counts]:
            return id_, at_ms, counts
        case _:
            return None


def _remove_own(core: Core, at_ms: int, now_ms: int) -> int:
    mine = _own(core)
    removed = 0
    for name in _scores(core):
        own = [part for index, part in views.shares(core, *name).items() if index in mine]
        if own and all(part.changed_ms <= at_ms for part in own):
            writing.remove_score(core, name, now_ms)
            removed += 1
    for name, kept in core.local.values():
        if kept.at_ms <= at_ms:
            writing.remove(core, name, now_ms)
            removed += 1
    return removed


def _own(core: Core) -> set[int | None]:
    me = core.me
    return {None} if me is None else {None, me.index}


def undo_until_ms(rows: Rows) -> int | None:
    """Until when the last reset can be undone here; None: there is nothing to undo."""
    row = rows.get(UNDO_ROW)
    return None if row is None else _read(row)[1]


def expire(rows: Rows, *, now_ms: int) -> Changes:
    """The undo goes when its week is over."""
    until_ms = undo_until_ms(rows)
    return {UNDO_ROW: None} if until_ms is not None and now_ms >= until_ms else {}


def strip(rows: Rows, goes: Callable[[str, str, bool], bool]) -> Changes:
    """What goes for good is not kept to be undone: `goes` is asked by collection, key and whether
    it is a score."""
    row = rows.get(UNDO_ROW)
    if row is None:
        return {}
    id_, until_ms, settings, scores = _read(row)
    left: list[Value] = [one for one in settings if not goes(one[0], one[1], False)]
    shares: list[Value] = [one for one in scores if not goes(one[0], one[1], True)]
    if (len(left), len(shares)) == (len(settings), len(scores)):
        return {}
    return {UNDO_ROW: values.encode([id_, until_ms, left, shares])}


def undo(core: Core, rows: Rows, *, now_ms: int) -> tuple[Undone, Changes]:
    """Puts back what the last reset on this device removed, with the times that it had, as far as
    the gate lets it be recorded now: what is over by now is removed again. NothingThere once there
    is nothing to undo. SignalRefused while nothing may be recorded at all: it can be undone later.
    """
    row = rows.get(UNDO_ROW)
    if row is None or now_ms >= _read(row)[1]:
        raise NothingThere("there is no reset that could be undone on this device")
    id_, _, settings, scores = _read(row)
    # All are judged before any comes back: a refusal of everything leaves the undo as it is.
    back = [(one, _judged(_readmitted, core, one)) for one in settings]
    shared = [(one, [_judged(_readmitted_share, core, one, at) for at in one[2]]) for one in scores]
    restored = refused = newer = 0
    for (collection, key, _, _, here), judged in back:
        name = Name(collection, key)
        if judged is None:
            refused += 1
        elif views.shown(core, name) is not None:
            newer += 1
        elif writing.put_back(core, judged[0], name, judged[1], stays_here=here):
            restored += 1
        else:
            refused += 1
    for (collection, key, _), shares in shared:
        if _put_back_shares(core, Name(collection, key), shares):
            restored += 1
        else:
            refused += 1
    newest = _newest(core)
    if newest is not None and newest[0] == id_:
        views.put(core, RESET, [id_, newest[1], False], now_ms)
    return Undone(restored, refused, newer), {UNDO_ROW: None}


def _judged(judge: Callable[..., T], *said: Any) -> T | None:
    """None: this one may not come back."""
    try:
        return judge(*said)
    except SignalRefused as error:
        if error.rule in _CLOSED:
            raise
        return None


def _readmitted(core: Core, one: list[Any]) -> tuple[Kind, Admitted]:
    collection, key, value, at_ms, _ = one
    return writing.admitted_back(core, Name(collection, key), value, at_ms)


def _readmitted_share(core: Core, one: list[Any], share: list[Any]) -> tuple[int | None, Admitted]:
    collection, key, _ = one
    index, total, changed_ms = share
    return index, core.gate.readmit("score", collection, key, total, changed_ms)


def _put_back_shares(
    core: Core, name: Name, shares: list[tuple[int | None, Admitted] | None]
) -> bool:
    """All of them as this device's own: the others have removed theirs, or will. One that has
    not heard of the reset yet still has its share, and keeps it. False: the gate, or the bound
    of how many there may be, keeps one out."""
    there = views.shares(core, *name).keys() - _own(core)
    came = True
    for share in shares:
        if share is None:
            came = False
        elif share[0] not in there:
            index, total = share
            came &= writing.put_back_score(core, name, total, stays_here=index is None)
    return came


def _read(row: bytes) -> tuple[bytes, int, list[Any], list[Any]]:
    try:
        match values.decode(row):
            case [bytes() as id_, int() as until_ms, list() as settings, list() as scores]:
                return id_, until_ms, settings, scores
    except BadValue:
        pass
    raise RowsError("what a reset could be undone with can't be read")
