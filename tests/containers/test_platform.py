"""The platform works in containers, and goes on working while they are scaled, crash and are upgraded."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from artcafe_agent import Client
from artcafe_agent.errors import ArtcafeError, OutcomeUnknown

from .conftest import PATIENCE_SECONDS
from .deployment import SERVICES, Deployment


async def _talk(writer: Client, reader: Any, seconds: float = 3) -> bool:
    """Publish and tell whether it was heard."""
    word = secrets.token_hex(4)
    try:
        await writer.publish("room", word, timeout=seconds)
        while (await reader.get(timeout=seconds)).data != word:
            pass
    except (ArtcafeError, TimeoutError):
        return False
    return True


class Publisher:
    """An agent that publishes all the time, and knows what it was told."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.accepted = 0
        self.unknown = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until told to stop."""
        while not stop.is_set():
            try:
                await self._client.publish("room", self.accepted, timeout=10)
                self.accepted += 1
            except OutcomeUnknown:
                self.unknown += 1
            except ArtcafeError:
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.02)


async def test_agents_talk_with_and_without_tls_and_are_counted(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """Two agents hear each other through both ports of the edge, REST knows them, and usage is exact."""
    alice, bob = await tenant.agent("alice", secure=True), await tenant.agent("bob")
    to_bob, to_alice = await bob.subscribe("to.bob"), await alice.subscribe("to.alice")
    for number in range(20):
        await alice.publish("to.bob", number)
        await bob.publish("to.alice", -number)
    assert [(await to_bob.get(timeout=30)).data for _ in range(20)] == list(range(20))
    assert [(await to_alice.get(timeout=30)).data for _ in range(20)] == [-n for n in range(20)]

    async def both_are_online() -> bool:
        agents = (await tenant.call("GET", "/agents")).json()["agents"]
        return sorted(a["agent_id"] for a in agents if a["status"] == "online") == ["alice", "bob"]

    await eventually(both_are_online)

    async def all_are_counted() -> bool:
        return bool(await tenant.messages() == 40)

    await eventually(all_are_counted)
    async with httpx.AsyncClient(base_url=deployment.http, timeout=30) as api:

        async def all_are_well() -> bool:
            health = await api.get("/health")
            assert set(health.json()["services"]) == {"gateway", *SERVICES} - {"gateway-ws"}
            return health.status_code == 200

        await eventually(all_are_well)
        for inside in ("/metrics", "/ready"):
            assert (await api.get(inside)).status_code == 404


async def test_gateways_share_the_agents_and_one_may_crash(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """The edge finds new gateways by itself; when one crashes its agents are back and it is started again."""
    deployment.report("three gateways")
    await asyncio.to_thread(deployment.up, "--no-recreate", "--scale", "gateway-ws=3")
    names = {each["Config"]["Hostname"]: each["Id"] for each in deployment.containers("gateway-ws")}
    assert len(names) == 3
    clients: list[Client] = []

    async def all_have_agents() -> bool:
        clients.append(await tenant.agent(f"agent-{len(clients)}"))
        return {client.traffic.server_id for client in clients} == set(names)

    await eventually(all_have_agents)
    # The least busy come first: enough for all to be level, wherever the first went, and one more each.
    more = 2 * len(clients) + 3
    for _ in range(more):
        clients.append(await tenant.agent(f"agent-{len(clients)}"))
    late = [client.traffic.server_id for client in clients[-more:]]
    assert all(late.count(name) >= 1 for name in names), late

    reader, writer = (
        clients[-1],
        next(c for c in clients if c.traffic.server_id != clients[-1].traffic.server_id),
    )
    heard = await reader.subscribe("room")
    assert await _talk(writer, heard, 30), "no message passes from one gateway to another"
    deployment.report("one gateway crashes")
    crashed = names[reader.traffic.server_id]
    await asyncio.to_thread(deployment.crash, crashed)
    await eventually(lambda: _talk(writer, heard))
    assert reader.reconnects >= 1

    async def is_back() -> bool:
        found = await asyncio.to_thread(deployment.containers, "gateway-ws")
        return any(c["Id"] == crashed and c["State"]["Health"]["Status"] == "healthy" for c in found)

    await eventually(is_back)
    await asyncio.to_thread(deployment.up, "--no-recreate", "--scale", "gateway-ws=1")


async def test_nothing_is_lost_when_nats_and_valkey_are_killed(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """After SIGKILL of both, agents talk again, and all that was ever accepted is counted once."""
    alice, bob = await tenant.agent("alice"), await tenant.agent("bob")
    heard = await bob.subscribe("room")
    publisher, stop = Publisher(alice), asyncio.Event()
    publishing = asyncio.create_task(publisher.run(stop))

    async def accepted(number: int) -> bool:
        return publisher.accepted >= number

    await eventually(lambda: accepted(50))
    deployment.report("nats and valkey are killed")
    await asyncio.to_thread(deployment.compose, "kill", "nats", "valkey")
    await asyncio.to_thread(deployment.up)
    before = publisher.accepted
    await eventually(lambda: accepted(before + 50))
    stop.set()
    await publishing
    assert (await heard.get(timeout=30)).data is not None
    await _is_counted(tenant, publisher, eventually)


async def test_usage_is_backed_up_restored_and_exported(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """After a restore nothing is missing, what came after the backup neither, and an export says the same."""
    alice = await tenant.agent("alice")
    for number in range(10):
        await alice.publish("room", number)

    async def counted(number: int) -> bool:
        return bool(await tenant.messages() == number)

    await eventually(lambda: counted(10))
    metering = ("exec", "--no-TTY", "metering", "python", "-m", "artcafe_metering")
    await asyncio.to_thread(deployment.compose, *metering, "backup")
    for number in range(5):
        await alice.publish("room", number)
    await eventually(lambda: counted(15))
    await asyncio.to_thread(deployment.compose, *metering, "restore", "--force")
    await eventually(lambda: counted(15))
    today = datetime.now(UTC).date().isoformat()
    answer = await tenant.call(
        "GET", f"/usage/export?start_date={today}&end_date={today}&format=jsonl&group_by=channel"
    )
    assert answer.status_code == 200, answer.text
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["messages"] for row in rows if row.get("channel_id") == "room"] == [15], rows


async def test_services_are_upgraded_while_agents_talk(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """Every service is replaced by a newer image; agents stay or come back, and no usage is lost."""
    alice, bob = await tenant.agent("alice"), await tenant.agent("bob", secure=True)
    heard = await bob.subscribe("room")
    await asyncio.to_thread(deployment.build, revision="second")
    publisher, stop = Publisher(alice), asyncio.Event()
    publishing = asyncio.create_task(publisher.run(stop))
    for service in ("auth", "registry", "metering"):
        deployment.report(f"upgrading {service}")
        await asyncio.to_thread(deployment.up, service)
    assert alice.reconnects == bob.reconnects == 0, "these upgrades concern no connected agent"
    deployment.report("upgrading gateway-ws")
    await asyncio.to_thread(_upgrade_gateway, deployment)
    before = publisher.accepted
    await eventually(lambda: _heard_after(heard, before))
    stop.set()
    await publishing
    found = {each["Id"] for each in deployment.containers()}
    await asyncio.to_thread(deployment.up)
    assert {each["Id"] for each in deployment.containers()} == found, "something was still to be done"
    for service in SERVICES:
        labels = deployment.container(service)["Config"]["Labels"]
        assert labels["org.opencontainers.image.revision"] == "second", service
    await _is_counted(tenant, publisher, eventually)


def _upgrade_gateway(deployment: Deployment) -> None:
    """Put a new gateway beside the old one before that is stopped, as the runbook says."""
    old = deployment.container("gateway-ws")["Id"]
    deployment.up("--no-recreate", "--scale", "gateway-ws=2", "gateway-ws")
    deployment.docker("stop", old)
    (state,) = deployment.docker("inspect", "--format", "{{.State.ExitCode}}", old).split()
    assert state == "0", "the gateway did not end by itself"
    deployment.docker("rm", old)


async def _heard_after(heard: Any, number: int) -> bool:
    return bool((await heard.get(timeout=10)).data > number)


async def _is_counted(tenant: Any, publisher: Publisher, eventually: Callable[..., Any]) -> None:
    """Check that usage is what was accepted, give or take those messages of which nobody knows."""

    async def enough() -> bool:
        return (await tenant.messages() or 0) >= publisher.accepted

    await eventually(enough)
    # Whatever would be counted twice would be by now.
    await asyncio.sleep(3)
    counted = await eventually(tenant.messages)
    assert publisher.accepted <= counted <= publisher.accepted + publisher.unknown


async def test_services_stop_cleanly_and_in_time(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """On SIGTERM each service ends by itself, well within its grace, also with an agent connected."""
    alice = await tenant.agent("alice")
    found = {name: deployment.container(name)["Id"] for name in SERVICES}
    await asyncio.to_thread(deployment.compose, "stop", *SERVICES)
    for name, identity in found.items():
        code = deployment.docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", identity)
        assert code.split() == ["0", "false"], name
    await asyncio.to_thread(deployment.up)
    heard = await alice.subscribe("room", timeout=PATIENCE_SECONDS)
    await eventually(lambda: _talk(alice, heard))
