"""The whole embedded stack, and what a test needs to act as the people and agents of its tenants."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from artcafe_agent import Client
from artcafe_agent.keys import AgentKey
from artcafe_devstack.devstack import DevStack
from artcafe_devstack.process import inherited_environment

from .outside import Outside, outside_target

PATIENCE_SECONDS = 60.0


def new_id(prefix: str) -> str:
    """Return an id that no other test uses."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass
class Person:
    """Somebody who has signed in."""

    user_id: str
    email: str
    token: str
    api: httpx.AsyncClient

    async def call(
        self, method: str, path: str, tenant_id: str | None = None, **options: Any
    ) -> httpx.Response:
        """Send one REST request as this person."""
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        if tenant_id is not None:
            headers["X-Tenant-Id"] = tenant_id
        return await self.api.request(method, f"/api/v1{path}", headers=headers, **options)


class Socket:
    """A bare WebSocket that speaks JSON."""

    def __init__(self, raw: ClientConnection) -> None:
        self.raw = raw

    async def send(self, **frame: Any) -> None:
        """Send one frame."""
        await self.raw.send(json.dumps(frame))

    async def receive(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Return the next frame."""
        async with asyncio.timeout(seconds):
            frame: dict[str, Any] = json.loads(await self.raw.recv())
            return frame

    async def until(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the first frame of a type with these fields, passing over others."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                frame = await self.receive()
                if frame["type"] == type and all(frame.get(n) == v for n, v in fields.items()):
                    return frame

    async def nothing(self) -> None:
        """Check that nothing waits: the answer to a ping is the next frame."""
        await self.send(type="ping", id="nothing")
        frame = await self.receive()
        assert frame["type"] == "pong", frame

    async def closed(self) -> int:
        """Read until the end and return the close code."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionClosed):
                while True:
                    await self.raw.recv()
        assert self.raw.close_code is not None
        return self.raw.close_code


class TestedStack(DevStack):
    """The embedded stack, with what tests from outside need of any platform."""

    __test__ = False

    def socket_url(self, gateway: str | None) -> str:
        """Return where sockets are opened: at one gateway, or at the edge."""
        return self.urls[gateway]["ws"] if gateway else self.base_url.replace("http", "ws", 1)

    def add_user(self, email: str, password: str) -> None:
        """Add somebody to the local issuer."""
        subprocess.run(
            [sys.executable, "-m", "artcafe_auth", "add-user", "--email", email, "--password-stdin"],
            env={**inherited_environment(), **self.environment("auth")},
            input=f"{password}\n",
            text=True,
            check=True,
            capture_output=True,
        )


@dataclass
class Tenant:
    """A tenant with its owner."""

    tenant_id: str
    owner: Person
    stack: TestedStack | Outside
    clients: AsyncExitStack
    keys: dict[str, AgentKey] = field(default_factory=dict)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one REST request as the owner, in this tenant."""
        return await self.owner.call(method, path, self.tenant_id, **options)

    async def create_agent(self, agent_id: str | None = None, key_type: str = "ed25519") -> str:
        """Register an agent with a new key and return its id."""
        agent_id = agent_id or new_id("agent")
        key = AgentKey.generate(key_type)  # type: ignore[arg-type]
        body = {"agent_id": agent_id, "name": agent_id, "public_key": key.public_key}
        answer = await self.call("POST", "/agents", json=body)
        assert answer.status_code == 201, answer.text
        self.keys[agent_id] = key
        return agent_id

    async def connect(self, agent_id: str, **options: Any) -> Client:
        """Connect an agent with the SDK, through the edge; it is closed when the test ends."""
        client = Client(
            base_url=self.stack.base_url,
            tenant_id=self.tenant_id,
            agent_id=agent_id,
            private_key=self.keys[agent_id],
            **options,
        )
        await self.clients.enter_async_context(client)
        return client

    async def challenge(self, agent_id: str) -> tuple[str, str]:
        """Ask for a challenge and return it with its signature."""
        body = {"tenant_id": self.tenant_id, "agent_id": agent_id}
        answer = await self.owner.api.post("/api/v1/auth/agent/challenge", json=body)
        assert answer.status_code == 200, answer.text
        challenge = answer.json()["challenge"]
        return challenge, self.keys[agent_id].sign(challenge)

    async def socket(self, agent_id: str, gateway: str | None = None) -> Socket:
        """Connect an agent with a bare WebSocket, through the edge or to one gateway."""
        challenge, signature = await self.challenge(agent_id)
        query = urlencode({"challenge": challenge, "signature": signature})
        socket = await self.open(f"/ws/agent/{agent_id}?{query}", gateway)
        await socket.until("welcome")
        return socket

    async def open(self, path: str, gateway: str | None = None, **options: Any) -> Socket:
        """Open a bare WebSocket at a path."""
        base = self.stack.socket_url(gateway)
        return Socket(await self.clients.enter_async_context(connect(f"{base}{path}", **options)))

    async def dashboard(self, person: Person | None = None, gateway: str | None = None) -> Socket:
        """Connect a person's dashboard, by default the owner's."""
        token = (person or self.owner).token
        socket = await self.open(f"/ws/dashboard?tenant_id={self.tenant_id}&token={token}", gateway)
        await socket.until("connected", tenant_id=self.tenant_id)
        return socket

    async def agent(self, key_type: str = "ed25519", **options: Any) -> Client:
        """Register an agent and connect it."""
        return await self.connect(await self.create_agent(key_type=key_type), **options)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestedStack | Outside]:
    """Run the embedded stack with two gateways, or take the platform that the environment names."""
    for target in outside_target():
        yield target
        return
    # All tests come from one address and ask for more than one address is given otherwise.
    rates = {"AUTH_ADDRESS_RATE": "0", "AUTH_AGENT_RATE": "0", "AUTH_LOGIN_RATE": "0"}
    quick = {
        "GATEWAY_LEASE_TIMEOUT": "6",
        "GATEWAY_SWEEP_INTERVAL": "2",
        # Bare sockets send none: they are not given up while a test is slow.
        "GATEWAY_HEARTBEAT_TIMEOUT": "120",
        "GATEWAY_HEARTBEAT_INTERVAL": "2",
        "GATEWAY_DRAIN_SECONDS": "0.5",
    }
    settings = {"auth": rates, "gateway": quick}
    running = TestedStack(tmp_path_factory.mktemp("stack"), gateways=2, env=settings)
    with running:
        yield running
    assert running.forced == [], "these processes did not end by themselves"


@pytest.fixture
async def api(stack: TestedStack | Outside) -> AsyncIterator[httpx.AsyncClient]:
    """Give an HTTP client at the edge."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30.0) as client:
        yield client


@pytest.fixture(autouse=True)
def _one_day(one_day: None) -> None:
    """Have each test count and ask on the same day."""


@pytest.fixture(scope="session")
def admin_tokens() -> dict[str, str]:
    """Keep the administrator's token for the run."""
    return {}


@pytest.fixture
async def admin(stack: TestedStack | Outside, api: httpx.AsyncClient, admin_tokens: dict[str, str]) -> Person:
    """Act as the platform's administrator, who signs in once."""
    email = stack.demo["email"]
    if email not in admin_tokens:
        admin_tokens[email] = (await _sign_in(api, email, stack.demo["password"])).token
    return _person(api, email, admin_tokens[email])


@pytest.fixture
def new_person(stack: TestedStack | Outside, api: httpx.AsyncClient) -> Callable[[], Awaitable[Person]]:
    """Give a function that makes somebody who can sign in and belongs to no tenant."""

    async def make() -> Person:
        email, password = f"{new_id('p')}@example.test", secrets.token_urlsafe(16)
        await asyncio.to_thread(stack.add_user, email, password)
        return await _sign_in(api, email, password)

    return make


@pytest.fixture
async def new_tenant(
    stack: TestedStack | Outside, admin: Person, new_person: Callable[[], Awaitable[Person]]
) -> AsyncIterator[Callable[..., Awaitable[Tenant]]]:
    """Give a function that makes a tenant with an owner of its own."""
    async with AsyncExitStack() as clients:

        async def make(**fields: Any) -> Tenant:
            owner = await new_person()
            body = {
                "name": "Test",
                "tenant_id": new_id("tenant"),
                "plan": "enterprise",
                "owner_user_id": owner.user_id,
                "auto_create_channels": True,
                **fields,
            }
            answer = await admin.call("POST", "/tenants", json=body)
            assert answer.status_code == 201, answer.text
            return Tenant(body["tenant_id"], owner, stack, clients)

        yield make


@pytest.fixture
async def tenant(new_tenant: Callable[..., Awaitable[Tenant]]) -> Tenant:
    """Make a tenant without limits."""
    return await new_tenant()


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until a check returns something true, and return that; its last failure is shown at the end."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := await check():
                return result
            problem: BaseException | None = None
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} seconds") from problem
        await asyncio.sleep(0.1)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Awaitable[Any]]:
    """Give `eventually` to tests."""
    return eventually


async def _sign_in(api: httpx.AsyncClient, email: str, password: str) -> Person:
    async def answered() -> httpx.Response | None:
        answer = await api.post("/api/v1/auth/login", json={"email": email, "password": password})
        # All people come from one address; a platform as it is delivered holds that back.
        return None if answer.status_code == 429 else answer

    answer = await eventually(answered, 2 * PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    return _person(api, email, answer.json()["access_token"])


def _person(api: httpx.AsyncClient, email: str, token: str) -> Person:
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Person(claims["sub"], email, token, api)
