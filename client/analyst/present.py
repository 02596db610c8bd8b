"""A round's result as people and programs read it: rows of a table, a plot, sentences, JSON.

Pure: what it is given was verified by who gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

from client.analyst.estimates import Estimate, estimates, worth_a_plot
from client.analyst.plot import plot
from mpc.manifest import Manifest
from mpc.privacy import MICRO, epsilon_of
from mpc.result import Comparisons, Counted, RoundResult, Undecided, validity_checked
from mpc.tail_params import Threshold, Top
from mpc.task import Task

DELTA: Final = 1e-6
ROWS_MAX: Final = 40
"""More rows than these are counted in a table, not shown."""
DIGITS: Final = 2
"""Of a standard deviation; the estimate beside it has as many decimals."""


class Table(NamedTuple):
    """What a table shows, as texts."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    right: frozenset[int]
    """Columns of numbers."""
    more: int
    """Rows that are not shown."""


def table(task: Task, result: RoundResult, *, rows_max: int = ROWS_MAX) -> Table:
    """A row for each statistic."""
    found = estimates(task, result)
    shared = any(one.share is not None for one in found)
    error = "± sampling and noise" if isinstance(result.outcome, Comparisons) else "± noise"
    head = ("", "statistic", "estimate", error, "95 %", *(("of valid",) if shared else ()), "")
    rows = [_row(one, shared=shared) for one in found[:rows_max]]
    right = frozenset(range(2, 6 if shared else 4)) - {4}
    return Table(head, rows, right, max(0, len(found) - rows_max))


def draw(
    task: Task, result: RoundResult, *, width: int = 78, truth: Sequence[float | None] = ()
) -> str:
    """A plot of the statistics that stand beside each other; empty if there are none.

    `truth`, where it is known: one for each of `worth_a_plot(estimates(...))`.
    """
    drawn = worth_a_plot(estimates(task, result))[:ROWS_MAX]
    return plot(drawn, width=width, truth=truth[:ROWS_MAX]) if drawn else ""


def _row(one: Estimate, *, shared: bool) -> tuple[str, ...]:
    interval = ""
    if one.low is not None and one.high is not None:
        decimals = _decimals(one.sigma)
        interval = f"{_fixed(one.low, decimals)} to {_fixed(one.high, decimals)}"
    value = one.shown or ("" if one.value is None else _number(one.value, one.sigma))
    error = "" if one.sigma is None else rounded(one.sigma)
    share = (f"{float(one.share):.1%}" if one.share is not None else "",) if shared else ()
    return (one.label, one.what, value, error, interval, *share, one.note)


def _decimals(sigma: float | None) -> int:
    """So many that a standard deviation has `DIGITS` digits."""
    if sigma is None or sigma <= 0:
        return 0
    return max(0, DIGITS - 1 - math.floor(math.log10(sigma)))


def rounded(sigma: float) -> str:
    """A standard deviation, to `DIGITS` digits or to the whole number."""
    return _fixed(sigma, _decimals(sigma))


def _number(value: Fraction, sigma: float | None) -> str:
    if value.denominator == 1:
        return f"{value.numerator:,}"
    # Without noise there is no digit that is not meant.
    return _fixed(float(value), _decimals(sigma)) if sigma else f"{float(value):,.6g}"


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


# --- sentences ---


def epsilon(task: Task) -> float:
    """What one round costs, as epsilon at delta 10^-6."""
    return epsilon_of(task.cost_micro_rho, DELTA) / MICRO


def privacy(task: Task) -> str:
    """What one round of the task costs, and whom that protects of what."""
    if task.noise is None:
        return "No noise: this protects nobody (a task for tests)."
    return (
        f"rho = {task.cost_micro_rho / MICRO:g} of zCDP, epsilon = {epsilon(task):.3g} at delta"
        " = 10^-6: so little does the result tell of which value any one report had. Who took"
        " part, and how many did, it does not hide."
    )


