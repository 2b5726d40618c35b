"""The platform in containers, and what a test needs to act as its people and agents."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from artcafe_agent import Client, ReconnectPolicy
from artcafe_agent.errors import ArtcafeError
from artcafe_agent.keys import AgentKey

from .deployment import Deployment, reporter
from .engine import NoEngine, engine_environment

OPERATOR = "operator@example.test"
PATIENCE_SECONDS = 90.0
REQUEST_SECONDS = 30.0


@dataclass
class Tenant:
    """A tenant, seen by the operator who owns it."""

    tenant_id: str
    deployment: Deployment
    api: httpx.AsyncClient
    clients: AsyncExitStack

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one REST request in this tenant."""
        headers = {"X-Tenant-Id": self.tenant_id}
        return await self.api.request(method, f"/api/v1{path}", headers=headers, **options)

    async def agent(self, name: str, *, secure: bool = False) -> Client:
        """Register an agent and connect it through the edge."""
        key = AgentKey.generate("ed25519")
        body = {"agent_id": name, "name": name, "public_key": key.public_key}
        answer = await self.call("POST", "/agents", json=body)
        assert answer.status_code == 201, answer.text
        client = Client(
            base_url=self.deployment.https if secure else self.deployment.http,
            tls=self.deployment.tls() if secure else None,
            tenant_id=self.tenant_id,
            agent_id=name,
            private_key=key,
            # Tests take containers away, and for a moment the edge may still know their addresses.
            reconnect=ReconnectPolicy(startup_patience=PATIENCE_SECONDS),
        )
        return await self.clients.enter_async_context(client)

    async def messages(self) -> int | None:
        """Return how many messages were counted, None where metering does not answer."""
        answer = await self.call("GET", "/usage/current")
        return int(answer.json()["usage"]["messages"]) if answer.status_code == 200 else None


@pytest.fixture(scope="session")
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Run the repository's compose.yaml; without an engine this fails."""
    report = reporter()
    try:
        engine = engine_environment(report)
    except NoEngine as error:
        pytest.fail(str(error), pytrace=False)
    running = Deployment(engine, tmp_path_factory.mktemp("containers"), report)
    try:
        running.start()
        yield running
        if request.session.testsfailed:
            print(running.logs())
    finally:
        running.close()


@pytest.fixture(scope="session")
def operator(deployment: Deployment) -> str:
    """Make the first person and the first tenant by the services' commands; return the person's password."""
    deployment.report("making the first tenant")
    password = secrets.token_urlsafe(16)
    run = ("run", "--rm", "--no-TTY")
    command = (*run, "auth", "add-user", "--email", OPERATOR, "--password-stdin")
    user = json.loads(deployment.compose(*command, text=f"{password}\n").splitlines()[-1])
    first = ("--tenant-id", "first", "--tenant-name", "First", "--owner-user-id", user["user_id"])
    deployment.compose(*run, "registry", "bootstrap", *first, "--platform-admin")
    return password


@pytest.fixture
async def tenant(
    deployment: Deployment, operator: str, one_day: None, request: pytest.FixtureRequest
) -> AsyncIterator[Tenant]:
    """Make a tenant for one test, over TLS, and close its agents at the end."""
    deployment.report(f"{request.node.name} ")
    async with (
        httpx.AsyncClient(base_url=deployment.https, verify=deployment.tls(), timeout=REQUEST_SECONDS) as api,
        AsyncExitStack() as clients,
    ):
        answer = await api.post("/api/v1/auth/login", json={"email": OPERATOR, "password": operator})
        assert answer.status_code == 200, answer.text
        api.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        tenant_id = f"t-{secrets.token_hex(4)}"
        body = {"name": "Test", "tenant_id": tenant_id, "plan": "enterprise", "auto_create_channels": True}
        answer = await api.post("/api/v1/tenants", json=body)
        assert answer.status_code == 201, answer.text
        yield Tenant(tenant_id, deployment, api, clients)


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until a check returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := await check():
                return result
            problem: BaseException | None = None
        except (AssertionError, TimeoutError, ArtcafeError, httpx.HTTPError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} seconds") from problem
        await asyncio.sleep(0.2)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Awaitable[Any]]:
    """Give `eventually` to tests."""
    return eventually
