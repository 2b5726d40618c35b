"""What is deleted leaves nothing behind, and a deletion that was cut short is finished."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from artcafe_common.clock import rfc3339
from artcafe_common.contracts.auth import Revoked
from artcafe_common.contracts.registry import (
    GET_AGENT,
    GET_GRANTS,
    GET_TENANT,
    GetAgent,
    GetGrants,
    GetTenant,
)
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_devstack.servers import AwsEndpoint, nats_server
from artcafe_registry import removal
from artcafe_registry.store.pending import Work

from .support import Stage, staged, until

LONG_AGO = rfc3339(0)


async def _furnish(stage: Stage) -> str:
    tenant_id, owner = await stage.owner()
    for number in range(30):
        await owner.post("/agents", json={"name": "a", "agent_id": f"a{number}"})
    for number in range(3):
        await owner.post("/channels", json={"name": "c", "channel_id": f"c{number}"})
        for agent in range(12):
            await owner.put(f"/channels/c{number}/members/a{agent}", json={})
    await owner.post("/channels/c0/messages", json={}, headers={"Idempotency-Key": "k"})
    for number in range(4):
        await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": f"u{number}-{tenant_id}"})
    return tenant_id


async def _is_gone(stage: Stage, tenant_id: str) -> bool:
    """Tell whether of a tenant only the row is left by which its id is not used again."""
    rows = await stage.rows_with(tenant_id)
    said = {"tenant_id": tenant_id, "deleted": True, "status": "deleting", "plan": "enterprise"}
    emptied = {"name": "", "created_by": "", "overrides": "{}", "agents": 0, "channels": 0, "owners": 0}
    rest = {"auto_create_channels", "revision", "created_at", "updated_at", "self_service"}
    return len(rows) == 1 and {name: rows[0].get(name) for name in rows[0].keys() - rest} == said | emptied


async def test_deleted_tenant_leaves_no_row(stage: Stage) -> None:
    """After a tenant's deletion its tombstone alone names it, and others have all of their rows."""
    doomed, other = await _furnish(stage), await _furnish(stage)
    before = len(await stage.rows_with(other))
    assert (await stage.client(doomed).delete(f"/tenants/{doomed}")).status_code == 204
    assert await _is_gone(stage, doomed)
    assert len(await stage.rows_with(other)) == before
    with pytest.raises(ServiceError) as refused:
        await call(stage.bus, GET_TENANT, GetTenant(doomed))
    assert refused.value.code == ErrorCode.NOT_FOUND
    assert [event for event in stage.revoked if event.tenant_id == doomed] == [
        Revoked(tenant_id=doomed, reason="tenant_deleted")
    ]


