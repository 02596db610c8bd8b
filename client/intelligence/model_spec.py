"""What a model is of and how it is trained: all that devices must agree on beforehand.

An app ships it. Its hash is in every model's bytes, so that a model of another specification
can't be taken for one of this.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Final, Self

from crypto import canonical, labels
from crypto.errors import FormatError
from crypto.names import check_name
from crypto.primitives import hash_, utf8
from mpc.checks import whole
from mpc.kinds.base import D_MAX
from mpc.kinds.vector import BITS_MAX

VERSION: Final = 1
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
TITLE_CHARS_MAX: Final = 100
RATING_MAX: Final = 10
FRACTION_BITS: Final = 16
"""Parameters are whole multiples of 2^-16."""


@dataclass(frozen=True)
class ModelSpec:
    """A logistic factorisation model of who likes which item, by what else they rated.

    Numbers are whole, in the unit that their name ends with, so that there is one form of each.
    """

    name: str
    title: str
    """What people are told that it is for."""
    collection: str
    """Whose settings are the ratings: `COLLECTION/ITEM`."""
    items: tuple[str, ...]
    low: int = 1
    high: int = 5
    like: int = 4
    """Ratings from here on are what is predicted."""
    centre_tenths: int = 35
    """A rating that says neither that a person likes an item nor that they don't."""
    rank: int = 4
    shrink: int = 16
    """So many ratings in the middle every person is taken to have given besides."""
    least: int = 4
    """Who has rated fewer items takes no part in training."""
    lenience_milli: int = 667
    """Where training starts: how much it says of all items that a person likes others."""
    spread_milli: int = 350
    """Where training starts: factors are drawn from so far below 0 to so far above."""
    local_steps: int = 5
    local_rate_milli: int = 60
    context_permille: int = 300
    """Of a person's ratings at least this share is what the others are predicted from."""
    clip_milli: int = 700
    """No update is longer than this."""
    update_bits: int = 8
    """Of each coordinate of an update."""
    rate_milli: int = 2000
    momentum_milli: int = 800
    """How the mean of the updates moves the model."""
    judges_permille: int = 200
    """This share of the accounts never trains: they tell how good the model is."""

    _RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "low": (0, RATING_MAX),
        "high": (1, RATING_MAX),
        "like": (1, RATING_MAX),
        "centre_tenths": (0, 10 * RATING_MAX),
        "rank": (1, 32),
        "shrink": (1, 1000),
        "least": (2, 1000),
        "lenience_milli": (0, 4000),
        "spread_milli": (1, 2000),
        "local_steps": (1, 100),
        "local_rate_milli": (1, 10_000),
        "context_permille": (0, 1000),
        "clip_milli": (1, 100_000),
        "update_bits": (4, BITS_MAX),
        "rate_milli": (1, 100_000),
        "momentum_milli": (0, 999),
        "judges_permille": (0, 1000),
    }

    def __post_init__(self) -> None:
        if type(self.name) is not str or not NAME.match(self.name):
            raise FormatError("model-spec", "a model's name is a-z, 0-9 and -, 32 at most")
        title: object = self.title
        if (
            type(title) is not str
            or not 1 <= len(title) <= TITLE_CHARS_MAX
            or not title.isprintable()
        ):
            raise FormatError(
                "model-spec", f"a title is 1 to {TITLE_CHARS_MAX} printable characters"
            )
        check_name(utf8(self.collection))
        if not self.items or len(set(self.items)) != len(self.items):
            raise FormatError("model-spec", "a model is of one item or more, each named once")
        for item in self.items:
            check_name(utf8(item))
        for name, (least, most) in self._RANGES.items():
            whole(name, getattr(self, name), least, most, rule="model-spec")
        if not self.low < self.like <= self.high:
            raise FormatError("model-spec", "what is liked lies within the ratings' range")
        if not 10 * self.low < self.centre_tenths < 10 * self.high:
            raise FormatError("model-spec", "the centre lies within the ratings' range")
        if self.size > D_MAX:
            raise FormatError(
                "model-spec",
                f"the model would have {self.size} parameters and an update holds {D_MAX}; take"
                " fewer items or a lower rank",
            )
        if self.update_reach < self.update_norm / 2:
            raise FormatError("model-spec", "so many parameters need more bits in an update")

    @property
    def size(self) -> int:
        """How many parameters: a bias an item, the lenience, `rank` factors an item."""
        return len(self.items) * (1 + self.rank) + 1

    @property
    def update_norm(self) -> int:
        """How long an update may be, in its own units."""
        return (1 << (self.update_bits - 1)) - 1

    @property
    def update_reach(self) -> float:
        """How long it is made: rounding can then make it longer without making it too long."""
        return self.update_norm - math.sqrt(self.size) / 4

    @cached_property
    def places(self) -> dict[str, int]:
        """Where an item stands."""
        return {item: at for at, item in enumerate(self.items)}

    @cached_property
    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        return canonical.encode({**values, "items": list(self.items), "version": VERSION})

    @cached_property
    def hash(self) -> bytes:
        """32 bytes."""
        return hash_(labels.MODEL_SPEC, self.encoded)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What `encoded` gives; FormatError for anything else."""
        values = canonical.decode(data)
        if values.pop("version", None) != VERSION:
            raise FormatError(
                "model-version", f"only models of version {VERSION} are known; update"
            )
        items = values.get("items")
        if set(values) != {one.name for one in fields(cls)} or type(items) is not list:
            raise FormatError("model-spec", "this is no specification of a model")
        if not all(type(item) is str for item in items):
            raise FormatError("model-spec", "items are named by texts")
        return cls(**{**values, "items": tuple(items)})
