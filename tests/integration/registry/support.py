"""A real registry on real NATS and a real store; auth's keys are served by the test, by its contract."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artcafe_common.bus import Bus
from artcafe_common.clock import rfc3339
from artcafe_common.config import load
from artcafe_common.contracts.auth import GET_JWKS, REVOKED, GetJwks, IssuerKeys, Jwks, Revoked
from artcafe_common.contracts.registry import CHANGED, Changed
from artcafe_common.dynamo import Dynamo, Item, unmarshal
from artcafe_common.ids import new_ulid
from artcafe_common.rpc import listen, serve
from artcafe_devstack.ports import free_port
from artcafe_registry.config import PREFIX, RegistryConfig
from artcafe_registry.domain.records import Member, Tenant
from artcafe_registry.process import run
from artcafe_registry.store import TABLES, Store

ISSUER = "https://issuer.test"
AUDIENCE = "artcafe"
DEADLINE_SECONDS = 45.0


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = DEADLINE_SECONDS) -> Any:
    """Wait until a condition returns something true, and return that."""
    async with asyncio.timeout(timeout):
        while True:
            if value := await condition():
                return value
            await asyncio.sleep(0.02)


class Issuer:
    """An identity provider of one key."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()

    def jwks(self) -> Jwks:
        """Return what auth would answer."""
        jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key())) | {"kid": "k1"}
        keys = IssuerKeys(
            issuer=ISSUER, keys=[jwk], audiences=[AUDIENCE], algorithms=["EdDSA"], tenant_claims=True
        )
        return Jwks(issuers=[keys])

    def token(self, user_id: str, **claims: Any) -> str:
        """Return a token for a person."""
        now = time.time()
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": user_id, "iat": now, "exp": now + 600}
        return jwt.encode(body | claims, self._key, "EdDSA", {"kid": "k1"})


@dataclass
class Replica:
    """One registry process's worth, in this process."""

    port: int
    stop: asyncio.Event
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        """Where its HTTP is."""
        return f"http://127.0.0.1:{self.port}"

    async def end(self) -> None:
        """Stop it as a signal would; nothing where it has crashed."""
        self.stop.set()
        if not self.task.cancelled():
            await self.task

    async def crash(self) -> None:
        """Stop it where it stands."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@dataclass
class Stage:
    """Everything a test needs of one registry."""

    nats_url: str
    environment: dict[str, str]
    bus: Bus
    dynamo: Dynamo
    store: Store
    issuer: Issuer
    stack: AsyncExitStack
    replica: Replica
    changed: list[Changed] = field(default_factory=list)
    revoked: list[Revoked] = field(default_factory=list)

    def client(
        self,
        user_id: str,
        tenant_id: str | None = None,
        replica: Replica | None = None,
        claims: dict[str, Any] | None = None,
    ) -> httpx.AsyncClient:
        """Return an HTTP client of a person, closed at the test's end."""
        headers = {"Authorization": f"Bearer {self.issuer.token(user_id, **(claims or {}))}"}
        if tenant_id is not None:
            headers["X-Tenant-Id"] = tenant_id
        url = (replica or self.replica).url + "/api/v1"
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=20)
        self.stack.push_async_callback(client.aclose)
        return client

    async def tenant(
        self, owner: str = "", plan: str = "enterprise", created_at: str | None = None, **fields: Any
    ) -> str:
        """Make a tenant in the store and return its id; its owner's id is the same unless given."""
        tenant_id = f"t-{new_ulid()}"
        now = created_at or rfc3339(time.time())
        await self.store.tenants.create(
            Tenant(
                tenant_id=tenant_id,
                name="Test",
                plan=plan,
                created_at=now,
                updated_at=now,
                created_by=owner or tenant_id,
                **fields,
            ),
            Member(
                tenant_id=tenant_id,
                user_id=owner or tenant_id,
                role="owner",
                created_at=now,
                updated_at=now,
            ),
        )
        return tenant_id

    async def owner(self, plan: str = "enterprise", **fields: Any) -> tuple[str, httpx.AsyncClient]:
        """Make a tenant; return its id and its owner's client."""
        tenant_id = await self.tenant(plan=plan, **fields)
        return tenant_id, self.client(tenant_id)

    async def platform_admin(self) -> httpx.AsyncClient:
        """Return the client of a platform administrator who belongs to no tenant."""
        user_id = f"root-{new_ulid()}"
        await self.store.members.set_platform_roles(user_id, ["platform_admin"])
        return self.client(user_id)

    async def rows_with(self, text: str) -> list[Item]:
        """Return every row of every table in which a text occurs."""
        found: list[Item] = []
        for spec in TABLES:
            arguments: Item = {"TableName": self.dynamo.prefix + spec.name, "ConsistentRead": True}
            while True:
                reply = await self.dynamo.call("scan", **arguments)
                rows = [unmarshal(item) for item in reply["Items"]]
                found += [row for row in rows if text in repr(row)]
                if not reply.get("LastEvaluatedKey"):
                    break
                arguments["ExclusiveStartKey"] = reply["LastEvaluatedKey"]
        return found

    async def heard(self) -> None:
        """Wait until what was announced before is in `changed` and `revoked`."""
        await self.bus.flush()
        await asyncio.sleep(0)

    async def start_replica(self, **settings: str) -> Replica:
        """Start one more registry on the same NATS and store."""
        port = free_port()
        environment = self.environment | {"REGISTRY_HTTP_PORT": str(port)} | settings
        replica = await start(environment, port)
        self.stack.push_async_callback(replica.end)
        return replica


async def start(environment: dict[str, str], port: int) -> Replica:
    """Start a registry and wait until it is ready."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(load(RegistryConfig, PREFIX, environment), stop))
    async with httpx.AsyncClient(timeout=20) as client:

        async def ready() -> bool:
            if task.done():
                task.result()
            try:
                return (await client.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready)
    return Replica(port, stop, task)


@asynccontextmanager
async def staged(nats_url: str, **settings: str) -> AsyncIterator[Stage]:
    """Run a registry; the store's address and credentials are in the environment."""
    issuer = Issuer()

    async def jwks(_: GetJwks) -> Jwks:
        return issuer.jwks()

    port = free_port()
    environment = {
        "NATS_URL": nats_url,
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "TABLE_PREFIX": "test-",
        "CREATE_TABLES": "true",
        "REGISTRY_HTTP_PORT": str(port),
        "REGISTRY_CURSOR_KEY": base64.b64encode(os.urandom(32)).decode(),
        "REGISTRY_SELF_SERVICE_TENANTS": "true",
        **settings,
    }
    async with AsyncExitStack() as stack:
        bus = await Bus.open(nats_url, name="test")
        stack.push_async_callback(bus.close_gracefully)
        await stack.enter_async_context(serve(bus, GET_JWKS, jwks, queue="auth"))
        dynamo = await stack.enter_async_context(
            Dynamo.connect(region="us-east-1", endpoint_url=environment["AWS_ENDPOINT_URL"], prefix="test-")
        )
        replica = await start(environment, port)
        stack.push_async_callback(replica.end)
        stage = Stage(nats_url, environment, bus, dynamo, Store(dynamo), issuer, AsyncExitStack(), replica)

        async def changed(event: Changed) -> None:
            stage.changed.append(event)

        async def revoked(event: Revoked) -> None:
            stage.revoked.append(event)

        await stack.enter_async_context(listen(bus, CHANGED, changed))
        await stack.enter_async_context(listen(bus, REVOKED, revoked))
        async with stage.stack:
            yield stage
