"""Limits hold under concurrent creation, and counters never drift from what they count."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import httpx
import pytest

from artcafe_common.clock import rfc3339
from artcafe_common.contracts.registry import RESOLVE_CHANNEL, ChannelInfo, ResolveChannel
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call

from .support import Stage


async def _counts(stage: Stage, tenant_id: str) -> tuple[int, int, int, int]:
    """Return agents and channels as counted and as there are."""
    tenant = await stage.store.tenants.get(tenant_id)
    assert tenant is not None
    agents, _ = await stage.store.agents.list_page(tenant_id, 1_000, None)
    channels, _ = await stage.store.channels.list_page(tenant_id, 1_000, None)
    return tenant.agents, len(agents), tenant.channels, len(channels)


@pytest.mark.parametrize("noun", ["agents", "channels"])
async def test_fifty_at_once_make_exactly_as_many_as_the_plan_allows(stage: Stage, noun: str) -> None:
    """Of 50 creations at once, over two replicas, as many succeed as there is room for; the rest get 402."""
    tenant_id, first = await stage.owner(plan="basic", overrides={noun: 10, "api_calls_per_minute": None})
    second = stage.client(tenant_id, replica=await stage.start_replica())
    answers = await asyncio.gather(
        *((first, second)[number % 2].post(f"/{noun}", json={"name": f"n{number}"}) for number in range(50))
    )
    assert Counter(answer.status_code for answer in answers) == {201: 10, 402: 40}
    refused = next(answer for answer in answers if answer.status_code == 402).json()
    assert refused["code"] == "resource_exhausted"
    assert {name: refused[name] for name in ("resource", "current", "limit", "plan")} == {
        "resource": noun,
        "current": 10,
        "limit": 10,
        "plan": "basic",
    }
    counted_agents, agents, counted_channels, channels = await _counts(stage, tenant_id)
    assert (counted_agents, counted_channels) == (agents, channels)
    assert {"agents": agents, "channels": channels}[noun] == 10


async def test_fifty_at_once_with_one_id_make_one(stage: Stage) -> None:
    """Of 50 creations of the same agent one wins, and one is counted."""
    tenant_id, owner = await stage.owner()
    answers = await asyncio.gather(
        *(owner.post("/agents", json={"name": str(n), "agent_id": "same"}) for n in range(50))
    )
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 49}
    assert (await _counts(stage, tenant_id))[:2] == (1, 1)


async def test_room_that_is_made_can_be_used(stage: Stage) -> None:
    """Deleting at the limit makes room for exactly one more."""
    _, owner = await stage.owner(plan="free")
    for number in range(3):
        assert (await owner.post("/agents", json={"name": "a", "agent_id": f"a{number}"})).status_code == 201
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 402
    assert (await owner.delete("/agents/a1")).status_code == 204
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 201
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 402


async def test_counters_equal_what_there_is_after_a_storm(stage: Stage) -> None:
    """However creations and deletions of the same ids cross each other, the counters are right afterwards."""
    tenant_id, owner = await stage.owner(overrides={"agents": 4, "channels": 4})
    random_source = random.Random(7)

    async def one() -> httpx.Response:
        noun, key = random_source.choice((("agents", "agent_id"), ("channels", "channel_id")))
        name = f"x{random_source.randrange(6)}"
        if random_source.random() < 0.5:
            return await owner.post(f"/{noun}", json={"name": name, key: name})
        return await owner.delete(f"/{noun}/{name}")

    for _ in range(6):
        answers = await asyncio.gather(*(one() for _ in range(25)))
        assert {answer.status_code for answer in answers} <= {201, 204, 402, 404, 409, 503}
    counted_agents, agents, counted_channels, channels = await _counts(stage, tenant_id)
    assert (counted_agents, counted_channels) == (agents, channels)
    assert agents <= 4
    assert channels <= 4
    assert await stage.store.pending.all() == []


async def test_one_tenants_limit_is_not_anothers(stage: Stage) -> None:
    """A tenant at its limit takes nothing from another of the same plan."""
    _, full = await stage.owner(plan="free")
    _, other = await stage.owner(plan="free")
    for _ in range(3):
        await full.post("/agents", json={"name": "a"})
    assert (await full.post("/agents", json={"name": "a"})).status_code == 402
    assert (await other.post("/agents", json={"name": "a"})).status_code == 201


async def test_agents_that_meet_in_a_new_channel_make_one(stage: Stage) -> None:
    """Fifty agents that use a channel nobody made get the same one, counted once."""
    tenant_id = await stage.tenant(auto_create_channels=True)
    asked = ResolveChannel(tenant_id=tenant_id, channel_id="team.updates", create_for="a")
    found = await asyncio.gather(*(call(stage.bus, RESOLVE_CHANNEL, asked) for _ in range(50)))
    assert set(found) == {
        ChannelInfo(channel_id="team.updates", name="team.updates", access="open", delivery="live")
    }
    assert (await _counts(stage, tenant_id))[2:] == (1, 1)
    created = [event for event in stage.changed if event.tenant_id == tenant_id and event.kind == "channel"]
    assert [event.action for event in created] == ["created"]


async def test_channels_made_by_use_respect_the_limit(stage: Stage) -> None:
    """Creating by use stops at the plan's limit, with the quota told; what exists is still found."""
    tenant_id = await stage.tenant(plan="free", auto_create_channels=True, overrides={"channels": 5})

    async def use(number: int) -> str:
        asked = ResolveChannel(tenant_id=tenant_id, channel_id=f"c{number}", create_for="a")
        try:
            return (await call(stage.bus, RESOLVE_CHANNEL, asked)).channel_id
        except ServiceError as error:
            assert error.code == ErrorCode.RESOURCE_EXHAUSTED
            assert error.quota is not None
            assert (error.quota.resource, error.quota.limit) == ("channels", 5)
            return ""

    made = [name for name in await asyncio.gather(*(use(number) for number in range(20))) if name]
    assert len(made) == 5
    assert (await _counts(stage, tenant_id))[2:] == (5, 5)
    again = ResolveChannel(tenant_id=tenant_id, channel_id=made[0], create_for="a")
    assert (await call(stage.bus, RESOLVE_CHANNEL, again)).channel_id == made[0]


