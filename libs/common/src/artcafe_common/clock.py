"""Time as a collaborator: wall clock for expiry, monotonic clock for durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the services ask about time; tests pass a frozen one."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()


def rfc3339(seconds: float) -> str:
    """Render an epoch time as RFC 3339 UTC with ``Z``, in whole milliseconds that have passed."""
    return rfc3339_of(milliseconds_of(seconds))


def milliseconds_of(seconds: float) -> int:
    """Return the whole milliseconds of an epoch time."""
    # By way of microseconds, which is how exact such a number is: 1.001 is a bit less than that.
    return round(seconds * 1_000_000) // 1000


def rfc3339_of(milliseconds: int) -> str:
    """Render milliseconds since the epoch as RFC 3339 UTC with ``Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03}Z"
