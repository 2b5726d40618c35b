"""Connections and presence on real gateways: who is online, who takes over, what is left and cleared."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from typing import Any

import pytest

from artcafe_common.contracts.registry import Limits
from artcafe_gateway.lease import Lease
from artcafe_gateway.store import ConnectionStore

# Times of these tests: an agent is in doubt after half of this, and given up after all of it.
TIMEOUT = 1.0
QUICK = {"heartbeat_timeout": TIMEOUT, "heartbeat_interval": TIMEOUT / 3}
LEASES = {"lease_timeout": 1.0, "sweep_interval": 0.2}


def reset(client: Any) -> None:
    """End a client's TCP connection as a crash does."""
    transport = client.socket.transport
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def test_the_newest_connection_wins(gateway: Any, presence: Any) -> None:
    """On one gateway the older socket is closed with 4006, and its late end leaves the agent online."""
    first = await gateway.agent("alice")
    second = await gateway.agent("alice")
    assert (await first.closed())[0] == 4006
    await second.nothing()
    third = await gateway.agent("alice")
    assert (await second.closed())[0] == 4006
    await third.nothing()
    await presence.until("alice", "online", times=3)
    await third.socket.close()
    await presence.until("alice", "offline")
    assert presence.of("alice") == ["online", "online", "online", "offline"]


async def test_the_newest_connection_wins_over_gateways(start_gateway: Any, presence: Any) -> None:
    """A connection at another gateway closes the one here, and messages go to the new one alone."""
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    first = await one.agent("alice")
    await first.subscribe("room")
    second = await two.agent("alice")
    await second.subscribe("room")
    assert (await first.closed())[0] == 4006
    bob = await one.agent("bob")
    await bob.send(type="publish", channel="room", data=1)
    await second.expect("message", data=1)
    assert set(presence.of("alice")) == {"online"}
    again = await one.agent("alice")
    assert (await second.closed())[0] == 4006
    await again.nothing()


async def test_of_many_connections_at_once_one_stays(start_gateway: Any) -> None:
    """However connections of one agent race over two gateways, exactly one is left open."""
    gateways = [await start_gateway("gateway-1"), await start_gateway("gateway-2")]
    clients = await asyncio.gather(
        *(gateways[number % 2].open("/ws/agent/alice?challenge=t1&signature=good") for number in range(12))
    )

    ends = {asyncio.create_task(client.closed()): client for client in clients}
    left = set(ends)
    while len(left) > 1:
        ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        assert {(await end)[0] for end in ended} == {4006}
    (last,) = left
    # Nobody replaces it any more.
    await ends[last].send(type="ping", id="last")
    await ends[last].until("pong", id="last")
    last.cancel()


async def test_a_failed_handshake_leaves_the_live_connection_alone(gateway: Any, presence: Any) -> None:
    """A bad signature neither closes the agent's socket nor marks it offline."""
    alice = await gateway.agent("alice")
    await alice.subscribe("room")
    for query in ("challenge=t1&signature=bad", "challenge=nowhere&signature=good", "ticket=x", ""):
        intruder = await gateway.open(f"/ws/agent/alice?{query}")
        error = await intruder.expect("error", code="unauthenticated")
        assert error["message"] == "the proof does not hold"
        assert (await intruder.closed())[0] == 4500
    bob = await gateway.agent("bob")
    await bob.send(type="publish", channel="room", data=1)
    await alice.expect("message", data=1)
    assert presence.of("alice") == ["online"]


async def test_late_heartbeats_mean_doubt_then_the_end(start_gateway: Any, presence: Any) -> None:
    """An agent that stops sending heartbeats is suspect, then offline, and closed with 4001."""
    gateway = await start_gateway(ping_interval=0.3, **QUICK)
    alice = await gateway.agent("alice")
    for _ in range(5):
        await alice.send(type="heartbeat")
        await alice.expect("heartbeat_ack")
        await asyncio.sleep(TIMEOUT / 5)
    assert presence.of("alice") == ["online"]
    # The client's library goes on answering pings: that is no life of the program.
    assert (await alice.closed())[0] == 4001
    await presence.until("alice", "offline")
    assert presence.of("alice") == ["online", "suspect", "offline"]


async def test_pings_are_life_for_an_agent_without_heartbeats(start_gateway: Any, presence: Any) -> None:
    """An old agent that only answers pings stays online for many timeouts."""
    gateway = await start_gateway(ping_interval=TIMEOUT / 20, **QUICK)
    alice = await gateway.agent("alice")
    await asyncio.sleep(3.5 * TIMEOUT)
    await alice.nothing()
    assert presence.of("alice") == ["online"]


