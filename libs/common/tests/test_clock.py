"""Times as text."""

from __future__ import annotations

import time

import pytest

from artcafe_common.clock import SystemClock, rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000Z"),
        (1.9999991, "1970-01-01T00:00:01.999Z"),
        (1.001, "1970-01-01T00:00:01.001Z"),
    ],
)
def test_time_is_rfc_3339_in_utc(seconds: float, text: str) -> None:
    """A time has milliseconds, cut and not rounded up, and a Z."""
    assert rfc3339(seconds) == text


def test_time_does_not_depend_on_the_hosts_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in another zone writes the same text."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
        before = time.time()
        assert before <= SystemClock().now() <= time.time()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_monotonic_time_goes_on() -> None:
    """The monotonic clock is the system's."""
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic() <= time.monotonic()
