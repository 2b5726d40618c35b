"""One REST operation, declared with its types, and the call that its handler gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.roles import Permission
from artcafe_common.tokens import Person, TenantScope

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 100

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list: how many at most, and where to go on."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE_DEFAULT
    next_token: str | None = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of an operation that takes none."""


@dataclass(slots=True)
class Call:
    """One request on its way to a handler.

    `body` and `query` hold what the operation declared. `person` is there in every operation that is not
    public, `scope` in those that need a permission in a tenant.
    """

    request: Request
    path: dict[str, str]
    body: Any
    query: Any
    _person: Person | None = None
    _scope: TenantScope | None = None

    @property
    def person(self) -> Person:
        """The person who calls."""
        if self._person is None:
            raise ServiceError(ErrorCode.UNAUTHENTICATED, "a bearer token is needed")
        return self._person

    @property
    def scope(self) -> TenantScope:
        """The person in the tenant that the call is about."""
        if self._scope is None:
            raise ServiceError(ErrorCode.UNAUTHENTICATED, "a bearer token is needed")
        return self._scope

    @property
    def tenant_id(self) -> str:
        """The tenant that the call is about."""
        return self.scope.tenant_id

    @property
    def wants_fresh(self) -> bool:
        """Whether the client asks for what the store holds now, not for a cached copy (RFC 9111, 5.2.1.4)."""
        directives = self.request.headers.get("cache-control", "").lower().split(",")
        return any(directive.strip() in ("no-cache", "no-store") for directive in directives)

    @property
    def remote_address(self) -> str:
        """The client's address as the edge saw it; the edge overwrites what a client puts in the header."""
        forwarded = self.request.headers.get("x-real-ip")
        return forwarded or (self.request.client.host if self.request.client else "")


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class FileReply:
    """An answer that is a file: the media types that it may have, and what each of its headers says."""

    media_types: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """A route with its types and its rule of access.

    `access`: ``"public"``; ``"person"`` for anyone who is signed in; or a `Permission` that the caller needs
    in the tenant of the header ``X-Tenant-Id`` or, where the path has ``{tenant_id}``, in that tenant.
    A query type with a field `tenant_id` names it too.
    `reply`: the type of what the handler returns, None where the answer has no content, or a `FileReply`,
    for which the handler makes the `Response` itself.
    """

    method: Method
    path: str
    handler: Handler
    summary: str
    access: Literal["public", "person"] | Permission
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] = NoQuery
    reply: Any = None
    status: int = 200
    description: str = ""
    errors: tuple[ErrorCode, ...] = ()
    tags: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The operation's id: its handler's name."""
        return getattr(self.handler, "__name__", "operation")


__all__ = ["Call", "FileReply", "Handler", "NoQuery", "Operation", "PageQuery", "Response"]
