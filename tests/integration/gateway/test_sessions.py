"""What dashboards may ask about open sessions: across gateways, within one tenant, as often as is good."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from artcafe_common.contracts import gateway as contracts
from artcafe_common.contracts.registry import Limits
from artcafe_devstack.process import ManagedProcess
from artcafe_gateway import sessions_view

PATIENCE_SECONDS = 60.0


async def ask(desk: Any, **question: Any) -> dict[str, Any]:
    """Ask who is connected."""
    await desk.send(type="get_sessions", id="q", **question)
    answer: dict[str, Any] = await desk.until("sessions", id="q")
    return answer


async def test_sessions_of_all_gateways_are_told(start_gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens in a channel, and what an agent hears and says, whichever gateway it is at."""
    monkeypatch.setattr(contracts, "SESSIONS_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(sessions_view, "PROCESSES_KNOWN_SECONDS", 0.0)
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    alice, bob, desk = await one.agent("alice"), await two.agent("bob"), await two.dashboard("ann")
    stranger, spy = await one.agent("alice", "t2"), await two.dashboard("spy", "t2")
    await alice.subscribe("team.a", "other")
    await bob.subscribe("team.*")
    await stranger.subscribe("team.a")
    await alice.send(type="publish", channel="said", data=1)
    await alice.nothing()
    async with asyncio.timeout(PATIENCE_SECONDS):
        # Until both have said that they live.
        while len((await ask(desk, channel_id="team.a"))["sessions"]) < 2:
            await asyncio.sleep(0.5)
    listening = await ask(desk, channel_id="team.a")
    assert listening["channel_id"] == "team.a" and listening["complete"]
    assert {each["agent_id"]: each["subscribed"] for each in listening["sessions"]} == {
        "alice": ["team.a"],
        "bob": ["team.*"],
    }
    [told] = (await ask(desk, agents=["alice"]))["sessions"]
    assert (told["subscribed"], told["published"]) == (["other", "team.a"], ["said"])
    both = await ask(desk, agents=["alice", "bob", "nobody"])
    assert [each["agent_id"] for each in both["sessions"]] == ["alice", "bob"] and both["complete"]
    # Of another tenant: its own, and nothing of what has the same name here.
    [told] = (await ask(spy, agents=["alice"]))["sessions"]
    assert (told["subscribed"], told["published"]) == (["team.a"], [])
    assert (await ask(spy, agents=["bob"]))["sessions"] == []
    assert [e["agent_id"] for e in (await ask(spy, channel_id="team.a"))["sessions"]] == ["alice"]


async def test_a_heartbeat_moves_what_is_told(gateway: Any) -> None:
    """The time is that of the agent's last word, and costs nothing on the bus until somebody asks."""
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("ann")

    async def heard() -> datetime:
        [told] = (await ask(desk, agents=["alice"]))["sessions"]
        return datetime.fromisoformat(told["last_seen"])

    await asyncio.sleep(0.1)
    silent = datetime.now(UTC)
    await asyncio.sleep(0.1)
    assert await heard() < silent
    await alice.send(type="heartbeat")
    await alice.expect("heartbeat_ack")
    assert await heard() > silent


async def test_a_frozen_gateway_holds_up_nobody(start_gateway: Any, spawn_gateway: Any) -> None:
    """What others know is told, and that it is not all; once the process has ended it is all again."""
    one = await start_gateway("gateway-1")
    two = await spawn_gateway("gateway-2")
    process: ManagedProcess = two.process
    await two.agent("bob")
    alice, desk = await one.agent("alice"), await one.dashboard("ann")
    await alice.subscribe("room")
    # Its lease has been seen.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while [e["agent_id"] for e in (await ask(desk, agents=["bob"]))["sessions"]] != ["bob"]:
            await asyncio.sleep(1)
    process.send(signal.SIGSTOP)
    answer = await ask(desk, agents=["alice", "bob"])
    assert [e["agent_id"] for e in answer["sessions"]] == ["alice"] and not answer["complete"]
    process.kill()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (await ask(desk, agents=["alice", "bob"]))["complete"]:
            await asyncio.sleep(1)


async def test_questions_that_mean_nothing_are_refused(gateway: Any) -> None:
    """Neither or both, names that are none, too many; and who may not see agents."""
    desk, clerk = await gateway.dashboard("ann"), await gateway.dashboard("cy", role="billing")
    wrong: list[dict[str, Any]] = [
        {},
        {"agents": ["a"], "channel_id": "c"},
        {"agents": []},
        {"agents": ["a b"]},
        {"agents": ["*"]},
        {"agents": ["a"] * 201},
        {"channel_id": "team.*"},
    ]
    for question in wrong:
        await desk.send(type="get_sessions", id=1, **question)
        await desk.expect("error", code="invalid_argument", id=1)
    await desk.send(type="get_sessions", id=2, channel_id="tenant.t2.channel.c")
    await desk.expect("error", code="permission_denied", id=2)
    await clerk.send(type="get_sessions", agents=["a"])
    await clerk.expect("error", code="permission_denied")


async def test_questions_are_limited(gateway: Any) -> None:
    """Each goes to every gateway: a page that asks without end is told to wait, and not closed."""
    desk = await gateway.dashboard("ann")
    for _ in range(100):
        await desk.send(type="get_connections")
    refused = [frame for frame in [await desk.receive() for _ in range(100)] if frame["type"] == "error"]
    assert len(refused) > 50
    assert {frame["code"] for frame in refused} == {"resource_exhausted"}
    assert refused[0]["retry_after"] > 0


async def test_connections_are_counted_as_they_are_limited(start_gateway: Any, world: Any) -> None:
    """The number is that of all gateways, exact, of agents alone; without a limit there is none."""
    world.tenant("t1", plan="free", limits=Limits(connections=3))
    one, two = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    alice, _, desk = await one.agent("alice"), await two.agent("bob"), await one.dashboard("ann")

    async def connections(desk: Any) -> tuple[int | None, int | None, str]:
        await desk.send(type="get_connections")
        told = await desk.until("connections")
        return told["current"], told["limit"], told["plan"]

    assert await connections(desk) == (2, 3, "free")
    await two.agent("carol")
    assert await connections(desk) == (3, 3, "free")
    await alice.socket.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connections(desk) != (2, 3, "free"):
            await asyncio.sleep(0.5)
    assert await connections(await one.dashboard("eve", "t2")) == (None, None, "enterprise")


async def test_the_list_of_agents_is_asked_for_as_seldom(gateway: Any) -> None:
    """Registry reads every agent for it: it is a question like the others."""
    desk = await gateway.dashboard("ann")
    for _ in range(200):
        await desk.send(type="subscribe_agents")
    await desk.send(type="ping", id="last")
    refused = confirmed = 0
    while (frame := await desk.receive())["type"] != "pong":
        refused += frame.get("code") == "resource_exhausted"
        confirmed += frame["type"] == "agents_snapshot_complete"
    assert confirmed >= 20 and refused > 0 and confirmed + refused == 200
