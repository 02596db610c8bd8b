"""What may be recorded at all: the question that every write of an app passes.

A device asks its gate before anything is stored. The gate answers with what may be stored in
the value's place, or refuses; and whether what is stored already, by another device or under an
earlier policy, shows to an app. It sees no record of the library's own. Pure: what time it is,
it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from client.errors import UserError
from client.values import Value

Kind = Literal["setting", "score", "set"]
"""What a signal is: a value (`put`), a running total (`add_score`), members (`add_member`)."""


class SignalRefused(UserError):
    """The policy that this device is under does not let this be recorded."""

    def __init__(self, rule: str, sentence: str) -> None:
        """`rule` is a stable slug; the sentence names the rule and what to do, never the value."""
        super().__init__(sentence)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is stored in place of what an app gave."""

    value: Value
    """Of a score: what is added."""
    at_ms: int
    """The time that is stored with it, no finer than the signal lets it be."""
    stays_here: bool = False
    """It is kept on this device and never becomes an op."""
    total_within: float | None = None
    """Of a score: how far from 0 adding may bring the account's total, as this device knows it."""

    def __repr__(self) -> str:
        return f"Admitted(stays_here={self.stays_here}, content hidden)"


class Held(NamedTuple):
    """How much one key of a collection weighs against the others."""

    size: float
    """A score, or the value of a setting that is a number; 0 for all else."""
    at_ms: int
    """When it was last written."""

    def __repr__(self) -> str:
        return "Held(content hidden)"


class Gate(Protocol):
    """What a device asks about its app's writes."""

    def admit(self, kind: Kind, collection: str, key: str, value: Value, now_ms: int) -> Admitted:
        """What is stored instead; SignalRefused, and nothing is stored."""
        ...

    def readmit(self, kind: Kind, collection: str, key: str, value: Value, at_ms: int) -> Admitted:
        """The same of what was recorded once, at that time, and is to come back: of a score the
        total, no further from 0 than it may be. SignalRefused."""
        ...

    def shows(self, collection: str, key: str) -> bool:
        """Whether an app can read what is held under a name: otherwise it is as if absent."""
        ...

    def limits(self, kind: Kind, collection: str) -> bool:
        """Whether there can be too many keys in a collection."""
        ...

    def surplus(
        self, kind: Kind, collection: str, held: Mapping[str, Held], *, put: str | None = None
    ) -> Collection[str]:
        """Keys that are too many in a collection, given all that it holds. `put` is about to be
        written: it is in `held`, and not among them, or nothing new could ever come in.
        SignalRefused if it may not come in at all."""
        ...

    def half_life_ms(self, collection: str, key: str, asked_ms: int | None) -> int | None:
        """How fast a score decays, where an app asks for `asked_ms`."""
        ...

    def retention_ms(self, collection: str, key: str) -> int | None:
        """How long what was recorded under a name counts from then on; None: for good."""
        ...

    def stays_here(self, collection: str, key: str) -> bool:
        """Whether a name is one that never leaves the device, removals of it included."""
        ...


class Ungoverned:
    """No policy: everything is recorded as it is given."""

    def admit(self, kind: Kind, collection: str, key: str, value: Value, now_ms: int) -> Admitted:
        """As it is."""
        del kind, collection, key
        return Admitted(value, now_ms)

    def readmit(self, kind: Kind, collection: str, key: str, value: Value, at_ms: int) -> Admitted:
        """As it is."""
        return self.admit(kind, collection, key, value, at_ms)

    def shows(self, collection: str, key: str) -> bool:
        """Everything."""
        del collection, key
        return True

    def limits(self, kind: Kind, collection: str) -> bool:
        """Never."""
        del kind, collection
        return False

    def surplus(
        self, kind: Kind, collection: str, held: Mapping[str, Held], *, put: str | None = None
    ) -> Collection[str]:
        """Nothing is too many."""
        del kind, collection, held, put
        return ()

    def half_life_ms(self, collection: str, key: str, asked_ms: int | None) -> int | None:
        """As the app asks."""
        del collection, key
        return asked_ms

    def retention_ms(self, collection: str, key: str) -> int | None:
        """For good."""
        del collection, key
        return None

    def stays_here(self, collection: str, key: str) -> bool:
        """Everything syncs."""
        del collection, key
        return False
