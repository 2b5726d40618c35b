"""Since when every closed day of a tenant is there, whatever its plans were."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_metering.keeping import Kept

FIRST = date(2024, 1, 1)
DAY = timedelta(days=1)


@given(
    changes=st.lists(st.tuples(st.integers(1, 200), st.integers(40, 500)), max_size=6),
    later=st.integers(0, 800),
)
def test_no_day_that_is_gone_is_taken_for_kept(changes: list[tuple[int, int]], later: int) -> None:
    """Whatever plans followed each other: from the oldest day on none has expired."""
    kept = Kept(400, date.min, 400)
    plans = [(FIRST, 400)]
    today = FIRST
    for after, days in changes:
        today += after * DAY
        if days != kept.days:
            kept = kept.changed(today, days)
        plans.append((today, days))
    today += later * DAY
    oldest = kept.oldest(today)
    for back in range((today - max(oldest, FIRST)).days + 1):
        day = today - back * DAY
        days = next(days for since, days in reversed(plans) if since <= day)
        assert today <= day + days * DAY, (day, days)


@pytest.mark.parametrize(
    ("days", "later", "expected"),
    [(400, 0, 400), (400, 500, 400), (90, 0, 90), (1100, 0, 400), (1100, 401, 401), (1100, 2000, 1100)],
)
def test_a_plan_shows_what_it_keeps(days: int, later: int, expected: int) -> None:
    """A shorter one at once; a longer one as its days come together."""
    kept = Kept(400, date.min, 400).changed(FIRST, days) if days != 400 else Kept(400, date.min, 400)
    today = FIRST + later * DAY
    assert (today - kept.oldest(today)).days == expected