async def test_deleted_agent_leaves_no_row(stage: Stage) -> None:
    """After an agent's deletion only its neighbours' rows are there, and its sessions were told to close."""
    tenant_id = await _furnish(stage)
    owner = stage.client(tenant_id)
    assert (await owner.delete("/agents/a1")).status_code == 204
    assert await stage.rows_with("'a1'") == []
    assert len((await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a10"))).grants) == 3
    assert (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a1"))).grants == []
    assert stage.revoked == [Revoked(tenant_id=tenant_id, reason="agent_deleted", agent_id="a1")]


async def test_deleted_channel_leaves_no_row(stage: Stage) -> None:
    """After a channel's deletion its member rows are gone, and every agent that had one is announced."""
    tenant_id = await _furnish(stage)
    owner = stage.client(tenant_id)
    await owner.post("/channels", json={"name": "c", "channel_id": "c1.sub"})
    await owner.put("/channels/c1.sub/members/a1", json={})
    stage.changed.clear()
    assert (await owner.delete("/channels/c1")).status_code == 204
    assert await stage.rows_with("'c1'") == []
    grants = (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a1"))).grants
    assert {grant.channel_id for grant in grants} == {"c0", "c1.sub", "c2"}

    async def told() -> bool:
        return len({event.id for event in stage.changed if event.kind == "grants"}) == 12

    await until(told)


async def test_tenant_deletion_that_was_cut_short_is_finished_at_the_next_start(stage: Stage) -> None:
    """A process that dies after the first step leaves a mark; the next one deletes everything and tells."""
    tenant_id = await _furnish(stage)
    await stage.replica.crash()
    assert await stage.store.tenants.mark_deleting(tenant_id, LONG_AGO)
    await stage.store.agents.finish_delete(tenant_id, "a0")
    await stage.start_replica()

    async def gone() -> bool:
        return await _is_gone(stage, tenant_id)

    await until(gone)
    await stage.heard()
    assert Revoked(tenant_id=tenant_id, reason="tenant_deleted") in stage.revoked


async def test_owner_may_ask_again_for_a_deletion_that_was_cut_short(stage: Stage) -> None:
    """A tenant that is being deleted is there for nobody, but its owner's second DELETE finishes it."""
    tenant_id = await _furnish(stage)
    owner, member = stage.client(tenant_id), stage.client(f"u0-{tenant_id}")
    assert await stage.store.tenants.mark_deleting(tenant_id, rfc3339(4e9))
    fresh = await stage.start_replica()
    owner, member = (stage.client(person, replica=fresh) for person in (tenant_id, f"u0-{tenant_id}"))
    assert (await owner.get(f"/tenants/{tenant_id}")).status_code == 403
    assert (await owner.get("/tenants")).json()["tenants"] == []
    assert (await owner.post("/tenants", json={"name": "x", "tenant_id": tenant_id})).status_code == 409
    assert (await member.delete(f"/tenants/{tenant_id}")).status_code == 403
    assert (await stage.client("nobody", replica=fresh).delete(f"/tenants/{tenant_id}")).status_code == 403
    assert (await owner.delete(f"/tenants/{tenant_id}")).status_code == 204
    assert await _is_gone(stage, tenant_id)


async def test_id_of_a_deleted_tenant_is_never_used_again(stage: Stage) -> None:
    """Nobody gets the id of a deleted tenant, and for everybody there is no such tenant."""
    tenant_id, owner = await stage.tenant("maker", self_service=True), stage.client("maker")
    root, stranger = await stage.platform_admin(), stage.client("stranger")
    assert (await owner.delete(f"/tenants/{tenant_id}")).status_code == 204
    for person in (stranger, owner, root):
        refused = await person.post("/tenants", json={"name": "mine", "tenant_id": tenant_id})
        assert (refused.status_code, refused.json()["code"]) == (409, "already_exists")
    assert (await stranger.get(f"/tenants/{tenant_id}")).status_code == 403
    for answer in (
        await root.get(f"/tenants/{tenant_id}"),
        await root.put(f"/tenants/{tenant_id}", json={"name": "again"}),
        await root.delete(f"/tenants/{tenant_id}"),
        await root.post(f"/tenants/{tenant_id}/members", json={"user_id": "late"}),
    ):
        assert answer.status_code == 404
    assert await stage.store.tenants.get(tenant_id) is None
    listed = (await root.get("/tenants", params={"limit": 100})).json()["tenants"]
    assert tenant_id not in {tenant["tenant_id"] for tenant in listed}
    assert await _is_gone(stage, tenant_id)


async def test_of_racing_deletions_and_creations_none_brings_an_id_back(stage: Stage) -> None:
    """However deletions and creations of one id fall together, the id is gone at the end, once."""
    tenant_id, owner = await stage.tenant("maker", self_service=True), stage.client("maker")
    stranger = stage.client("stranger")
    answers = await asyncio.gather(
        *(owner.delete(f"/tenants/{tenant_id}") for _ in range(4)),
        *(stranger.post("/tenants", json={"name": "mine", "tenant_id": tenant_id}) for _ in range(8)),
    )
    assert {answer.status_code for answer in answers[:4]} <= {204, 403, 404}
    assert 204 in {answer.status_code for answer in answers[:4]}
    assert {answer.status_code for answer in answers[4:]} == {409}
    assert await _is_gone(stage, tenant_id)
    # Its maker has room for one more, however many finished the deletion.
    made = [(await owner.post("/tenants", json={"name": "mine"})).status_code for _ in range(4)]
    assert made == [201, 201, 201, 409]


async def test_nothing_is_made_in_a_tenant_that_is_being_deleted(stage: Stage) -> None:
    """From the first step of a deletion on agents, channels, member rows and people are refused."""
    tenant_id = await _furnish(stage)
    owner = stage.client(tenant_id)
    assert (await owner.get("/agents")).status_code == 200
    assert await stage.store.tenants.mark_deleting(tenant_id, rfc3339(4e9))
    # The running replica has the tenant in its cache: only the store's conditions stand in the way.
    assert (await owner.post("/agents", json={"name": "late"})).status_code == 404
    assert (await owner.post("/channels", json={"name": "late"})).status_code == 404
    added = await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": "late"})
    assert added.status_code == 404
    assert await stage.rows_with("late") == []


async def test_agent_deletion_that_was_cut_short_is_finished(stage: Stage) -> None:
    """A marked agent is found by nobody, its id is not free, and the next sweep removes it and tells."""
    tenant_id = await _furnish(stage)
    await stage.replica.crash()
    await stage.store.agents.mark_deleting(tenant_id, "a1", LONG_AGO)
    await stage.store.channels.mark_deleting(tenant_id, "c1", LONG_AGO)
    assert await stage.store.agents.get(tenant_id, "a1") is None
    fresh = await stage.start_replica()

    async def gone() -> bool:
        return not await stage.store.pending.all()

    await until(gone)
    assert await stage.rows_with("'a1'") == []
    assert await stage.rows_with("'c1'") == []
    tenant = await stage.store.tenants.get(tenant_id)
    assert tenant is not None
    assert (tenant.agents, tenant.channels) == (29, 2)
    await stage.heard()
    assert Revoked(tenant_id=tenant_id, reason="agent_deleted", agent_id="a1") in stage.revoked
    owner = stage.client(tenant_id, replica=fresh)
    assert (await owner.post("/agents", json={"name": "a", "agent_id": "a1"})).status_code == 201


async def test_sweep_leaves_an_agent_alone_that_was_made_again(stage: Stage) -> None:
    """Work that was finished but not struck off does nothing to whoever has the id now."""
    tenant_id = await _furnish(stage)
    owner = stage.client(tenant_id)
    await stage.store.agents.mark_deleting(tenant_id, "a1", LONG_AGO)
    await stage.store.grants.remove_agent(tenant_id, "a1")
    await stage.store.agents.finish_delete(tenant_id, "a1")
    await owner.post("/agents", json={"name": "new", "agent_id": "a1"})
    await owner.put("/channels/c1/members/a1", json={})
    assert len(await stage.store.pending.all()) == 1
    await stage.start_replica()

    async def swept() -> bool:
        return not await stage.store.pending.all()

    await until(swept)
    assert (await owner.get("/agents/a1")).json()["name"] == "new"
    assert len((await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a1"))).grants) == 1
    assert stage.revoked == []


async def test_two_deletions_at_once_count_once(stage: Stage) -> None:
    """Of ten deletions of one agent the counter moves by one, and none is an error of the server."""
    tenant_id = await _furnish(stage)
    owner = stage.client(tenant_id)
    answers = await asyncio.gather(*(owner.delete("/agents/a1") for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {204, 404}
    tenant = await stage.store.tenants.get(tenant_id)
    assert tenant is not None
    assert tenant.agents == 29


async def test_revocation_reaches_the_bus_after_it_was_away(
    tmp_path: Path, aws_environment: AwsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is revoked while NATS is away is good for nobody, and its sessions close when NATS is back."""
    # Not first when the next sweep is due.
    monkeypatch.setattr(removal, "SWEEP_SECONDS", 600.0)
    with nats_server(tmp_path / "nats") as nats:
        async with staged(nats.url) as stage:
            tenant_id, owner = await stage.owner()
            for agent_id in ("a", "b"):
                await owner.post("/agents", json={"name": "x", "agent_id": agent_id})
            await owner.post("/agents/b/keys", json={})
            key = (await owner.get("/agents/b/keys")).json()["keys"][0]["fingerprint"]
            nats.kill()

            async def away() -> bool:
                return not stage.bus.is_connected

            await until(away)
            refused = await owner.delete("/agents/a")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert (await owner.delete("/agents/b/keys", params={"fingerprint": key})).status_code == 503
            assert (await owner.get("/agents/a")).status_code == 404
            nats.start()

            async def told() -> bool:
                return len(stage.revoked) >= 2

            await until(told)
            assert {(event.reason, event.agent_id, event.fingerprint) for event in stage.revoked} == {
                ("agent_deleted", "a", None),
                ("key_revoked", "b", key),
            }

            async def finished() -> bool:
                return not await stage.store.pending.all()

            await until(finished)
            assert await stage.rows_with("'agent_id': 'a'") == []
            keys = (await call(stage.bus, GET_AGENT, GetAgent(tenant_id, "b"))).keys
            assert key not in [known.fingerprint for known in keys]


@pytest.mark.parametrize("change", ["member row", "no member row", "agent", "channel", "tenant"])
async def test_change_that_was_not_told_is_told(stage: Stage, change: str) -> None:
    """A process that dies between writing and telling leaves no gateway with what was true before."""
    tenant_id = await _furnish(stage)
    assert await stage.store.pending.all() == []
    await stage.replica.crash()
    store = stage.store
    match change:
        case "member row":
            await store.grants.put(
                tenant_id, "c0", "a1", role="publisher", auto_subscribe=False, now=LONG_AGO
            )
            kind, id = "grants", "a1"
        case "no member row":
            assert await store.grants.delete(tenant_id, "c0", "a1", LONG_AGO)
            kind, id = "grants", "a1"
        case "agent":
            await store.agents.update(tenant_id, "a1", {"name": "new"}, LONG_AGO)
            kind, id = "agent", "a1"
        case "channel":
            await store.channels.update(tenant_id, "c0", {"access": "members"}, LONG_AGO)
            kind, id = "channel", "c0"
        case _:
            seen = await store.tenants.require_active(tenant_id)
            assert await store.tenants.update(seen, {"plan": "pro"}, LONG_AGO)
            kind, id = "tenant", tenant_id
    stage.changed.clear()
    await stage.start_replica()

    async def told() -> bool:
        return any((event.kind, event.id, event.action) == (kind, id, "updated") for event in stage.changed)

    await until(told)

    async def done() -> bool:
        return not await stage.store.pending.all()

    await until(done)


async def test_work_that_was_begun_again_is_not_forgotten(stage: Stage) -> None:
    """Who finishes a piece of work removes what they found, not what was begun since."""
    await stage.replica.crash()
    work = [Work(kind="grants", tenant_id="t", id="a", started_at=rfc3339(4e9 + n)) for n in range(2)]
    await stage.dynamo.transact([stage.store.pending.put_op(work[0])])
    await stage.dynamo.transact([stage.store.pending.put_op(work[1])])
    await stage.store.pending.done(work[0])
    assert await stage.store.pending.all() == [work[1]]
    await stage.store.pending.done(work[1])
    await stage.store.pending.done(work[1])
    assert await stage.store.pending.all() == []