async def test_a_clean_close_is_offline_at_once(gateway: Any, presence: Any) -> None:
    """With the default timeout of minutes the goodbye still counts now."""
    alice = await gateway.agent("alice")
    await alice.socket.close()
    await presence.until("alice", "offline")
    assert presence.of("alice") == ["online", "offline"]


async def test_a_reset_is_doubt_then_the_end(start_gateway: Any, presence: Any) -> None:
    """A socket that breaks leaves the agent suspect until its time is over."""
    gateway = await start_gateway(**QUICK)
    alice = await gateway.agent("alice")
    reset(alice)
    await presence.until("alice", "offline")
    assert presence.of("alice") == ["online", "suspect", "offline"]


async def test_coming_back_in_time_is_never_offline(start_gateway: Any, presence: Any) -> None:
    """A reconnect at another gateway within the time leaves no offline behind, also later."""
    slow = {"heartbeat_timeout": 2 * TIMEOUT, "heartbeat_interval": TIMEOUT / 3}
    one, two = await start_gateway("gateway-1", **slow), await start_gateway("gateway-2", **slow)
    alice = await one.agent("alice")
    reset(alice)
    await presence.until("alice", "suspect")
    again = await two.agent("alice")
    for _ in range(11):
        await again.send(type="heartbeat")
        await again.expect("heartbeat_ack")
        await asyncio.sleep(TIMEOUT / 5)
    assert "offline" not in presence.of("alice")
    await presence.until("alice", "online")


async def test_an_agent_states_its_presence(gateway: Any, presence: Any) -> None:
    """Status, capabilities and metadata are announced; offline takes effect although the socket is open."""
    alice = await gateway.agent("alice")
    await alice.send(type="presence", status="busy", capabilities=["ocr"], metadata={"a": [1, None]}, id=1)
    await alice.expect("presence_ack", id=1, status="busy")
    async with asyncio.timeout(30):
        while len(presence.of("alice")) < 2:
            await asyncio.sleep(0.01)
    stated = presence.events[-1]
    assert stated.status == "online"
    assert (stated.detail, stated.capabilities, stated.metadata) == ("busy", ["ocr"], {"a": [1, None]})
    await alice.send(type="presence", status="offline")
    await alice.expect("presence_ack")
    await presence.until("alice", "offline")
    await alice.nothing()
    await alice.send(type="presence", status="online")
    await presence.until("alice", "online")


async def test_older_agents_state_presence_on_a_channel(gateway: Any, presence: Any) -> None:
    """What is published to agents.presence.* is presence, and those who watch hear of it in their tenant."""
    watcher, other = await gateway.agent("watcher"), await gateway.agent("other", "t2")
    await watcher.subscribe("agents.presence.>")
    await other.subscribe("agents.presence.>", ">")
    alice = await gateway.agent("alice")
    message = await watcher.expect("message", channel="agents.presence.online")
    assert message["data"]["agent_id"] == "alice"
    await alice.send(type="publish", channel="agents.presence.offline", data={"agent_id": "victim"})
    message = await watcher.expect("message", channel="agents.presence.offline")
    assert message["data"]["agent_id"] == message["from"] == "alice"
    await presence.until("alice", "offline")
    await alice.send(type="publish", channel="agents.presence.hidden", data=1, id=1)
    await alice.expect("error", id=1, code="invalid_argument")
    await alice.socket.close()
    await other.nothing()


async def test_the_limit_of_connections_is_exact(start_gateway: Any) -> None:
    """Of twenty that connect at once over two gateways exactly as many come in as the plan allows."""
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    one.world.tenant("t5", plan="free", limits=Limits(connections=5))
    names = [f"a{number}" for number in range(20)]
    clients = await asyncio.gather(
        *(
            (one, two)[number % 2].open(f"/ws/agent/{name}?challenge=t5&signature=good")
            for number, name in enumerate(names)
        )
    )
    answers = await asyncio.gather(*(client.receive() for client in clients))
    inside = [client for client, answer in zip(clients, answers, strict=True) if answer["type"] == "welcome"]
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert (len(inside), len(refused)) == (5, 15), [answer.get("code") for answer in refused]
    for answer in refused:
        assert answer["code"] == "resource_exhausted"
        assert (answer["resource"], answer["limit"], answer["plan"]) == ("connections", 5, "free")
    for client, answer in zip(clients, answers, strict=True):
        if answer["type"] == "error":
            assert (await client.closed())[0] == 4504
    # One that is in may come again, one more may not, and a place that is given up is free at once.
    welcome = next(answer for answer in answers if answer["type"] == "welcome")
    again = await two.agent(welcome["agent_id"], "t5")
    await again.socket.close()
    late = await _patiently(one, "late", "t5")
    more = await two.open("/ws/agent/more?challenge=t5&signature=good")
    await more.expect("error", code="resource_exhausted", current=5)
    await late.nothing()


