"""Agents keep talking while the parts of the platform restart or die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from artcafe_agent.errors import ArtcafeError

pytestmark = pytest.mark.embedded


async def _talk(writer: Any, reader: Any, channel: str, word: str) -> bool:
    """Publish and tell whether it was heard."""
    try:
        await writer.publish(channel, word, timeout=2)
        while True:
            message = await reader.get(timeout=2)
            if message.data == word:
                return True
    except (ArtcafeError, TimeoutError):
        return False


@pytest.mark.parametrize(
    "name", ["auth", "registry", "metering", "valkey", "aws", "nats", "gateway-1", "edge"]
)
async def test_agents_talk_again_after_each_part_was_killed(
    stack: Any, tenant: Any, eventually: Any, name: str
) -> None:
    """After SIGKILL of one part, connected agents and new ones talk again without anybody's help."""
    alice, bob = await tenant.agent(), await tenant.agent()
    heard = await bob.subscribe("room")
    assert await _talk(alice, heard, "room", "before")
    stack.kill(name)
    await eventually(lambda: _talk(alice, heard, "room", "after"))
    await asyncio.to_thread(stack.wait_ready, name)

    async def newcomer_talks() -> bool:
        try:
            carol = await tenant.agent()
        except (ArtcafeError, AssertionError):
            return False
        return await _talk(carol, heard, "room", f"from {carol.agent_id}")

    await eventually(newcomer_talks)


async def test_messages_in_use_flow_while_the_control_plane_is_away(stack: Any, tenant: Any) -> None:
    """Without auth, registry and metering the agents that are connected go on talking."""
    alice, bob = await tenant.agent(), await tenant.agent()
    heard = await bob.subscribe("room")
    assert await _talk(alice, heard, "room", "before")
    with stack.without("auth"), stack.without("registry"), stack.without("metering"):
        for number in range(20):
            await alice.publish("room", number)
        assert [(await heard.get(timeout=10)).data for _ in range(20)] == list(range(20))


async def test_a_drained_gateway_sends_its_agents_to_the_other(stack: Any, tenant: Any) -> None:
    """SIGTERM closes every socket with 1012 in time, and the SDK is back at once."""
    agent_id = await tenant.create_agent()
    socket = await tenant.socket(agent_id, "gateway-1")
    clients = [await tenant.agent() for _ in range(6)]
    assert stack.stop("gateway-1"), "the gateway did not end by itself"
    assert await socket.closed() == 1012
    try:
        async with asyncio.timeout(60):
            for number, client in enumerate(clients):
                await client.publish("room", number, timeout=45)
    finally:
        await asyncio.to_thread(stack.start_again, "gateway-1")


async def test_usage_counted_before_a_metering_crash_is_still_there(
    stack: Any, tenant: Any, eventually: Any
) -> None:
    """Messages published while metering and Valkey are killed are all counted in the end, once."""
    alice = await tenant.agent()
    for number in range(120):
        await alice.publish("room", number)
        if number == 40:
            stack.kill("metering")
        if number == 80:
            stack.kill("valkey")

    async def counted() -> int | None:
        answer = await tenant.call("GET", "/usage/current")
        if answer.status_code != 200:
            return None
        messages: int = answer.json()["usage"]["messages"]
        return messages if messages >= 120 else None

    assert await eventually(counted) == 120
    await asyncio.sleep(2.0)
    assert await eventually(counted) == 120


async def test_readiness_follows_nats(stack: Any, eventually: Any) -> None:
    """While NATS is away every service is alive and not ready; with NATS each is ready again by itself."""
    import httpx

    services = ["auth", "registry", "metering", "gateway-1", "gateway-2"]
    async with httpx.AsyncClient(timeout=20.0) as http:

        async def statuses(path: str) -> list[int]:
            return [(await http.get(stack.urls[name]["http"] + path)).status_code for name in services]

        async def not_ready() -> bool:
            return await statuses("/ready") == [503] * len(services)

        async def ready() -> bool:
            return await statuses("/ready") == [200] * len(services)

        with stack.without("nats"):
            await eventually(not_ready)
            assert await statuses("/health") == [200] * len(services)
            suite = await http.get(f"{stack.base_url}/api/v1/health")
            assert suite.status_code == 503
        await eventually(ready)

        async def suite_up() -> bool:
            return (await http.get(f"{stack.base_url}/api/v1/health")).status_code == 200

        await eventually(suite_up)
