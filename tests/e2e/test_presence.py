"""Who is online, as registry and dashboards see it, whatever happens to gateways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def _status(tenant: Any, agent_id: str) -> str:
    answer = await tenant.call("GET", f"/agents/{agent_id}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


async def test_presence_follows_an_agent_through_connect_and_goodbye(tenant: Any, eventually: Any) -> None:
    """Registry and a dashboard see an agent come online and go."""
    agent_id = await tenant.create_agent()
    dashboard = await tenant.dashboard()
    await dashboard.send(type="subscribe_agents")
    await dashboard.until("agents_snapshot_complete")
    client = await tenant.connect(agent_id)
    await dashboard.until("agent_status", agent_id=agent_id, status="online")

    async def is_status(wanted: str) -> bool:
        return await _status(tenant, agent_id) == wanted

    await eventually(lambda: is_status("online"))
    await client.close()
    await dashboard.until("agent_status", agent_id=agent_id, status="offline")
    await eventually(lambda: is_status("offline"))


async def test_presence_of_one_tenant_is_not_seen_by_another(new_tenant: Any) -> None:
    """Dashboards and agents of B see nothing of A's agents."""
    a, b = await new_tenant(), await new_tenant()
    dashboard = await b.dashboard()
    await dashboard.send(type="subscribe_agents")
    await dashboard.until("agents_snapshot_complete")
    watcher = await b.socket(await b.create_agent())
    await dashboard.until("agent_status")
    await watcher.send(type="subscribe", channel="agents.presence.>")
    await watcher.until("subscribed")
    agent = await a.agent()
    await agent.presence("busy")
    await agent.close()
    await watcher.nothing()
    await dashboard.nothing()


async def test_the_newest_connection_wins_across_gateways(tenant: Any, eventually: Any) -> None:
    """A second connection at the other gateway closes the first with 4006 and the agent stays online."""
    agent_id = await tenant.create_agent()
    first = await tenant.socket(agent_id, "gateway-1")
    second = await tenant.socket(agent_id, "gateway-2")
    assert await first.closed() == 4006
    await second.nothing()

    async def online() -> bool:
        return await _status(tenant, agent_id) == "online"

    await eventually(online)
    await second.nothing()
    assert await online()


@pytest.mark.embedded
async def test_agents_of_a_killed_gateway_are_offline_unless_they_come_back(
    stack: Any, tenant: Any, eventually: Any
) -> None:
    """After kill -9 of a gateway an agent that returns stays online and one that does not goes offline."""
    stays, goes = await tenant.create_agent(), await tenant.create_agent()
    await tenant.socket(stays, "gateway-1")
    await tenant.socket(goes, "gateway-1")

    async def both_online() -> bool:
        return await _status(tenant, stays) == await _status(tenant, goes) == "online"

    await eventually(both_online)
    stack.kill("gateway-1")
    back = await tenant.connect(stays)

    async def gone() -> bool:
        return await _status(tenant, goes) == "offline"

    await eventually(gone, 40.0)
    assert await _status(tenant, stays) == "online"
    assert back.is_online
    await asyncio.to_thread(stack.wait_ready, "gateway-1")


@pytest.mark.embedded
async def test_restarting_the_control_plane_declares_nobody_dead(
    stack: Any, tenant: Any, eventually: Any
) -> None:
    """Auth, registry, metering and NATS restart; connected agents stay online and no offline is announced."""
    agent_id = await tenant.create_agent()
    client = await tenant.connect(agent_id)
    watcher = await tenant.agent()
    changes = await watcher.subscribe("agents.presence.offline", "agents.presence.suspect")
    for name in ("auth", "registry", "metering", "nats"):
        await asyncio.to_thread(stack.restart, name)

    async def works() -> bool:
        answer = await tenant.call("GET", f"/agents/{agent_id}")
        return bool(answer.status_code == 200 and answer.json()["status"] == "online")

    await eventually(works)
    assert client.is_online
    assert changes.waiting == 0