async def test_calls_over_the_plans_rate_are_refused(stage: Stage) -> None:
    """The call after the plan's last one of the minute gets 429 with a hint when to come back."""
    _, owner = await stage.owner(plan="free", overrides={"api_calls_per_minute": 20})
    answers = [(await owner.get("/agents")) for _ in range(25)]
    codes = [answer.status_code for answer in answers]
    assert codes[:20] == [200] * 20
    # One of them may pass in each three seconds.
    assert codes.count(429) >= 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["code"] == "resource_exhausted"
    # Another tenant is not slowed.
    _, other = await stage.owner(plan="free")
    assert (await other.get("/agents")).status_code == 200


async def test_person_creates_at_most_three_tenants_at_once(stage: Stage) -> None:
    """Of ten tenants that one person asks for at the same moment three are made; deleting one makes room."""
    person = stage.client("greedy")
    answers = await asyncio.gather(*(person.post("/tenants", json={"name": "mine"}) for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 409: 7}
    made = [answer.json()["tenant_id"] for answer in answers if answer.status_code == 201]
    assert (await person.delete(f"/tenants/{made[0]}")).status_code == 204
    assert (await person.post("/tenants", json={"name": "mine"})).status_code == 201
    assert (await person.post("/tenants", json={"name": "mine"})).status_code == 409


async def test_making_and_deleting_tenants_has_an_end(one_day: None, stage: Stage) -> None:
    """Each new tenant has a month of its own: one person makes six in a month, deleted or not."""
    person = stage.client("restless")
    for _ in range(6):
        made = await person.post("/tenants", json={"name": "mine"})
        assert made.status_code == 201
        assert (await person.delete(f"/tenants/{made.json()['tenant_id']}")).status_code == 204
    refused = await person.post("/tenants", json={"name": "mine"})
    assert (refused.status_code, refused.json()["code"]) == (409, "failed_precondition")
    assert "6 in a month" in refused.json()["detail"]
    # Neither others nor the next month know of it.
    assert (await stage.client("patient").post("/tenants", json={"name": "mine"})).status_code == 201
    year, month = (int(part) for part in rfc3339(time.time())[:7].split("-"))
    later = f"{year + month // 12}-{month % 12 + 1:02}-01T00:00:00.000Z"
    await stage.tenant("restless", self_service=True, created_at=later)


async def test_a_stranger_is_held_to_a_rate_and_learns_nothing(stage: Stage) -> None:
    """Who belongs to no tenant may not have the store read without end, and not find out what there is."""
    there = await stage.tenant()
    await stage.store.tenants.mark_deleting(there, rfc3339(time.time()))
    stranger = stage.client("stranger")
    answers = [await stranger.delete(f"/tenants/{tenant_id}") for tenant_id in (there, "nowhere")]
    told = [answer.json() | {"instance": ""} for answer in answers]
    assert told[0] == told[1] and told[0]["status"] == 403
    codes: set[int] = set()
    async with asyncio.timeout(60):
        while 429 not in codes:
            some = await asyncio.gather(*(stranger.delete("/tenants/nowhere") for _ in range(50)))
            codes |= {answer.status_code for answer in some}
    assert codes <= {403, 429}