async def test_two_connections_of_one_agent_race_for_the_last_place(gateway: Any) -> None:
    """An agent that connects twice at the same moment takes one place, and neither attempt is refused."""
    gateway.world.tenant("t6", plan="tiny", limits=Limits(connections=1))
    for _ in range(5):
        clients = await asyncio.gather(
            *(gateway.open("/ws/agent/alice?challenge=t6&signature=good") for _ in range(4))
        )
        answers = await asyncio.gather(*(client.receive() for client in clients))
        assert {answer["type"] for answer in answers} <= {"welcome", "error"}
        assert not [answer for answer in answers if answer.get("code") == "resource_exhausted"], answers
        for client in clients:
            await client.socket.close()


async def test_clients_that_vanish_while_they_are_recorded_take_no_place(
    start_gateway: Any, presence: Any
) -> None:
    """Whatever the moment at which a client goes, its place in the plan is free again."""
    gateway = await start_gateway(heartbeat_timeout=0.5, ping_interval=0.2)
    gateway.world.tenant("t1", plan="tiny", limits=Limits(connections=3))
    for number in range(40):
        client = await gateway.open(f"/ws/agent/a{number}?challenge=t1&signature=good")
        await asyncio.sleep(number * 0.0005)
        client.socket.transport.abort()
    for name in ("one", "two", "three"):
        client = await _patiently(gateway, name)
        await client.nothing()
    async with asyncio.timeout(30):
        while not all(presence.of(f"a{number}")[-1:] in ([], ["offline"]) for number in range(40)):
            await asyncio.sleep(0.05)


class Sweeps:
    """The sweeps of gateways in this process: none until `begin` is set, then `done` when one was whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begin, self.done = asyncio.Event(), asyncio.Event()
        sweep, drop_lease = Lease.sweep, ConnectionStore.drop_lease

        async def swept(lease: Lease) -> None:
            await self.begin.wait()
            await sweep(lease)

        async def dropped(store: ConnectionStore, server: str) -> None:
            await drop_lease(store, server)
            self.done.set()

        monkeypatch.setattr(Lease, "sweep", swept)
        monkeypatch.setattr(ConnectionStore, "drop_lease", dropped)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    """Hold sweeps back until a test has come so far that it waits for them."""
    return Sweeps(monkeypatch)


async def test_a_killed_gateways_agents_are_swept_by_another(
    start_gateway: Any, spawn_gateway: Any, presence: Any, sweeps: Sweeps
) -> None:
    """After its lease another gateway announces what it left and frees the places, once."""
    survivor = await start_gateway("gateway-1", **LEASES)
    survivor.world.tenant("t1", plan="free", limits=Limits(connections=2))
    victim = await spawn_gateway("gateway-2", **LEASES)
    alice, bob = await victim.agent("alice"), await victim.agent("bob")
    refused = await survivor.open("/ws/agent/carol?challenge=t1&signature=good")
    await refused.expect("error", code="resource_exhausted")
    victim.process.kill()
    for client in (alice, bob):
        await client.closed()
    again = await survivor.agent("bob")
    sweeps.begin.set()
    await presence.until("alice", "offline")
    await _patiently(survivor, "carol")
    assert presence.of("alice") == ["online", "offline"]
    assert presence.of("bob") == ["online", "online"]
    await again.nothing()


async def test_a_new_gateway_waits_before_it_declares_anyone_dead(
    start_gateway: Any, spawn_gateway: Any, presence: Any, sweeps: Sweeps
) -> None:
    """The restart of the only gateway leaves everyone the time to come back; who does is online."""
    settings = {"lease_timeout": 2.0, "sweep_interval": 0.1}
    old = await spawn_gateway("gateway-1", **settings)
    await old.agent("alice")
    await old.agent("bob")
    # What a process announces in its last moment may be lost with it.
    await presence.until("alice", "online")
    await presence.until("bob", "online")
    old.process.kill()
    await asyncio.sleep(2.2)
    started = asyncio.get_running_loop().time()
    new = await start_gateway("gateway-1", **settings)
    back = await new.agent("bob")
    sweeps.begin.set()
    await presence.until("alice", "offline")
    assert asyncio.get_running_loop().time() - started >= 2.0
    assert presence.of("bob") == ["online", "online"]
    await back.nothing()


async def test_a_clean_restart_declares_nobody_dead(
    start_gateway: Any, presence: Any, sweeps: Sweeps
) -> None:
    """A drained gateway's agents come back to the next one without ever being offline."""
    old = await start_gateway("gateway-1", **LEASES)
    alice = await old.agent("alice")
    await old.drain()
    assert (await alice.closed())[0] == 1012
    new = await start_gateway("gateway-1", **LEASES)
    await new.agent("alice")
    sweeps.begin.set()
    async with asyncio.timeout(30):
        await sweeps.done.wait()
    # What was announced before it has been heard when this is.
    await new.agent("bob")
    await presence.until("bob", "online")
    assert presence.of("alice") == ["online", "online"]


