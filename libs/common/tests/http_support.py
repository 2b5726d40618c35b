"""An application of a few operations, for the tests of the HTTP kit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from artcafe_common.contracts.registry import Membership
from artcafe_common.errors import ErrorCode, Quota, ServiceError, unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import Call, FileReply, HttpApp, Operation, PageQuery, create_app
from artcafe_common.log import request_id_var
from artcafe_common.roles import Permission
from artcafe_common.tokens import Access, Person, TenantScope, unauthenticated

from .token_support import Registry

BASE = "http://test/api/v1"
TOKEN = {"Authorization": "Bearer person-1"}


# The slow calls that are being worked on.
WORKED_ON: list[str] = []


class Thing(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A body."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    count: Annotated[int, msgspec.Meta(ge=0)] = 0
    metadata: dict[str, Any] = {}


class Echo(msgspec.Struct, kw_only=True):
    """A reply: what arrived."""

    name: str = ""
    metadata: dict[str, Any] = {}
    tenant_id: str = ""
    user_id: str = ""
    request_id: str = ""
    path: dict[str, str] = {}
    remote_address: str = ""


class Search(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query."""

    status: str | None = None
    deep: bool = False
    ratio: float = 1.0


class Found(msgspec.Struct, kw_only=True):
    """A reply: the query as it was understood."""

    limit: int
    next_token: str | None
    status: str | None
    deep: bool
    ratio: float


class OfTenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query that may name the tenant."""

    tenant_id: str | None = None


ERRORS: dict[str, Exception] = {
    **{code.value: ServiceError(code, f"it is {code}") for code in ErrorCode},
    "rate": ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "slow down", retry_after=1.2),
    "quota": ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "full", quota=Quota("agents", 3, 3, "free")),
    "away": unavailable("the store"),
    "bug": ValueError("the secret is 42"),
    "deep": RecursionError("too deep"),
}


async def make_thing(call: Call) -> Echo:
    """Answer with the body."""
    return Echo(name=call.body.name, metadata=call.body.metadata, tenant_id=call.tenant_id)


async def find_things(call: Call) -> Found:
    """Answer with the query."""
    return Found(**msgspec.structs.asdict(call.query))


async def get_thing(call: Call) -> Echo:
    """Answer with what is known of the call."""
    return Echo(
        path=call.path,
        tenant_id=call.tenant_id,
        user_id=call.person.user_id,
        request_id=request_id_var.get(),
        remote_address=call.remote_address,
    )


async def special_thing(call: Call) -> Echo:
    """Answer on a path that looks like one with a parameter."""
    return Echo(name="special")


async def delete_thing(call: Call) -> None:
    """Answer with nothing."""


async def get_tenant(call: Call) -> Echo:
    """Answer with the tenant of the path."""
    return Echo(tenant_id=call.tenant_id)


async def usage(call: Call) -> Echo:
    """Answer with the tenant of the query."""
    return Echo(tenant_id=call.tenant_id)


async def who_am_i(call: Call) -> Echo:
    """Answer with the person."""
    return Echo(user_id=call.person.user_id)


async def fail(call: Call) -> Echo:
    """Fail as the path says."""
    raise ERRORS[call.path["how"]]


async def sign_in(call: Call) -> Echo:
    """Answer to anybody."""
    return Echo(name=call.body.name, remote_address=call.remote_address)


async def export(call: Call) -> Response:
    """Answer with a stream."""

    async def lines() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield f"{request_id_var.get()}\n".encode()
            await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="text/csv", headers={"Cache-Control": "private"})


async def endless(call: Call) -> Response:
    """Answer without end."""

    async def more() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1_000_000)

    return StreamingResponse(more())


async def peek(call: Call) -> Echo:
    """Ask, in a public operation, who calls."""
    return Echo(tenant_id=call.tenant_id, user_id=call.person.user_id)


async def slow(call: Call) -> Echo:
    """Answer after as many milliseconds as the path says."""
    WORKED_ON.append(call.path["milliseconds"])
    try:
        await asyncio.sleep(int(call.path["milliseconds"]) / 1000)
    finally:
        WORKED_ON.remove(call.path["milliseconds"])
    return Echo(name="done")


async def worked_on(milliseconds: int) -> None:
    """Wait until a slow call has come."""
    async with asyncio.timeout(30):
        while str(milliseconds) not in WORKED_ON:
            await asyncio.sleep(0.005)


OPERATIONS = [
    Operation("GET", "/things/{thing_id}", get_thing, "Get", Permission.AGENTS_READ, reply=Echo),
    Operation("DELETE", "/things/{thing_id}", delete_thing, "Delete", Permission.AGENTS_WRITE),
    Operation("GET", "/things", find_things, "Find", Permission.AGENTS_READ, query=Search, reply=Found),
    Operation(
        *("POST", "/things", make_thing, "Make", Permission.AGENTS_WRITE),
        body=Thing,
        reply=Echo,
        status=201,
        description="Makes a thing.",
        errors=(ErrorCode.ALREADY_EXISTS, ErrorCode.RESOURCE_EXHAUSTED),
        tags=("things",),
    ),
    Operation("GET", "/things/special", special_thing, "Special", Permission.AGENTS_READ, reply=Echo),
    Operation("GET", "/tenants/{tenant_id}", get_tenant, "Tenant", Permission.TENANT_READ, reply=Echo),
    Operation("GET", "/usage", usage, "Usage", Permission.TENANT_READ, query=OfTenant, reply=Echo),
    Operation("GET", "/me", who_am_i, "Me", "person", reply=Echo),
    Operation("GET", "/fail/{how}", fail, "Fail", "public", reply=Echo),
    Operation("POST", "/login", sign_in, "Sign in", "public", body=Thing, reply=Echo),
    Operation(
        *("GET", "/export", export, "Export", "public"),
        reply=FileReply(("text/csv", "application/x-file"), {"X-Lines": "How many"}),
    ),
    Operation(
        *("GET", "/endless", endless, "Endless", "public"),
        reply=FileReply(("application/octet-stream",)),
    ),
    Operation("GET", "/peek", peek, "Peek", "public", reply=Echo),
    Operation("GET", "/slow/{milliseconds}", slow, "Slow", "public", reply=Echo),
]


class NamedPerson:
    """A verifier for which the token is the person's name."""

    async def verify(self, token: str) -> Person:
        """Return the person; ``bad`` is no token."""
        if token == "bad":
            raise unauthenticated()
        return Person(token, "", 0.0)


