"""Topic previews and lists that are live, over real NATS: exact, apart, and harmless under a flood."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.ids import REST, MessageIds, new_ulid
from artcafe_gateway.preview import origin
from artcafe_gateway.preview.breaker import Breaker, State

# On a machine that does other things as well: previews stay however late the loop is, and nobody is given up
# for not answering a ping.
STEADY = {"preview_late": 60.0, "preview_share": 1.0, "ping_interval": 600.0}
PATIENCE_SECONDS = 60.0


async def preview(desk: Any, **asked: Any) -> dict[str, Any]:
    """Watch, and return what was confirmed."""
    await desk.send(type="subscribe_topic_preview", **asked)
    confirmed: dict[str, Any] = await desk.expect("subscription_confirmed", subscription="topic_preview")
    return confirmed


async def publish(agent: Any, channel: str, *data: Any) -> None:
    """Let an agent publish, and wait until all of it was accepted."""
    for each in data:
        await agent.send(type="publish", channel=channel, data=each)
    await agent.nothing()


class Watching:
    """All that a dashboard hears of its preview."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.dropped: Counter[str] = Counter()
        self.states: list[str] = []
        self.batches = 0

    @property
    def total(self) -> int:
        """How many messages were shown or said to be left out."""
        return len(self.shown) + self.dropped.total()

    async def until(self, desk: Any, total: int) -> None:
        """Read until so many messages are accounted for."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.total < total:
                self.take(await desk.receive(PATIENCE_SECONDS))
        assert self.total == total

    def take(self, event: dict[str, Any]) -> None:
        """Note one event."""
        match event["type"]:
            case "topic_preview_message":
                self.shown.append(event)
            case "topic_preview_batch":
                self.shown += event["messages"]
                self.batches += 1
            case "topic_preview_dropped":
                assert not event.get("estimated")
                self.dropped[event["reason"]] += event["count"]
            case "topic_preview_state":
                self.states.append(event["state"])
            case other:
                raise AssertionError(other)


async def flood(
    world: Any, tenant_id: str, channel: str, count: int, size: int = 100, ids: MessageIds | None = None
) -> None:
    """Publish as a gateway does, as fast as NATS takes it; `ids` are of who accepted it."""
    subject, sender, padding = channel_subject(tenant_id, channel), sender_field("flooder"), "x" * size
    for number in range(count):
        data = b'{"n":%d,"x":"%b"}' % (number, padding.encode())
        now = time.time()
        message_id = new_ulid() if ids is None else ids.new(now)
        world.bus.publish_nowait(subject, build_frame(message_id, sender, now, channel, data))
        if number % 200 == 199:
            await world.bus.flush(30)
    await world.bus.flush(30)


async def test_the_path_names_the_gateways_of_publisher_and_dashboard(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through two gateways, of agents and people; by REST there is none, and a stranger's is not known."""
    monkeypatch.setattr(origin, "REFRESH_SECONDS", 0.1)
    one, two = await start_gateway("gateway-1", **STEADY), await start_gateway("gateway-2", **STEADY)
    alice, desk, ben = await one.agent("alice"), await two.dashboard("ann"), await one.dashboard("ben")
    await preview(desk)
    async with asyncio.timeout(PATIENCE_SECONDS):
        # One that has just started is not known at once.
        while True:
            await publish(alice, "room", 0)
            path = (await desk.expect("topic_preview_message"))["path"]
            if path["publisher_gateway"] != "unknown":
                break
            await asyncio.sleep(0.1)
    paths = []

    async def seen() -> None:
        # Before the next is published: messages of several publishers have no order.
        paths.append((await desk.expect("topic_preview_message"))["path"])

    await publish(alice, "room", 1)
    await seen()
    await ben.send(type="publish_channel", channel_id="room", data=2)
    await ben.expect("published")
    await seen()
    await flood(one.world, "t1", "room", 1, ids=MessageIds(REST))
    await seen()
    await flood(one.world, "t1", "room", 1)
    await seen()
    assert [(path["publisher"], path["publisher_gateway"], path["gateway"]) for path in paths] == [
        ("alice", "gateway-1", "gateway-2"),
        ("user:ben", "gateway-1", "gateway-2"),
        ("flooder", None, "gateway-2"),
        ("flooder", "unknown", "gateway-2"),
    ]
    for path in paths:
        assert path["subject"] == "tenant.t1.channel.room" and path["kind"] == "live"
        assert path["published_at"] <= path["forwarded_at"]


