"""Events of the last minute, for sessions that were opening when these came."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from artcafe_common.clock import Clock

# Longer than any handshake takes.
RECENT_SECONDS = 60.0
RECENT_MAX = 10_000

EventT = TypeVar("EventT")


class Recent(Generic[EventT]):
    """Events with their time, the oldest forgotten first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[tuple[float, EventT]] = deque(maxlen=RECENT_MAX)

    def add(self, event: EventT) -> None:
        """Keep an event for a while."""
        now = self._clock.monotonic()
        while self._events and now - self._events[0][0] > RECENT_SECONDS:
            self._events.popleft()
        self._events.append((now, event))

    def since(self, moment: float) -> Iterator[EventT]:
        """Yield the events since a time of the monotonic clock, the newest first."""
        for at, event in reversed(self._events):
            if at < moment:
                return
            yield event
