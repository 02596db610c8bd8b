"""The profile at one moment, and how two moments differ. A member of a set is a setting that
is `true`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from client.device import Device
from client.values import Value


class Kind(Enum):
    """What a name holds."""

    SETTING = "setting"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of the profile. `value` of what is gone: None."""

    kind: Kind
    collection: str
    key: str
    value: Value

    @property
    def name(self) -> str:
        """`collection/key`."""
        return f"{self.collection}/{self.key}"

    def __repr__(self) -> str:
        return f"Item({self.kind.value}, content hidden)"


Snapshot = dict[tuple[str, str, str], Item]


def take(
    device: Device, *, now_ms: int, half_life_ms: int | None = None, undeclared: bool = False
) -> Snapshot:
    """Everything, sorted by name. `undeclared`: also what the policy of a governed device does
    not declare, which no app is shown."""
    rows = {}
    for item in _items(device, now_ms, half_life_ms, undeclared=undeclared):
        rows[item.collection, item.key, item.kind.value] = item
    return dict(sorted(rows.items()))


def _items(
    device: Device, now_ms: int, half_life_ms: int | None, *, undeclared: bool
) -> Iterator[Item]:
    for collection in device.collections(undeclared=undeclared):
        for key, value in device.list(collection, undeclared=undeclared).items():
            yield Item(Kind.SETTING, collection, key, value)
        scores = device.scores(
            collection, now_ms=now_ms, half_life_ms=half_life_ms, undeclared=undeclared
        )
        for key, score in scores.items():
            yield Item(Kind.SCORE, collection, key, score)


def changes(before: Snapshot, after: Snapshot) -> list[Item]:
    """What is new, other or gone in `after`."""
    gone = [
        Item(item.kind, item.collection, item.key, None)
        for name, item in before.items()
        if name not in after
    ]
    return gone + [item for name, item in after.items() if before.get(name) != item]
