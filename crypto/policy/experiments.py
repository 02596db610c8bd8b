"""Experiments as a policy bundle declares them: variants, who is in, and what is planned.

Which variant an account sees it works out itself (client/intelligence/experiments.py); how it
went is told by nothing but a joint aggregate of the kind `experiment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crypto.errors import FormatError
from crypto.names import check_name
from crypto.policy.fields import DAYS_MAX
from crypto.primitives import utf8

VARIANTS_MAX: Final = 64
PLANNED_MAX: Final = 10_000_000
OUTCOME_MAX: Final = 1 << 40
PLAIN_DEPTH: Final = 3
"""How deep `ExperimentRule.plain` goes, as `crypto.canonical` counts."""
_BOUNDS: Final = {"outcome_low": 0, "outcome_high": 100, "days": 90}
"""With what they are if they are not said."""
_FIELDS: Final = ("name", "task", "variants", "percent", "reports_planned", "text", *_BOUNDS)


@dataclass(frozen=True, slots=True)
class ExperimentRule:
    """One experiment. Another name draws every account's variant anew."""

    name: str
    task: str
    """The id, without its version, of the task that measures the outcome."""
    variants: tuple[str, ...]
    """What is compared with the first."""
    percent: int = 100
    """Of all accounts, how many are in it; the others see the first variant, uncounted."""
    reports_planned: int = 0
    """Reports in all at which the verdict is to be read; 0: not planned."""
    text: str = ""
    outcome_low: int = _BOUNDS["outcome_low"]
    """What comes of it for one account is a whole number from here, 0 or less, ..."""
    outcome_high: int = _BOUNDS["outcome_high"]
    """... to here, 0 or more."""
    days: int = _BOUNDS["days"]
    """How long a device keeps a record of it, from when it showed the variant."""

    def __post_init__(self) -> None:
        for name in (self.name, self.task, *self.variants):
            check_name(utf8(name) if type(name) is str else b"")
        if not 2 <= len(self.variants) <= VARIANTS_MAX or len(set(self.variants)) < len(
            self.variants
        ):
            raise FormatError(
                "experiment-variants", f"an experiment has 2 to {VARIANTS_MAX} different variants"
            )
        _whole("percent", self.percent, 100)
        _whole("reports_planned", self.reports_planned, PLANNED_MAX)
        _whole("outcome_low", self.outcome_low, 0, -OUTCOME_MAX)
        _whole("outcome_high", self.outcome_high, OUTCOME_MAX)
        _whole("days", self.days, DAYS_MAX, 1)
        if type(self.text) is not str:
            raise FormatError("experiment-text", "the text must be a text")

    def plain(self) -> dict[str, Any]:
        """Its canonical form: texts, whole numbers and one list, `PLAIN_DEPTH` deep. Bounds that
        are the usual ones are left out."""
        said = {name: getattr(self, name) for name in _BOUNDS}
        return {name: one for name, one in said.items() if one != _BOUNDS[name]} | {
            "name": self.name,
            "task": self.task,
            "variants": list(self.variants),
            "percent": self.percent,
            "reports_planned": self.reports_planned,
            "text": self.text,
        }

    @classmethod
    def of(cls, plain: object) -> ExperimentRule:
        """From its plain form, as YAML gives it too; FormatError. Of the fields only
        `name`, `task` and `variants` must be there."""
        if not isinstance(plain, Mapping) or not set(plain) <= set(_FIELDS):
            raise FormatError("experiment", f"an experiment is a map of: {', '.join(_FIELDS)}")
        fields = dict(plain)
        if not {"name", "task", "variants"} <= fields.keys():
            raise FormatError("experiment", "an experiment has a name, a task and variants")
        variants = fields.pop("variants")
        if not isinstance(variants, list):
            raise FormatError("experiment-variants", "variants is a list of names")
        return cls(variants=tuple(variants), **fields)


def _whole(what: str, value: object, high: int, low: int = 0) -> None:
    if type(value) is not int or not low <= value <= high:
        raise FormatError("experiment-range", f"{what} must be a whole number from {low} to {high}")
