"""A real gateway on real NATS and a real store, with the two services it asks played by the test.

Registry and auth answer here from dictionaries, over NATS and by their contracts, so that a test can say what
exists, take it away, or let a service fall silent.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect

from artcafe_common import streams
from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import (
    GET_JWKS,
    REVOKED,
    VERIFY_AGENT,
    GetJwks,
    IssuerKeys,
    Jwks,
    Revoked,
    VerifiedAgent,
    VerifyAgent,
)
from artcafe_common.contracts.gateway import PRESENCE, Presence
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
    AgentStatus,
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
from artcafe_devstack.process import ManagedProcess, ProcessSpec
from artcafe_devstack.servers import AwsEndpoint, RunningServer, nats_server
from artcafe_gateway.config import GatewayConfig
from artcafe_gateway.worker import run_worker

ISSUER = "https://issuer.test"
OTHER_ISSUER = "https://login.acme.test"
PATIENCE_SECONDS = 30.0


@dataclass
class World:
    """What registry and auth say in a test: change it, then `changed` announces it."""

    bus: Bus
    tenants: dict[str, TenantInfo] = field(default_factory=dict)
    channels: dict[tuple[str, str], ChannelInfo] = field(default_factory=dict)
    grants: dict[tuple[str, str], list[Grant]] = field(default_factory=dict)
    memberships: dict[str, list[Membership]] = field(default_factory=dict)
    revoked_keys: set[str] = field(default_factory=set)
    statuses: list[AgentStatus] = field(default_factory=list)
    unavailable: bool = False
    # How often somebody was told so.
    refusals: int = 0
    # Awaited before an agent's rows are told; set once somebody asked for them.
    before_grants: Callable[[], Awaitable[object]] | None = None
    asked_for_grants: asyncio.Event = field(default_factory=asyncio.Event)
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

    def revoke(self, **fields: Any) -> None:
        """Have sessions of ``t1`` closed, as registry does."""
        announce(self.bus, REVOKED, Revoked(**{"tenant_id": "t1", "reason": "key_revoked"} | fields))

    @property
    def other_issuer(self) -> str:
        """The issuer whose people have a prefix."""
        return OTHER_ISSUER

    def token(self, user_id: str, expires_in: float = 3600.0, **claims: Any) -> str:
        """Return a token for a person."""
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
        """Return the two issuers of people's tokens; one key is enough for both."""
        key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key()))
        issuer = IssuerKeys(
            issuer=ISSUER,
            keys=[key | {"kid": "k1"}],
            audiences=["artcafe"],
            algorithms=["EdDSA"],
            foreign_prefixes=["acme:"],
        )
        other = msgspec.structs.replace(issuer, issuer=OTHER_ISSUER, user_prefix="acme:", foreign_prefixes=[])
        return Jwks(issuers=[issuer, other])

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
        self.asked_for_grants.set()
        if self.before_grants is not None:
            await self.before_grants()
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
        """Return the agents that the test put on the list."""
        return AgentStatusPage(agents=self.statuses)

    def _check(self) -> None:
        if self.unavailable:
            self.refusals += 1
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
    http_port: int
    ws_port: int
    stack: AsyncExitStack

    @property
    def http_url(self) -> str:
        """The address of its HTTP side."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ws_url(self) -> str:
        """The address of its sockets."""
        return f"ws://127.0.0.1:{self.ws_port}"

    async def open(self, path: str, **options: Any) -> Client:
        """Open a socket at a path."""
        socket = await self.stack.enter_async_context(
            connect(
                f"{self.ws_url}{path}",
                ping_interval=None,
                max_size=None,
                # What a test does not read is in nobody's way, least of all in that of the goodbye.
                max_queue=None,
                close_timeout=PATIENCE_SECONDS,
                **options,
            )
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


@dataclass
class Running(Harness):
    """A gateway in this process."""

    stop: asyncio.Event
    task: asyncio.Task[None]

    async def drain(self) -> None:
        """Stop it as SIGTERM does, and wait for its end."""
        self.stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([self.task])


@dataclass
class Spawned(Harness):
    """A gateway in a process of its own, which may be killed."""

    process: ManagedProcess

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records it has logged so far."""
        text = self.process.spec.log.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class PresenceLog:
    """Every presence event of tenant ``t1``, as registry hears them."""

    def __init__(self) -> None:
        self.events: list[Presence] = []

    def of(self, agent_id: str) -> list[str]:
        """Return the statuses that were announced of an agent, in order of their version."""
        mine = [event for event in self.events if event.agent_id == agent_id]
        return [event.status for event in sorted(mine, key=lambda event: event.version)]

    async def until(
        self, agent_id: str, status: str, timeout: float = PATIENCE_SECONDS, *, times: int = 1
    ) -> None:
        """Wait until a status has been announced of an agent so many times, and is the newest word."""
        async with asyncio.timeout(timeout):
            while (said := self.of(agent_id))[-1:] != [status] or said.count(status) < times:
                await asyncio.sleep(0.01)


