"""A small cache of reads: a few seconds old at most, never of what is missing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from artcafe_common.clock import Clock
from artcafe_registry import metrics

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Cache(Generic[KeyT, ValueT]):
    """Values by key, for `seconds`, the longest unused forgotten first.

    `usable` says whether changes made elsewhere are heard of now; while they are not, everything is read
    anew.
    """

    def __init__(
        self, kind: str, seconds: float, capacity: int, clock: Clock, usable: Callable[[], bool]
    ) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._clock = clock
        self._usable = usable
        self._entries: OrderedDict[KeyT, tuple[float, ValueT]] = OrderedDict()
        self._changes = 0
        self._hits = metrics.CACHE_READS.labels(kind, "hit")
        self._misses = metrics.CACHE_READS.labels(kind, "miss")

    async def get(
        self, key: KeyT, load: Callable[[], Awaitable[ValueT | None]], *, fresh: bool = False
    ) -> ValueT | None:
        """Return the value of a key, loaded where it is not known, or where it must be `fresh`."""
        entry = None if fresh else self._entries.get(key)
        if entry is not None and entry[0] > self._clock.monotonic() and self._usable():
            self._entries.move_to_end(key)
            self._hits.inc()
            return entry[1]
        self._misses.inc()
        changes = self._changes
        value = await load()
        # What was read while something changed may be from before.
        if value is not None and changes == self._changes and self._usable():
            self._entries[key] = (self._clock.monotonic() + self._seconds, value)
            self._entries.move_to_end(key)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return value

    def drop(self, key: KeyT) -> None:
        """Forget one value."""
        self._changes += 1
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all values."""
        self._changes += 1
        self._entries.clear()
