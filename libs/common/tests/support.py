"""What the tests of this package have in common."""

from __future__ import annotations


class FrozenClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now
        self.uptime = 1_000.0

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return self.time

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self.uptime

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
        self.uptime += seconds