async def test_what_is_shown_can_be_chosen_and_changed_while_connected(start_gateway: Any) -> None:
    """Patterns, conditions on sender, channel and size, samples, batches and cut data, on one socket."""
    gateway = await start_gateway(**STEADY)
    alice, bob, desk = (
        await gateway.agent("alice"),
        await gateway.agent("bob"),
        await gateway.dashboard("ann"),
    )
    where = {"sender": "alice", "channel": ["team.*", "x"], "size": {"min": 2, "max": 20}}
    confirmed = await preview(desk, patterns=["team.>", "x"], where=where)
    assert confirmed["where"] == where and confirmed["patterns"] == ["team.>", "x"]
    assert (confirmed["max_rate"], confirmed["burst"], confirmed["tenant_max_rate"]) == (50.0, 100.0, 500.0)
    assert (confirmed["sample"], confirmed["batch"], confirmed["max_bytes"]) == (1, False, 8192)
    assert confirmed["state"] == "closed" and confirmed["counts_only"] is False
    await publish(bob, "team.a", "from bob")
    await publish(alice, "team.a", 1, "from alice", "x" * 30)
    await publish(alice, "team.a.b", "deeper")
    await publish(alice, "x", "last")
    await desk.expect("topic_preview_message", data="from alice", size=12)
    await desk.expect("topic_preview_message", data="last")
    confirmed = await preview(desk, pattern="y", sample=3, batch=True, max_bytes=5, max_rate=10)
    assert (confirmed["sample"], confirmed["batch"], confirmed["max_rate"]) == (3, True, 10.0)
    await publish(alice, "y", *[f"number {n}" for n in range(7)])
    # One batch, or several where it took the seven a while to come.
    seen = Watching()
    await seen.until(desk, 7)
    assert seen.batches > 0
    assert [(m["data"], m["truncated"], m["size"]) for m in seen.shown] == [('"numb', True, 10)] * 3
    assert seen.dropped == {"sample": 4}
    await desk.send(type="subscribe_topic_preview", where={"colour": "red"}, id=1)
    assert "colour" in (await desk.expect("error", code="invalid_argument", id=1))["message"]
    await publish(alice, "y", "number 7")
    await desk.expect("topic_preview_dropped", reason="sample", count=1)


async def test_no_spelling_shows_another_tenant(start_gateway: Any) -> None:
    """Tenants whose names begin alike, and patterns that reach for them, share nothing; nor do presences."""
    gateway = await start_gateway(**STEADY)
    world = gateway.world
    world.tenant("t10")
    desks = {tenant: await gateway.dashboard(f"ann-{tenant}", tenant) for tenant in ("t1", "t10")}
    for desk in desks.values():
        await preview(desk)
        for pattern in ("tenant.t2.>", "tenant.t10x.channel.a", "tenant.*.channel.a", "t2.>"):
            await desk.send(type="subscribe_topic_preview", patterns=[">", pattern], id=1)
            answer = await desk.receive()
            # What is a valid pattern of channels is one of the tenant's own.
            assert answer["type"] == "error" or answer["patterns"] == [">", pattern]
    agents = {tenant: await gateway.agent(f"agent-of-{tenant}", tenant) for tenant in ("t1", "t2", "t10")}
    for tenant, agent in agents.items():
        await publish(agent, "t2.room", tenant)
    for tenant, desk in desks.items():
        seen = Watching()
        await seen.until(desk, 2)
        assert [(m["topic"], m["path"]["publisher"]) for m in seen.shown] == [
            ("agents.presence.online", f"agent-of-{tenant}"),
            ("t2.room", f"agent-of-{tenant}"),
        ]
        await desk.nothing()


async def test_every_message_of_a_flood_is_shown_or_counted_for_each_dashboard(start_gateway: Any) -> None:
    """Rates, samples, patterns and conditions: the counts are exact to the message, two tabs apart."""
    gateway = await start_gateway(preview_tenant_rate=150.0, **STEADY)
    asked: list[tuple[dict[str, Any], int]] = [
        ({}, 9000),
        ({"pattern": "a.*", "max_rate": 5}, 6000),
        ({"pattern": "a.1", "sample": 7, "batch": True}, 3000),
        ({"patterns": ["b"], "where": {"sender": "nobody"}}, 0),
        ({"where": {"channel": "b", "sender": ["nobody", "flooder"]}}, 3000),
    ]
    # Tabs of one person.
    desks = [await gateway.dashboard("ann") for _ in asked]
    for desk, (fields, _) in zip(desks, asked, strict=True):
        await preview(desk, **fields)
    for channel in ("a.1", "b", "a.2"):
        await flood(gateway.world, "t1", channel, 3000)
    for desk, (_, total) in zip(desks, asked, strict=True):
        seen = Watching()
        await seen.until(desk, total)
        assert len(seen.shown) < total / 2 or total == 0
        # In the order of the publisher, none twice.
        of_b = [message["data"]["n"] for message in seen.shown if message["topic"] == "b"]
        assert of_b == sorted(set(of_b))
        assert not seen.states


