from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from artcafe_metering import periods
from artcafe_metering.periods import Retention


def at(text: str) -> float:
    """Return the epoch time of an RFC 3339 text."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("moment", "hour"),
    [
        ("2026-03-01T00:00:00+00:00", "2026-03-01T00:00:00Z"),
        ("2026-02-28T23:59:59.999999+00:00", "2026-02-28T23:00:00Z"),
        ("2028-02-29T23:59:59+00:00", "2028-02-29T23:00:00Z"),
        ("2026-12-31T23:59:59+00:00", "2026-12-31T23:00:00Z"),
        ("2026-07-01T01:30:00+02:00", "2026-06-30T23:00:00Z"),
    ],
)
def test_a_moment_lies_in_its_hour_of_utc(moment: str, hour: str) -> None:
    """The hour is that of UTC, whatever the zone, up to its last instant."""
    assert periods.rfc3339(periods.hour_of(at(moment))) == hour


def test_the_zone_of_the_machine_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours and days are the same on a machine far from Greenwich."""
    import time

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert periods.utc(at("2026-01-01T00:30:00+00:00")).date() == date(2026, 1, 1)
        assert periods.rfc3339(periods.midnight(date(2026, 1, 1))) == "2026-01-01T00:00:00Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("day", "first", "following"),
    [
        (date(2026, 1, 31), date(2026, 1, 1), date(2026, 2, 1)),
        (date(2026, 2, 28), date(2026, 2, 1), date(2026, 3, 1)),
        (date(2028, 2, 29), date(2028, 2, 1), date(2028, 3, 1)),
        (date(2026, 12, 1), date(2026, 12, 1), date(2027, 1, 1)),
    ],
)
def test_months_begin_and_end(day: date, first: date, following: date) -> None:
    """A month runs from its first day to the next one's, over leap days and the end of the year."""
    assert periods.first_of_month(day) == first
    assert periods.first_of_next_month(day) == following


def test_days_of_a_range_include_both_ends() -> None:
    """From the 27th of February to the 1st of March are four days in a leap year, three in others."""
    assert len(periods.days_of(date(2028, 2, 27), date(2028, 3, 1))) == 4
    assert len(periods.days_of(date(2026, 2, 27), date(2026, 3, 1))) == 3
    assert periods.days_of(date(2026, 1, 1), date(2026, 1, 1)) == [date(2026, 1, 1)]


def test_a_day_has_24_hours_also_where_clocks_are_changed() -> None:
    """UTC knows no summer time."""
    assert len(periods.hours_of(date(2026, 3, 29), date(2026, 3, 29))) == 24


def test_months_of_a_range_are_cut_off_at_its_ends() -> None:
    """The first and the last month reach only as far as the range."""
    assert list(periods.months_of(date(2025, 12, 15), date(2026, 2, 3))) == [
        (date(2025, 12, 15), date(2025, 12, 31)),
        (date(2026, 1, 1), date(2026, 1, 31)),
        (date(2026, 2, 1), date(2026, 2, 3)),
    ]


def test_keys_expire_their_time_after_the_end_of_the_period() -> None:
    """Retention counts from the end of the hour, the day or the month."""
    retention = Retention(hours=30, days=90, months=400)
    moment = periods.hour_of(at("2028-02-29T23:59:59+00:00"))
    day = 86_400
    midnight = at("2028-03-01T00:00:00+00:00")
    assert periods.hour_expiry(moment, retention) == midnight + 30 * day
    assert periods.day_expiry(moment.date(), retention) == midnight + 90 * day
    assert periods.month_expiry(moment.date(), retention) == midnight + 400 * day


def test_rfc3339_is_utc() -> None:
    """Whatever the zone of a moment, it is shown in UTC."""
    assert periods.rfc3339(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00Z"
