"""What a device answers to: whose tasks, computed by whom, and how much a round may tell.

It is this device's own, kept in its vault and not synced: who can write to the profile must not
be able to make a device trust anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from client.errors import RowsError, UserError
from client.rows import pack, unpack

DAY_MS: Final = 86_400_000
KEY_BYTES: Final = 32
NAME_CHARS_MAX: Final = 64
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
    The defaults are an epsilon of about 2.5 a round and 5.8 in thirty days, at a delta of 1e-6.
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
    """Pinned keys by the names that the person gave them, and the limits."""

    publishers: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    panels: Mapping[str, Panel] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = Limits()

    def publisher(self, key: bytes) -> str | None:
        """The name of a pinned publisher."""
        return next((name for name, pinned in self.publishers.items() if pinned == key), None)

    def panels_for(self, m: int, t: int) -> list[Panel]:
        """Panels that a task for so many parties can be computed by."""
        return [panel for panel in self.panels.values() if panel.suits(m, t)]

    def with_publisher(self, name: str, key: bytes) -> Policy:
        """One more; UserError, also where the name has another key: that must be meant."""
        _check_name(name, self.publishers, key)
        _check_key("a publisher's key", key)
        return replace(self, publishers=MappingProxyType({**self.publishers, name: key}))

    def with_panel(self, name: str, panel: Panel) -> Policy:
        """One more; UserError."""
        from crypto.errors import FormatError
        from crypto.shares import check_parties

        _check_name(name, self.panels, panel)
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
        return replace(self, panels=MappingProxyType({**self.panels, name: panel}))

    def without(self, name: str) -> Policy:
        """Neither a publisher nor a panel of this name; UserError if there was none."""
        if name not in self.publishers and name not in self.panels:
            raise UserError("nothing is trusted by this name: `rookery device trust` lists all")
        publishers = {one: key for one, key in self.publishers.items() if one != name}
        panels = {one: panel for one, panel in self.panels.items() if one != name}
        return replace(
            self, publishers=MappingProxyType(publishers), panels=MappingProxyType(panels)
        )

    def with_limits(self, **changes: int) -> Policy:
        """Other limits; UserError."""
        for name, value in changes.items():
            most = DAYS_MAX if name == "period_days" else MICRO_RHO_MAX
            least = 1 if name == "period_days" else 0
            if not least <= value <= most:
                raise UserError(f"{name.replace('_', ' ')} is {least} to {most:,}")
        return replace(self, limits=replace(self.limits, **changes))

    def encode(self) -> bytes:
        """For the vault."""
        limits = self.limits
        return pack(
            dict(self.publishers),
            {name: [list(panel.parties), panel.t] for name, panel in self.panels.items()},
            [
                limits.round_micro_rho,
                limits.period_micro_rho,
                limits.period_days,
                limits.all_time_micro_rho,
            ],
        )

    @classmethod
    def decode(cls, row: bytes) -> Policy:
        """What `encode` wrote; RowsError."""
        publishers, panels, limits = unpack(row, 3)
        try:
            return cls(
                MappingProxyType(dict(publishers)),
                MappingProxyType(
                    {name: Panel(tuple(keys), t) for name, (keys, t) in panels.items()}
                ),
                Limits(*limits),
            )
        except (TypeError, ValueError, AttributeError):
            raise RowsError("the stored policy can't be read") from None


def _check_name(name: str, known: Mapping[str, object], value: object) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise UserError(f"a name is 1 to {NAME_CHARS_MAX} printable characters")
    if name in known and known[name] != value:
        raise UserError(
            f"{name!r} is trusted with other keys already: if they have changed, and you know why,"
            f" `rookery device trust --remove` that name first"
        )
    if name not in known and len(known) >= ENTRIES_MAX:
        raise UserError(f"{ENTRIES_MAX} are trusted already: remove one first")


def _check_key(what: str, key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise UserError(f"{what} is {2 * KEY_BYTES} hexadecimal characters")
