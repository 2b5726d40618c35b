"""The small cache of reads."""

import asyncio

from artcafe_registry.cache import Cache

from .clocks import MovedClock


class _Source:
    """Something to read that counts how often it was read."""

    def __init__(self, value: str | None) -> None:
        self.value = value
        self.reads = 0
        self.gate: asyncio.Event | None = None

    async def load(self) -> str | None:
        """Read it; what is read is what stood there when the read began."""
        self.reads += 1
        value = self.value
        if self.gate is not None:
            await self.gate.wait()
        return value


def _cache(clock: MovedClock, usable: list[bool] | None = None, capacity: int = 10) -> Cache[str, str]:
    return Cache("test", 5.0, capacity, clock, lambda: usable is None or usable[0])


async def test_value_is_read_once_while_it_is_fresh() -> None:
    """Within its seconds a value is not read again; after them it is."""
    clock, source = MovedClock(), _Source("v")
    cache = _cache(clock)
    for _ in range(3):
        assert await cache.get("k", source.load) == "v"
    clock.seconds += 4.9
    await cache.get("k", source.load)
    assert source.reads == 1
    clock.seconds += 0.2
    source.value = "w"
    assert await cache.get("k", source.load) == "w"
    assert source.reads == 2


async def test_missing_is_never_remembered() -> None:
    """What was not there is looked for again each time."""
    source = _Source(None)
    cache = _cache(MovedClock())
    assert await cache.get("k", source.load) is None
    source.value = "v"
    assert await cache.get("k", source.load) == "v"


async def test_dropped_value_is_read_again() -> None:
    """After a change the value is read anew; others are still known."""
    first, second = _Source("a"), _Source("b")
    cache = _cache(MovedClock())
    for _ in range(2):
        await cache.get("1", first.load)
        await cache.get("2", second.load)
    cache.drop("1")
    await cache.get("1", first.load)
    await cache.get("2", second.load)
    assert (first.reads, second.reads) == (2, 1)
    cache.clear()
    await cache.get("2", second.load)
    assert second.reads == 2


async def test_value_that_was_read_before_a_change_is_not_kept() -> None:
    """A read that a change overtook is answered once and not remembered."""
    source = _Source("old")
    source.gate = asyncio.Event()
    cache = _cache(MovedClock())
    reading = asyncio.create_task(cache.get("k", source.load))
    await asyncio.sleep(0)
    source.value = "new"
    cache.drop("k")
    source.gate.set()
    assert await reading == "old"
    assert await cache.get("k", source.load) == "new"


async def test_nothing_is_kept_while_changes_are_not_heard_of() -> None:
    """While the bus is away everything is read anew, also what was known before."""
    usable = [True]
    source = _Source("v")
    cache = _cache(MovedClock(), usable)
    await cache.get("k", source.load)
    usable[0] = False
    for _ in range(2):
        await cache.get("k", source.load)
    assert source.reads == 3


async def test_longest_unused_is_forgotten_first() -> None:
    """A full cache makes room with what was not asked for."""
    cache = _cache(MovedClock(), capacity=2)
    sources = {key: _Source(key) for key in "abc"}
    for key in ("a", "b", "a", "c", "a"):
        await cache.get(key, sources[key].load)
    assert {key: source.reads for key, source in sources.items()} == {"a": 1, "b": 1, "c": 1}
    await cache.get("b", sources["b"].load)
    assert sources["b"].reads == 2
