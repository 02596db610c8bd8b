"""Signals: the data dictionary. What is not declared here is not recorded by a governed device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from crypto.errors import FormatError
from crypto.policy import fields, generalise, values
from crypto.policy.fields import DAYS_MAX, MICRO, Fields
from crypto.policy.generalise import Bucket, Day, Generaliser, Round, TopK
from crypto.policy.values import Number, Values, Whole

ANY: Final = "*"
KEYS_MAX: Final = 256
PURPOSES_MAX: Final = 16
GENERALISERS_MAX: Final = 4
KINDS: Final = tuple(values.OF_KIND)


class Reach(StrEnum):
    """How far a signal gets, from the least."""

    DEVICE = "device"
    """It stays on the device that recorded it."""
    SYNC = "sync"
    """The account's devices share it, sealed."""
    AGGREGATE = "aggregate"
    """Tasks may ask for it too, in joint aggregates."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What may be recorded under some names, how coarse, what for, how far and how long.

    `keys`: the keys it is recorded under, or `("*",)`, any key without a slash. It is recorded
    while any of `purposes` is granted, and used for the granted ones only. `values` is what an
    app may give, and holds again of what `generalise`, in its order, leaves of it: that is stored,
    and nothing else. `half_life_days`: of a score.
    """

    name: str
    kind: str
    collection: str
    keys: tuple[str, ...]
    values: Values
    generalise: tuple[Generaliser, ...]
    purposes: tuple[str, ...]
    reach: Reach
    retention_days: int
    half_life_days: int | None
    text: str

    def __post_init__(self) -> None:
        fields.name("name", self.name)
        fields.one_of("kind", self.kind, KINDS)
        fields.name("collection", self.collection)
        if self.collection.startswith("."):
            raise FormatError(
                "policy-reserved", "collections that begin with a dot are not an app's"
            )
        fields.distinct("keys", self.keys, 1, KEYS_MAX)
        if self.keys != (ANY,):
            for key in self.keys:
                fields.name("a key", key)
        fields.distinct("purposes", self.purposes, 1, PURPOSES_MAX)
        fields.one_of("reach", self.reach, Reach)
        fields.whole("retention_days", self.retention_days, 1, DAYS_MAX)
        if self.half_life_days is not None:
            fields.whole("half_life_days", self.half_life_days, 1, DAYS_MAX)
            if self.kind != "score":
                raise FormatError("policy-half-life", "only scores have a half-life; remove it")
        fields.text("text", self.text)
        fields.distinct("generalise", self.generalise, 0, GENERALISERS_MAX)
        _check_kind(self)

    def covers(self, collection: str, key: str) -> bool:
        """Whether this name is one of the signal's."""
        return collection == self.collection and (
            key in self.keys or (self.keys == (ANY,) and "/" not in key)
        )

    def generalised(self, value: object) -> object:
        """The value, as coarse as it is to be recorded."""
        return generalise.apply(self.generalise, value)

    def as_map(self) -> dict[str, Any]:
        """As it is signed; a half-life only if there is one."""
        made: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "collection": self.collection,
            "keys": list(self.keys),
            "values": self.values.as_map(),
            "generalise": [one.as_map() for one in self.generalise],
            "purposes": list(self.purposes),
            "reach": str(self.reach),
            "retention_days": self.retention_days,
            "text": self.text,
        }
        if self.half_life_days is not None:
            made["half_life_days"] = self.half_life_days
        return made

    @classmethod
    def of(cls, value: object) -> Signal:
        """From its map; FormatError."""
        read = Fields(value)
        reach = read.take("reach")
        fields.one_of("reach", reach, Reach)
        signal_values = read.take("values")
        made = cls(
            name=read.take("name"),
            kind=read.take("kind"),
            collection=read.take("collection"),
            keys=fields.texts("keys", read.take("keys")),
            values=fields.under("values", lambda: values.of(signal_values)),
            generalise=fields.each("generalise", read.take("generalise"), generalise.of),
            purposes=fields.texts("purposes", read.take("purposes")),
            reach=Reach(reach),
            retention_days=read.take("retention_days"),
            half_life_days=read.maybe("half_life_days"),
            text=read.take("text"),
        )
        read.done()
        return made


def check_apart(signals: Iterable[Signal]) -> None:
    """FormatError if a name could be two signals': then no rule would say which one it is."""
    # By its number: the signal that has a key, has `*`, or has any key that `*` covers.
    named: dict[tuple[str, str], int] = {}
    wild: dict[str, int] = {}
    unparted: dict[str, int] = {}
    for number, signal in enumerate(signals, start=1):
        for key in signal.keys:
            name = (signal.collection, key)
            other = named.get(name)
            if key == ANY:
                other = other or unparted.get(signal.collection)
            elif "/" not in key:
                other = other or wild.get(signal.collection)
            if other is not None:
                raise FormatError(
                    "signal-overlap",
                    f"signals {other} and {number} share a name; tell their keys apart",
                )
            named[name] = number
        if signal.keys == (ANY,):
            wild[signal.collection] = number
        if any("/" not in key for key in signal.keys):
            unparted[signal.collection] = number


def _check_kind(signal: Signal) -> None:
    kinds = values.OF_KIND[signal.kind]
    if not isinstance(signal.values, kinds):
        words = ", ".join(one.type for one in kinds)
        raise FormatError("signal-values", f"values of a {signal.kind} must be of type: {words}")
    for one in signal.generalise:
        if not _suits(one, signal):
            raise FormatError(
                "signal-generalise", f"{one.type} does nothing to such values; remove it"
            )
        if isinstance(signal.values, Whole) and not _is_whole(one):
            raise FormatError(
                "signal-generalise", f"{one.type} must keep whole numbers whole; use whole numbers"
            )


def _suits(one: Generaliser, signal: Signal) -> bool:
    match one:
        case Bucket() | Round():
            return isinstance(signal.values, Whole | Number) or signal.kind == "score"
        case Day():
            return isinstance(signal.values, Whole)
        case TopK():
            return signal.kind in ("score", "set")


def _is_whole(one: Generaliser) -> bool:
    match one:
        case Bucket(edges_micro=edges):
            return all(edge % MICRO == 0 for edge in edges)
        case Round(step_micro=step):
            return step % MICRO == 0
        case _:
            return True
