"""What counts and what does not, as docs/billing.md tells customers: a test for each rule."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest


class Bill:
    """The usage of a tenant, as its owner sees it."""

    def __init__(self, tenant: Any, eventually: Any) -> None:
        self._tenant = tenant
        self._eventually = eventually

    async def current(self) -> dict[str, Any]:
        """Return the figures of the running month."""
        usage: dict[str, Any] = (await self._tenant.call("GET", "/usage/current")).json()["usage"]
        return usage

    async def settles(self, **wanted: int) -> dict[str, Any]:
        """Wait until some figures are these, and see that they stay so when everything has been counted."""

        async def fits() -> dict[str, Any] | None:
            usage = await self.current()
            assert {name: usage[name] for name in wanted} == wanted
            return usage

        await self._eventually(fits)
        await asyncio.sleep(1.5)
        usage = await fits()
        assert usage is not None
        return usage

    async def by(self, what: str) -> dict[str, dict[str, Any]]:
        """Return the figures of the month by agent or by channel."""
        answer = await self._tenant.call("GET", f"/usage/metrics?granularity=month&group_by={what}")
        return {group[f"{what}_id"]: group for group in answer.json()["totals"]["groups"]}


@pytest.fixture
def bill(tenant: Any, eventually: Any) -> Bill:
    """Give the tenant's usage."""
    return Bill(tenant, eventually)


def size(data: Any) -> int:
    """Return the bytes of data as the bare socket's client writes it."""
    return len(json.dumps(data).encode())


async def test_a_message_is_one_accepted_publish_however_it_comes(tenant: Any, bill: Bill) -> None:
    """An agent's, a dashboard's and one over REST are a message each; people's belong to no agent."""
    await tenant.call("POST", "/channels", json={"name": "Room", "channel_id": "room"})
    agent_id = await tenant.create_agent()
    socket, desk = await tenant.socket(agent_id), await tenant.dashboard()
    await socket.send(type="publish", channel="room", data=1, id=1)
    await socket.until("published")
    await desk.send(type="publish_channel", channel_id="room", data=2, id=2)
    await desk.until("published")
    assert (await tenant.call("POST", "/channels/room/messages", json={"n": 3})).status_code == 200
    await bill.settles(messages=3, deliveries=0)
    assert {name: group["messages"] for name, group in (await bill.by("agent")).items()} == {agent_id: 1}
    assert {name: group["messages"] for name, group in (await bill.by("channel")).items()} == {"room": 3}


async def test_a_refused_publish_counts_nothing(new_tenant: Any, eventually: Any) -> None:
    """Over the size, over the month, to a wildcard, to nobody's channel: neither messages nor bytes."""
    tenant = await new_tenant(limits={"bytes_per_message": 100, "messages_per_month": 2})
    bill = Bill(tenant, eventually)
    socket = await tenant.socket(await tenant.create_agent(), "gateway-1")
    for number, data in enumerate(["ok", "x" * 200, "ok", "over the month"]):
        await socket.send(type="publish", channel="room", data=data, id=number)
    await socket.send(type="publish", channel="room.*", data="x", id=4)
    answers = [await socket.receive() for _ in range(5)]
    assert sorted(answer["id"] for answer in answers if answer["type"] == "published") == [0, 2]
    assert (await tenant.call("POST", "/channels/nowhere/messages", json={})).status_code == 404
    await bill.settles(messages=2, bytes_in=2 * size("ok"))


async def test_a_delivery_is_one_copy_to_an_agents_socket(tenant: Any, bill: Bill) -> None:
    """Each subscribed agent is one, however often it subscribed; a dashboard and the publisher are none."""
    ids = [await tenant.create_agent() for _ in range(3)]
    writer, once, twice = [await tenant.socket(agent_id) for agent_id in ids]
    for socket, channels in ((once, ["room"]), (twice, ["room", "*", ">"])):
        for channel in channels:
            await socket.send(type="subscribe", channel=channel)
            await socket.until("subscribed")
    desk = await tenant.dashboard()
    await desk.send(type="subscribe_channel", channel_id="room", id=1)
    await desk.until("subscription_confirmed")
    await writer.send(type="publish", channel="room", data="hello")
    for socket in (once, twice):
        await socket.until("message")
    await desk.until("channel_message")
    await bill.settles(messages=1, deliveries=2, bytes_in=size("hello"), bytes_out=2 * size("hello"))
    deliveries = {name: group["deliveries"] for name, group in (await bill.by("agent")).items()}
    assert deliveries == dict(zip(ids, (0, 1, 1), strict=True))


