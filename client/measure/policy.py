"""What a device answers to: whose tasks, computed by whom, and how much a round may tell.

It is this device's own, kept in its vault and not synced: who can write to the profile must not
be able to make a device trust anybody.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Final

from client.errors import RowsError, UserError
from client.rows import pack, unpack
from crypto.errors import FormatError
from crypto.shares import check_parties

DAY_MS: Final = 86_400_000
KEY_BYTES: Final = 32
PREFIX_BYTES_MIN: Final = 4
ENTRIES_MAX: Final = 64
MICRO_RHO_MAX: Final = 1 << 53
DAYS_MAX: Final = 3_660


@dataclass(frozen=True, slots=True)
class Panel:
    """Parties that compute together, in their order. No `t` of them learn anything together."""

    parties: tuple[bytes, ...]
    t: int

    def suits(self, m: int, t: int) -> bool:
        """Whether a task for m parties, of which t + 1 can look, is one for these."""
        return m == len(self.parties) and t >= self.t


@dataclass(frozen=True, slots=True)
class Limits:
    """How much this device tells, in micro-rho of zCDP. Each can be 0: then it tells nothing.

    The first one is the least noise: sigma beside how far one person can move the result.
    The defaults are an epsilon of about 2.1 a round and 5.2 in thirty days, at a delta of 1e-6.
    """

    round_micro_rho: int = 100_000
    period_micro_rho: int = 500_000
    period_days: int = 30
    all_time_micro_rho: int = 10_000_000

    @property
    def period_ms(self) -> int:
        """The period's length."""
        return self.period_days * DAY_MS


@dataclass(frozen=True, slots=True)
class Policy:
    """Pinned keys, and the limits."""

    publishers: frozenset[bytes] = frozenset()
    panels: tuple[Panel, ...] = ()
    limits: Limits = Limits()

    def panels_for(self, m: int, t: int) -> list[Panel]:
        """Panels that a task for so many parties can be computed by."""
        return [panel for panel in self.panels if panel.suits(m, t)]

    def with_publisher(self, key: bytes) -> Policy:
        """One more; UserError."""
        _check_key("a publisher's key", key)
        if len(self.publishers | {key}) > ENTRIES_MAX:
            raise UserError(f"{ENTRIES_MAX} publishers are trusted at most: remove one first")
        return replace(self, publishers=self.publishers | {key})

    def with_panel(self, panel: Panel) -> Policy:
        """One more, or the same parties with another t; UserError."""
        for key in panel.parties:
            _check_key("a party's key", key)
        if len(set(panel.parties)) != len(panel.parties):
            raise UserError("two parties of a panel have one key: each needs its own")
        try:
            check_parties(len(panel.parties), panel.t)
        except FormatError:
            raise UserError(
                "a panel has 3 to 16 parties, and fewer than half of them may look together:"
                " t is 1 or more, and 2 t + 1 at most their number"
            ) from None
        others = [one for one in self.panels if one.parties != panel.parties]
        if len(others) >= ENTRIES_MAX:
            raise UserError(f"{ENTRIES_MAX} panels are trusted at most: remove one first")
        return replace(self, panels=(*others, panel))

    def without(self, key: bytes) -> Policy:
        """No publisher and no panel with a key that begins so; UserError if there was none."""
        publishers = frozenset(one for one in self.publishers if not one.startswith(key))
        panels = tuple(
            panel for panel in self.panels if not any(one.startswith(key) for one in panel.parties)
        )
        if len(key) < PREFIX_BYTES_MIN:
            raise UserError(f"give {2 * PREFIX_BYTES_MIN} digits of the key at least")
        if (publishers, panels) == (self.publishers, self.panels):
            raise UserError("no such key is trusted: `rookery device trust` lists all")
        return replace(self, publishers=publishers, panels=panels)

    def with_limits(self, **changes: int) -> Policy:
        """Other limits; UserError."""
        for name, value in changes.items():
            most = DAYS_MAX if name == "period_days" else MICRO_RHO_MAX
            least = 1 if name == "period_days" else 0
            if not least <= value <= most:
                raise UserError(f"--{name.replace('_', '-')} is a number from {least} to {most:,}")
        return replace(self, limits=replace(self.limits, **changes))

    def encode(self) -> bytes:
        """For the vault."""
        panels = [[list(panel.parties), panel.t] for panel in self.panels]
        return pack(sorted(self.publishers), panels, list(astuple(self.limits)))

    @classmethod
    def decode(cls, row: bytes) -> Policy:
        """What `encode` wrote; RowsError."""
        publishers, panels, limits = unpack(row, 3)
        try:
            return cls(
                frozenset(publishers),
                tuple(Panel(tuple(parties), t) for parties, t in panels),
                Limits(*limits),
            )
        except (TypeError, ValueError):
            raise RowsError("the stored policy can't be read") from None


def _check_key(what: str, key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise UserError(f"{what} is {2 * KEY_BYTES} hexadecimal characters")
