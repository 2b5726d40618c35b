"""The Kubernetes manifests' pods, run by this engine: NATS as three, everything else as on one machine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from artcafe_agent import Client, ReconnectPolicy
from artcafe_agent.keys import AgentKey

from ..kubernetes.manifests import SERVICES, Manifests, build, kubectl, make_secrets
from .conftest import PATIENCE_SECONDS
from .deployment import Deployment
from .pods import Pods

PERSON = "person@example.test"


@pytest.fixture(scope="module")
def manifests() -> dict[str, Manifests]:
    """Both overlays."""
    program = kubectl()
    if program is None:
        pytest.fail(
            "kubectl is missing: install it, or run the container kit's k8s-check.sh, which fetches it"
        )
    return {name: build(program, f"k8s/overlays/{name}") for name in ("local", "production")}


@pytest.fixture(scope="module")
def pods(
    deployment: Deployment, manifests: dict[str, Manifests], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """An engine for pods, with the images of this checkout."""
    folder = tmp_path_factory.mktemp("pods")
    local = manifests["local"]
    images = {
        local.pod(name).containers[0]["image"]: f"{deployment.project}/{name}:test" for name in SERVICES
    }
    with Pods(deployment, make_secrets(folder / "secrets"), folder, images) as running:
        yield running


async def test_the_manifests_pods_are_a_platform(
    deployment: Deployment, manifests: dict[str, Manifests], pods: Pods, eventually: Callable[..., Any]
) -> None:
    """They start with what they are given and allowed, carry messages, count them, and end in time."""
    local, production = manifests["local"], manifests["production"]
    settings = production.get("ConfigMap", "settings")["data"]
    three = {name: settings[name] for name in ("NATS_URL", "NATS_STREAM_REPLICAS")}

    deployment.report("pods: stores")
    nats = [pods.start(production, "nats", number) for number in range(3)]
    stores = [pods.start(local, name) for name in ("valkey", "ministack")]
    for known in (*nats, *stores):
        pods.wait(known)
    deployment.report("pods: tables")
    pods.complete(local, "tables", {})

    deployment.report("pods: services")
    started = {name: pods.start(local, name, environment=three) for name in SERVICES}
    edge = pods.start(local, "edge")
    for known in (*started.values(), edge):
        pods.wait(known)

    add = f"echo a-good-password | python -m artcafe_auth add-user --email {PERSON} --password-stdin"
    status, said = pods.execute(started["auth"], "sh", "-c", add)
    assert status == 0, said
    first = ("--tenant-id", "t1", "--tenant-name", "T", "--plan", "enterprise", "--auto-create-channels")
    owner = ("--owner-user-id", json.loads(said.splitlines()[-1])["user_id"])
    status, said = pods.execute(
        started["registry"], "python", "-m", "artcafe_registry", "bootstrap", *first, *owner
    )
    assert status == 0, said

    address = f"http://{pods.address(edge)}:8080"
    async with httpx.AsyncClient(base_url=address, timeout=30.0) as api, AsyncExitStack() as clients:
        body = {"email": PERSON, "password": "a-good-password"}
        answer = await api.post("/api/v1/auth/login", json=body)
        assert answer.status_code == 200, answer.text
        api.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

        async def agent(name: str) -> Client:
            key = AgentKey.generate("ed25519")
            body = {"agent_id": name, "name": name, "public_key": key.public_key}
            answer = await api.post("/api/v1/agents", json=body)
            assert answer.status_code == 201, answer.text
            return await clients.enter_async_context(
                Client(
                    base_url=address,
                    tenant_id="t1",
                    agent_id=name,
                    private_key=key,
                    reconnect=ReconnectPolicy(startup_patience=PATIENCE_SECONDS),
                )
            )

        deployment.report("pods: messages")
        alice, bob = await agent("alice"), await agent("bob")
        heard = await bob.subscribe("to.bob")
        for number in range(10):
            await alice.publish("to.bob", number)
        assert [(await heard.get(timeout=20)).data for _ in range(10)] == list(range(10))

        async def counted() -> bool:
            answer = await api.get("/api/v1/usage/current")
            return answer.status_code == 200 and answer.json()["usage"]["messages"] >= 10

        await eventually(counted)

        deployment.report("pods: a server of NATS leaves")
        assert pods.end(nats[0]) != 137
        marks = iter(range(1_000))

        async def passes() -> bool:
            mark = f"{secrets.token_hex(4)}-{next(marks)}"
            await alice.publish("to.bob", mark)
            while (await heard.get(timeout=5)).data != mark:
                pass
            return True

        await eventually(passes)

        deployment.report("pods: backup and restore")
        command = ("python", "-m", "artcafe_metering")
        status, said = pods.execute(started["metering"], *command, "backup")
        assert status == 0, said
        status, said = pods.execute(started["metering"], *command, "restore", "--force")
        assert status == 0 and "restored" in said, said
        await eventually(counted)

    deployment.report("pods: the doctor")
    # Between them they look at everything; each look is seconds of work.
    for name in ("gateway-ws", "metering"):
        status, said = pods.execute(started[name], "python", "-m", SERVICES[name][0], "doctor")
        assert status == 0, said

    deployment.report("pods: end")
    for name in SERVICES:
        assert pods.end(started[name]) == 0, name
    assert pods.end(edge) == 0
    for known in (*nats[1:], *stores):
        assert pods.end(known) != 137, known
