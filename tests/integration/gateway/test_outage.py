"""What happens while NATS or the store is away, and when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from artcafe_common.contracts.gateway import PRESENCE as PRESENCE_EVENT
from artcafe_common.contracts.registry import Grant, Limits
from artcafe_common.streams import PRESENCE
from artcafe_devstack.servers import AwsEndpoint, RunningServer, aws_emulator

from .test_preview import STEADY


@pytest.fixture
def nats_url(own_nats: Any) -> str:
    """Give these tests a NATS server that they can stop."""
    url: str = own_nats.server.url
    return url


PATIENCE_SECONDS = 60.0


async def readiness_is(status: int, gateway: Any) -> None:
    """Wait until a gateway's readiness has a status."""
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http, asyncio.timeout(PATIENCE_SECONDS):
        while (await http.get(f"{gateway.http_url}/ready")).status_code != status:
            await asyncio.sleep(0.1)


async def statuses(gateway: Any) -> dict[str, str]:
    """Return how a gateway says that each service is."""
    async with httpx.AsyncClient() as http:
        report = (await http.get(f"{gateway.http_url}/api/v1/health", timeout=30)).json()
    return {name: service["status"] for name, service in report["services"].items()}


async def restart(own_nats: Any, world: Any, *, away: float = 0.0) -> None:
    """Stop NATS for some time, start it again, and wait until registry and auth serve again."""
    own_nats.server.kill()
    await asyncio.sleep(away)
    await asyncio.to_thread(own_nats.server.start)
    await connected(world)


