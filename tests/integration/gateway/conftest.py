"""A real gateway on real NATS and a real store, with the two services it asks played by the test.

Registry and auth answer here from dictionaries, over NATS and by their contracts, so that a test can say what
exists, take it away, or let a service fall silent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect

from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import (
    GET_JWKS,
    VERIFY_AGENT,
    GetJwks,
    IssuerKeys,
    Jwks,
    VerifiedAgent,
    VerifyAgent,
)
from artcafe_common.contracts.registry import (
    CHANGED,
    GET_AGENT,
    GET_GRANTS,
    GET_MEMBERSHIPS,
    GET_TENANT,
    LIST_AGENT_STATUS,
    RESOLVE_CHANNEL,
    AgentInfo,
    AgentKey,
    AgentStatusPage,
    Changed,
    ChannelInfo,
    GetAgent,
    GetGrants,
    GetMemberships,
    GetTenant,
    Grant,
    Grants,
    Limits,
    ListAgentStatus,
    Membership,
    Memberships,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.rpc import announce, serve
from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import AwsEndpoint
from artcafe_gateway.config import GatewayConfig
from artcafe_gateway.worker import run_worker

ISSUER = "https://issuer.test"
PATIENCE_SECONDS = 10.0


@dataclass
class World:
    """What registry and auth say in a test: change it, then `changed` announces it."""

    bus: Bus
    tenants: dict[str, TenantInfo] = field(default_factory=dict)
    channels: dict[tuple[str, str], ChannelInfo] = field(default_factory=dict)
    grants: dict[tuple[str, str], list[Grant]] = field(default_factory=dict)
    memberships: dict[str, list[Membership]] = field(default_factory=dict)
    revoked_keys: set[str] = field(default_factory=set)
    unavailable: bool = False
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def tenant(self, tenant_id: str, **changes: Any) -> None:
        """Add a tenant without limits."""
        fields: dict[str, Any] = {
            "name": tenant_id,
            "status": "active",
            "plan": "enterprise",
            "limits": Limits(),
            "auto_create_channels": True,
        }
        self.tenants[tenant_id] = TenantInfo(tenant_id=tenant_id, **(fields | changes))

    def channel(self, tenant_id: str, channel_id: str, **changes: Any) -> None:
        """Add a channel that is open to all agents of its tenant."""
        fields: dict[str, Any] = {"name": channel_id, "access": "open", "delivery": "live"}
        self.channels[tenant_id, channel_id] = ChannelInfo(channel_id=channel_id, **(fields | changes))

    def changed(self, tenant_id: str, kind: str, id: str, action: str = "updated") -> None:
        """Announce a change as registry does."""
        event = Changed(tenant_id=tenant_id, kind=kind, id=id, action=action)
        announce(self.bus, CHANGED, event, tenant_id=tenant_id, kind=kind, id=id)

    def token(self, user_id: str, expires_in: float = 3600.0, **claims: Any) -> str:
        """Return a token for a person."""
        import time

        payload = {"iss": ISSUER, "sub": user_id, "aud": "artcafe", "exp": time.time() + expires_in} | claims
        return jwt.encode(payload, self.key, algorithm="EdDSA", headers={"kid": "k1"})

    async def verify(self, request: VerifyAgent) -> VerifiedAgent:
        """Accept the signature ``good``; the challenge names the tenant."""
        self._check()
        if request.signature != "good" or request.challenge not in self.tenants:
            raise ServiceError(ErrorCode.UNAUTHENTICATED, "the proof does not hold")
        return VerifiedAgent(
            tenant_id=request.challenge, agent_id=request.agent_id, fingerprint=f"SHA256:{request.agent_id}"
        )

    async def jwks(self, _: GetJwks) -> Jwks:
        """Return the one issuer of people's tokens."""
        key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key()))
        issuer = IssuerKeys(
            issuer=ISSUER, keys=[key | {"kid": "k1"}], audiences=["artcafe"], algorithms=["EdDSA"]
        )
        return Jwks(issuers=[issuer])

    async def get_tenant(self, request: GetTenant) -> TenantInfo:
        """Return a tenant."""
        self._check()
        if request.tenant_id not in self.tenants:
            raise not_found("tenant")
        return self.tenants[request.tenant_id]

    async def get_agent(self, request: GetAgent) -> AgentInfo:
        """Return any agent, with one key."""
        self._check()
        fingerprint = f"SHA256:{request.agent_id}"
        keys = [] if fingerprint in self.revoked_keys else [AgentKey(fingerprint=fingerprint, public_key="")]
        return AgentInfo(
            tenant_id=request.tenant_id,
            agent_id=request.agent_id,
            name=request.agent_id,
            tenant_status=self.tenants[request.tenant_id].status,
            keys=keys,
        )

    async def get_grants(self, request: GetGrants) -> Grants:
        """Return an agent's member rows."""
        self._check()
        return Grants(self.grants.get((request.tenant_id, request.agent_id), []))

    async def resolve(self, request: ResolveChannel) -> ChannelInfo:
        """Return a channel, created where the tenant allows it."""
        self._check()
        key = (request.tenant_id, request.channel_id)
        if key not in self.channels:
            if request.create_for is None or not self.tenants[request.tenant_id].auto_create_channels:
                raise not_found("channel")
            self.channel(*key)
        return self.channels[key]

    async def get_memberships(self, request: GetMemberships) -> Memberships:
        """Return a person's memberships."""
        self._check()
        return Memberships(user_id=request.user_id, memberships=self.memberships.get(request.user_id, []))

    async def list_status(self, request: ListAgentStatus) -> AgentStatusPage:
        """Return no agents: presence comes live."""
        return AgentStatusPage(agents=[])

    def _check(self) -> None:
        if self.unavailable:
            raise ServiceError(ErrorCode.UNAVAILABLE, "registry is unavailable, try again", retry_after=1.0)


