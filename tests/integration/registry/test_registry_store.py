"""The stores themselves on a real DynamoDB: records, conditions, pages, and transactions that meet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from artcafe_common.dynamo import Dynamo, Item, TransactionFailed
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.servers import AwsEndpoint
from artcafe_registry.domain.records import Agent, Channel, Member, PublicKey, Tenant
from artcafe_registry.store import TABLES, Store
from artcafe_registry.store.access import settle
from artcafe_registry.store.pending import Work
from artcafe_registry.store.replays import Replay

NOW = "2026-01-01T00:00:00.000Z"
LATER = "2026-01-02T00:00:00.000Z"
KEY = PublicKey(fingerprint="SHA256:x", type="ssh-ed25519", public_key="ssh-ed25519 AAAA", created_at=NOW)


@pytest.fixture
async def store(aws_environment: AwsEndpoint) -> AsyncIterator[Store]:
    """Give a test empty tables."""
    async with Dynamo.connect(
        region="us-east-1", endpoint_url=aws_environment.url, prefix="store-"
    ) as dynamo:
        await dynamo.create_tables(TABLES)
        # Creating what is there already changes nothing.
        await dynamo.create_tables(TABLES)
        yield Store(dynamo)


def _tenant(tenant_id: str = "t", **fields: object) -> Tenant:
    made = Tenant(
        tenant_id=tenant_id, name="T", plan="enterprise", created_at=NOW, updated_at=NOW, created_by="me"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def _member(tenant_id: str = "t", user_id: str = "me", role: str = "owner") -> Member:
    return Member(tenant_id=tenant_id, user_id=user_id, role=role, created_at=NOW, updated_at=NOW)


def _agent(agent_id: str = "a", tenant_id: str = "t", **fields: object) -> Agent:
    made = Agent(tenant_id=tenant_id, agent_id=agent_id, name="A", keys=[KEY], created_at=NOW, updated_at=NOW)
    return replace(made, **fields)  # type: ignore[arg-type]


def _channel(channel_id: str = "c", tenant_id: str = "t") -> Channel:
    return Channel(
        tenant_id=tenant_id, channel_id=channel_id, name="C", created_at=NOW, updated_at=NOW, created_by="a"
    )


async def test_tenant_round_trips(store: Store) -> None:
    """A tenant comes back as it was written, overrides that are null included."""
    wanted = _tenant(
        name="",
        overrides={"agents": None, "channels": 0},
        auto_create_channels=True,
        self_service=True,
        created_by="üser #1",
    )
    await store.tenants.create(wanted, _member())
    assert await store.tenants.get("t") == wanted
    assert await store.tenants.get("T") is None


async def test_update_of_a_tenant_holds_only_for_what_was_read(store: Store) -> None:
    """Of two writers who read the same tenant the second must read again."""
    await store.tenants.create(_tenant(), _member())
    seen = await store.tenants.get("t")
    assert seen is not None
    updated = await store.tenants.update(seen, {"name": "N", "overrides": {"agents": 5}}, LATER)
    assert updated is not None
    assert updated[0] == replace(
        seen, name="N", overrides={"agents": 5}, updated_at=LATER, revision=seen.revision + 1
    )
    with pytest.raises(TransactionFailed):
        await store.tenants.update(seen, {"name": "M"}, LATER)


async def test_room_is_for_the_tenant_as_it_was_read(store: Store) -> None:
    """An agent is not made by limits that were changed after they were read."""
    await store.tenants.create(_tenant(), _member())
    seen = await store.tenants.get("t")
    assert seen is not None
    write = store.tenants.room_op(seen, "agents")
    await store.tenants.update(seen, {"overrides": {"agents": 0}}, LATER)
    with pytest.raises(TransactionFailed):
        await store._dynamo.transact([write])
    with pytest.raises(ServiceError) as refused:
        await store.agents.create(_agent())
    assert refused.value.quota is not None


async def test_room_is_gone_with_the_first_step_of_a_deletion(store: Store) -> None:
    """Whoever read the tenant just before its deletion began makes nothing in it any more."""
    await store.tenants.create(_tenant(), _member())
    seen = await store.tenants.get("t")
    assert seen is not None
    write = store.tenants.room_op(seen, "agents")
    assert await store.tenants.mark_deleting("t", NOW)
    with pytest.raises(TransactionFailed):
        await store._dynamo.transact([write])


async def test_agent_round_trips(store: Store) -> None:
    """An agent comes back as it was written, whatever its fields hold."""
    await store.tenants.create(_tenant(), _member())
    wanted = _agent(
        name="name",
        type="type",
        description="",
        capabilities=["", "status", "ü"],
        metadata={"status": None, "a": [True, 1.0, 1, {"": []}], "big": 10**40},
        keys=[KEY, replace(KEY, fingerprint="SHA256:y", name="second")],
        created_by="user:me",
    )
    await store.agents.create(wanted)
    assert await store.agents.get("t", "a") == wanted
    assert await store.agents.get("t", "A") is None
    updated, _ = await store.agents.update("t", "a", {"metadata": {}, "capabilities": []}, LATER)
    assert updated == replace(wanted, metadata={}, capabilities=[], updated_at=LATER)


async def test_numbers_in_metadata_keep_their_kind(store: Store) -> None:
    """A float stays a float and a boolean a boolean: metadata is kept as its text."""
    await store.tenants.create(_tenant(), _member())
    await store.agents.create(_agent(metadata={"f": 1.0, "b": True, "i": 1}))
    agent = await store.agents.get("t", "a")
    assert agent is not None
    assert {name: type(value) for name, value in agent.metadata.items()} == {"f": float, "b": bool, "i": int}


async def test_keys_are_set_only_on_the_agent_that_was_read(store: Store) -> None:
    """Of two writers who read the same keys the second must read again."""
    await store.tenants.create(_tenant(), _member())
    await store.agents.create(_agent())
    seen = await store.agents.get("t", "a")
    assert seen is not None
    second = replace(KEY, fingerprint="SHA256:y")
    await store.agents.set_keys(seen, [KEY, second], LATER)
    with pytest.raises(TransactionFailed):
        await store.agents.set_keys(seen, [KEY], LATER)
    again = await store.agents.get("t", "a")
    assert again is not None
    await store.agents.set_keys(again, [second], LATER, revoked=KEY.fingerprint)
    assert [(work.kind, work.id, work.fingerprint) for work in await store.pending.all()] == [
        ("key", "a", KEY.fingerprint)
    ]


async def test_what_is_being_deleted_is_there_for_nobody(store: Store) -> None:
    """A marked agent or channel is not read, not listed, not changed, not made again and gets no row."""
    await store.tenants.create(_tenant(), _member())
    for name in ("a", "b"):
        await store.agents.create(_agent(name))
        await store.channels.create(_channel(name))
    assert await store.agents.mark_deleting("t", "a", NOW)
    assert await store.channels.mark_deleting("t", "a", NOW)
    assert await store.agents.get("t", "a") is None
    assert await store.channels.get("t", "a") is None
    agents, more = await store.agents.list_page("t", 10, None)
    channels, _ = await store.channels.list_page("t", 10, None)
    assert [agent.agent_id for agent in agents] == [channel.channel_id for channel in channels] == ["b"]
    assert not more
    refusals: list[ErrorCode] = []
    for attempt in (
        store.agents.update("t", "a", {"name": "x"}, LATER),
        store.channels.update("t", "a", {"name": "x"}, LATER),
        store.agents.create(_agent("a")),
        store.channels.create(_channel("a")),
        store.grants.put("t", "a", "b", role="both", auto_subscribe=False, now=NOW),
        store.grants.put("t", "b", "a", role="both", auto_subscribe=False, now=NOW),
    ):
        with pytest.raises(ServiceError) as refused:
            await attempt
        refusals.append(refused.value.code)
    assert refusals == [
        ErrorCode.NOT_FOUND,
        ErrorCode.NOT_FOUND,
        ErrorCode.UNAVAILABLE,
        ErrorCode.UNAVAILABLE,
        ErrorCode.NOT_FOUND,
        ErrorCode.NOT_FOUND,
    ]
    await store.agents.finish_delete("t", "a")
    await store.channels.finish_delete("t", "a")
    # Done twice it counts once, and it never touches what was not marked.
    await store.agents.finish_delete("t", "a")
    await store.channels.finish_delete("t", "b")
    tenant = await store.tenants.get("t")
    assert tenant is not None
    assert (tenant.agents, tenant.channels) == (1, 1)
    assert not await store.agents.mark_deleting("t", "ghost", NOW)
    assert await store.agents.get("t", "ghost") is None


async def test_grants_are_found_from_both_sides(store: Store) -> None:
    """A row is found by its channel and by its agent, whole ids compared, and goes from both."""
    await store.tenants.create(_tenant(), _member())
    for agent_id in ("a", "a1"):
        await store.agents.create(_agent(agent_id))
    for channel_id in ("c", "c.d"):
        await store.channels.create(_channel(channel_id))
        for agent_id in ("a", "a1"):
            await store.grants.put("t", channel_id, agent_id, role="both", auto_subscribe=True, now=NOW)
    rows, _ = await store.grants.list_page("t", "c", 10, None)
    assert [row.agent_id for row in rows] == ["a", "a1"]
    assert [row.channel_id for row in await store.grants.of_agent("t", "a")] == ["c", "c.d"]
    assert await store.grants.remove_channel("t", "c") == ["a", "a1"]
    assert [row.channel_id for row in await store.grants.of_agent("t", "a")] == ["c.d"]
    await store.grants.remove_agent("t", "a")
    rows, _ = await store.grants.list_page("t", "c.d", 10, None)
    assert [row.agent_id for row in rows] == ["a1"]
    assert await store.grants.delete("t", "c.d", "a1", NOW)
    assert not await store.grants.delete("t", "c.d", "a1", NOW)
    assert await store.grants.of_agent("t", "a1") == []


async def test_memberships_are_found_from_both_sides(store: Store) -> None:
    """A person's tenants and a tenant's people agree through every change, platform roles beside them."""
    for tenant_id in ("t", "u"):
        await store.tenants.create(_tenant(tenant_id), _member(tenant_id))
    await store.members.set_platform_roles("me", ["platform_admin"])
    await store.members.add(_member("t", "other", "viewer"))
    changed = await store.members.change(_member("t", "other", "viewer"), "owner", "o@x", LATER)
    assert await store.members.get("t", "other") == changed
    assert (await store.members.person("other")).memberships == [changed]
    rows = await store.members.person("me")
    assert {member.tenant_id for member in rows.memberships} == {"t", "u"}
    assert rows.platform_roles == ["platform_admin"]
    await store.members.remove(_member("t", "me"))
    assert [member.tenant_id for member in (await store.members.person("me")).memberships] == ["u"]
    with pytest.raises(ServiceError) as stale:
        await store.members.change(_member("t", "other", "viewer"), "admin", "", LATER)
    assert stale.value.code == ErrorCode.NOT_FOUND
    with pytest.raises(ServiceError) as last:
        await store.members.remove(changed)
    assert last.value.code == ErrorCode.FAILED_PRECONDITION


async def test_person_of_a_telling_name_is_nobody_else(store: Store) -> None:
    """An id made to look like one of the store's own rows reads and changes no row but its own."""
    await store.tenants.create(_tenant(), _member())
    for user_id in ("#platform", "#created", "#person#me", "t", "me#"):
        await store.members.add(_member("t", user_id, "viewer"))
        rows = await store.members.person(user_id)
        assert rows.platform_roles == []
        assert [(member.tenant_id, member.user_id) for member in rows.memberships] == [("t", user_id)]
    assert (await store.members.person("me")).platform_roles == []


