"""What a round ends with: the bytes that its parties sign, and what a reader checks of them.

The same numbers give the same bytes at every party (docs/aggregation.md, 8), so a signature
is all that they have to exchange. Nothing in it is of one report: counts of reports, and what
the task's tail made of sums that carry noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from crypto import canonical, labels
from crypto.errors import FormatError, SignatureError
from crypto.primitives import verify
from mpc import tail
from mpc.checks import whole
from mpc.kinds.results import Result
from mpc.manifest import Manifest, quorum
from mpc.tail import Comparison, Quantile, Ranked, Verdict
from mpc.tail_params import AsTheyAre, AtQuantiles, Threshold, Top, Welch
from mpc.task import Task

VERSION: Final = 1
RULES_MAX: Final = 32
RULE_CHARS_MAX: Final = 32
_NUMBER_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Sums:
    """The noised sums as they were opened, one for each of the kind's outputs."""

    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins that the tail let through, with their noised counts."""

    bins: tuple[Ranked, ...]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """For each quantile of the task, in its order."""

    quantiles: tuple[Quantile, ...]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Each further variant beside the first."""

    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """The sums are too close to their noise for what the tail asks."""


Outcome = Sums | Bins | Quantiles | Comparisons | Undecided


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of the reports; each party has the same numbers."""

    reports: int
    """All parties agreed on them before anything of them was known."""
    inconsistent: int
    """Dropped: their shares do not belong together."""
    invalid: int
    """Dropped: no value that the kind allows."""
    refused: tuple[Mapping[str, int], ...]
    """By party, from the first: how many boxes it left out before, by rule, in its own word."""

    @property
    def valid(self) -> int:
        """What the sums are over."""
        return self.reports - self.inconsistent - self.invalid


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A round's result, as its parties signed it."""

    counted: Counted
    noise_of: tuple[int, ...]
    """The parties whose noise is in the sums, ascending."""
    checked: bool
    """The opening of the sums had one share more than it needed: a lie would have shown. Of
    the check of validity before it see `validity_checked`."""
    outcome: Outcome

    def encode(self, task: Task) -> bytes:
        """The deterministic CBOR that is signed."""
        law = task.noise
        return canonical.encode(
            {
                "version": VERSION,
                "reports": self.counted.reports,
                "valid": self.counted.valid,
                "inconsistent": self.counted.inconsistent,
                "invalid": self.counted.invalid,
                "refused": [dict(one) for one in self.counted.refused],
                "noise_of": list(self.noise_of),
                "checked": self.checked,
                "sigma_milli": law.sigma_milli if law else 0,
                "micro_rho": task.cost_micro_rho,
                "tail": task.tail.name,
                **_said(self.outcome),
            }
        )

    def variances(self, task: Task) -> tuple[Fraction, ...]:
        """Of the noise in each *statistic*, its scale taken out; for outcomes that are sums."""
        if task.noise is None:
            return (Fraction(0),) * task.kind.d
        opened = task.noise.opened_variance(present=len(self.noise_of), t=task.t)
        return tuple(opened / scale**2 for scale in task.kind.scales)

    def statistics(self, task: Task) -> Result | None:
        """What the sums mean, as the kind decodes them; None if the tail keeps them back."""
        if not isinstance(self.outcome, Sums):
            return None
        return task.kind.decode(self.outcome.sums, self.counted.valid)


def validity_checked(task: Task) -> bool:
    """Whether a party that lied about which reports are valid would have shown. That check opens
    numbers of degree 2t, for which all m parties are there and have one share to spare only if
    m > 2t + 1; otherwise a lie can drop reports, or count invalid ones."""
    return task.m > 2 * task.t + 1


def make(
    task: Task, sums: Sequence[int], counted: Counted, *, noise_of: Sequence[int], checked: bool
) -> RoundResult:
    """Applies the task's tail to opened sums. FormatError for sums that are not the task's."""
    if len(sums) != task.kind.d:
        raise FormatError("sums", f"the task opens {task.kind.d} sums")
    result = RoundResult(
        counted, tuple(sorted(noise_of)), checked, _outcome(task, sums, len(noise_of))
    )
    _check(result, task)
    return result


def parse(data: bytes, task: Task) -> RoundResult:
    """Strict: FormatError for all but the bytes that `encode` gives for this task."""
    top = canonical.decode(data)
    if top.get("version") != VERSION:
        raise FormatError("result-version", f"only results of version {VERSION} are known; update")
    try:
        result = RoundResult(
            Counted(
                top["reports"],
                top["inconsistent"],
                top["invalid"],
                tuple(dict(one) for one in top["refused"]),
            ),
            tuple(top["noise_of"]),
            top["checked"],
            _heard(task, top),
        )
        _check(result, task)
        same = result.encode(task) == data
    except (KeyError, TypeError, ValueError):
        raise FormatError("result", "not a result in the form of this version") from None
    if not same:
        raise FormatError("result-task", "the result is not one of this task")
    return result


def open_(
    data: bytes, sigs: Mapping[int, bytes], manifest: Manifest, task: Task
) -> RoundResult:  # fmt: skip
    """A published result, if enough of the round's parties signed it and each signature holds.

    `sigs` are by party, from 1. The manifest and the task are those that the reader has
    verified. SignatureError, FormatError.
    """
    manifest.check_task(task)
    if len(sigs) < manifest.quorum:
        raise SignatureError(
            "signatures", f"a result needs {manifest.quorum} parties' signatures; wait for more"
        )
    for party, sig in sigs.items():
        if not 1 <= party <= manifest.m:
            raise SignatureError("party", "a signature is of no party of the round")
        verify(manifest.parties[party - 1].ik_pk, labels.RESULT, manifest.digest + data, sig)
    return parse(data, task)