async def connected(world: Any) -> None:
    """Wait until the services of the test are on the bus again."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not world.bus.is_connected:
            await asyncio.sleep(0.02)
    await world.bus.flush()


async def last_presence(world: Any, agent_id: str) -> str:
    """Return the last status of an agent in the stream, however late one comes to read it."""
    subject = PRESENCE_EVENT.subject(tenant_id="t1", agent_id=agent_id)
    found = await world.bus.jetstream().get_last_msg(PRESENCE.name, subject)
    status: str = json.loads(found.data)["status"]
    return status


async def test_a_restart_of_nats_under_load_is_survived(
    start_gateway: Any, own_nats: Any, world: Any
) -> None:
    """Clients are told, readiness is false meanwhile, and afterwards every subscription works again."""
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    writer = await one.agent("writer")
    readers = [await gateway.agent(f"r{n}") for n, gateway in enumerate((one, two, one, two))]
    for number, reader in enumerate(readers):
        await reader.subscribe("room", f"own.{number}", "wild.*")
    desk = await two.dashboard("ann")
    for command in (
        {"type": "subscribe_channel", "channel_id": "room"},
        {"type": "subscribe_topic_preview", "pattern": "wild.>"},
        {"type": "subscribe_agents"},
    ):
        await desk.send(**command)
    await desk.until("agents_snapshot_complete")
    refused = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal refused
        while not stop.is_set():
            await writer.send(type="publish", channel="room", data="load")
            # Seldom enough that nobody is closed for it, however long it is refused.
            await asyncio.sleep(0.01)

    loading = asyncio.create_task(load())
    await asyncio.sleep(0.2)
    own_nats.server.kill()
    for client in (writer, *readers, desk):
        await client.until("service_status", status="degraded")
    await readiness_is(503, one)
    assert await statuses(one) == {
        "gateway": "down",
        **dict.fromkeys(("auth", "registry", "metering"), "unknown"),
    }
    await writer.until("error", code="unavailable")
    await asyncio.sleep(1.0)
    await asyncio.to_thread(own_nats.server.start)
    for client in (writer, *readers, desk):
        await client.until("service_status", status="ok")
    await connected(world)
    for gateway in (one, two):
        await readiness_is(200, gateway)
    stop.set()
    await loading
    for number in range(len(readers)):
        for channel in ("room", f"own.{number}", f"wild.{number}"):
            await writer.send(type="publish", channel=channel, data=[channel, number], id=channel)
            await writer.until("published", id=channel)
    for number, reader in enumerate(readers):
        for channel in ("room", f"own.{number}", f"wild.{number}"):
            await reader.until("message", channel=channel, data=[channel, number])
    await desk.until("channel_message", data=["room", 3])
    desk = await two.dashboard("ben")
    await desk.send(type="subscribe_agents")
    await desk.until("agents_snapshot_complete")
    await one.agent("late")
    await desk.until("agent_status", agent_id="late", status="online")


async def test_a_bus_that_stands_still_is_not_taken_for_services_that_are_down(
    start_gateway: Any, own_nats: Any
) -> None:
    """Also before its connection is given up: the platform is down, and the services are not known."""
    gateway = await start_gateway()
    own_nats.server.freeze()
    try:
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{gateway.http_url}/api/v1/health", timeout=30)
        assert answer.status_code == 503 and answer.json()["status"] == "down"
        assert (await statuses(gateway)).items() >= dict.fromkeys(
            ("auth", "registry", "metering"), "unknown"
        ).items()
    finally:
        own_nats.server.thaw()


async def test_what_was_missed_while_nats_was_away_is_caught_up(
    start_gateway: Any, own_nats: Any, world: Any
) -> None:
    """Revoked keys, suspended tenants, lost rows and lost memberships take effect when the bus is back."""
    gateway = await start_gateway()
    world.channel("t1", "secret", access="members")
    world.grants["t1", "demoted"] = [Grant(channel_id="secret", role="both")]
    kept, revoked, demoted = [await gateway.agent(name) for name in ("kept", "revoked", "demoted")]
    await demoted.subscribe("secret")
    suspended = await gateway.agent("x", "t2")
    desk, fired = await gateway.dashboard("ann"), await gateway.dashboard("ben")
    own_nats.server.kill()
    await kept.until("service_status", status="degraded")
    world.revoked_keys.add("SHA256:revoked")
    del world.grants["t1", "demoted"]
    world.tenant("t2", status="suspended")
    world.memberships["ben"] = []
    await asyncio.to_thread(own_nats.server.start)
    assert (await revoked.closed())[0] == 4501
    assert (await suspended.closed())[0] == 4502
    assert (await fired.closed())[0] == 4501
    await demoted.until("unsubscribed", channel="secret", reason="permission_denied")
    await kept.until("service_status", status="ok")
    await kept.nothing()
    await desk.until("service_status", status="ok")


async def test_registry_may_come_back_later_than_nats(
    start_gateway: Any, own_nats: Any, world: Any, presence: Any
) -> None:
    """Until registry answers nobody is closed and messages of known channels wait; then all is checked."""
    gateway = await start_gateway()
    kept, revoked = await gateway.agent("kept"), await gateway.agent("revoked")
    await kept.subscribe("room")
    world.unavailable = True
    world.revoked_keys.add("SHA256:revoked")
    await restart(own_nats, world)
    for client in (kept, revoked):
        await client.until("service_status", status="ok")
    await asyncio.sleep(1.0)
    await revoked.nothing()
    world.unavailable = False
    assert (await revoked.closed())[0] == 4501
    await kept.send(type="publish", channel="room", data=1)
    await kept.expect("message", data=1)


async def test_ends_during_an_outage_are_announced_afterwards(
    start_gateway: Any, own_nats: Any, world: Any
) -> None:
    """The stream that registry reads has those who left while nobody could be told."""
    gateway = await start_gateway(heartbeat_timeout=2.0, ping_interval=0.3)
    stays, leaves, vanishes = [await gateway.agent(name) for name in ("stays", "leaves", "vanishes")]
    own_nats.server.kill()
    await stays.until("service_status", status="degraded")
    await leaves.socket.close()
    vanishes.socket.transport.abort()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(own_nats.server.start)
    await connected(world)
    for agent_id, status in (("leaves", "offline"), ("vanishes", "offline"), ("stays", "online")):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await last_presence(world, agent_id) != status:
                await asyncio.sleep(0.05)


async def test_commands_during_an_outage_are_answered(start_gateway: Any, own_nats: Any, world: Any) -> None:
    """Publishing and subscribing say unavailable instead of hanging, and both work again afterwards."""
    gateway = await start_gateway()
    alice = await gateway.agent("alice")
    await alice.subscribe("room")
    own_nats.server.kill()
    await alice.until("service_status", status="degraded")
    for frame in (
        {"type": "publish", "channel": "room", "data": 1},
        {"type": "publish", "channel": "new", "data": 1},
        {"type": "subscribe", "channel": "new"},
        {"type": "subscribe", "channel": "new.*"},
    ):
        await alice.send(**frame, id=1)
        error = await alice.expect("error", code="unavailable", id=1)
        assert error["retry_after"] > 0
    await alice.send(type="heartbeat")
    await alice.expect("heartbeat_ack")
    await asyncio.to_thread(own_nats.server.start)
    await alice.until("service_status", status="ok")
    await connected(world)
    await alice.send(type="subscribe", channels=["new", "new.*"])
    await alice.until("subscribed", channel="new.*")
    await alice.send(type="publish", channel="new.x", data=1)
    await alice.until("message", channel="new.x")


async def test_a_handshake_during_an_outage_says_to_come_back(start_gateway: Any, own_nats: Any) -> None:
    """Without auth nobody is let in, and nobody is told that their key is bad."""
    gateway = await start_gateway()
    own_nats.server.kill()
    client = await gateway.open("/ws/agent/alice?challenge=t1&signature=good")
    await client.expect("error", code="unavailable")
    assert (await client.closed())[0] == 4003
    await asyncio.to_thread(own_nats.server.start)


@pytest.fixture
def own_aws(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a store for one test alone."""
    with aws_emulator(tmp_path / "aws") as server:
        yield server


