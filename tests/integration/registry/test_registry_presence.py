"""Agents' status, from what gateways say."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from artcafe_common.contracts.gateway import PRESENCE, Presence, PresenceStatus
from artcafe_common.contracts.registry import LIST_AGENT_STATUS, ListAgentStatus
from artcafe_common.rpc import call
from artcafe_registry.domain.records import Agent
from artcafe_registry.store.agents import AgentStore

from .support import Stage, until


def _presence(
    tenant_id: str, agent_id: str, status: PresenceStatus, version: int, **more: object
) -> Presence:
    return msgspec.convert(
        {
            "tenant_id": tenant_id,
            "agent_id": agent_id,
            "status": status,
            "version": version,
            "at": f"2026-01-01T00:00:00.{version % 1000:03}Z",
            "connection_id": "c",
            "server_id": "g",
            **more,
        },
        Presence,
    )


async def _say(stage: Stage, presence: Presence) -> None:
    subject = PRESENCE.subject(tenant_id=presence.tenant_id, agent_id=presence.agent_id)
    await stage.bus.jetstream().publish(subject, msgspec.json.encode(presence))


async def _until_status(stage: Stage, tenant_id: str, agent_id: str, status: str) -> None:
    async def reached() -> bool:
        agent = await stage.store.agents.get(tenant_id, agent_id)
        return agent is not None and agent.status == status

    await until(reached)


async def test_status_and_what_the_agent_states_reach_its_record(stage: Stage) -> None:
    """An agent that comes online is shown online, with the capabilities and metadata it states."""
    tenant_id, owner = await stage.owner()
    await owner.post(
        "/agents", json={"name": "a", "agent_id": "a", "capabilities": ["old"], "metadata": {"k": 1}}
    )
    await _say(stage, _presence(tenant_id, "a", "online", 1))
    await _until_status(stage, tenant_id, "a", "online")
    agent = await stage.store.agents.get(tenant_id, "a")
    assert agent is not None
    assert (agent.capabilities, agent.metadata) == (["old"], {"k": 1})
    assert agent.last_seen == "2026-01-01T00:00:00.001Z"
    stated = _presence(tenant_id, "a", "suspect", 2, capabilities=["new"], metadata={"load": 0.5})
    await _say(stage, stated)
    await _until_status(stage, tenant_id, "a", "suspect")

    async def shown() -> bool:
        page = (await owner.get("/agents?status=suspect&capability=new")).json()
        return [found["metadata"] for found in page["agents"]] == [{"load": 0.5}]

    await until(shown)
    assert (await owner.get("/agents?status=online")).json()["agents"] == []
    told = await call(stage.bus, LIST_AGENT_STATUS, ListAgentStatus(tenant_id=tenant_id))
    assert [(row.agent_id, row.status, row.capabilities) for row in told.agents] == [
        ("a", "suspect", ["new"])
    ]


async def test_agent_read_by_id_shows_its_status_within_seconds(stage: Stage) -> None:
    """A status that changes while the agent is being read again and again is seen all the same."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    assert (await owner.get("/agents/a")).json()["status"] == "offline"
    await _say(stage, _presence(tenant_id, "a", "online", 1))

    async def shown() -> bool:
        return bool((await owner.get("/agents/a")).json()["status"] == "online")

    await until(shown)


async def test_newest_version_wins_in_whatever_order_events_come(stage: Stage) -> None:
    """Events that overtake each other, or come twice, leave the newest state; ties change nothing."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    states: list[PresenceStatus] = ["online", "suspect", "offline"]
    events = [
        _presence(tenant_id, "a", states[version % 3], version, last_seen=f"2026-01-01T00:01:{version}.000Z")
        for version in range(10, 30)
    ]
    shuffled = events * 2
    random.Random(3).shuffle(shuffled)
    await asyncio.gather(*(stage.store.agents.set_presence(event) for event in shuffled))
    agent = await stage.store.agents.get(tenant_id, "a")
    assert agent is not None
    assert (agent.status, agent.last_seen) == (events[-1].status, events[-1].last_seen)
    assert not await stage.store.agents.set_presence(_presence(tenant_id, "a", "online", 29))
    assert await stage.store.agents.set_presence(_presence(tenant_id, "a", "online", 30))


async def test_since_when_an_agent_is_connected_is_kept_while_it_is(stage: Stage) -> None:
    """REST and the list for dashboards tell since when an agent is connected, and why it was lost."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    since = "2026-01-01T00:00:00.000Z"
    await _say(stage, _presence(tenant_id, "a", "online", 1, connected_at=since, reason="connected"))
    await _until_status(stage, tenant_id, "a", "online")
    (told,) = (await call(stage.bus, LIST_AGENT_STATUS, ListAgentStatus(tenant_id=tenant_id))).agents
    assert (told.connected_at, told.reason) == (since, "connected")
    await _say(stage, _presence(tenant_id, "a", "offline", 2, reason="heartbeat timeout"))
    await _until_status(stage, tenant_id, "a", "offline")
    (shown,) = (await owner.get("/agents")).json()["agents"]
    assert (shown["connected_at"], shown["reason"]) == (None, "heartbeat timeout")