async def test_what_is_not_a_message(tenant: Any, bill: Bill) -> None:
    """Heartbeats, presence, pings, subscriptions, what a dashboard watches and previews count nothing."""
    socket = await tenant.socket(await tenant.create_agent())
    desk = await tenant.dashboard()
    for command in ("subscribe_topic_preview", "subscribe_agents"):
        await desk.send(type=command)
        await desk.until("subscription_confirmed")
    watcher = await tenant.socket(await tenant.create_agent())
    await watcher.send(type="subscribe", channel="agents.presence.>")
    await watcher.until("subscribed")
    for frame, answer in (
        ({"type": "heartbeat"}, "heartbeat_ack"),
        ({"type": "presence", "status": "busy"}, "presence_ack"),
        ({"type": "ping"}, "pong"),
        ({"type": "subscribe", "channel": "room"}, "subscribed"),
        ({"type": "publish", "channel": "agents.presence.online", "data": 1, "id": 1}, "published"),
    ):
        await socket.send(**frame)
        await socket.until(answer)
    await watcher.until("message")
    await watcher.send(type="publish", channel="room", data="the only one")
    await desk.until("topic_preview_message")
    await bill.settles(messages=1, deliveries=1, bytes_out=size("the only one"))


async def test_bytes_are_those_of_the_data_in_utf_8(tenant: Any, bill: Bill) -> None:
    """As it was written, spaces and all, without the envelope; in once, out for each copy."""
    reader, writer = [await tenant.socket(await tenant.create_agent()) for _ in range(2)]
    await reader.send(type="subscribe", channel="room")
    await reader.until("subscribed")
    data = '{ "text":  "käfer ☕", "n": 1.50 }'
    await writer.raw.send(f'{{"type":"publish","channel":"room","data":{data}}}')
    await reader.until("message")
    length = len(data.encode())
    assert length > len(data)
    await bill.settles(messages=1, bytes_in=length, bytes_out=length, bytes=2 * length)


async def test_an_api_call_is_one_authenticated_request(tenant: Any, bill: Bill, eventually: Any) -> None:
    """Registry's and metering's count, refused ones too; those without a token and public ones do not."""
    for path, status in (("/agents", 200), ("/agents/nobody", 404), ("/usage/summary", 200)):
        assert (await tenant.call("GET", path)).status_code == status
    stranger = {"X-Tenant-Id": tenant.tenant_id}
    api = tenant.owner.api
    assert (await api.get("/api/v1/agents", headers=stranger)).status_code == 401
    assert (await api.get("/api/v1/health")).status_code == 200
    assert (await api.get("/api/v1/usage/export/keys.json")).status_code == 200
    asked = 3

    async def counted() -> bool:
        nonlocal asked
        usage = await bill.current()
        asked += 1
        # The one that asks is not counted in its own answer, nor need the last before it be.
        return bool(usage["api_calls"] == asked - 1)

    async def all_counted() -> bool:
        await asyncio.sleep(2)
        return await counted()

    await eventually(all_counted)


async def test_active_agents_and_channels_are_counted_once(tenant: Any, bill: Bill) -> None:
    """Who published, received or was connected, and where something was published; a person is no agent."""
    ids = [await tenant.create_agent() for _ in range(4)]
    a, b, idle = [await tenant.socket(agent_id) for agent_id in ids[:3]]
    await b.send(type="subscribe", channel="one")
    await b.until("subscribed")
    for number in range(6):
        await a.send(type="publish", channel=("one", "two")[number % 2], data=number, id=number)
        await a.until("published", id=number)
    desk = await tenant.dashboard()
    await desk.send(type="publish_channel", channel_id="two", data=0, id=1)
    await desk.until("published")
    await idle.nothing()
    await idle.raw.close()
    await bill.settles(messages=7, deliveries=3, active_channels=2, active_agents=3)
    # The fourth never came.
    assert set(await bill.by("agent")) == set(ids[:3])


async def test_connection_seconds_are_each_agents_own(tenant: Any, bill: Bill, eventually: Any) -> None:
    """From the handshake to the end, counted for each agent; a dashboard has none."""
    ids = [await tenant.create_agent() for _ in range(2)]
    await tenant.dashboard()
    started = time.monotonic()
    long, short = [await tenant.socket(agent_id) for agent_id in ids]
    await short.raw.close()
    await asyncio.sleep(2)
    await long.raw.close()

    async def seconds() -> list[float] | None:
        groups = await bill.by("agent")
        found = [groups.get(agent_id, {}).get("connection_seconds", 0.0) for agent_id in ids]
        # The last of it may be in one of the answers only.
        assert (await bill.current())["connection_seconds"] == pytest.approx(sum(found), abs=0.01)
        return found if found[0] >= 2 else None

    found = await eventually(seconds)
    longest = time.monotonic() - started
    assert 2 <= found[0] <= longest
    assert found[1] < found[0]
