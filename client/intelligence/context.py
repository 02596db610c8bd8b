"""When and where a ranking is asked for, as coarse words. Pure: the clock is told.

Features are few and wide on purpose: a score that is kept for each of them says that somebody
likes soup in the evening, not at which minute they eat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from client.errors import UserError

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_PARTS: Final = ((5, "night"), (11, "morning"), (17, "afternoon"), (22, "evening"), (24, "night"))
"""Up to which hour of the local day each part goes."""
PARTS_OF_DAY: Final = ("night", "morning", "afternoon", "evening")
DAYS: Final = ("workday", "weekend")
APP_STATES: Final = ("browsing", "searching", "returning")
FEATURES: Final = (*PARTS_OF_DAY, *DAYS, *APP_STATES)
_SATURDAY: Final = 5
_THURSDAY: Final = 3
"""What 1 January 1970 was, counted from Monday."""
_OFFSET_MINUTES_MAX: Final = 16 * 60


@dataclass(frozen=True, slots=True)
class Context:
    """At most one feature of each sort; None: not known, or not to be used."""

    part_of_day: str | None = None
    day: str | None = None
    app_state: str | None = None

    def __post_init__(self) -> None:
        for feature, known in zip(
            (self.part_of_day, self.day, self.app_state),
            (PARTS_OF_DAY, DAYS, APP_STATES),
            strict=True,
        ):
            if feature is not None and feature not in known:
                raise UserError(f"a context is made of these words: {', '.join(FEATURES)}")

    @property
    def features(self) -> tuple[str, ...]:
        """Those that hold, in order."""
        every = (self.part_of_day, self.day, self.app_state)
        return tuple(one for one in every if one is not None)

    @classmethod
    def at(cls, now_ms: int, *, utc_offset_minutes: int, app_state: str | None = None) -> Context:
        """Part of the day and sort of day at a moment, by the clock on the person's wall."""
        if abs(utc_offset_minutes) > _OFFSET_MINUTES_MAX:
            raise UserError("an offset from UTC is 16 hours at most")
        local_ms = now_ms + utc_offset_minutes * 60_000
        hour = local_ms % _DAY_MS // _HOUR_MS
        weekday = (local_ms // _DAY_MS + _THURSDAY) % 7
        part = next(name for until, name in _PARTS if hour < until)
        return cls(part, DAYS[weekday >= _SATURDAY], app_state)

    @classmethod
    def of(cls, features: Iterable[str]) -> Context:
        """From words, as a person types them; UserError for others, or for two of one sort."""
        found: dict[str, str] = {}
        for feature in features:
            sort = next((sort for sort, known in _SORTS.items() if feature in known), None)
            if sort is None or sort in found:
                raise UserError(
                    f"a context is one each of {_SHOWN}; {feature!r} is none or one too many"
                )
            found[sort] = feature
        return cls(**found)


_SORTS: Final = {"part_of_day": PARTS_OF_DAY, "day": DAYS, "app_state": APP_STATES}
_SHOWN: Final = ", ".join("|".join(known) for known in _SORTS.values())
