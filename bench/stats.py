"""The little statistics that is needed: medians with their range, percentiles, ratios of pairs, a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return it as it stands in a table."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the range of at least one value."""
    return Spread(median(values), min(values), max(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of the rounds' ratios: what disturbed a whole round disturbed both of its values."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def fixed_and_marginal(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Split costs into what each message costs and what each of its receivers adds (least squares)."""
    line = linear_regression(sizes, costs)
    return line.intercept, line.slope
