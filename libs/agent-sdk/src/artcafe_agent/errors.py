"""Everything that can go wrong, as types a caller can tell apart.

`temporary` says whether the same thing may succeed later without anybody changing anything: the client
reconnects after temporary failures only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEMPORARY_CODES = frozenset({"resource_exhausted", "unavailable", "deadline_exceeded", "internal"})
TEMPORARY_STATUSES = frozenset({408, 425, 429})
QUOTA_MEMBERS = ("resource", "current", "limit", "plan")


class ArtcafeError(Exception):
    """Base of every exception of this package."""

    temporary: bool = False
    retry_after: float = 0.0  # seconds; how long the server asked us to wait


class ConfigurationError(ArtcafeError, ValueError):
    """An argument, a setting or a file is wrong; nothing was sent."""


class KeyFormatError(ConfigurationError):
    """A private key cannot be read or is of a kind that the server does not accept."""


class Unreachable(ArtcafeError):
    """The server did not answer: no route, refused, a failed TLS handshake, or too late."""

    temporary = True

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"{self.address} cannot be reached: {self.why}"


class UnexpectedAnswer(ArtcafeError):
    """Something answered, but not as an ArtCafe server does."""

    temporary = True


class ApiError(ArtcafeError):
    """The server refused an HTTP request (RFC 9457 problem details).

    ``extra`` holds the members beyond the standard ones, such as ``resource``, ``current``, ``limit``
    and ``plan`` of a plan limit.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        request_id: str = "",
        retry_after: float = 0.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after
        self.extra = dict(extra or {})
        self.temporary = status >= 500 or status in TEMPORARY_STATUSES

    def __str__(self) -> str:
        text = f"{self.code}: {self.detail}" if self.detail else self.code
        text += _quota_text(self.extra)
        if self.retry_after:
            text += f"; try again in {self.retry_after:g} s"
        if self.request_id:
            text += f" [request {self.request_id}]"
        return text


class CommandError(ArtcafeError):
    """The server refused one command; the connection is as it was.

    ``extra`` holds ``resource``, ``current``, ``limit`` and ``plan`` where a limit of the plan is the cause.
    """

    def __init__(
        self,
        code: str,
        message: str,
        command: str = "",
        retry_after: float = 0.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, command)
        self.code = code
        self.message = message
        self.command = command
        self.retry_after = retry_after
        self.extra = dict(extra or {})
        self.temporary = code in TEMPORARY_CODES and not self.extra

    def __str__(self) -> str:
        prefix = f"{self.command}: " if self.command else ""
        return f"{prefix}{self.code}: {self.message}{_quota_text(self.extra)}"


class ProtocolError(ArtcafeError):
    """A frame of the server cannot be understood."""


class NotConnected(ArtcafeError):
    """There was no connection within the time allowed; nothing was sent."""

    temporary = True


class ClientClosed(ArtcafeError):
    """The client was closed by its owner, or not opened yet; nothing was sent."""


class OutcomeUnknown(ArtcafeError):
    """A command was sent and no answer came: it may or may not have taken effect."""

    temporary = True

    def __init__(self, command: str, why: str) -> None:
        super().__init__(command, why)
        self.command = command
        self.why = why

    def __str__(self) -> str:
        return f"{self.command}: {self.why}; whether it took effect is unknown"


class ConnectionLost(OutcomeUnknown):
    """The connection broke while a command waited for its answer."""


class AckTimeout(OutcomeUnknown, TimeoutError):
    """The server did not answer a command in time; the connection is still open."""


class SlowConsumerError(ArtcafeError):
    """A subscription with ``overflow="fail"`` was not read fast enough."""

    def __init__(self, dropped: int) -> None:
        super().__init__(dropped)
        self.dropped = dropped

    def __str__(self) -> str:
        return f"messages came faster than they were read: {self.dropped} dropped"


class Disconnected(ArtcafeError):
    """A connection has ended, with the close code and reason of RFC 6455 (1006: without saying why)."""

    temporary = True
    meaning = "the connection ended"

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.meaning} ({self.code}{': ' + self.reason if self.reason else ''})"


class StoppedError(Disconnected):
    """The server closed with a code that forbids to come back unchanged."""

    temporary = False
    meaning = "the server does not want this client back"


class CredentialsRefused(StoppedError):
    """The key, challenge, ticket or token was not accepted."""

    meaning = "the credentials were refused"


class RevokedError(StoppedError):
    """The key was revoked or the agent deleted."""

    meaning = "the key or the agent was revoked"


class TenantSuspended(StoppedError):
    """The organisation is suspended or deleted."""

    meaning = "the organisation is suspended"


class ProtocolRefused(StoppedError):
    """The server says that this client does not speak its protocol."""

    meaning = "the server does not understand this client"


class QuotaExceeded(StoppedError):
    """The organisation's plan has no room for this connection."""

    meaning = "the plan's quota is used up"


class ReplacedError(StoppedError):
    """A newer connection of the same agent took this one's place."""

    meaning = "a newer connection of this agent took over"


REPLACED_CODE = 4006
STOPPED_CODES: Mapping[int, type[StoppedError]] = {
    4500: CredentialsRefused,
    4501: RevokedError,
    4502: TenantSuspended,
    4503: ProtocolRefused,
    4504: QuotaExceeded,
}


def disconnected(code: int, reason: str = "") -> Disconnected:
    """Return the exception for a close code: its type says whether to come back."""
    if code == REPLACED_CODE:
        return ReplacedError(code, reason)
    if 4500 <= code <= 4999:
        return STOPPED_CODES.get(code, StoppedError)(code, reason)
    return Disconnected(code, reason)


def _quota_text(extra: Mapping[str, Any]) -> str:
    quota = [f"{name} {extra[name]}" for name in QUOTA_MEMBERS if name in extra]
    return f" ({', '.join(quota)})" if quota else ""
