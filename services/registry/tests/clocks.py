"""A clock that a test moves."""


class MovedClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> float:
        """Return the epoch time."""
        return 1_700_000_000.0 + self.seconds

    def monotonic(self) -> float:
        """Return the monotonic time."""
        return self.seconds
