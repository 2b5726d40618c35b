"""One taxonomy of errors and its three renderings: HTTP, NATS reply and WebSocket.

`ServiceError` is the only exception that crosses a layer on purpose. Anything else is a bug: it is
logged once with its stack and leaves the process as ``internal`` without detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import msgspec


class ErrorCode(StrEnum):
    """What went wrong, in the vocabulary of gRPC."""

    INVALID_ARGUMENT = "invalid_argument"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    FAILED_PRECONDITION = "failed_precondition"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class CloseCode(IntEnum):
    """WebSocket close codes; the range tells a client what to do (4001-4499 come back, 4500-4999 do not)."""

    NORMAL = 1000
    # What browsers say of a page that is closed, and programs that end; this server never does.
    GOING_AWAY = 1001
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    HEARTBEAT_TIMEOUT = 4001
    SLOW_CONSUMER = 4002
    UNAVAILABLE = 4003
    RATE = 4004
    TOKEN_EXPIRED = 4005
    REPLACED = 4006
    BAD_CREDENTIALS = 4500
    REVOKED = 4501
    TENANT_SUSPENDED = 4502
    PROTOCOL = 4503
    QUOTA = 4504


@dataclass(frozen=True, slots=True)
class Rendering:
    """How one error code looks outside: HTTP status, WebSocket close code, and whether to try again."""

    http_status: int
    title: str
    close_code: int
    retryable: bool


RENDERINGS: Mapping[ErrorCode, Rendering] = {
    ErrorCode.INVALID_ARGUMENT: Rendering(400, "Invalid argument", CloseCode.PROTOCOL, False),
    ErrorCode.UNAUTHENTICATED: Rendering(401, "Not authenticated", CloseCode.BAD_CREDENTIALS, False),
    ErrorCode.PERMISSION_DENIED: Rendering(403, "Permission denied", CloseCode.BAD_CREDENTIALS, False),
    ErrorCode.NOT_FOUND: Rendering(404, "Not found", CloseCode.PROTOCOL, False),
    ErrorCode.ALREADY_EXISTS: Rendering(409, "Already exists", CloseCode.PROTOCOL, False),
    ErrorCode.FAILED_PRECONDITION: Rendering(409, "Failed precondition", CloseCode.PROTOCOL, False),
    ErrorCode.RESOURCE_EXHAUSTED: Rendering(429, "Too many requests", CloseCode.RATE, True),
    ErrorCode.UNAVAILABLE: Rendering(503, "Unavailable", CloseCode.UNAVAILABLE, True),
    ErrorCode.DEADLINE_EXCEEDED: Rendering(504, "Deadline exceeded", CloseCode.UNAVAILABLE, True),
    ErrorCode.INTERNAL: Rendering(500, "Internal error", CloseCode.INTERNAL, True),
}

HTTP_PLAN_LIMIT = 402


class Quota(msgspec.Struct, frozen=True):
    """A plan's limit that was reached: what, how many there are, how many the plan allows."""

    resource: str
    current: int
    limit: int
    plan: str


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as one service tells it to another."""

    code: str
    detail: str
    retry_after: float | None = None
    quota: Quota | None = None


class ServiceError(Exception):
    """A failure that the other side is told about.

    ``detail`` is read by clients: it never holds a secret, a key of another tenant or the text of an
    unexpected exception. ``retry_after`` is in seconds. ``quota`` says which plan limit was reached.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        retry_after: float | None = None,
        quota: Quota | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.quota = quota

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def http_status(self) -> int:
        """The HTTP status: 402 where a plan's limit is the cause, else the code's own."""
        if self.quota is not None:
            return HTTP_PLAN_LIMIT
        return RENDERINGS[self.code].http_status

    @property
    def close_code(self) -> int:
        """The WebSocket close code of a session that this error ends."""
        if self.quota is not None:
            return CloseCode.QUOTA
        return RENDERINGS[self.code].close_code

    def body(self) -> ErrorBody:
        """Return the error as it travels between services."""
        return ErrorBody(self.code, self.detail, self.retry_after, self.quota)

    @classmethod
    def from_body(cls, body: ErrorBody) -> ServiceError:
        """Rebuild an error that another service sent; a code this version does not know is ``internal``."""
        try:
            code = ErrorCode(body.code)
        except ValueError:
            code = ErrorCode.INTERNAL
        return cls(code, body.detail, retry_after=body.retry_after, quota=body.quota)


def invalid(detail: str) -> ServiceError:
    """Return an ``invalid_argument`` error."""
    return ServiceError(ErrorCode.INVALID_ARGUMENT, detail)


def not_found(what: str) -> ServiceError:
    """Return a ``not_found`` error about a kind of thing."""
    return ServiceError(ErrorCode.NOT_FOUND, f"{what} not found")


def permission_denied(detail: str) -> ServiceError:
    """Return a ``permission_denied`` error."""
    return ServiceError(ErrorCode.PERMISSION_DENIED, detail)


def quota_error(resource: str, current: int, limit: int, plan: str) -> ServiceError:
    """Return the error for a plan's limit that was reached."""
    return ServiceError(
        ErrorCode.RESOURCE_EXHAUSTED,
        f"the plan {plan} allows {limit} {resource.replace('_', ' ')}",
        quota=Quota(resource, current, limit, plan),
    )


def unavailable(what: str, retry_after: float = 1.0) -> ServiceError:
    """Return an ``unavailable`` error with a retry hint in seconds."""
    return ServiceError(ErrorCode.UNAVAILABLE, f"{what} is unavailable, try again", retry_after=retry_after)
