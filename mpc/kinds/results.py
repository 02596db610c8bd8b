"""What opened sums mean. Noised sums give noised results: counts can be below zero."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Result:
    """The number of valid reports is exact, all else as good as the sums that were opened."""

    reports: int


@dataclass(frozen=True, slots=True)
class Counts(Result):
    """How many reports said each thing; bins in the task's order."""

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quantiles(Counts):
    """Counts between edges: bin j is `edges[j] <= x < edges[j + 1]`."""

    edges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sums(Result):
    """A sum for each coordinate."""

    sums: tuple[int, ...]

    @property
    def means(self) -> tuple[Fraction, ...]:
        """Each sum by the number of reports; 0 without reports."""
        return tuple(Fraction(total, self.reports or 1) for total in self.sums)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and (if it was measured) sum of squares of one group."""

    count: Fraction
    total: Fraction
    squares: Fraction | None

    @property
    def mean(self) -> Fraction | None:
        """None without a count above zero, which noise can take away."""
        return self.total / self.count if self.count > 0 else None

    @property
    def variance(self) -> Fraction | None:
        """The group's own variance (divisor n). Noise can push it below zero."""
        if self.squares is None or self.count <= 0:
            return None
        return self.squares / self.count - (self.total / self.count) ** 2


@dataclass(frozen=True, slots=True)
class Groups(Result):
    """Moments of each group: one for a mean, one a variant for an experiment."""

    groups: tuple[Moments, ...]


def moments(count: Fraction, centred: Fraction, squares: Fraction | None, centre: int) -> Moments:
    """Moments of x out of those of x - centre."""
    total = centred + centre * count
    if squares is not None:
        squares = squares + 2 * centre * centred + centre * centre * count
    return Moments(count, total, squares)