async def test_pending_work_is_one_row_however_often_begun(store: Store) -> None:
    """The same work begun twice is there once, and gone when done."""
    work = Work(kind="key", tenant_id="t", id="a", fingerprint="SHA256:+/", started_at=NOW)
    for _ in range(2):
        await store._dynamo.transact([store.pending.put_op(work)])
    assert await store.pending.all() == [work]
    await store.pending.done(work)
    await store.pending.done(work)
    assert await store.pending.all() == []


async def test_one_request_claims_a_key_and_one_takes_it_over(store: Store) -> None:
    """Of many who claim a key one gets it, the others its claim; of many who take it over one does."""
    claims = [
        Replay(tenant_id="t", request="c#k", digest="d", message_id=f"m{n}", accepted_at=9.0, tried_at=9.0)
        for n in range(10)
    ]
    answers = await asyncio.gather(*(store.replays.claim(claim) for claim in claims))
    assert answers.count(None) == 1
    first = claims[answers.index(None)]
    assert {answer for answer in answers if answer} == {first}
    # Its own claim made again, as when its answer was lost on the way, is still its own.
    assert await store.replays.claim(first) is None
    taken = await asyncio.gather(*(store.replays.take_over(first, 20.0 + n) for n in range(10)))
    assert taken.count(True) == 1
    await store.replays.finish(first)
    again = await store.replays.claim(claims[0] if claims[0] != first else claims[1])
    assert again is not None
    assert (again.state, again.message_id) == ("done", first.message_id)
    assert not await store.replays.take_over(again, 30.0)
    # It was taken over, and may have been sent.
    await store.replays.forget(first)
    assert await store.replays.claim(claims[5]) == again