def _outcome(task: Task, sums: Sequence[int], present: int) -> Outcome:
    variance = (
        task.noise.opened_variance(present=present, t=task.t) if task.noise else Fraction(0)
    )  # fmt: skip
    try:
        match task.tail:
            case AsTheyAre():
                return Sums(tail.none(sums))
            case Threshold(tau=tau):
                left = enumerate(tail.threshold(sums, tau))
                return Bins(tuple(Ranked(at, one) for at, one in left if one is not None))
            case Top(count=count):
                return Bins(tail.top(sums, count))
            case AtQuantiles(at_micro=points):
                return Quantiles(
                    tuple(tail.quantile(sums, at, variance=variance) for at in points)
                )  # fmt: skip
            case Welch(alpha_micro=alpha):
                samples = tail.samples(sums, task.kind.scales, variance)
                return Comparisons(tail.welch(samples, alpha_micro=alpha))
    except tail.Undecidable:
        return Undecided()


def _said(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Sums(sums=sums):
            return {"sums": list(sums)}
        case Bins(bins=bins):
            return {"bins": [list(one) for one in bins]}
        case Quantiles(quantiles=quantiles):
            return {"quantiles": [list(one) for one in quantiles]}
        case Comparisons(comparisons=comparisons):
            return {"comparisons": [[str(one.verdict), *one[1:]] for one in comparisons]}
        case Undecided():
            return {"undecided": True}


def _heard(task: Task, said: Mapping[str, Any]) -> Outcome:
    if "undecided" in said and not isinstance(task.tail, AsTheyAre):
        return Undecided()
    match task.tail:
        case AsTheyAre():
            return Sums(tuple(said["sums"]))
        case Threshold() | Top():
            return Bins(tuple(Ranked(*one) for one in said["bins"]))
        case AtQuantiles():
            return Quantiles(tuple(Quantile(*one) for one in said["quantiles"]))
        case Welch():
            rows = said["comparisons"]
            return Comparisons(tuple(Comparison(Verdict(row[0]), *row[1:]) for row in rows))


def _check(result: RoundResult, task: Task) -> None:
    counted = result.counted
    _number("reports", counted.reports, 0, task.reports_max)
    _number("inconsistent", counted.inconsistent, 0, counted.reports)
    _number("invalid", counted.invalid, 0, counted.reports - counted.inconsistent)
    _number("valid reports", counted.valid, task.k_min, counted.reports)
    if len(counted.refused) != task.m:
        raise FormatError("result", f"what {task.m} parties refused is to be given")
    for one in counted.refused:
        check_refused(one)
    noise_of = result.noise_of
    if len(noise_of) < quorum(task.m, task.t):
        raise FormatError("result", "the noise is of too few parties")
    for party in noise_of:
        _number("party", party, 1, task.m)
    if any(low >= high for low, high in pairwise(noise_of)) or type(result.checked) is not bool:
        raise FormatError("result", "parties ascend, and checked is true or false")
    _check_outcome(result.outcome, task)


def check_refused(refused: Mapping[str, int]) -> None:
    """FormatError unless it can stand in a result: few rules with short names, counts from 1."""
    if len(refused) > RULES_MAX:
        raise FormatError("result", f"a party refuses by {RULES_MAX} rules at most")
    for rule, count in refused.items():
        if not 1 <= len(rule) <= RULE_CHARS_MAX or not rule.isascii() or not rule.isprintable():
            raise FormatError("result", "a rule's name is short and of printable ASCII")
        _number("refused", count, 1, _NUMBER_MAX)


def _check_outcome(outcome: Outcome, task: Task) -> None:
    reach, d = task.field.p // 2, task.kind.d
    match outcome:
        case Sums(sums=sums):
            _rows(sums, d, d)
            for one in sums:
                _number("sum", one, -reach, reach)
        case Bins(bins=bins):
            most = task.tail.count if isinstance(task.tail, Top) else d
            _rows(bins, 0, most)
            _rows({one.bin for one in bins}, len(bins), len(bins))
            for bin_, value in bins:
                _number("bin", bin_, 0, d - 1)
                _number("count", value, -reach, reach)
        case Quantiles(quantiles=quantiles):
            points = task.tail.at_micro if isinstance(task.tail, AtQuantiles) else ()
            _rows(quantiles, len(points), len(points))
            for place in (bin_ for one in quantiles for bin_ in one):
                _number("bin", place, 0, d - 1)
        case Comparisons(comparisons=comparisons):
            _rows(comparisons, d // 3 - 1, d // 3 - 1)
            for row in comparisons:
                for number in row[1:]:
                    _number("number", number, -_NUMBER_MAX, _NUMBER_MAX)


def _rows(rows: Any, low: int, high: int) -> None:
    if not low <= len(rows) <= high:
        raise FormatError("result", "the outcome has another length than the task's")


def _number(what: str, value: object, low: int, high: int) -> None:
    whole(what, value, low, high, rule="result")


__all__ = [
    "Bins", "Comparisons", "Counted", "Outcome", "Quantiles", "RoundResult",
    "Sums", "Undecided", "check_refused", "make", "open_", "parse",
    "validity_checked",
]  # fmt: skip
