"""Requests with an ``Idempotency-Key``: what was sent is counted once, whatever becomes of noting it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from artcafe_common.allowance import Allowances
from artcafe_common.bus import Bus
from artcafe_common.errors import ErrorCode, ServiceError, unavailable
from artcafe_common.usage import UsageCounter
from artcafe_registry.domain.records import Channel, Tenant
from artcafe_registry.publishing import UNFINISHED_SECONDS, Publisher
from artcafe_registry.store.replays import Replay, ReplayStore

from .clocks import MovedClock

NOW = "2026-11-01T00:00:00Z"
TENANT = Tenant(tenant_id="t", name="T", plan="enterprise", created_at=NOW, updated_at=NOW, created_by="ann")
CHANNEL = Channel(tenant_id="t", channel_id="c", name="c", created_at=NOW, updated_at=NOW)


class FakeBus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.away = False

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        """Take a message."""
        if self.away:
            raise unavailable("message bus")
        self.published.append(payload)


class FakeReplays:
    """Requests in memory, in a store that may be away when one is to be noted as sent."""

    def __init__(self) -> None:
        self.kept: dict[str, Replay] = {}
        self.away = False

    async def claim(self, replay: Replay) -> Replay | None:
        """Keep a first request, or return the one that is there."""
        earlier = self.kept.setdefault(replay.request, replay)
        return None if earlier is replay else earlier

    async def take_over(self, replay: Replay, now: float) -> bool:
        """Let the one who asks go on."""
        self.kept[replay.request] = replace(replay, tried_at=now)
        return True

    async def finish(self, replay: Replay) -> None:
        """Note that it was sent."""
        if self.away:
            raise unavailable("table")
        self.kept[replay.request] = replace(replay, state="done")

    async def forget(self, replay: Replay) -> None:
        """Remove a request."""
        del self.kept[replay.request]


class Desk:
    """Replicas with one bus and one store."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.replays = FakeReplays()
        self.clock = MovedClock()
        self.counter = UsageCounter(self.clock)

    def replica(self) -> Publisher:
        """Return another replica."""
        bus = cast(Bus, self.bus)
        allowances = Allowances(bus, self.clock)
        return Publisher(bus, cast(ReplayStore, self.replays), self.counter, allowances, self.clock)

    def counted(self) -> int:
        """Return how many messages were counted since the last call."""
        return sum(span.messages for span in self.counter.take())


@pytest.fixture
def desk() -> Desk:
    """Give an empty desk."""
    return Desk()


async def publish(publisher: Publisher) -> str:
    """Publish the one message and return its id."""
    return (await publisher.publish(TENANT, CHANNEL, "user:ann", b"{}", "key")).message_id


async def test_a_message_that_was_sent_is_accepted_though_the_store_is_away(desk: Desk) -> None:
    """It was sent and counted: the client is told so, and asking again neither sends nor counts another."""
    publisher = desk.replica()
    desk.replays.away = True
    first = await publish(publisher)
    desk.clock.seconds += UNFINISHED_SECONDS + 1
    assert await publish(publisher) == first
    desk.replays.away = False
    assert await publish(publisher) == first
    assert len(desk.bus.published) == 1
    assert desk.counted() == 1


async def test_a_message_that_another_replica_may_have_sent_is_not_counted_again(desk: Desk) -> None:
    """A replica died before it noted what it had sent: it is sent again under its id, and paid for once."""
    desk.replays.away = True
    first = await publish(desk.replica())
    desk.replays.away = False
    with pytest.raises(ServiceError) as caught:
        await publish(desk.replica())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    desk.clock.seconds += UNFINISHED_SECONDS + 1
    assert await publish(desk.replica()) == first
    assert len(desk.bus.published) == 2
    assert desk.counted() == 1


async def test_a_message_that_may_have_been_sent_keeps_its_id_when_it_is_refused(desk: Desk) -> None:
    """A replica died after sending, and the next try fails: the one after it sends no other message."""
    desk.replays.away = True
    first = await publish(desk.replica())
    desk.replays.away = False
    desk.clock.seconds += UNFINISHED_SECONDS + 1
    desk.bus.away = True
    with pytest.raises(ServiceError) as caught:
        await publish(desk.replica())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    desk.bus.away = False
    desk.clock.seconds += UNFINISHED_SECONDS + 1
    assert await publish(desk.replica()) == first


async def test_a_message_that_was_refused_at_first_may_be_sent_at_once(desk: Desk) -> None:
    """Nobody has sent it: the client need not wait for a request that is over."""
    desk.bus.away = True
    with pytest.raises(ServiceError):
        await publish(desk.replica())
    desk.bus.away = False
    await publish(desk.replica())
    assert len(desk.bus.published) == 1