def sentences(task: Task, result: RoundResult, signers: Sequence[int]) -> list[str]:
    """What else a reader must know, a line each."""
    said = _on_tail(task, result)
    said += _on_reports(result.counted)
    said.append(privacy(task))
    sigma = f", of sigma {task.noise.sigma_milli / 1000:,g} as the task asks" if task.noise else ""
    said.append(
        f"The noise is of {_parties(result.noise_of)}{sigma}; intervals are of the noise alone."
    )
    said.append(f"Signed by {_parties(sorted(signers))} of {task.m}. {_on_opening(result)}")
    if not validity_checked(task):
        said.append(
            f"With {task.m} parties one that lies about which reports are valid does not show:"
            " it can drop some, and learns nothing by it."
        )
    return said


def _on_tail(task: Task, result: RoundResult) -> list[str]:
    if isinstance(result.outcome, Undecided):
        return [_UNDECIDED]
    match task.tail:
        case Threshold(tau=tau):
            return [f"Bins below {tau:,} are suppressed: noise should not pass for people."]
        case Top(count=count):
            return [
                f"The {count:,} largest of {task.kind.d:,} bins; of the others nothing is told."
            ]
    return []


_UNDECIDED: Final = (
    "Undecided: the sums are too close to their noise for what the task asks. A round with more"
    " reports may tell."
)


def _on_reports(counted: Counted) -> list[str]:
    dropped = ", ".join(
        f"{count:,} {what}"
        for count, what in (
            (counted.inconsistent, "inconsistent"),
            (counted.invalid, "invalid"),
        )
        if count
    )
    of = f"{counted.valid:,} valid of {counted.reports:,} reports that all parties could use"
    said = [f"{of} ({dropped})." if dropped else f"{of}."]
    for party, refused in enumerate(counted.refused, 1):
        if refused:
            by_rule = ", ".join(f"{rule} {count:,}" for rule, count in sorted(refused.items()))
            said.append(f"Party {party} left out before, by its own word: {by_rule}.")
    return said


def _on_opening(result: RoundResult) -> str:
    if result.checked:
        return "The opening of the sums was checked: a wrong share would have shown."
    return (
        "The opening of the sums was not checked: too few parties were there to show a wrong share."
    )


def _parties(numbers: Sequence[int]) -> str:
    named = [str(one) for one in numbers]
    if len(named) < 2:
        return f"party {''.join(named)}"
    return f"parties {', '.join(named[:-1])} and {named[-1]}"


def headline(task: Task, manifest: Manifest) -> str:
    """The headline of a result."""
    return f"{task.title}\n{task.task_id}, round {manifest.round_id.hex()}"


# --- JSON ---


def as_data(
    task: Task, manifest: Manifest, result: RoundResult, signers: Sequence[int]
) -> dict[str, Any]:
    """Everything, for programs."""
    counted = result.counted
    return {
        "task": task.task_id,
        "title": task.title,
        "kind": task.kind.name,
        "tail": task.tail.name,
        "spec_hash": task.spec_hash.hex(),
        "round_id": manifest.round_id.hex(),
        "open_ms": manifest.open_ms,
        "close_ms": manifest.close_ms,
        "reports": counted.reports,
        "valid": counted.valid,
        "rejected": rejected(counted),
        "estimates": [_estimate_data(one) for one in estimates(task, result)],
        "undecided": isinstance(result.outcome, Undecided),
        "sigma": task.noise.sigma_milli / 1000 if task.noise else 0.0,
        "rho": task.cost_micro_rho / MICRO,
        "epsilon_at_delta_1e-6": epsilon(task),
        "noise_of": list(result.noise_of),
        "signed_by": sorted(signers),
        "opening_checked": result.checked,
        "validity_checked": validity_checked(task),
    }


def rejected(counted: Counted) -> dict[str, Any]:
    """Reports that are in no sum, by reason."""
    return {
        "inconsistent": counted.inconsistent,
        "invalid": counted.invalid,
        "left_out_by_party": [dict(_sorted(one)) for one in counted.refused],
    }


def _sorted(refused: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(refused.items())


def _estimate_data(one: Estimate) -> dict[str, Any]:
    data: dict[str, Any] = {
        "label": one.label,
        "statistic": one.what,
        "value": None if one.value is None else _exact(one.value),
        "sigma": one.sigma,
        "low": one.low,
        "high": one.high,
    }
    if one.share is not None:
        data["share"] = float(one.share)
    if one.note:
        data["note"] = one.note
    return data


def _exact(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)
