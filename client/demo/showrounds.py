"""What the demo shows of a round: the truth beside what the parties signed, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from client.analyst.estimates import Estimate, estimates, worth_a_plot
from client.analyst.plot import plot
from client.demo.rounds import Measured
from mpc import tail
from mpc.kinds import Experiment, Histogram
from mpc.result import Sums

ROWS_SHOWN = 8
PLOT_WIDTH = 72
LABEL_WIDTH = 24
ALPHA_MICRO = 50_000
_DECIMALS_MAX = 3
LEGEND = (
    "sigma: standard deviation of the noise in a result. in sigmas: the error over it, within 2"
    " in 95 of 100. rho, and epsilon at a delta: how much a round can tell of one person at most;"
    " less is more private."
)


def one(console: Console, measured: Measured, bins: Sequence[str]) -> None:
    """Table, plot and sentences of one round. `bins`: names for those of a histogram."""
    truth = {
        (row.label, row.what): row for row in estimates(measured.task, measured.truth)
    }  # fmt: skip
    # Noise can make a group of nobody, of which there is no true mean.
    rows = [
        (row, truth.get((row.label, row.what), Estimate(row.label, row.what, None)))
        for row in estimates(measured.task, measured.result)
    ]
    if isinstance(measured.task.kind, Histogram):
        rows = [
            (replace(got, label=name), true) for name, (got, true) in zip(bins, rows, strict=True)
        ]
    if len(rows) > ROWS_SHOWN:
        shown = sorted(rows, key=lambda row: _number(row[0].value), reverse=True)[:ROWS_SHOWN]
    else:
        shown = rows
    console.print(_table(measured, shown))
    if len(rows) > len(shown):
        console.print(f"[dim]the {len(shown)} largest of {len(rows)}[/dim]")
    _plot(console, shown)
    for sentence in _sentences(measured):
        console.print(sentence)
    console.print()


def _number(value: Fraction | None) -> float:
    return float("-inf") if value is None else float(value)


def _table(measured: Measured, rows: list[tuple[Estimate, Estimate]]) -> Table:
    table = Table(title=measured.task.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, max_width=LABEL_WIDTH)
    table.add_column("of", no_wrap=True)
    for head in ("truth", "result", "error", "sigma", "in sigmas"):
        table.add_column(head, justify="right", no_wrap=True, min_width=len(head))
    for got, true in rows:
        table.add_row(got.label, got.what, *_figures(got, true))
    return table


def _figures(got: Estimate, true: Estimate) -> tuple[str, ...]:
    if got.value is None or true.value is None:
        return (_text(true.value), _text(got.value), "", "", "")
    error = float(got.value - true.value)
    sigma = got.sigma or 0.0
    return (
        _text(true.value),
        _text(got.value),
        f"{error:+,.{_DECIMALS_MAX}g}",
        f"{sigma:,.{_DECIMALS_MAX}g}",
        f"{error / sigma:+.2f}" if sigma else "",
    )


def _text(value: Fraction | None) -> str:
    if value is None:
        return "none"
    return f"{value.numerator:,}" if value.denominator == 1 else f"{float(value):,.2f}"


def _plot(console: Console, rows: list[tuple[Estimate, Estimate]]) -> None:
    drawn = worth_a_plot([got for got, _ in rows])
    if not drawn:
        return
    truth = {id(got): true.value for got, true in rows}
    marks = [None if (value := truth[id(row)]) is None else float(value) for row in drawn]
    console.print(plot(drawn, width=PLOT_WIDTH, truth=marks), markup=False)


def _sentences(measured: Measured) -> list[str]:
    data = measured.data()
    counted = measured.result.counted
    said = [
        (
            f"{data['reports']:,} reports, {data['valid']:,} of them valid;"
            f" {measured.cheated} cheated, and {data['rejected']} were caught:"
            f" {counted.invalid} with no value that is allowed, {counted.inconsistent} whose shares"
            " don't belong together"
        ),
        (
            f"largest error of {data['sums']} opened sums: {data['max_error_in_sigmas']} sigmas"
            f" of the noise; rho = {data['rho']:g}, epsilon = {data['epsilon_at_delta_1e-6']:.2f}"
            " at delta = 1e-6"
        ),
        (
            f"signed by parties {', '.join(map(str, data['signed_by']))},"
            f" {data['seconds_close_to_result']} s after the window closed"
        ),
    ]
    return [*said, *_verdicts(measured)]


def _verdicts(measured: Measured) -> list[str]:
    """Of an experiment: Welch's test on the noised sums. A reader of the sums may do that."""
    task, result = measured.task, measured.result
    if not isinstance(task.kind, Experiment) or not isinstance(result.outcome, Sums):
        return []
    assert task.noise is not None
    variance = task.noise.opened_variance(present=len(result.noise_of), t=task.t)
    samples = tail.samples(result.outcome.sums, task.kind.scales, variance)
    try:
        compared = tail.welch(samples, alpha_micro=ALPHA_MICRO)
    except tail.Undecidable as error:
        return [
            (
                f"Welch's test, noise included, gives no verdict, as it should: {error.message}."
                " An effect was planted; to find it beside so much noise takes more people"
                " (--people)"
            )
        ]
    first, *others = task.kind.labels
    return [_verdict(label, first, one) for label, one in zip(others, compared, strict=True)]


def _verdict(label: str, first: str, one: tail.Comparison) -> str:
    said = {
        tail.Verdict.HIGHER: f"{label!r} is higher than {first!r}",
        tail.Verdict.LOWER: f"{label!r} is lower than {first!r}",
        tail.Verdict.UNDECIDED: f"too few reports to tell {label!r} from {first!r}",
    }
    difference, error = one.difference_micro / tail.MICRO, one.error_micro / tail.MICRO
    return (
        f"Welch's test, noise included: {said[one.verdict]} (difference {difference:+.2f} ±"
        f" {error:.2f}, p = {one.p_micro / tail.MICRO:.2g}); an effect was planted"
    )
