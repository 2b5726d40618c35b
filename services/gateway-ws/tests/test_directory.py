"""What is remembered of registry's data, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from gateway_fakes import FakeBus, FakeClock, settle

from artcafe_common.bus import Bus
from artcafe_common.contracts.registry import (
    GET_TENANT,
    RESOLVE_CHANNEL,
    Changed,
    ChannelAccess,
    ChannelInfo,
    GetTenant,
    Limits,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_gateway.directory import Directory


class Registry:
    """Registry as far as the directory asks it; answers wait for the gate."""

    def __init__(self, bus: FakeBus) -> None:
        self.bus = bus
        self.access: ChannelAccess = "open"
        self.rate: int | None = None
        self.missing = False
        self.gate = asyncio.Event()
        self.gate.set()
        bus.serve(RESOLVE_CHANNEL, self.resolve)
        bus.serve(GET_TENANT, self.tenant)

    async def resolve(self, request: ResolveChannel) -> ChannelInfo:
        """Answer with what was true when it was asked."""
        info = ChannelInfo(channel_id=request.channel_id, name="", access=self.access, delivery="live")
        missing = self.missing and request.create_for is None
        await self.gate.wait()
        if missing:
            raise not_found("channel")
        return info

    async def tenant(self, request: GetTenant) -> TenantInfo:
        """Answer with what was true when it was asked."""
        info = TenantInfo(
            tenant_id=request.tenant_id,
            name="",
            status="active",
            plan="pro",
            limits=Limits(messages_per_second=self.rate),
            auto_create_channels=True,
        )
        await self.gate.wait()
        return info

    @property
    def asked(self) -> int:
        """How many questions came."""
        return len(self.bus.asked)


@pytest.fixture
async def registry(bus: FakeBus) -> Registry:
    """Give a registry that answers at once."""
    return Registry(bus)


@pytest.fixture
async def directory(bus: FakeBus, clock: FakeClock, registry: Registry) -> Directory:
    """Give a directory that knows nothing yet."""
    return Directory(cast(Bus, bus), clock)


def changed(kind: str, id: str, action: str = "updated") -> Changed:
    """Return an announcement about tenant t."""
    return Changed(tenant_id="t", kind=kind, id=id, action=action)


async def test_many_that_wait_ask_once(directory: Directory, registry: Registry) -> None:
    """However many sessions need a channel at once, registry hears one question."""
    registry.gate.clear()
    waiting = [asyncio.create_task(directory.channel("t", "c")) for _ in range(50)]
    creating = [asyncio.create_task(directory.channel("t", "d", create_for="a")) for _ in range(50)]
    await settle()
    registry.gate.set()
    assert {info.channel_id for info in await asyncio.gather(*waiting)} == {"c"}
    assert {info.channel_id for info in await asyncio.gather(*creating)} == {"d"}
    assert registry.asked == 2
    await directory.channel("t", "c", create_for="a")
    assert registry.asked == 2


async def test_one_that_may_not_create_does_not_answer_for_one_that_may(
    directory: Directory, registry: Registry
) -> None:
    """A question that ends in not_found is not shared with an agent whose question creates the channel."""
    registry.missing = True
    registry.gate.clear()
    reader = asyncio.create_task(directory.channel("t", "c"))
    await settle()
    creator = asyncio.create_task(directory.channel("t", "c", create_for="a"))
    await settle()
    registry.gate.set()
    with pytest.raises(ServiceError):
        await reader
    assert (await creator).channel_id == "c"


async def test_one_that_gives_up_does_not_end_the_question_for_others(
    directory: Directory, registry: Registry
) -> None:
    """Cancelling one waiter leaves the others their answer."""
    registry.gate.clear()
    first, second = [asyncio.create_task(directory.channel("t", "c")) for _ in range(2)]
    await settle()
    first.cancel()
    await settle()
    registry.gate.set()
    assert (await second).channel_id == "c"


@pytest.mark.parametrize("create_for", [None, "a"])
async def test_an_answer_older_than_a_change_is_not_remembered(
    directory: Directory, registry: Registry, create_for: str | None
) -> None:
    """What was on its way when a change was announced is used once and asked for again."""
    registry.gate.clear()
    asking = asyncio.create_task(directory.channel("t", "c", create_for))
    await settle()
    registry.access = "members"
    directory.forget(changed("channel", "c"))
    registry.gate.set()
    assert (await asking).access == "open"
    assert directory.known_channel("t", "c") is None
    assert (await directory.channel("t", "c")).access == "members"
    assert directory.known_channel("t", "c") is not None


async def test_an_old_answer_does_not_put_back_a_tenants_old_limits(
    directory: Directory, registry: Registry
) -> None:
    """Of two answers on their way the newer one holds, whichever arrives last."""
    registry.rate = 1
    old_gate = registry.gate = asyncio.Event()
    old = asyncio.create_task(directory.tenant("t"))
    await settle()
    registry.rate = 2
    registry.gate = asyncio.Event()
    registry.gate.set()
    directory.forget(changed("tenant", "t"))
    tenant = await directory.tenant("t")
    old_gate.set()
    assert await old is tenant
    assert tenant.limits.messages_per_second == 2


async def test_nothing_is_remembered_as_missing(directory: Directory, registry: Registry) -> None:
    """A channel that was not there is asked for again."""
    registry.missing = True
    for _ in range(2):
        with pytest.raises(ServiceError) as caught:
            await directory.channel("t", "c")
        assert caught.value.code == ErrorCode.NOT_FOUND
    registry.missing = False
    assert (await directory.channel("t", "c")).channel_id == "c"


async def test_what_is_created_makes_nothing_old(directory: Directory, registry: Registry) -> None:
    """The announcement of a new channel, right after the answer, does not cost a second question."""
    await directory.channel("t", "c", create_for="a")
    directory.forget(changed("channel", "c", "created"))
    assert directory.known_channel("t", "c") is not None
    directory.forget(changed("channel", "c", "deleted"))
    assert directory.known_channel("t", "c") is None


async def test_a_lost_bus_makes_everything_old(directory: Directory, registry: Registry) -> None:
    """After announcements may have been missed nothing is believed any more."""
    await directory.channel("t", "c")
    await directory.tenant("t")
    directory.forget_all()
    await directory.channel("t", "c")
    await directory.tenant("t")
    assert registry.asked == 4


async def test_every_session_of_a_tenant_sees_its_new_limits(
    directory: Directory, registry: Registry, clock: FakeClock
) -> None:
    """The object that sessions hold changes; a rate that did not change goes on where it was."""
    registry.rate = 1
    tenant = await directory.tenant("t")
    tenant.take_message()
    tenant.take_message()
    with pytest.raises(ServiceError):
        tenant.take_message()
    directory.forget(changed("tenant", "t"))
    assert await directory.tenant("t") is tenant
    with pytest.raises(ServiceError):
        tenant.take_message()
    registry.rate = None
    directory.forget(changed("tenant", "t"))
    await directory.tenant("t")
    tenant.take_message()


async def test_the_oldest_is_forgotten_beyond_the_capacity(
    bus: FakeBus, clock: FakeClock, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant with endless channels does not fill this process's memory."""
    monkeypatch.setattr("artcafe_gateway.directory.CHANNELS_MAX", 3)
    directory = Directory(cast(Bus, bus), clock)
    for number in range(5):
        await directory.channel("t", f"c{number}")
    known: list[Any] = [directory.known_channel("t", f"c{number}") for number in range(5)]
    assert [info is not None for info in known] == [False, False, True, True, True]