async def test_a_frozen_gateway_finds_out_that_it_was_given_up(
    start_gateway: Any, spawn_gateway: Any, presence: Any
) -> None:
    """After a freeze longer than its lease its agents are told to come back, and end up online."""
    await start_gateway("gateway-1", **LEASES)
    frozen = await spawn_gateway("gateway-2", **LEASES)
    alice = await frozen.agent("alice")
    frozen.process.send(signal.SIGSTOP)
    try:
        await presence.until("alice", "offline")
    finally:
        frozen.process.send(signal.SIGCONT)
    assert (await alice.closed())[0] == 1012
    await frozen.agent("alice")
    await presence.until("alice", "online")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"agent_id": "alice", "fingerprint": "SHA256:alice"}, 4501),
        ({"agent_id": "alice", "reason": "agent_deleted"}, 4501),
        ({"reason": "tenant_suspended"}, 4502),
        ({"reason": "tenant_deleted"}, 4501),
    ],
)
async def test_a_revocation_closes_sockets_on_all_gateways(
    start_gateway: Any, event: dict[str, str], code: int
) -> None:
    """Within two seconds the sockets that it names are closed everywhere, and no others."""
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    everyone = "agent_id" not in event
    alice, bob, stranger = await one.agent("alice"), await two.agent("bob"), await one.agent("alice", "t2")
    desk = await two.dashboard("ann")
    one.world.revoke(**event)
    async with asyncio.timeout(30):
        assert (await alice.closed())[0] == code
        if everyone:
            assert (await bob.closed())[0] == code
            assert (await desk.closed())[0] == code
    await stranger.nothing()
    if not everyone:
        await bob.nothing()
        await desk.send(type="ping")
        await desk.until("pong")


async def test_a_suspended_tenant_cannot_connect(gateway: Any) -> None:
    """New sockets of a suspended tenant are closed with 4502."""
    alice = await gateway.agent("alice")
    gateway.world.tenant("t1", status="suspended")
    gateway.world.revoke(reason="tenant_suspended")
    assert (await alice.closed())[0] == 4502
    late = await gateway.open("/ws/agent/alice?challenge=t1&signature=good")
    await late.expect("error", code="permission_denied")
    assert (await late.closed())[0] == 4502
    gateway.world.tenant("t1")
    gateway.world.changed("t1", "tenant", "t1")
    back = await _patiently(gateway, "alice")
    await back.nothing()


async def test_a_revocation_in_the_middle_of_a_handshake_counts(gateway: Any) -> None:
    """A key revoked while registry answers slowly does not open a session that stays."""
    world = gateway.world
    answer = asyncio.Event()
    bob = await gateway.agent("bob")
    world.asked_for_grants.clear()
    world.before_grants = answer.wait
    client: Any = await gateway.open("/ws/agent/alice?challenge=t1&signature=good")
    await world.asked_for_grants.wait()
    world.revoke(agent_id="alice", fingerprint="SHA256:alice")
    # Events are heard in order: when this one's effect is seen the other one has been heard.
    world.revoke(agent_id="bob")
    await bob.closed()
    answer.set()
    assert (await client.closed())[0] == 4501


async def _patiently(gateway: Any, agent_id: str, tenant_id: str = "t1") -> Any:
    """Connect an agent as soon as it is let in."""
    async with asyncio.timeout(30):
        while True:
            client = await gateway.open(f"/ws/agent/{agent_id}?challenge={tenant_id}&signature=good")
            answer = await client.receive()
            if answer["type"] == "welcome":
                return client
            await asyncio.sleep(0.05)
