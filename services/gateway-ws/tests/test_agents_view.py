"""The live list of agents for dashboards."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from gateway_fakes import FakeBus, FakeTransport, connect, settle

from artcafe_common.bus import Bus
from artcafe_common.contracts.gateway import Presence, PresenceStatus
from artcafe_common.contracts.registry import (
    LIST_AGENT_STATUS,
    AgentStatus,
    AgentStatusPage,
    ListAgentStatus,
)
from artcafe_common.errors import ServiceError, unavailable
from artcafe_gateway.agents_view import AgentsView


class Roll:
    """Registry's list of agents, in pages of two."""

    def __init__(self, bus: FakeBus, count: int) -> None:
        self.names = [f"a{number}" for number in range(count)]
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ServiceError | None = None
        self.pages = 0
        bus.serve(LIST_AGENT_STATUS, self.page)

    async def page(self, request: ListAgentStatus) -> AgentStatusPage:
        """Return one page."""
        first = int(request.next_token or 0)
        agents = [AgentStatus(agent_id=n, name=n, status="offline") for n in self.names[first : first + 2]]
        self.pages += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        more = first + 2 < len(self.names)
        return AgentStatusPage(agents=agents, next_token=str(first + 2) if more else None)


@pytest.fixture
async def view(bus: FakeBus) -> AgentsView:
    """Give a view that nobody watches."""
    return AgentsView(cast(Bus, bus))


def change(
    bus: FakeBus, agent_id: str, status: PresenceStatus, tenant_id: str = "t", last_seen: str | None = None
) -> None:
    """Let a gateway announce an agent."""
    presence = Presence(
        tenant_id=tenant_id,
        agent_id=agent_id,
        status=status,
        version=5,
        at="2026-01-01T00:01:00Z",
        connection_id="C",
        server_id="g",
        last_seen=last_seen,
    )
    bus.deliver(f"gateway.v1.presence.{tenant_id}.{agent_id}", msgspec.json.encode(presence))


def told(transport: FakeTransport) -> list[tuple[str, str]]:
    """Return (agent, status) of everything told."""
    return [(e["agent_id"], e["status"]) for e in transport.events if e["type"] == "agent_status"]


async def test_all_agents_then_every_change(bus: FakeBus, view: AgentsView) -> None:
    """The snapshot has every page, its end is told, and changes follow."""
    Roll(bus, 5)
    connection, transport = connect()
    await view.watch("t", connection)
    assert told(transport) == [(f"a{number}", "offline") for number in range(5)]
    assert transport.events[-1]["type"] == "agents_snapshot_complete"
    change(bus, "a3", "online")
    change(bus, "x", "online", "t2")
    assert told(transport)[5:] == [("a3", "online")]


async def test_a_change_during_the_snapshot_is_not_undone_by_it(bus: FakeBus, view: AgentsView) -> None:
    """A page that was made before a change does not come behind it."""
    roll = Roll(bus, 3)
    connection, transport = connect()
    roll.gate.clear()
    watching = asyncio.create_task(view.watch("t", connection))
    await settle()
    change(bus, "a1", "online")
    roll.gate.set()
    await watching
    assert told(transport) == [("a1", "online"), ("a0", "offline"), ("a2", "offline")]


async def test_a_dashboard_that_reads_slowly_gets_a_long_list(bus: FakeBus, view: AgentsView) -> None:
    """More agents than fit an outbox are sent as fast as they are read."""
    roll = Roll(bus, 20)
    connection, transport = connect(outbox=300)
    transport.on_write = connection.pause
    watching = asyncio.create_task(view.watch("t", connection))
    async with asyncio.timeout(30):
        while not watching.done():
            await asyncio.sleep(0.01)
            if connection.blocked:
                connection.resume()
    connection.resume()
    assert not connection.closing
    assert len(told(transport)) == 20 and roll.pages == 10


async def test_a_list_that_cannot_be_had_is_an_error_and_changes_still_come(
    bus: FakeBus, view: AgentsView
) -> None:
    """Without registry the dashboard is told, and sees what changes."""
    Roll(bus, 1).error = unavailable("registry")
    connection, transport = connect()
    with pytest.raises(ServiceError):
        await view.watch("t", connection)
    change(bus, "a0", "online")
    assert told(transport) == [("a0", "online")]
    assert view._views["t"].watchers == {connection: None}


async def test_dashboards_share_one_subscription_and_the_last_one_ends_it(
    bus: FakeBus, view: AgentsView
) -> None:
    """One that leaves, or closes in the middle, leaves the others alone and nothing behind."""
    roll = Roll(bus, 1)
    (first, _), (second, transport) = connect(), connect()
    await view.watch("t", first)
    await view.watch("t", second)
    assert bus.subjects == ["gateway.v1.presence.t.*"]
    await view.leave("t", first)
    change(bus, "a0", "online")
    assert told(transport)[-1] == ("a0", "online")
    await view.leave("t", second)
    assert bus.subjects == []
    third, _ = connect()
    roll.gate.clear()
    bus.gate.clear()
    watching = asyncio.create_task(view.watch("t", third))
    await settle()
    third.lost()
    bus.gate.set()
    roll.gate.set()
    await watching
    assert bus.subjects == []


async def test_metadata_is_told_where_the_agent_stated_it(bus: FakeBus, view: AgentsView) -> None:
    """What an agent says of itself reaches its dashboards."""
    Roll(bus, 0)
    connection, transport = connect()
    await view.watch("t", connection)
    presence: dict[str, Any] = {
        "tenant_id": "t",
        "agent_id": "a",
        "status": "online",
        "version": 1,
        "at": "",
        "connection_id": "",
        "server_id": "",
        "capabilities": ["ocr"],
        "metadata": {"k": [1]},
    }
    bus.deliver("gateway.v1.presence.t.a", msgspec.json.encode(presence))
    assert transport.events[-1]["capabilities"] == ["ocr"]
    assert transport.events[-1]["metadata"] == {"k": [1]}


async def test_when_an_agent_was_last_heard_of_is_told(bus: FakeBus, view: AgentsView) -> None:
    """Not when its change was announced; of one that is gone nothing that nobody has said."""
    Roll(bus, 0)
    connection, transport = connect()
    await view.watch("t", connection)
    change(bus, "frozen", "suspect", last_seen="2026-01-01T00:00:12Z")
    change(bus, "older gateway", "online")
    change(bus, "buried", "offline")
    told = [e for e in transport.events if e["type"] == "agent_status"]
    assert [e.get("last_seen") for e in told] == ["2026-01-01T00:00:12Z", "2026-01-01T00:01:00Z", None]
    assert {e["timestamp"] for e in told} == {"2026-01-01T00:01:00Z"}
