"""What goes when a purpose is withdrawn: every signal that no other purpose needs.

Of a score each device removes its own share, for nobody may write another's: so this runs on
every device, when it learns of the withdrawal, and finds nothing to do the next time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from client import resetting, snapshot
from client.consent.ledger import ConsentLedger, Standing
from client.device import Device
from client.intelligence import exposures
from client.rows import Changes, Rows
from client.snapshot import Kind
from crypto.policy.signals import Signal

SEALED: Final = (
    "The sealed history on your devices still holds what was deleted, until the key of that time"
    " is destroyed: after the next change of keys (every 30 days, or now by `rookery device"
    " rotate`), once all your devices have moved on, or 30 days later."
)
"""What a deletion can't do at once, for people."""
_NEEDED = (Standing.GRANTED, Standing.OUTDATED)
"""OUTDATED: the person has yet to say whether the new words suit them."""


@dataclass(frozen=True, slots=True)
class Purged:
    """One thing that was removed. Its repr hides its name."""

    signal: str
    kind: Kind
    collection: str
    key: str

    @property
    def name(self) -> str:
        """`collection/key`."""
        return f"{self.collection}/{self.key}"

    def __repr__(self) -> str:
        return f"Purged({self.kind.value}, name hidden)"


def doomed(ledger: ConsentLedger) -> list[Signal]:
    """Signals of which a purpose was withdrawn and none is needed any more."""
    bundle = ledger.policy
    if bundle is None:
        return []
    standing = {one.name: one.standing for one in ledger.states()}
    found = []
    for signal in bundle.signals:
        said = {standing.get(name, Standing.NEVER) for name in signal.purposes}
        if Standing.WITHDRAWN in said and not said.intersection(_NEEDED):
            found.append(signal)
    return found


def purge(ledger: ConsentLedger, *, now_ms: int) -> list[Purged]:
    """Removes what nothing needs any more: here, and by tombstones on all devices. What it was.

    Of what the policy does not declare nothing is touched: no purpose asked for it.
    """
    device, signals = ledger.device, doomed(ledger)
    gone = list(_held(device, signals, now_ms)) if signals else []
    for one in gone:
        if one.kind is Kind.SCORE:
            device.remove_score(one.collection, one.key, now_ms=now_ms)
        else:
            device.remove(one.collection, one.key, now_ms=now_ms)
    return gone + _trials(ledger, now_ms)


def strip_undo(ledger: ConsentLedger, rows: Rows) -> Changes:
    """A reset that this device may undo keeps nothing of it, either. Rows to store."""
    signals = doomed(ledger)

    def goes(collection: str, key: str, is_score: bool) -> bool:
        return any(
            one.covers(collection, key) and (one.kind == "score") == is_score for one in signals
        )

    return resetting.strip(rows, goes) if signals else {}


def _trials(ledger: ConsentLedger, now_ms: int) -> list[Purged]:
    """What was kept of experiments that are over, or whose purpose was withdrawn; and what was
    kept for as long as the policy says."""
    bundle = ledger.policy
    if bundle is None:
        return []
    standing = {one.name: one.standing for one in ledger.states()}

    def over(name: str) -> bool:
        rule = bundle.experiment(name)
        task = None if rule is None else bundle.task_for(rule.task)
        return task is None or standing.get(task.purpose) is Standing.WITHDRAWN

    def days(name: str) -> int | None:
        rule = bundle.experiment(name)
        return None if rule is None else rule.days

    gone = exposures.forget(ledger.device, over, now_ms=now_ms)
    gone += exposures.expire(ledger.device, days, now_ms=now_ms)
    return [Purged("experiment", Kind.SETTING, exposures.COLLECTION, key) for key in gone]


def _held(device: Device, signals: list[Signal], now_ms: int) -> Iterator[Purged]:
    mine = {None, *(row.index for row in device.devices if row.this_device)}
    for item in snapshot.take(device, now_ms=now_ms).values():
        for signal in signals:
            is_score = signal.kind == "score"
            if signal.covers(item.collection, item.key) and is_score == (item.kind is Kind.SCORE):
                if is_score and not device.shares(item.collection, item.key).keys() & mine:
                    continue  # what is left of it is for other devices to remove
                yield Purged(signal.name, item.kind, item.collection, item.key)
