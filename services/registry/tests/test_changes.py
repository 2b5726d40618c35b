"""What is told of changes where NATS does not take it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest

from artcafe_common.bus import Bus
from artcafe_common.contracts.registry import Changed
from artcafe_common.errors import unavailable
from artcafe_registry import changes as changes_module
from artcafe_registry.changes import Changes

PATIENCE_SECONDS = 30.0


class BusOfOne:
    """A connection to NATS that only this process loses; `told` are the ids that arrived."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[str] = []
        self._sent: list[str] = []

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        """Take an event."""
        if self.away:
            raise unavailable("message bus")
        self._sent.append(msgspec.json.decode(payload, type=Changed).id)

    async def flush(self, timeout: float) -> None:
        """Have what was taken arrive, unless the connection breaks meanwhile."""
        await asyncio.sleep(0)
        if self.away:
            raise TimeoutError
        self.told += self._sent
        self._sent.clear()

    async def until_told(self, *ids: str) -> None:
        """Wait until exactly these have arrived."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.told != list(ids):
                await asyncio.sleep(0.001)


@pytest.fixture
def bus() -> BusOfOne:
    """Give a connection that is there."""
    return BusOfOne()


@pytest.fixture
async def changes(bus: BusOfOne, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Changes]:
    """Tell of changes, again every few milliseconds where NATS does not take them."""
    monkeypatch.setattr(changes_module, "RETRY_SECONDS", 0.002)
    changes = Changes(cast(Bus, bus))
    running = asyncio.create_task(changes.run())
    yield changes
    running.cancel()


async def test_what_nats_did_not_take_is_told_when_it_does(bus: BusOfOne, changes: Changes) -> None:
    """Others hear of it, in its order: nobody but this process had lost NATS, and would ask anew."""
    await changes.tell("t", "grants", "before", "updated")
    bus.away = True
    for user_id in ("first", "second"):
        await changes.tell("t", "member", user_id, "deleted")
    await asyncio.sleep(0.01)
    assert bus.told == ["before"]
    bus.away = False
    await bus.until_told("before", "first", "second")
    await changes.tell("t", "grants", "after", "updated")
    await bus.until_told("before", "first", "second", "after")


async def test_what_waits_is_bounded(
    bus: BusOfOne, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where NATS is away for so long it is so for everybody, who reads everything anew afterwards."""
    monkeypatch.setattr(changes_module, "UNTOLD_MAX", 3)
    bus.away = True
    for number in range(5):
        await changes.tell("t", "agent", f"a{number}", "updated")
    bus.away = False
    await bus.until_told("a0", "a1", "a2")
