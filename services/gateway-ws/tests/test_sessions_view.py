"""Who is connected and what they hear, of this process and of all."""

from __future__ import annotations

from typing import Any, cast

import pytest
from gateway_fakes import FakeBus, FakeClock, House, settle

from artcafe_common.bus import Bus
from artcafe_common.clock import rfc3339
from artcafe_common.contracts.gateway import GetSessions, OpenSession, OpenSessions, sessions_endpoint
from artcafe_common.errors import ErrorCode, ServiceError, unavailable
from artcafe_gateway.sessions_view import PROCESSES_KNOWN_SECONDS, SESSIONS_MAX, SessionsView
from artcafe_gateway.store import ConnectionStore


@pytest.fixture
async def view(house: House, bus: FakeBus, clock: FakeClock) -> SessionsView:
    """Give the view of the process ``me``."""
    store = cast(ConnectionStore, house.store)
    return SessionsView(
        cast(Bus, bus), store, house.directory, house.presences, house.fanout, clock, house.store.server
    )


def of_agents(*names: str, tenant_id: str = "t") -> GetSessions:
    """Ask for agents."""
    return GetSessions(tenant_id=tenant_id, agent_ids=list(names))


def of_channel(channel_id: str, tenant_id: str = "t") -> GetSessions:
    """Ask who hears a channel."""
    return GetSessions(tenant_id=tenant_id, channel_id=channel_id)


def other(bus: FakeBus, house: House, process: str, *sessions: OpenSession, more: bool = False) -> list[Any]:
    """Let another process live and answer; returns what it is asked."""
    asked: list[Any] = []

    async def answer(request: GetSessions) -> OpenSessions:
        asked.append(request)
        return OpenSessions(sessions=list(sessions), more=more)

    house.store.lease_times[process] = 0.0
    bus.serve(sessions_endpoint(process), answer)
    return asked


async def test_the_last_sign_of_life_is_told_of_each(
    view: SessionsView, house: House, clock: FakeClock
) -> None:
    """Of agents that are connected here, by what they last said, and of no others."""
    alice, _ = house.open("alice")
    house.open("bob")
    gone, _ = house.open("gone")
    gone.on_closed(1006)
    heard_at = clock.now()
    clock.move(40)
    alice.on_alive()
    clock.move(2)
    told = (await view.here(of_agents("alice", "bob", "gone", "nobody"))).sessions
    assert [(one.agent_id, one.last_seen) for one in told] == [
        ("alice", rfc3339(heard_at + 40)),
        ("bob", rfc3339(heard_at)),
    ]
    assert all(one.subscribed == one.published == [] for one in told)
    assert (await view.here(of_agents("alice", tenant_id="t2"))).sessions == []


async def test_one_agent_alone_is_told_with_its_channels(view: SessionsView, house: House) -> None:
    """What it subscribed to, patterns as well, and where it published."""
    alice, _ = house.open("alice")
    for name in ("b", "a.*"):
        await alice.subscribe_to(name, "disconnect")
    for name in ("room", "tenant.t.channel.room", "hall"):
        alice.on_text(b'{"type":"publish","channel":"%b","data":1}' % name.encode())
        await settle()
    [told] = (await view.here(of_agents("alice"))).sessions
    assert (told.subscribed, told.published) == (["a.*", "b"], ["hall", "room"])


async def test_who_hears_a_channel_is_told_with_how(view: SessionsView, house: House) -> None:
    """By its id and by patterns; not who may not read it, watches as a person, or is of another tenant."""
    alice, bob, carol = (house.open(name)[0] for name in ("alice", "bob", "carol"))
    for session, names in ((alice, ("team.a", "team.*", ">")), (bob, ("team.b",)), (carol, ("*.a",))):
        for name in names:
            await session.subscribe_to(name, "disconnect")
    told = (await view.here(of_channel("team.a"))).sessions
    assert {one.agent_id: one.subscribed for one in told} == {
        "alice": ["team.a", ">", "team.*"],
        "carol": ["*.a"],
    }
    assert (await view.here(of_channel("team.a", tenant_id="t2"))).sessions == []
    house.access = "members"
    house.directory.forget_all()
    assert (await view.here(of_channel("team.a"))).sessions == []


async def test_all_processes_are_asked_and_the_newest_word_counts(
    view: SessionsView, house: House, bus: FakeBus, clock: FakeClock
) -> None:
    """An agent that is moving is told once; a process without an address has ended with its sessions."""
    house.open("alice")
    clock.move(10)
    later = OpenSession(agent_id="alice", last_seen=rfc3339(clock.now()), subscribed=["x"])
    asked = other(bus, house, "other", later, OpenSession(agent_id="aaron", last_seen="2026"))
    house.store.lease_times |= {"dead": 0.0, "me": 0.0}
    answer = await view.everywhere(of_agents("alice"))
    assert answer.complete
    assert [(one.agent_id, one.subscribed) for one in answer.sessions] == [("aaron", []), ("alice", ["x"])]
    assert asked == [of_agents("alice")]


async def test_processes_are_looked_up_once_in_a_while(
    view: SessionsView, house: House, bus: FakeBus, clock: FakeClock
) -> None:
    """One that has just started is found a little later."""
    await view.everywhere(of_agents("alice"))
    asked = other(bus, house, "other")
    await view.everywhere(of_agents("alice"))
    assert asked == []
    clock.move(PROCESSES_KNOWN_SECONDS)
    await view.everywhere(of_agents("alice"))
    assert len(asked) == 1


async def test_what_is_not_known_is_not_called_complete(
    view: SessionsView, house: House, bus: FakeBus, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bus, the store or an answer, or where there is more, what is known is told all the same."""
    house.open("alice")

    async def told() -> tuple[list[str], bool]:
        clock.move(PROCESSES_KNOWN_SECONDS)
        answer = await view.everywhere(of_agents("alice"))
        return [one.agent_id for one in answer.sessions], answer.complete

    other(bus, house, "other")
    assert await told() == (["alice"], True)
    bus.is_connected = False
    assert await told() == (["alice"], False)
    bus.is_connected = True

    async def late(_: GetSessions) -> OpenSessions:
        raise ServiceError(ErrorCode.DEADLINE_EXCEEDED, "late")

    bus.serve(sessions_endpoint("other"), late)
    assert await told() == (["alice"], False)
    other(bus, house, "other", more=True)
    assert await told() == (["alice"], False)
    many = [OpenSession(agent_id=f"n{number}", last_seen="2026") for number in range(SESSIONS_MAX)]
    other(bus, house, "other", *many)
    names, complete = await told()
    assert len(names) == SESSIONS_MAX and not complete

    async def no_leases() -> dict[str, float]:
        raise unavailable("the connection store")

    monkeypatch.setattr(house.store, "leases", no_leases)
    assert await told() == (["alice"], False)