async def test_dashboards_that_do_not_read_cost_agents_nothing_and_memory_little(
    spawn_gateway: Any, world: Any
) -> None:
    """Agents get every message in order, every dashboard knows what it missed, the process does not grow."""
    gateway = await spawn_gateway(
        preview_rate=5000.0, preview_burst=5000.0, preview_tenant_rate=50_000.0, **STEADY
    )
    reader = await gateway.agent("reader")
    await reader.subscribe("room")
    readers = [await gateway.dashboard("ann"), await gateway.dashboard("ben")]
    stuck = [await gateway.dashboard("cyn") for _ in range(3)]
    for desk in (*readers, *stuck):
        await preview(desk)
        if desk in stuck:
            desk.socket.transport.pause_reading()
    total = before = 0
    for _ in range(200):
        # As fast as the agent reads: it is not what is to be slow here.
        await flood(world, "t1", "room", 100, 4000)
        for number in range(100):
            assert (await reader.receive(PATIENCE_SECONDS))["data"]["n"] == number
        total += 100
        before = before or _resident(gateway.process.pid)
    # 80 MB went by, and as much again for each dashboard.
    assert _resident(gateway.process.pid) - before < 24 * 1024 * 1024
    for desk in readers:
        seen = Watching()
        await seen.until(desk, total)
        assert len(seen.shown) > 200
    for desk in stuck:
        desk.socket.transport.resume_reading()
        seen = Watching()
        await seen.until(desk, total)
        assert seen.dropped["slow_dashboard"] > 0


async def test_a_dashboard_is_told_what_its_breaker_did_once_it_reads(start_gateway: Any) -> None:
    """Sampled, then open, each told in order when the socket drains; then a probe, and all is as before."""
    gateway = await start_gateway(preview_rate=500.0, preview_burst=500.0, **STEADY)
    desk, alice = await gateway.dashboard("ann"), await gateway.agent("alice")
    await preview(desk)
    desk.socket.transport.pause_reading()
    published = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(isinstance(each, Breaker) and each.state is State.OPEN for each in gc.get_objects()):
            # Until the buffers on the way are full, and some more for the time that it takes.
            await flood(gateway.world, "t1", "room", 300, 8000)
            published += 300
            await asyncio.sleep(0.7)
    desk.socket.transport.resume_reading()
    seen = Watching()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while seen.states != ["sampled", "open", "half_open", "closed"]:
            seen.take(await desk.receive(PATIENCE_SECONDS))
            assert seen.states == ["sampled", "open", "half_open", "closed"][: len(seen.states)]
    await seen.until(desk, published)
    await alice.send(type="publish", channel="room", data="seen again")
    while True:
        event = await desk.receive()
        seen.take(event)
        if event.get("data") == "seen again":
            break


async def test_a_preview_is_not_changed_without_end(start_gateway: Any) -> None:
    """Each change is a line in the log: who changes too often is told when it will do, and watches on."""
    gateway = await start_gateway(**STEADY)
    desk, alice = await gateway.dashboard("ann"), await gateway.agent("alice")
    for number in range(90):
        await desk.send(type="subscribe_topic_preview", pattern=f"c{number}", id=number)
    answers = [await desk.receive() for _ in range(90)]
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert [answer["id"] for answer in answers] == list(range(90))
    assert 0 < len(refused) <= 60
    assert {answer["code"] for answer in refused} == {"resource_exhausted"}
    assert all(0 < answer["retry_after"] <= 1 for answer in refused)
    last = [answer["id"] for answer in answers if answer["type"] == "subscription_confirmed"][-1]
    await publish(alice, f"c{last}", "still here")
    await desk.expect("topic_preview_message", data="still here")


async def test_lists_are_live(gateway: Any) -> None:
    """What registry announces is told to dashboards of the tenant whose role may know it."""
    world = gateway.world
    desk, viewer = await gateway.dashboard("ann"), await gateway.dashboard("eve", role="viewer")
    payer, stranger = await gateway.dashboard("bill", role="billing"), await gateway.dashboard("zed", "t2")
    kinds = ["agent", "channel", "grants", "member", "tenant"]
    for client, allowed in ((desk, kinds), (viewer, kinds), (payer, ["tenant"]), (stranger, kinds)):
        await client.send(type="subscribe_changes", id=1)
        await client.expect("subscription_confirmed", subscription="changes", kinds=allowed, id=1)
    await viewer.send(type="subscribe_changes", kinds=["channel"])
    await viewer.expect("subscription_confirmed", kinds=["channel"])
    await payer.send(type="subscribe_changes", kinds=["agent"], id=2)
    await payer.expect("error", code="permission_denied", id=2)
    world.changed("t1", "agent", "alice", "created")
    await desk.expect("changed", kind="agent", object_id="alice", action="created")
    world.changed("t1", "channel", "team.a", "deleted")
    world.changed("t1", "tenant", "t1")
    await desk.until("changed", kind="channel", object_id="team.a", action="deleted")
    await viewer.expect("changed", kind="channel", object_id="team.a", action="deleted")
    await payer.expect("changed", kind="tenant", object_id="t1", action="updated")
    await desk.until("changed", kind="tenant")
    await desk.send(type="unsubscribe_changes")
    await desk.expect("unsubscription_confirmed", subscription="changes")
    world.changed("t1", "channel", "team.b")
    await viewer.expect("changed", object_id="team.b")
    for client in (desk, payer, stranger):
        await client.nothing()


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
