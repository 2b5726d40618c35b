"""Stores and buses that go away: what is said meanwhile, and that everything comes back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from artcafe_common.clock import rfc3339
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.contracts.registry import (
    GET_AGENT,
    GET_MEMBERSHIPS,
    GET_TENANT,
    GetAgent,
    GetMemberships,
    GetTenant,
)
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_devstack.servers import AwsEndpoint, RunningServer, aws_emulator, nats_server

from .support import DEADLINE_SECONDS, Stage, staged, until


@pytest.fixture
async def own_store(
    tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Stage, RunningServer]]:
    """Run a registry on a store of the test's own, which it may kill."""
    with aws_emulator(tmp_path / "aws") as server:
        for name, value in AwsEndpoint(server.url).environment().items():
            monkeypatch.setenv(name, value)
        async with staged(nats_url) as stage:
            yield stage, server


async def _ready(stage: Stage) -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.get(f"{stage.replica.url}/ready")


async def test_store_that_is_away_is_unavailable_and_never_missing(
    own_store: tuple[Stage, RunningServer],
) -> None:
    """Without the store all is 503 with a hint, nothing 404 or 403; with it everything is as it was."""
    stage, server = own_store
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await owner.post("/channels", json={"name": "c"})
    fresh = await stage.start_replica()
    unseen = stage.client(tenant_id, replica=fresh)
    server.kill()
    answers = await asyncio.gather(
        owner.post("/agents", json={"name": "b", "agent_id": "b"}),
        owner.get("/agents"),
        owner.get("/channels/unread"),
        owner.put("/agents/a", json={"name": "x"}),
        owner.delete("/agents/a"),
        unseen.get("/agents/a"),
        unseen.get("/tenants"),
        unseen.post("/tenants", json={"name": "x"}),
        stage.client("stranger").get("/agents"),
    )
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["code"] == "unavailable"
    refusals = await asyncio.gather(
        call(stage.bus, GET_TENANT, GetTenant("t-unread"), timeout=15),
        call(stage.bus, GET_AGENT, GetAgent("t-unread", "a"), timeout=15),
        call(stage.bus, GET_MEMBERSHIPS, GetMemberships("unread"), timeout=15),
        return_exceptions=True,
    )
    for refusal in refusals:
        assert isinstance(refusal, ServiceError)
        assert refusal.code in (ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED)

    async def nothing_else_is_missing() -> bool:
        not_ready = await _ready(stage)
        assert not_ready.status_code == 503
        return [d["name"] for d in not_ready.json()["dependencies"] if d["status"] == "down"] == ["dynamodb"]

    await until(nothing_else_is_missing)
    server.start()

    async def back() -> bool:
        return (await _ready(stage)).status_code == 200

    await until(back)
    assert (await unseen.get("/agents/a")).status_code == 200
    assert (await owner.get("/agents/b")).status_code == 404
    assert (await call(stage.bus, GET_AGENT, GetAgent(tenant_id, "a"))).name == "a"


async def test_bus_that_is_away_makes_the_registry_unready(
    tmp_path: Path, aws_environment: AwsEndpoint
) -> None:
    """Without NATS the registry is not ready but still reads and writes; publishing is 503; it comes back."""
    with nats_server(tmp_path / "nats") as nats:
        async with staged(nats.url) as stage:
            tenant_id, owner = await stage.owner()
            await owner.post("/channels", json={"name": "c"})
            nats.kill()

            async def away() -> bool:
                return (await _ready(stage)).status_code == 503

            await until(away)
            assert (await owner.post("/agents", json={"name": "a", "agent_id": "a"})).status_code == 201
            assert (await owner.get("/agents/a")).status_code == 200
            key = {"Idempotency-Key": "k"}
            refused = await owner.post("/channels/c/messages", json={}, headers=key)
            assert refused.status_code == 503
            nats.start()

            async def back() -> bool:
                return (await _ready(stage)).status_code == 200

            await until(back)

            async def served() -> bool:
                try:
                    return (await call(stage.bus, GET_AGENT, GetAgent(tenant_id, "a"))).name == "a"
                except ServiceError:
                    return False

            await until(served)

            async def published() -> bool:
                answer = await owner.post("/channels/c/messages", json={}, headers=key)
                return answer.status_code == 200

            await until(published)