class Client:
    """A socket that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **frame: Any) -> None:
        """Send one frame."""
        await self.socket.send(json.dumps(frame))

    async def receive(self, timeout: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Return the next frame."""
        async with asyncio.timeout(timeout):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
            return frame

    async def expect(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the next frame, which must be of a type and have these fields."""
        frame = await self.receive()
        assert frame["type"] == type, frame
        for name, value in fields.items():
            assert frame.get(name) == value, frame
        return frame

    async def until(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the first frame of a type with these fields, passing over others."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                frame = await self.receive()
                if frame["type"] == type and all(frame.get(n) == v for n, v in fields.items()):
                    return frame

    async def nothing(self) -> None:
        """Check that nothing has come: a ping's answer is the next frame."""
        await self.send(type="ping", id="nothing")
        await self.expect("pong", id="nothing")

    async def subscribe(self, *channels: str, **more: Any) -> None:
        """Subscribe and wait for each confirmation."""
        await self.send(type="subscribe", channels=list(channels), **more)
        for channel in channels:
            await self.expect("subscribed", channel=channel)

    async def closed(self) -> tuple[int, str]:
        """Wait for the end and return the close code and reason."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


@dataclass
class Harness:
    """One gateway of the test, and how to reach it."""

    world: World
    http_url: str
    ws_url: str
    stop: asyncio.Event
    task: asyncio.Task[None]
    stack: AsyncExitStack

    async def open(self, path: str, **options: Any) -> Client:
        """Open a socket at a path."""
        socket = await self.stack.enter_async_context(
            connect(f"{self.ws_url}{path}", ping_interval=None, max_size=None, **options)
        )
        return Client(socket)

    async def agent(self, agent_id: str, tenant_id: str = "t1") -> Client:
        """Connect an agent and read its welcome."""
        client = await self.open(f"/ws/agent/{agent_id}?challenge={tenant_id}&signature=good")
        await client.expect("welcome", agent_id=agent_id, tenant_id=tenant_id)
        return client

    async def dashboard(self, user_id: str, tenant_id: str = "t1", role: str = "owner") -> Client:
        """Connect a person with a role and read the greeting."""
        self.world.memberships.setdefault(user_id, []).append(Membership(tenant_id=tenant_id, role=role))
        client = await self.open(f"/ws/dashboard?token={self.world.token(user_id)}&tenant_id={tenant_id}")
        await client.expect("connected", tenant_id=tenant_id, user_id=user_id)
        return client


StartGateway = Callable[..., Any]


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    """Play registry and auth, with one tenant ``t1`` and another ``t2``."""
    bus = await Bus.open(nats_url, name="test world")
    played = World(bus)
    played.tenant("t1")
    played.tenant("t2")
    async with AsyncExitStack() as stack:
        for endpoint, handler in (
            (VERIFY_AGENT, played.verify),
            (GET_JWKS, played.jwks),
            (GET_TENANT, played.get_tenant),
            (GET_AGENT, played.get_agent),
            (GET_GRANTS, played.get_grants),
            (RESOLVE_CHANNEL, played.resolve),
            (GET_MEMBERSHIPS, played.get_memberships),
            (LIST_AGENT_STATUS, played.list_status),
        ):
            await stack.enter_async_context(serve(bus, endpoint, handler, queue="world"))  # type: ignore[arg-type]
        yield played
    await bus.close_gracefully()


@pytest.fixture
async def start_gateway(
    world: World, nats_url: str, aws_environment: AwsEndpoint
) -> AsyncIterator[StartGateway]:
    """Give a function that starts a gateway with other settings than the usual ones."""
    async with AsyncExitStack() as stack:

        async def start(name: str = "gateway-1", **settings: Any) -> Harness:
            return await stack.enter_async_context(
                _gateway(world, nats_url, aws_environment.url, name, settings)
            )

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Harness:
    """Start one gateway with the usual settings."""
    harness: Harness = await start_gateway()
    return harness


@asynccontextmanager
async def _gateway(
    world: World, nats_url: str, aws_url: str, name: str, settings: dict[str, Any]
) -> AsyncIterator[Harness]:
    config = GatewayConfig(
        **{
            "nats_url": nats_url,
            "environment": "development",
            "artcafe_server_id": name,
            "aws_endpoint_url": aws_url,
            "create_tables": True,
            "http_port": free_port(),
            "ws_port": free_port(),
            "drain_seconds": 0.2,
            **settings,
        }
    )
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(config, stop))
    async with AsyncExitStack() as stack:
        harness = Harness(
            world,
            f"http://127.0.0.1:{config.http_port}",
            f"ws://127.0.0.1:{config.ws_port}",
            stop,
            task,
            stack,
        )
        try:
            await _listening(config.ws_port, task)
            yield harness
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await task


async def _listening(port: int, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not task.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
    await task
