"""Metering on real NATS and real Valkey, servers of each test's own: most tests kill or freeze one.

Registry and auth are played by the test, over NATS and by their contracts.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, IssuerKeys, Jwks
from artcafe_common.contracts.metering import UsageBatch, UsageRow
from artcafe_common.contracts.registry import (
    GET_MEMBERSHIPS,
    GET_TENANT,
    GetMemberships,
    GetTenant,
    Limits,
    Membership,
    Memberships,
    TenantInfo,
)
from artcafe_common.errors import not_found
from artcafe_common.rpc import serve
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import AwsEndpoint, RunningServer, nats_server, valkey_server
from artcafe_metering.batches import Batch, read_batch
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.generation import Generation
from artcafe_metering.intake import Intake
from artcafe_metering.keys import FIGURES
from artcafe_metering.ledger import Ledger
from artcafe_metering.periods import Retention
from artcafe_metering.valkey import Valkey

from .reconcile_support import Office

ISSUER = "https://issuer.test"
PATIENCE_SECONDS = 60.0
PASSWORD = "secret-of-valkey"


@pytest.fixture(autouse=True)
def _one_day(one_day: None) -> None:
    """Have each test count and ask on the same day."""


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a NATS server for one test."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a Valkey server for one test, with a password."""
    with valkey_server(tmp_path / "valkey", password=PASSWORD) as server:
        yield server


@pytest.fixture
async def bus(nats: RunningServer) -> AsyncIterator[Bus]:
    """Connect the test itself to NATS."""
    bus = await Bus.open(nats.url, name="test")
    yield bus
    await bus.close_gracefully()


async def eventually(
    check: Callable[[], Awaitable[Any]], wanted: Any = True, seconds: float = PATIENCE_SECONDS
) -> None:
    """Ask until the answer is the one that is wanted."""
    deadline = time.monotonic() + seconds
    while (answer := await check()) != wanted:
        assert time.monotonic() < deadline, f"{answer!r} is not {wanted!r}"
        await asyncio.sleep(0.05)


@dataclass
class Store:
    """What a test looks at in Valkey, and does to it."""

    server: RunningServer
    redis: Any

    async def figures(self, key: str) -> dict[str, int]:
        """Return a hash of counts."""
        return {name: int(value) for name, value in (await self.redis.hgetall(key)).items()}

    async def messages(self, tenant_id: str) -> int:
        """Return all messages of a tenant, added up over its days."""
        found = 0
        async for key in self.redis.scan_iter(match=f"stats:d:*:{{{tenant_id}}}", count=1000):
            found += int(await self.redis.hget(key, "messages") or 0)
        return found

    async def sums(self, pattern: str) -> dict[str, int]:
        """Return the sum of each figure over all keys that match."""
        sums = dict.fromkeys(FIGURES, 0)
        async for key in self.redis.scan_iter(match=pattern, count=1000):
            for name, value in (await self.figures(key)).items():
                sums[name] += value
        return sums

    async def keys_without_expiry(self) -> list[str]:
        """Return every key that would stay for ever."""
        return [key async for key in self.redis.scan_iter(count=1000) if await self.redis.ttl(key) < 0]

    def log_folder(self) -> Path:
        """Return where the append-only file is."""
        return self.server.log.parent / "appendonlydir"

    def keep_log(self) -> Path:
        """Copy the append-only file as it is now."""
        kept = self.server.log.parent / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.log_folder(), kept)
        return kept

    def lose_power(self, kept: Path) -> None:
        """Crash the server and bring it back with what its disk had at the time of the copy."""
        self.server.kill()
        shutil.rmtree(self.log_folder())
        shutil.copytree(kept, self.log_folder())
        self.server.start()


@pytest.fixture
async def store(valkey: RunningServer) -> AsyncIterator[Store]:
    """Give the test a look into Valkey."""
    # The server is restarted under it: a connection that was lost is made again.
    again = Retry(NoBackoff(), 3)
    redis = Redis.from_url(valkey.url, decode_responses=True, protocol=2, retry=again)
    yield Store(valkey, redis)
    await redis.aclose()