async def test_caches_are_not_believed_while_the_bus_is_away(
    tmp_path: Path, aws_environment: AwsEndpoint
) -> None:
    """A replica that cannot hear of changes reads everything anew, and so sees what others changed."""
    with nats_server(tmp_path / "nats") as nats:
        async with staged(nats.url) as stage:
            tenant_id, owner = await stage.owner()
            await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": "v", "role": "viewer"})
            viewer = stage.client("v")
            assert (await viewer.get("/agents")).status_code == 200
            nats.kill()

            async def away() -> bool:
                return (await _ready(stage)).status_code == 503

            await until(away)
            assert (await viewer.get("/agents")).status_code == 200
            member = await stage.store.members.get(tenant_id, "v")
            assert member is not None
            # As another replica would, without this one being told.
            await stage.store.members.remove(member)
            assert (await viewer.get("/agents")).status_code == 403


async def test_replicas_forget_what_another_one_changed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change on one replica is soon seen on the other, though what that has cached would never expire."""
    for name in ("TENANT", "AGENT", "CHANNEL"):
        monkeypatch.setattr(f"artcafe_registry.directory.{name}_SECONDS", 3600.0)
    tenant_id = await stage.tenant()
    one, two = await stage.start_replica(), await stage.start_replica()
    here, there = stage.client(tenant_id, replica=one), stage.client(tenant_id, replica=two)
    await here.post("/agents", json={"name": "0", "agent_id": "a"})
    await here.post("/channels", json={"name": "0", "channel_id": "c"})
    for number in range(1, 20):
        writer, reader = (here, there) if number % 2 else (there, here)
        for path in ("/agents/a", "/channels/c", f"/tenants/{tenant_id}"):
            assert (await reader.get(path)).status_code == 200
            assert (await writer.put(path, json={"name": str(number)})).status_code == 200
            await _named(reader, path, str(number))


async def _named(reader: httpx.AsyncClient, path: str, name: str) -> None:
    async def seen() -> bool:
        return bool((await reader.get(path)).json()["name"] == name)

    await until(seen)


async def test_a_client_may_ask_for_what_is_stored_now(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `Cache-Control: no-cache` a replica that was told of nothing answers with the newest."""
    for name in ("TENANT", "PERSON", "AGENT", "CHANNEL"):
        monkeypatch.setattr(f"artcafe_registry.directory.{name}_SECONDS", 3600.0)
    tenant_id = await stage.tenant()
    owner = stage.client(tenant_id, replica=await stage.start_replica())
    await owner.post("/agents", json={"name": "old", "agent_id": "a"})
    await owner.post("/channels", json={"name": "old", "channel_id": "c"})

    async def names(**headers: str) -> list[list[str]]:
        agent = (await owner.get("/agents/a", headers=headers)).json()
        channel = (await owner.get("/channels/c", headers=headers)).json()
        tenants = (await owner.get("/tenants", headers=headers)).json()["tenants"]
        return [[agent["name"]], [channel["name"]], sorted(tenant["name"] for tenant in tenants)]

    before = [["old"], ["old"], ["Test"]]
    assert await names() == before
    # As another replica would, without this one being told, nor finding it left behind.
    now = rfc3339(time.time() + 3600)
    await stage.store.agents.update(tenant_id, "a", {"name": "new"}, now)
    await stage.store.channels.update(tenant_id, "c", {"name": "new"}, now)
    await stage.tenant(owner=tenant_id)
    assert await names() == before
    assert await names(**{"Cache-Control": "max-age=0, no-cache"}) == [["new"], ["new"], ["Test", "Test"]]


async def test_health_is_told_over_nats(stage: Stage) -> None:
    """The suite's health page learns of the registry and what it depends on."""

    async def told() -> Health | None:
        # A check that takes more than a moment is one that failed.
        health = await call(stage.bus, health_endpoint("registry"), GetHealth(), timeout=DEADLINE_SECONDS)
        return health if health.status == "up" else None

    health = await until(told)
    assert health.service == "registry"
    assert {d.name for d in health.dependencies} == {"nats", "dynamodb"}