@pytest.fixture
def aws_environment(own_aws: RunningServer, monkeypatch: pytest.MonkeyPatch) -> AwsEndpoint:
    """Point gateways at the store of the test's own."""
    endpoint = AwsEndpoint(own_aws.url)
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    return endpoint


async def test_the_store_may_go_away_without_anybody_noticing(
    start_gateway: Any, own_aws: RunningServer, presence: Any
) -> None:
    """Open sockets work on, new ones are told to come back, ends are announced, and places freed later."""
    gateway = await start_gateway(lease_timeout=1.0, sweep_interval=0.2)
    gateway.world.tenant("t1", plan="tiny", limits=Limits(connections=2))
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("room")
    await asyncio.to_thread(own_aws.kill)
    await alice.send(type="publish", channel="room", data=1)
    await bob.expect("message", data=1)
    late = await gateway.open("/ws/agent/late?challenge=t1&signature=good")
    await late.expect("error", code="unavailable")
    assert (await late.closed())[0] == 4003
    await alice.socket.close()
    await presence.until("alice", "offline", PATIENCE_SECONDS)
    await readiness_is(503, gateway)
    await asyncio.to_thread(own_aws.start)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            again = await gateway.open("/ws/agent/late?challenge=t1&signature=good")
            with contextlib.suppress(ConnectionClosed):
                if (await again.receive())["type"] == "welcome":
                    break
            await asyncio.sleep(0.1)
    # Having been out of reach for longer than the lease, the gateway looked whether it still has its agents.
    await bob.nothing()
    await readiness_is(200, gateway)


async def test_previews_have_a_connection_of_their_own_that_comes_back(
    start_gateway: Any, own_nats: Any, world: Any
) -> None:
    """What taps bring never stands in line with agents' messages; after NATS was away a preview goes on."""
    gateway = await start_gateway(**STEADY)
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("ann")
    await alice.subscribe("room")
    await desk.send(type="subscribe_topic_preview", pattern="room")
    await desk.expect("subscription_confirmed")
    held = {
        client["name"]: [s for s in client.get("subscriptions_list", []) if s.startswith("tenant.")]
        for client in await own_nats.connections()
        if client.get("name", "").startswith("gateway")
    }
    assert held == {
        "gateway gateway-1": ["tenant.t1.channel.room"],
        "gateway gateway-1 preview": ["tenant.t1.>"],
    }
    await restart(own_nats, world)
    await desk.until("service_status", status="ok")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await alice.send(type="publish", channel="room", data="again")
            try:
                shown = await desk.receive(0.5)
            except TimeoutError:
                continue
            if shown["type"] == "topic_preview_message":
                break