@pytest.fixture
async def ledger_of(valkey: RunningServer) -> AsyncIterator[Callable[..., Ledger]]:
    """Make ledgers as one replica each would have; by default they do not wait for the disk."""
    clients: list[Valkey] = []

    def make(
        kind: type[Ledger] = Ledger,
        *,
        wait_for_disk: bool = False,
        generation: Generation | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Ledger:
        clients.append(Valkey(valkey.url, 18))
        wait = wait_for_disk
        return kind(clients[-1], Retention(), generation, wait_for_disk=wait, monotonic=monotonic)

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def counters(valkey: RunningServer) -> AsyncIterator[ValkeyCounters]:
    """Read the counters as the service does."""
    client = Valkey(valkey.url, 1)
    yield ValkeyCounters(client)
    await client.close()


@pytest.fixture
async def office(bus: Bus, valkey: RunningServer) -> AsyncIterator[Office]:
    """Give the test what compares days, and what is told of it."""
    client = Valkey(valkey.url, 1)
    yield Office(bus, client)
    await client.close()


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Make a batch as the ledger takes it."""

    def make(source: str, seq: int, *rows: UsageRow, at: float | None = None) -> Batch:
        now = time.time()
        payload = encoded(source, seq, *rows, at=at)
        return read_batch(f"usage.v1.batch.{source}", payload, now - 20 * 86_400, now)

    return make


def encoded(source: str, seq: int, *rows: UsageRow, at: float | None = None) -> bytes:
    """Return a batch as its sender writes it."""
    start = time.time() if at is None else at
    listed = list(rows or (UsageRow("t1", "a1", "c1", messages=1, bytes_in=10),))
    return msgspec.json.encode(UsageBatch(source=source, seq=seq, start=start, end=start + 1, rows=listed))


@dataclass
class Sender:
    """Publishes batches as gateways do, or as they never should."""

    bus: Bus

    async def prepare(self) -> None:
        """Make the stream."""
        await ensure_stream(self.bus.jetstream(), USAGE)

    async def batch(
        self, source: str, seq: int, *rows: UsageRow, at: float | None = None, named: bool = True
    ) -> None:
        """Publish a batch; without a name the stream does not recognise one that it has."""
        headers = {"Nats-Msg-Id": f"{source}:{seq}"} if named else None
        payload = encoded(source, seq, *rows, at=at)
        await self.bus.jetstream().publish(f"usage.v1.batch.{source}", payload, headers=headers)

    async def raw(self, source: str, payload: bytes) -> None:
        """Publish anything."""
        await self.bus.jetstream().publish(f"usage.v1.batch.{source}", payload)

    async def stored(self) -> list[UsageBatch]:
        """Return every batch that the stream holds."""
        jetstream = self.bus.jetstream()
        state = (await jetstream.stream_info("USAGE")).state
        messages = [await jetstream.get_msg("USAGE", seq) for seq in range(1, state.last_seq + 1)]
        return [msgspec.json.decode(message.data or b"", type=UsageBatch) for message in messages]

    async def undelivered(self) -> int:
        """Return how many batches no replica has taken."""
        jetstream = self.bus.jetstream()
        last = (await jetstream.stream_info("USAGE")).state.last_seq
        info = await jetstream.consumer_info("USAGE", "metering")
        assert info.delivered is not None
        # A consumer hears of a batch a moment after the publisher: what it calls pending may be too few.
        pending: int = max(info.num_pending or 0, last - info.delivered.stream_seq)
        return pending

    async def unacknowledged(self) -> int:
        """Return how many batches are not done: in the stream, or out and not acknowledged."""
        undelivered = await self.undelivered()
        info = await self.bus.jetstream().consumer_info("USAGE", "metering")
        return undelivered + (info.num_ack_pending or 0)


@pytest.fixture
async def sender(bus: Bus) -> Sender:
    """Give the test a publisher, and the stream."""
    sender = Sender(bus)
    await sender.prepare()
    return sender


class Replica:
    """The consuming side of one replica, inside the test."""

    def __init__(self, bus: Bus, ledger: Ledger) -> None:
        self._bus = bus
        self._intake = Intake(bus, ledger, SystemClock(), Retention().hours, rounds=16)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._intake.run(self._stop))

    async def healthy(self) -> bool:
        """Tell whether it receives batches."""
        return self._intake.healthy

    async def stop(self) -> None:
        """Let it end as on SIGTERM."""
        self._stop.set()
        await asyncio.wait_for(self._task, PATIENCE_SECONDS)
        await self._bus.close_gracefully()


@pytest.fixture
async def replica_of(
    nats: RunningServer, ledger_of: Callable[..., Ledger]
) -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Run the consuming side of replicas inside the test."""
    replicas: list[Replica] = []

    async def run(ledger: Ledger | None = None) -> Replica:
        replica = Replica(await Bus.open(nats.url, name="metering"), ledger or ledger_of())
        replicas.append(replica)
        await eventually(replica.healthy)
        return replica

    yield run
    for replica in replicas:
        await replica.stop()


@dataclass
class World:
    """What registry and auth say in a test."""

    bus: Bus
    tenants: dict[str, TenantInfo] = field(default_factory=dict)
    memberships: dict[str, list[Membership]] = field(default_factory=dict)
    platform_roles: dict[str, list[str]] = field(default_factory=dict)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def tenant(self, tenant_id: str, **limits: int) -> None:
        """Let a tenant exist."""
        self.tenants[tenant_id] = TenantInfo(
            tenant_id=tenant_id,
            name=tenant_id,
            status="active",
            plan="free",
            limits=Limits(**limits),
            auto_create_channels=False,
        )

    def person(self, user_id: str, *platform_roles: str, **roles: str) -> dict[str, str]:
        """Let a person have roles in tenants and on the platform; return their headers."""
        self.memberships[user_id] = [Membership(tenant_id=t, role=role) for t, role in roles.items()]
        self.platform_roles[user_id] = list(platform_roles)
        claims = {"iss": ISSUER, "aud": "artcafe", "sub": user_id, "exp": time.time() + 600}
        token = jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": "k1"})
        return {"Authorization": f"Bearer {token}"}

    async def jwks(self, _: GetJwks) -> Jwks:
        """Answer as auth."""
        public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key()))
        issuer = IssuerKeys(
            issuer=ISSUER, keys=[public | {"kid": "k1"}], audiences=["artcafe"], algorithms=["EdDSA"]
        )
        return Jwks(issuers=[issuer])

    async def members(self, request: GetMemberships) -> Memberships:
        """Answer as registry."""
        return Memberships(
            user_id=request.user_id,
            memberships=self.memberships.get(request.user_id, []),
            platform_roles=self.platform_roles.get(request.user_id, []),
        )

    async def get_tenant(self, request: GetTenant) -> TenantInfo:
        """Answer as registry."""
        if request.tenant_id not in self.tenants:
            raise not_found("tenant")
        return self.tenants[request.tenant_id]


