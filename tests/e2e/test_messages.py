"""Agents talk to each other through the whole stack."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

KEY_TYPES = ["ed25519", "ecdsa-p256", "ecdsa-p384", "rsa"]


@pytest.mark.parametrize("key_type", KEY_TYPES)
async def test_an_agent_with_each_kind_of_key_talks(tenant: Any, key_type: str) -> None:
    """Agents with each kind of key authenticate, publish and hear each other."""
    alice, bob = await tenant.agent(key_type), await tenant.agent(key_type)
    heard = await bob.subscribe("room")
    published = await alice.publish("room", {"kind": key_type})
    message = await heard.get(timeout=10)
    assert message.data == {"kind": key_type}
    assert message.sender == alice.agent_id
    assert message.message_id == published.message_id


async def test_agents_on_two_gateways_hear_each_other(tenant: Any) -> None:
    """A message crosses from one gateway to the other, in both directions."""
    first, second = await tenant.create_agent(), await tenant.create_agent()
    a, b = await tenant.socket(first, "gateway-1"), await tenant.socket(second, "gateway-2")
    for socket in (a, b):
        await socket.send(type="subscribe", channel="room")
        await socket.until("subscribed")
    await a.send(type="publish", channel="room", data="to 2")
    await b.until("message", data="to 2")
    await b.send(type="publish", channel="room", data="to 1")
    await a.until("message", data="to 1")


async def test_three_tenants_talk_on_the_same_channel_and_stay_apart(new_tenant: Any) -> None:
    """Three tenants use one channel name at the same time; each hears only its own, complete and in order."""
    tenants = [await new_tenant() for _ in range(3)]
    readers = []
    writers = []
    for tenant in tenants:
        writers.append(await tenant.agent())
        reader = await tenant.agent()
        readers.append(await reader.subscribe("room"))
    for number in range(50):
        await asyncio.gather(
            *(
                writer.publish("room", [tenant.tenant_id, number])
                for tenant, writer in zip(tenants, writers, strict=True)
            )
        )
    for tenant, reader in zip(tenants, readers, strict=True):
        got = [(await reader.get(timeout=10)).data for _ in range(50)]
        assert got == [[tenant.tenant_id, number] for number in range(50)]
        assert reader.waiting == 0


async def test_a_message_over_rest_reaches_agents_and_counts_once(tenant: Any, eventually: Any) -> None:
    """POST to a channel is heard by agents, and repeating it with its Idempotency-Key sends nothing more."""
    assert (
        await tenant.call("POST", "/channels", json={"name": "News", "channel_id": "news"})
    ).status_code == 201
    bob = await tenant.agent()
    heard = await bob.subscribe("news")
    headers = {"Idempotency-Key": "once"}
    answers = [
        await tenant.call("POST", "/channels/news/messages", json={"n": 1}, headers=headers) for _ in range(2)
    ]
    assert [answer.json()["message_id"] for answer in answers] == [answers[0].json()["message_id"]] * 2
    message = await heard.get(timeout=10)
    assert message.data == {"n": 1}
    assert message.sender == f"user:{tenant.owner.user_id}"
    assert heard.waiting == 0
    assert (await tenant.call("POST", "/channels/nowhere/messages", json={})).status_code == 404

    async def counted() -> bool:
        usage = (await tenant.call("GET", "/usage/current")).json()["usage"]
        return bool(usage["messages"] == 1 and usage["deliveries"] == 1)

    await eventually(counted)


async def test_usage_is_exact_by_tenant_agent_and_channel(tenant: Any, eventually: Any) -> None:
    """Messages, deliveries and bytes in metering equal what was sent and received."""
    alice, bob, carol = [await tenant.agent() for _ in range(3)]
    subscriptions = [await reader.subscribe("a", "b") for reader in (bob, carol)]
    sizes = {"a": 0, "b": 0}
    for number in range(60):
        channel = "a" if number % 3 else "b"
        data = "x" * number
        sizes[channel] += len(data) + 2
        await alice.publish(channel, data)
    for subscription in subscriptions:
        for _ in range(60):
            await subscription.get(timeout=10)

    async def totals() -> dict[str, Any] | None:
        usage: dict[str, Any] = (await tenant.call("GET", "/usage/current")).json()["usage"]
        return usage if usage["messages"] >= 60 and usage["deliveries"] >= 120 else None

    usage = await eventually(totals)
    assert usage["messages"] == 60
    assert usage["deliveries"] == 120
    assert usage["active_channels"] == 2
    answer = await tenant.call("GET", "/usage/metrics", params={"granularity": "day", "group_by": "channel"})
    rows = {row["channel_id"]: row for row in answer.json()["totals"]["groups"]}
    assert {name: row["messages"] for name, row in rows.items()} == {"a": 40, "b": 20}
    assert {name: row["bytes_in"] for name, row in rows.items()} == sizes
    assert {name: row["bytes_out"] for name, row in rows.items()} == {n: 2 * s for n, s in sizes.items()}
    answer = await tenant.call("GET", "/usage/metrics", params={"granularity": "day", "group_by": "agent"})
    agents = {row["agent_id"]: row for row in answer.json()["totals"]["groups"]}
    assert agents[alice.agent_id]["messages"] == 60
    assert agents[bob.agent_id]["deliveries"] == agents[carol.agent_id]["deliveries"] == 60