def access_of(registry: Registry) -> Access:
    """Return an access check that believes any token."""
    return Access(NamedPerson(), registry)  # type: ignore[arg-type]


def registry_of(**tenants: str) -> Registry:
    """Return a registry in which ``person-1`` has a role in each tenant."""
    registry = Registry()
    registry.rows["person-1"] = [Membership(tenant_id=name, role=role) for name, role in tenants.items()]
    return registry


async def not_counted(scope: TenantScope) -> None:
    """Let every call pass."""


def demo_app(
    registry: Registry | None = None,
    on_call: Callable[[TenantScope], Awaitable[None]] | None = None,
    readiness: Readiness | None = None,
    **options: Any,
) -> HttpApp:
    """Return the application; by default ``person-1`` owns the tenant ``t1``."""

    async def page(_: Request) -> Response:
        return Response("page")

    async def broken(_: Request) -> Response:
        raise ValueError("the secret is 42")

    async def refusing(_: Request) -> Response:
        raise ServiceError(ErrorCode.NOT_FOUND, "no such page")

    return create_app(
        "demo",
        OPERATIONS,
        readiness=readiness or Readiness("demo", "s1", "1"),
        access=access_of(registry or registry_of(t1="owner")),
        on_call=on_call or not_counted,
        extra_routes=[Route("/", page), Route("/broken", broken), Route("/refusing", refusing)],
        **options,
    )


@asynccontextmanager
async def client_of(app: HttpApp, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client that calls an application without sockets."""
    transport = httpx.ASGITransport(app.asgi, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE, **options) as client:
        yield client
