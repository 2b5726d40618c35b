"""Token buckets: rates kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from artcafe_common.clock import Clock

WAIT_MAX_SECONDS = 86_400.0


class TokenBucket:
    """Allow `rate` takes per second on average and `burst` at once."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take tokens at a time of the monotonic clock; False, and none taken, where there are too few."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def wait(self, now: float, count: float = 1.0) -> float:
        """Return the seconds until `count` tokens will be there; at most, or if never, `WAIT_MAX_SECONDS`."""
        missing = count - min(self.burst, self._tokens + (now - self._at) * self.rate)
        if missing <= 0:
            return 0.0
        if self.rate <= 0 or count > self.burst:
            return WAIT_MAX_SECONDS
        return min(WAIT_MAX_SECONDS, missing / self.rate)


KeyT = TypeVar("KeyT", bound=Hashable)


class Buckets(Generic[KeyT]):
    """A token bucket per key, for keys that strangers choose: the longest unused are forgotten first."""

    def __init__(self, rate: float, burst: float, clock: Clock, capacity: int = 100_000) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._capacity = capacity
        self._buckets: OrderedDict[KeyT, TokenBucket] = OrderedDict()

    def take(self, key: KeyT) -> float:
        """Take one token; return 0.0, or the seconds to wait where there is none."""
        now = self._clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return 0.0 if bucket.take(now) else bucket.wait(now)