async def test_when_an_agent_was_last_seen_is_not_when_it_was_given_up(stage: Stage) -> None:
    """The gateway says when it heard of the agent last; where that is unknown, what was known stays."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    seen = "2026-01-01T00:00:00.000Z"
    shown = []
    for version, known in ((1, seen), (2, None)):
        await stage.store.agents.set_presence(_presence(tenant_id, "a", "offline", version, last_seen=known))
        shown.append((await owner.get("/agents/a")).json()["last_seen"])
    assert shown == [seen, seen]


async def test_unknown_agent_is_not_brought_into_being(stage: Stage) -> None:
    """Presence of an agent that is not there is dropped, and blocks nothing behind it."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await _say(stage, _presence(tenant_id, "ghost", "online", 1))
    await _say(stage, _presence("t-nowhere", "ghost", "online", 1))
    await stage.bus.jetstream().publish("gateway.v1.presence.x.y", b"{not json")
    await stage.bus.jetstream().publish("gateway.v1.presence.x.z", b'{"tenant_id":"#x"}')
    await _say(stage, _presence(tenant_id, "a", "online", 1))
    await _until_status(stage, tenant_id, "a", "online")
    assert await stage.rows_with("ghost") == []


async def test_presence_of_one_tenant_is_not_anothers(stage: Stage) -> None:
    """The same agent id in two tenants has two states."""
    first, first_owner = await stage.owner()
    second, second_owner = await stage.owner()
    for owner in (first_owner, second_owner):
        await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await _say(stage, _presence(first, "a", "online", 1))
    await _until_status(stage, first, "a", "online")
    agent = await stage.store.agents.get(second, "a")
    assert agent is not None
    assert (agent.status, agent.last_seen) == ("offline", None)
    told = await call(stage.bus, LIST_AGENT_STATUS, ListAgentStatus(tenant_id=second))
    assert [row.status for row in told.agents] == ["offline"]


async def test_what_happened_while_no_replica_ran_is_read_afterwards(stage: Stage) -> None:
    """The last event of each agent waits in its stream until a registry is there."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await stage.replica.end()
    for version, status in enumerate(("online", "suspect", "online"), start=1):
        await _say(stage, _presence(tenant_id, "a", status, version))  # type: ignore[arg-type]
    assert (await stage.store.agents.get(tenant_id, "a")) is not None
    await stage.start_replica()
    await _until_status(stage, tenant_id, "a", "online")
    agent = await stage.store.agents.get(tenant_id, "a")
    assert agent is not None
    assert agent.last_seen == "2026-01-01T00:00:00.003Z"


async def test_stated_too_much_is_not_kept(stage: Stage) -> None:
    """Capabilities and metadata beyond what REST allows are left out; the status still counts."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a", "metadata": {"k": 1}})
    huge = _presence(
        tenant_id, "a", "online", 1, capabilities=["x" * 500, "ok"] * 100, metadata={"x": "y" * 30_000}
    )
    await _say(stage, huge)
    await _until_status(stage, tenant_id, "a", "online")
    agent = await stage.store.agents.get(tenant_id, "a")
    assert agent is not None
    assert agent.metadata == {"k": 1}
    assert set(agent.capabilities) == {"ok"}
    assert len(agent.capabilities) <= 64


async def test_status_comes_in_pages_of_a_tenants_own(stage: Stage) -> None:
    """Dashboards get a large tenant's agents page by page, and no page with another tenant's token."""
    tenant_id, owner = await stage.owner()
    other = await stage.tenant()
    await owner.post("/agents", json={"name": "a", "agent_id": "a000"})
    (row,) = await stage.rows_with("'a000'")
    table = stage.store.agents._tables.agents
    await table.put_many([row | {"agent_id": f"a{number:03}"} for number in range(1, 150)])
    first = await call(stage.bus, LIST_AGENT_STATUS, ListAgentStatus(tenant_id=tenant_id))
    assert first.next_token is not None
    asked = ListAgentStatus(tenant_id=tenant_id, next_token=first.next_token)
    rest = await call(stage.bus, LIST_AGENT_STATUS, asked)
    assert [a.agent_id for a in first.agents + rest.agents] == [f"a{number:03}" for number in range(150)]
    assert rest.next_token is None
    foreign = ListAgentStatus(tenant_id=other, next_token=first.next_token)
    try:
        await call(stage.bus, LIST_AGENT_STATUS, foreign)
    except Exception as error:
        assert "invalid_argument" in str(error)
    else:
        raise AssertionError("a foreign token was taken")


