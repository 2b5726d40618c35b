"""Which counters answer a question about a range of dates. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from artcafe_common.errors import invalid
from artcafe_metering import keys, periods
from artcafe_metering.keys import Breakdown
from artcafe_metering.periods import Retention
from artcafe_metering.wire import Granularity

HOURLY_DAYS_MAX = 31
DAILY_DAYS_MAX = 366
_DEFAULT_DAYS = {"hour": 1, "day": 30}
_DEFAULT_MONTHS = 12


@dataclass(frozen=True, slots=True)
class Period:
    """One period of an answer and the counters it is the sum of.

    `days` are those whose sets of active ids belong to it, or `whole_month` is the one whose set does; an
    hour has neither.
    """

    start: datetime
    end: datetime
    counter_keys: tuple[str, ...]
    days: tuple[date, ...] = ()
    whole_month: date | None = None

    def active_keys(self, tenant_id: str, by: Breakdown) -> list[str]:
        """Return the keys of the sets of active agents or channels."""
        if self.whole_month is not None:
            return [keys.active_month_key(tenant_id, self.whole_month, by)]
        return [keys.active_day_key(tenant_id, day, by) for day in self.days]


def resolve(start: date | None, end: date | None, granularity: Granularity, today: date) -> tuple[date, date]:
    """Return the range that is meant where one or both ends were not given.

    Raises: ServiceError ``invalid_argument`` for a range that is backwards, too long or in the future.
    """
    end = end or today
    if end >= periods.first_of_next_month(today):
        raise invalid("end_date lies after the current month")
    if start is None:
        start = _default_start(end, granularity)
    if start > end:
        raise invalid("start_date is after end_date")
    most = {"hour": HOURLY_DAYS_MAX, "day": DAILY_DAYS_MAX}.get(granularity)
    if most is not None and (end - start).days >= most:
        raise invalid(f"a range by {granularity} has at most {most} days")
    return start, end


def divide(
    tenant_id: str,
    start: date,
    end: date,
    granularity: Granularity,
    today: date,
    retention: Retention,
    group_by: Breakdown | None = None,
) -> list[Period]:
    """Return the periods of a range.

    Raises: ServiceError ``invalid_argument`` where some of it is no longer kept: zeros there would be wrong.
    """
    if granularity == "hour":
        # The first hours of the day before have expired already.
        _check_kept(start, today, retention.readable_hours - 1, "hour")
        return [
            Period(hour, hour + periods.HOUR, (keys.hour_key(tenant_id, hour),))
            for hour in periods.hours_of(start, end)
        ]
    if granularity == "day":
        check_days_kept(start, today, retention)
        return [
            Period(
                periods.midnight(day),
                periods.midnight(day + periods.DAY),
                (keys.day_key(tenant_id, day),),
                (day,),
            )
            for day in periods.days_of(start, end)
        ]
    return [
        _month(tenant_id, first, last, today, retention, group_by)
        for first, last in periods.months_of(start, end)
    ]


def active_keys(tenant_id: str, chosen: Sequence[Period], start: date, end: date, by: Breakdown) -> list[str]:
    """Return the keys of all sets of active ids in a range."""
    found = [key for period in chosen for key in period.active_keys(tenant_id, by)]
    return found or [keys.active_day_key(tenant_id, day, by) for day in periods.days_of(start, end)]


def check_days_kept(start: date, today: date, retention: Retention) -> None:
    """Raise ServiceError ``invalid_argument`` where days since `start` are not all kept."""
    _check_kept(start, today, retention.readable_days, "day")


def _month(
    tenant_id: str,
    first: date,
    last: date,
    today: date,
    retention: Retention,
    group_by: Breakdown | None,
) -> Period:
    start, end = periods.midnight(first), periods.midnight(last + periods.DAY)
    beginning = periods.first_of_month(first)
    whole = first == beginning and (last >= today or last + periods.DAY == periods.first_of_next_month(last))
    if whole and group_by is None and first >= today - timedelta(days=retention.months):
        return Period(start, end, (keys.month_key(tenant_id, first),), whole_month=first)
    what = "day, from which parts of a month, old months and groups are added up,"
    _check_kept(first, today, retention.readable_days, what)
    days = tuple(periods.days_of(first, last))
    counters = tuple(keys.day_key(tenant_id, day) for day in days)
    known = whole and first >= today - timedelta(days=retention.months)
    return Period(start, end, counters, days, first if known else None)


def _check_kept(start: date, today: date, kept_days: int, what: str) -> None:
    oldest = today - timedelta(days=kept_days)
    if start < oldest:
        raise invalid(f"figures by {what} are kept since {oldest}; {start} is before that")


def _default_start(end: date, granularity: Granularity) -> date:
    # An end in the year 1 has nothing before it; that it is no longer kept is told like of any other.
    if granularity != "month":
        return date.fromordinal(max(date.min.toordinal(), end.toordinal() - _DEFAULT_DAYS[granularity] + 1))
    year, month = divmod(end.year * 12 + end.month - _DEFAULT_MONTHS, 12)
    return date(year, month + 1, 1) if year else date.min