StartGateway = Callable[..., Any]


@dataclass
class OwnNats:
    """A NATS server of the test's own, which it may treat badly and look into."""

    server: RunningServer
    monitor_port: int

    async def connections(self) -> list[dict[str, Any]]:
        """Return its clients with the subjects they are subscribed to."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.monitor_port)
        writer.write(b"GET /connz?subs=1&limit=1000 HTTP/1.0\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        found: list[dict[str, Any]] = json.loads(body)["connections"]
        return found

    async def data_subjects(self) -> list[str]:
        """Return what gateways are subscribed to of tenants' messages and presence."""
        subjects = [
            subject
            for client in await self.connections()
            for subject in client.get("subscriptions_list", [])
            if client.get("name", "").startswith("gateway")
        ]
        return sorted(s for s in subjects if s.startswith(("tenant.", "gateway.v1.presence.")))


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[OwnNats]:
    """Run a NATS server for one test alone."""
    port = free_port()
    config = tmp_path / "nats.conf"
    config.write_text(f'http: "127.0.0.1:{port}"\n')
    with nats_server(tmp_path / "nats", config=config) as server:
        yield OwnNats(server, port)


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    """Play registry, auth and metering's stream, with one tenant ``t1`` and another ``t2``."""
    bus = await Bus.open(nats_url, name="test world")
    for stream in (streams.PRESENCE, streams.USAGE):
        await streams.ensure_stream(bus.jetstream(), stream)
    played = World(bus)
    played.tenant("t1")
    played.tenant("t2")
    async with AsyncExitStack() as stack:
        served: list[tuple[Any, Any]] = [
            (VERIFY_AGENT, played.verify),
            (GET_JWKS, played.jwks),
            (GET_TENANT, played.get_tenant),
            (GET_AGENT, played.get_agent),
            (GET_GRANTS, played.get_grants),
            (RESOLVE_CHANNEL, played.resolve),
            (GET_MEMBERSHIPS, played.get_memberships),
            (LIST_AGENT_STATUS, played.list_status),
        ]
        for endpoint, handler in served:
            await stack.enter_async_context(serve(bus, endpoint, handler, queue="world"))
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
        try:
            await _listening(config.ws_port, task)
            yield Running(world, config.http_port, config.ws_port, stack, stop, task)
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await task


def _listens(port: int) -> bool:
    # Not by trying to bind it: that takes the port from a process that is about to.
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


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


@pytest.fixture
async def presence(world: World) -> AsyncIterator[PresenceLog]:
    """Listen to presence from before the first gateway on."""
    log = PresenceLog()

    def heard(_: bytes, payload: bytes) -> None:
        log.events.append(msgspec.json.decode(payload, type=Presence))

    subject = PRESENCE.subject(tenant_id="t1", agent_id="*")
    subscription = await world.bus.subscribe_direct(subject, heard)
    await world.bus.flush()
    yield log
    await world.bus.unsubscribe_direct(subscription)


@pytest.fixture
async def spawn_gateway(
    world: World, nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path
) -> AsyncIterator[StartGateway]:
    """Give a function that starts a gateway as a process of its own.

    Its own settings are named in lower case, shared ones in capitals.
    """
    started: list[ManagedProcess] = []
    async with AsyncExitStack() as stack:

        async def spawn(name: str = "gateway-1", **settings: Any) -> Spawned:
            http_port, ws_port = free_port(), free_port()
            env = {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "ENVIRONMENT": "development",
                "NATS_URL": nats_url,
                "ARTCAFE_SERVER_ID": name,
                "CREATE_TABLES": "true",
                "GATEWAY_HTTP_PORT": str(http_port),
                "GATEWAY_WS_PORT": str(ws_port),
                "GATEWAY_DRAIN_SECONDS": "0.2",
                **aws_environment.environment(),
                **{
                    key if key.isupper() else f"GATEWAY_{key.upper()}": str(value)
                    for key, value in settings.items()
                },
            }
            spec = ProcessSpec(
                name=name,
                argv=[sys.executable, "-m", "artcafe_gateway"],
                log=tmp_path / f"{name}-{len(started)}.log",
                ready=lambda: _listens(ws_port),
                env=env,
                cwd=tmp_path,
            )
            process = ManagedProcess(spec)
            started.append(process)
            process.start()
            await asyncio.to_thread(process.wait_ready)
            return Spawned(world, http_port, ws_port, stack, process)

        try:
            yield spawn
        finally:
            for process in started:
                process.ask_to_stop()
            for process in started:
                await asyncio.to_thread(process.wait_stopped, 20)