async def test_what_an_agent_states_never_keeps_others_from_being_read(stage: Stage) -> None:
    """Metadata that is too deep to be read everywhere is not kept, and events that are none stop nobody."""
    tenant_id, owner = await stage.owner()
    for agent_id in ("deep", "deeper", "other"):
        await owner.post("/agents", json={"name": agent_id, "agent_id": agent_id, "metadata": {"k": 1}})
    for version, depth in enumerate((65, 500, 900, 940, 950, 960, 970, 980, 990), 1):
        event = msgspec.json.encode(_presence(tenant_id, "deep", "online", version))
        stated = b'{"a":' * depth + b"1" + b"}" * depth
        data = event[:-1] + b',"metadata":' + stated + b"}"
        await stage.bus.jetstream().publish(PRESENCE.subject(tenant_id=tenant_id, agent_id="deep"), data)
    for payload in (b"{", b"\xff", b"[" * 50_000, b"null"):
        await stage.bus.jetstream().publish(PRESENCE.subject(tenant_id=tenant_id, agent_id="deeper"), payload)
    await _say(stage, _presence(tenant_id, "other", "online", 1))
    await _until_status(stage, tenant_id, "other", "online")
    await _until_status(stage, tenant_id, "deep", "online")
    listed = await owner.get("/agents")
    assert listed.status_code == 200
    assert [agent["metadata"] for agent in listed.json()["agents"]] == [{"k": 1}] * 3
    told = await call(stage.bus, LIST_AGENT_STATUS, ListAgentStatus(tenant_id=tenant_id))
    assert {agent.agent_id for agent in told.agents} == {"deep", "deeper", "other"}


async def test_an_event_that_cannot_be_written_is_not_tried_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in writing one event costs that event, and not those of all others."""
    tenant_id, owner = await stage.owner()
    for agent_id in ("bad", "good"):
        await owner.post("/agents", json={"name": agent_id, "agent_id": agent_id})
    write = AgentStore.set_presence
    tried: list[str] = []

    async def fails_for_one(self: AgentStore, presence: Presence) -> bool:
        tried.append(presence.agent_id)
        if presence.agent_id == "bad":
            raise KeyError("a bug")
        return await write(self, presence)

    monkeypatch.setattr(AgentStore, "set_presence", fails_for_one)
    await _say(stage, _presence(tenant_id, "bad", "online", 1))
    await _say(stage, _presence(tenant_id, "good", "online", 1))
    await _until_status(stage, tenant_id, "good", "online")

    async def settled() -> bool:
        consumer = await stage.bus.jetstream().consumer_info("PRESENCE", "registry-presence")
        return bool(consumer.num_ack_pending == 0 and consumer.num_pending == 0)

    await until(settled)
    assert tried.count("bad") == 1


async def test_time_that_runs_out_in_the_library_leaves_no_event_unread(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its `fetch` ends with an error of its own kind, or of Python's: neither costs the subscription."""
    fetch = JetStreamContext.PullSubscription.fetch
    subscriptions: list[object] = []

    async def late(self: JetStreamContext.PullSubscription, batch: int, timeout: float) -> list[Msg]:
        subscriptions.append(self)
        if len(subscriptions) == 2:
            raise TimeoutError
        return await fetch(self, batch, timeout)

    monkeypatch.setattr(JetStreamContext.PullSubscription, "fetch", late)
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    told: tuple[PresenceStatus, ...] = ("online", "suspect", "offline")
    for version, status in enumerate(told, 1):
        await _say(stage, _presence(tenant_id, "a", status, version))
        await _until_status(stage, tenant_id, "a", status)
    assert len(subscriptions) > 2 and len(set(map(id, subscriptions))) == 1
    assert "presence_interrupted" not in caplog.messages


async def test_agents_that_state_much_are_listed_in_smaller_pages(stage: Stage) -> None:
    """No page is larger than a message on the bus may be, and none of the agents is left out."""
    tenant_id = await stage.tenant()
    wanted = [f"a{number:02}" for number in range(50)]
    for agent_id in wanted:
        agent = Agent(
            tenant_id=tenant_id,
            agent_id=agent_id,
            name="a",
            metadata={"k": "x" * 16_000},
            capabilities=["é" * 128] * 64,
            created_at="2026-01-01T00:00:00.000Z",
            updated_at="2026-01-01T00:00:00.000Z",
        )
        await stage.store.agents.create(agent)
    found: list[str] = []
    pages = 0
    next_token: str | None = None
    while pages == 0 or next_token is not None:
        asked = ListAgentStatus(tenant_id=tenant_id, next_token=next_token)
        page = await call(stage.bus, LIST_AGENT_STATUS, asked)
        found += [agent.agent_id for agent in page.agents]
        pages, next_token = pages + 1, page.next_token
    assert found == wanted
    assert pages == 2
