"""Which tasks may be published, and how noisy and how large their rounds must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.fields import DAYS_MAX, Fields

KINDS: Final = (
    "count", "experiment", "histogram", "mean", "multihot", "quantile", "sum", "vector",
)  # fmt: skip
"""Those of `mpc.kinds`, which this package may not import; a test holds the two together."""
K_MAX: Final = (1 << 32) - 1
MICRO_RHO_MAX: Final = 1 << 53
SIGNALS_MAX: Final = 32
_VERSION: Final = re.compile(r"/v[0-9]+\Z")


def source_of(task_id: str) -> str:
    """A task's id without its last `/v2`, `/v3` and so on, which tells it from the ones before."""
    return _VERSION.sub("", task_id)


@dataclass(frozen=True, slots=True)
class TaskRule:
    """One task, in all its versions. It reads `signals`, all of them of reach `aggregate`.

    A round has `k_min_at_least` contributions or no result, costs a device
    `micro_rho_at_most` of zCDP, and its result is kept for `result_days`. `cohort`: the rule
    whose labels are its bins, if it counts by cohort. `micro_rho_a_period`: what an account gives
    in any `period_days` to all versions of the task together; None: the other caps are all.
    """

    source: str
    signals: tuple[str, ...]
    purpose: str
    kind: str
    k_min_at_least: int
    micro_rho_at_most: int
    result_days: int
    cohort: str | None
    text: str
    micro_rho_a_period: int | None = None
    period_days: int | None = None

    def __post_init__(self) -> None:
        fields.name("source", self.source)
        if source_of(self.source) != self.source:
            raise FormatError("task-version", "source must be without its last /v1; remove it")
        fields.distinct("signals", self.signals, 1, SIGNALS_MAX)
        fields.name("purpose", self.purpose)
        fields.one_of("kind", self.kind, KINDS)
        fields.whole("k_min_at_least", self.k_min_at_least, 2, K_MAX)
        fields.whole("micro_rho_at_most", self.micro_rho_at_most, 1, MICRO_RHO_MAX)
        fields.whole("result_days", self.result_days, 1, DAYS_MAX)
        if self.cohort is not None:
            fields.name("cohort", self.cohort)
        fields.text("text", self.text)
        self._check_period()

    def _check_period(self) -> None:
        if (self.micro_rho_a_period is None) != (self.period_days is None):
            raise FormatError(
                "task-period", "micro_rho_a_period and period_days go together; give both"
            )
        if self.micro_rho_a_period is not None:
            fields.whole("period_days", self.period_days, 1, DAYS_MAX)
            low = self.micro_rho_at_most
            fields.whole("micro_rho_a_period", self.micro_rho_a_period, low, MICRO_RHO_MAX)

    def check(self, *, purpose: str, kind: str, k_min: int, micro_rho: int) -> None:
        """FormatError unless a task keeps to the rule. `micro_rho`: what one round costs."""
        if purpose != self.purpose:
            raise FormatError("task-purpose", "the policy declares the task for another purpose")
        if kind != self.kind:
            raise FormatError("task-kind", f"the policy declares the task as one of {self.kind}")
        if k_min < self.k_min_at_least:
            raise FormatError("task-k-min", f"k_min must be {self.k_min_at_least} or more")
        if not 1 <= micro_rho <= self.micro_rho_at_most:
            raise FormatError(
                "task-noise",
                f"a round costs {micro_rho} micro-rho, and must cost 1 to"
                f" {self.micro_rho_at_most}: raise sigma",
            )

    def as_map(self) -> dict[str, Any]:
        """As it is signed; a cohort and a period only if there is one."""
        made: dict[str, Any] = {
            "source": self.source,
            "signals": list(self.signals),
            "purpose": self.purpose,
            "kind": self.kind,
            "k_min_at_least": self.k_min_at_least,
            "micro_rho_at_most": self.micro_rho_at_most,
            "result_days": self.result_days,
            "text": self.text,
        }
        if self.cohort is not None:
            made["cohort"] = self.cohort
        if self.micro_rho_a_period is not None:
            made |= {
                "micro_rho_a_period": self.micro_rho_a_period,
                "period_days": self.period_days,
            }
        return made

    @classmethod
    def of(cls, value: object) -> TaskRule:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(
            source=read.take("source"),
            signals=fields.texts("signals", read.take("signals")),
            purpose=read.take("purpose"),
            kind=read.take("kind"),
            k_min_at_least=read.take("k_min_at_least"),
            micro_rho_at_most=read.take("micro_rho_at_most"),
            result_days=read.take("result_days"),
            cohort=read.maybe("cohort"),
            text=read.take("text"),
            micro_rho_a_period=read.maybe("micro_rho_a_period"),
            period_days=read.maybe("period_days"),
        )
        read.done()
        return made