async def test_refused_request_gives_its_key_back(store: Store) -> None:
    """What was refused before anybody took it over may be asked for again at once."""
    refused, other = (
        Replay(tenant_id="t", request="c#r", digest="d", message_id=f"m{n}", accepted_at=9.0, tried_at=9.0)
        for n in range(2)
    )
    assert await store.replays.claim(refused) is None
    await store.replays.forget(refused)
    assert await store.replays.claim(other) is None


async def test_attempts_that_meet_are_made_again(store: Store) -> None:
    """What fails because something changed under it is read and decided anew, and what never passes ends."""
    seen: list[int] = []

    async def third_time() -> str:
        seen.append(1)
        if len(seen) < 3:
            raise TransactionFailed([])
        return "done"

    assert await settle(third_time) == "done"

    async def never() -> None:
        raise TransactionFailed([1])

    with pytest.raises(ServiceError) as error:
        await settle(never)
    assert error.value.code == ErrorCode.UNAVAILABLE
    assert error.value.retry_after is not None


async def test_creations_at_once_never_pass_the_limit(store: Store) -> None:
    """Forty writers at the store itself make exactly as many channels as there is room for."""
    await store.tenants.create(_tenant(overrides={"channels": 7}), _member())

    async def one(number: int) -> str:
        try:
            await store.channels.create(_channel(f"c{number}"))
        except ServiceError as error:
            assert error.quota is not None
            return "refused"
        return "made"

    outcomes = Counter(await asyncio.gather(*(one(number) for number in range(40))))
    assert outcomes == {"made": 7, "refused": 33}
    rows: list[Item] = [
        item async for item in store._tables.channels.query_all("#tenant_id = :t", {"t": "t"})
    ]
    assert len(rows) == 7


async def test_pages_go_on_where_the_last_one_ended(store: Store) -> None:
    """Any page size gives every agent once, and says when there is no more."""
    await store.tenants.create(_tenant(), _member())
    for number in range(10):
        await store.agents.create(_agent(f"a{number}"))
    for limit in (1, 3, 5, 9, 10, 11):
        seen: list[str] = []
        after: str | None = None
        while True:
            page, more = await store.agents.list_page("t", limit, after)
            assert len(page) <= limit
            seen += [agent.agent_id for agent in page]
            if not more:
                break
            assert len(page) == limit
            after = page[-1].agent_id
        assert seen == [f"a{number}" for number in range(10)]
