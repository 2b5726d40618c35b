"""Hours, days and months in UTC: where they begin and end, and which of them are still kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# A period is open for so long after its end; what comes later is an adjustment.
GRACE = 2 * HOUR
# A batch may come as late as the stream keeps it (7 days): no counter may be gone by then.
HOUR_DAYS_MIN = 9
DAY_DAYS_MIN = 40
MONTH_DAYS_MIN = 62


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days after their end hours, days and months are kept, in Valkey and as rollups."""

    hours: int = 30
    days: int = 90
    months: int = 400
    rolled_hours: int = 30
    rolled_days: int = 400

    @property
    def readable_hours(self) -> int:
        """For how many days hours can be read, wherever they are."""
        return max(self.hours, self.rolled_hours)

    @property
    def readable_days(self) -> int:
        """For how many days days can be read, wherever they are."""
        return max(self.days, self.rolled_days)


def utc(seconds: float) -> datetime:
    """Return an epoch time as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def hour_of(seconds: float) -> datetime:
    """Return the beginning of the hour in which an epoch time lies."""
    return utc(seconds).replace(minute=0, second=0, microsecond=0)


def midnight(day: date) -> datetime:
    """Return the moment at which a day begins."""
    return datetime.combine(day, time(), UTC)


def first_of_month(day: date) -> date:
    """Return the first day of the month in which a day lies."""
    return day.replace(day=1)


def first_of_next_month(day: date) -> date:
    """Return the first day of the month after the one in which a day lies."""
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def days_of(start: date, end: date) -> list[date]:
    """Return every day from `start` to `end`, both included."""
    return [start + timedelta(days=number) for number in range((end - start).days + 1)]


def hours_of(start: date, end: date) -> list[datetime]:
    """Return every hour of the days from `start` to `end`, both included."""
    return [midnight(day) + number * HOUR for day in days_of(start, end) for number in range(24)]


def months_of(start: date, end: date) -> Iterator[tuple[date, date]]:
    """Yield (first, last) of each month from `start` to `end`, cut off at both."""
    while start <= end:
        following = first_of_next_month(start)
        yield start, min(end, following - DAY)
        start = following


def hour_expiry(hour: datetime, retention: Retention) -> int:
    """Return the epoch time at which an hour's keys expire."""
    return int((hour + HOUR).timestamp()) + retention.hours * 86_400


def day_expiry(day: date, retention: Retention) -> int:
    """Return the epoch time at which a day's keys expire."""
    return int(midnight(day + DAY).timestamp()) + retention.days * 86_400


def month_expiry(day: date, retention: Retention) -> int:
    """Return the epoch time at which the keys of a day's month expire."""
    return int(midnight(first_of_next_month(day)).timestamp()) + retention.months * 86_400


def rfc3339(moment: datetime) -> str:
    """Render a moment as RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