@pytest.fixture
async def world(bus: Bus) -> AsyncIterator[World]:
    """Play registry and auth."""
    world = World(bus)
    async with (
        serve(bus, GET_JWKS, world.jwks, queue="auth"),
        serve(bus, GET_MEMBERSHIPS, world.members, queue="registry"),
        serve(bus, GET_TENANT, world.get_tenant, queue="registry"),
    ):
        yield world


class Service:
    """The metering service as a process."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self._environment = environment | {"METERING_HTTP_PORT": str(self.port)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "artcafe_metering"], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Crash it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_SECONDS)

    def fails(self, name: str, value: str) -> int:
        """Start it with a wrong setting, and return its exit status."""
        self._environment |= {name: value}
        self.start()
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    async def close(self) -> None:
        """End what is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        await self.client.aclose()

    async def ready(self) -> int:
        """Return the status of /ready; 0 where nobody listens."""
        try:
            return (await self.client.get("/ready")).status_code
        except httpx.TransportError:
            return 0

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: str) -> httpx.Response:
        """Ask below /api/v1/usage."""
        return await self.client.get(f"/api/v1/usage{path}", headers=headers, params=query)

    def log(self) -> str:
        """Return what it has logged."""
        return self._log.read_text()


@pytest.fixture
async def service_of(
    nats: RunningServer, valkey: RunningServer, aws: AwsEndpoint, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Run the service as a process, and wait until it is ready."""
    services: list[Service] = []
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH")
    base = {name: os.environ[name] for name in kept if name in os.environ}
    base["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

    async def run(**environment: str) -> Service:
        shared = {"NATS_URL": nats.url, "REDIS_URL": valkey.url, "LOG_LEVEL": "INFO"}
        shared |= aws.environment() | {"CREATE_TABLES": "true"}
        service = Service(base | shared | environment, tmp_path / f"metering-{len(services)}.log")
        services.append(service)
        service.start()
        await eventually(service.ready, 200)
        return service

    yield run
    for service in services:
        await service.close()


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Give the test `eventually`."""
    return eventually
