"""The numbers behind the numbers."""

import pytest
from bench.stats import Spread, fixed_and_marginal, paired_ratio, percentile, spread


def test_spread_is_the_median_with_lowest_and_highest() -> None:
    """One disturbed round moves the range, not the value."""
    assert spread([3.0, 100.0, 1.0, 2.0, 2.5]) == Spread(2.5, 1.0, 100.0)


def test_ratio_is_taken_round_by_round() -> None:
    """A machine that is twice as slow for a round changes nothing in its ratio."""
    assert paired_ratio([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]) == Spread(0.5, 0.5, 0.5)


def test_ratio_refuses_a_missing_round() -> None:
    """Rounds that do not belong together are not compared."""
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1)])
def test_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    """The nearest rank, also at the ends."""
    assert percentile(range(100, 0, -1), percent) == expected


def test_costs_split_into_fixed_and_marginal() -> None:
    """A line through the costs of several sizes gives back what it was made of."""
    fixed, marginal = fixed_and_marginal([10, 100, 1000], [50 + 7 * n for n in (10, 100, 1000)])
    assert fixed == pytest.approx(50)
    assert marginal == pytest.approx(7)
