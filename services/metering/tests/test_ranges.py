from __future__ import annotations

from datetime import date, timedelta

import pytest

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_metering import keys, ranges
from artcafe_metering.keys import Breakdown
from artcafe_metering.periods import Retention
from artcafe_metering.ranges import Period
from artcafe_metering.wire import Granularity

TODAY = date(2028, 3, 15)
RETENTION = Retention()


def divide(start: date, end: date, granularity: Granularity, by: Breakdown | None = None) -> list[Period]:
    """Divide a range as seen on `TODAY`."""
    return ranges.divide("t1", start, end, granularity, TODAY, RETENTION, by)


@pytest.mark.parametrize(
    ("granularity", "start"),
    [("hour", TODAY), ("day", date(2028, 2, 15)), ("month", date(2027, 4, 1))],
)
def test_a_range_that_is_not_given_ends_today(granularity: Granularity, start: date) -> None:
    """By default one day of hours, thirty days, twelve months."""
    assert ranges.resolve(None, None, granularity, TODAY) == (start, TODAY)


def test_the_default_start_belongs_to_the_given_end() -> None:
    """With only an end given, the range leads up to it."""
    assert ranges.resolve(None, date(2028, 2, 29), "day", TODAY) == (date(2028, 1, 31), date(2028, 2, 29))


@pytest.mark.parametrize(
    ("end", "granularity", "start"),
    [
        (date(2028, 1, 31), "month", date(2027, 2, 1)),
        (date(1, 12, 31), "month", date(1, 1, 1)),
        (date(1, 11, 30), "month", date.min),
        (date(1, 1, 30), "day", date(1, 1, 1)),
        (date(1, 1, 29), "day", date.min),
        (date.min, "hour", date.min),
    ],
)
def test_the_default_start_is_a_date_whatever_the_end_is(
    end: date, granularity: Granularity, start: date
) -> None:
    """Before the year 1 there is nothing: such an end is refused as any that is not kept, and no fault."""
    assert ranges.resolve(None, end, granularity, TODAY) == (start, end)


@pytest.mark.parametrize(
    ("start", "end", "granularity"),
    [
        (date(2028, 3, 15), date(2028, 3, 14), "day"),
        (date(2028, 3, 16), None, "day"),
        (None, date(2028, 4, 1), "day"),
        (date(2028, 2, 1), date(2028, 3, 3), "hour"),
        (date(2027, 1, 1), date(2028, 1, 2), "day"),
    ],
)
def test_impossible_ranges_are_refused(
    start: date | None, end: date | None, granularity: Granularity
) -> None:
    """Backwards, beyond the current month, or longer than an answer may be."""
    with pytest.raises(ServiceError) as caught:
        ranges.resolve(start, end, granularity, TODAY)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_the_rest_of_the_month_may_be_asked_for() -> None:
    """A billing month is asked for as a whole while it runs."""
    assert ranges.resolve(date(2028, 3, 1), date(2028, 3, 31), "day", TODAY)[1] == date(2028, 3, 31)


def test_hours_and_days_have_one_counter_each() -> None:
    """A period by hour or day is one key."""
    hours = divide(TODAY, TODAY, "hour")
    assert len(hours) == 24
    assert hours[23].counter_keys == ("stats:h:20280315:23:{t1}",)
    assert hours[23].active_keys("t1", "agent") == []
    days = divide(date(2028, 2, 28), date(2028, 3, 1), "day")
    assert [period.counter_keys[0][8:16] for period in days] == ["20280228", "20280229", "20280301"]
    assert days[1].active_keys("t1", "agent") == ["active:d:20280229:{t1}:agents"]


def test_whole_months_come_from_their_own_counter() -> None:
    """A month that lies in the range as a whole, or runs until today, is one key."""
    january, february, march = divide(date(2028, 1, 1), TODAY, "month")
    assert january.counter_keys == ("stats:m:202801:{t1}",)
    assert february.counter_keys == ("stats:m:202802:{t1}",)
    assert february.active_keys("t1", "channel") == ["active:m:202802:{t1}:channels"]
    assert march.counter_keys == ("stats:m:202803:{t1}",)


def test_months_that_have_expired_are_added_up_from_days_that_have_not() -> None:
    """Where a plan keeps days for longer than months are, a whole month is the sum of its days."""
    kept = Retention(rolled_days=1100)
    (month,) = ranges.divide("t1", date(2026, 2, 1), date(2026, 2, 28), "month", TODAY, kept)
    assert month.counter_keys == tuple(f"stats:d:202602{day:02}:{{t1}}" for day in range(1, 29))
    assert len(month.active_keys("t1", "agent")) == 28
    with pytest.raises(ServiceError, match="old months"):
        ranges.divide("t1", date(2026, 2, 1), date(2026, 2, 28), "month", TODAY, Retention())


def test_parts_of_months_are_added_up_from_days() -> None:
    """A month that the range cuts off holds nothing from outside of the range."""
    february, march = divide(date(2028, 2, 28), date(2028, 3, 2), "month")
    assert february.counter_keys == ("stats:d:20280228:{t1}", "stats:d:20280229:{t1}")
    assert march.counter_keys == ("stats:d:20280301:{t1}", "stats:d:20280302:{t1}")
    assert len(march.active_keys("t1", "agent")) == 2


def test_months_by_agent_are_added_up_from_days() -> None:
    """There is no monthly breakdown: it is the sum of the daily ones; active ids are those of the month."""
    (february,) = divide(date(2028, 2, 1), date(2028, 2, 29), "month", "agent")
    assert len(february.counter_keys) == 29
    assert february.active_keys("t1", "agent") == ["active:m:202802:{t1}:agents"]


@pytest.mark.parametrize(
    ("granularity", "days", "by"),
    [("hour", 29, None), ("day", 400, None), ("month", 400, None), ("month", 400, "agent")],
)
def test_what_is_no_longer_kept_is_refused(granularity: Granularity, days: int, by: Breakdown | None) -> None:
    """The oldest day that is kept is answered; the one before is refused instead of shown as zeros."""
    oldest = TODAY - timedelta(days=days)
    if granularity == "month" and by is None:
        oldest = date(2027, 3, 1)
        assert (TODAY - oldest).days <= days
        too_old = date(2027, 2, 1)
    else:
        too_old = oldest - timedelta(days=1)
    divide(oldest, oldest if granularity != "month" else TODAY, granularity, by)
    with pytest.raises(ServiceError) as caught:
        divide(too_old, too_old if granularity != "month" else TODAY, granularity, by)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_active_ids_of_hours_are_those_of_their_days() -> None:
    """The totals of a range by hour count the active ids of its days."""
    hours = divide(date(2028, 3, 14), TODAY, "hour")
    assert ranges.active_keys("t1", hours, date(2028, 3, 14), TODAY, "agent") == [
        keys.active_day_key("t1", day, "agent") for day in (date(2028, 3, 14), TODAY)
    ]
