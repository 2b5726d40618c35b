"""From an upgrade to a session: what a client asks for, and how it proves itself.

The upgrade is answered at once and a client authenticates after it, with a deadline: browsers cannot read a
refused upgrade, and a bad signature must not cost more than a socket. Until it is proven a connection has no
tenant, is subscribed to nothing, and what it sends waits in a small queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from artcafe_common.errors import CloseCode, ErrorCode, ServiceError
from artcafe_common.ids import is_token
from artcafe_gateway import metrics
from artcafe_gateway.connection import Connection, Peer
from artcafe_gateway.frames import error_event, first_frame_decoder
from artcafe_gateway.listener import Upgrade

logger = logging.getLogger(__name__)

EARLY_FRAMES_MAX = 32
EARLY_BYTES_MAX = 256 * 1024
_PREFIXES = ("/ws/", "/api/v1/ws/")


@dataclass(frozen=True, slots=True)
class AgentHello:
    """An agent's socket: who it says it is, and its proof."""

    agent_id: str
    tenant_id: str | None
    challenge: str | None
    signature: str | None
    ticket: str | None
    remote_address: str


@dataclass(frozen=True, slots=True)
class DashboardHello:
    """A dashboard's socket; without a token here the first frame must bring it."""

    token: str | None
    tenant_id: str | None


def read_hello(upgrade: Upgrade) -> AgentHello | DashboardHello | None:
    """Return what an upgrade asks for, or None where there is nothing at its path."""
    path, _, query = upgrade.target.partition("?")
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            break
    else:
        return None
    parameters = _parameters(query)
    scheme, _, credential = upgrade.headers.get("authorization", "").partition(" ")
    tenant_id = upgrade.headers.get("x-tenant-id") or parameters.get("tenant_id")
    if rest == "dashboard":
        token = credential.strip() if scheme.lower() == "bearer" else None
        return DashboardHello(parameters.get("token") or token, tenant_id)
    kind, _, agent_id = rest.partition("/")
    if kind != "agent" or not is_token(agent_id):
        return None
    ticket = credential.strip() if scheme.lower() == "ticket" else None
    return AgentHello(
        agent_id=agent_id,
        tenant_id=tenant_id,
        challenge=parameters.get("challenge"),
        signature=parameters.get("signature"),
        ticket=parameters.get("ticket") or ticket,
        remote_address=upgrade.remote_address,
    )


def close_code_of(error: ServiceError) -> int:
    """Return the close code for a handshake that failed."""
    if error.code == ErrorCode.PERMISSION_DENIED and "suspended" in error.detail:
        return CloseCode.TENANT_SUSPENDED
    if error.code in (ErrorCode.NOT_FOUND, ErrorCode.INVALID_ARGUMENT):
        return CloseCode.BAD_CREDENTIALS
    return error.close_code


# Ends with `Handshake.hand_over`, or raises ServiceError.
Authenticate = Callable[[Connection], Awaitable[None]]


class Handshake:
    """The peer of a connection until it has proven itself."""

    def __init__(self, kind: str, timeout: float) -> None:
        self._kind = kind
        self._timeout = timeout
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._first: asyncio.Future[bytes] | None = None
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, connection: Connection, authenticate: Authenticate) -> None:
        """Begin to authenticate."""
        self._connection = connection
        self._task = asyncio.get_running_loop().create_task(self._run(connection, authenticate))

    def hand_over(self, session: Peer) -> None:
        """Put a session in this place; it hears what came early before what comes next."""
        assert self._connection is not None
        self._connection.peer = session
        self._connection.resume_reading()
        early, self._early = self._early, []
        for payload in early:
            if not self._connection.deaf:
                session.on_text(payload)

    async def first_frame(self) -> tuple[str, str | None]:
        """Wait for the frame that brings a token; return it and the tenant it names.

        Raises: ServiceError ``unauthenticated`` where it is something else.
        """
        if self._early:
            payload = self._early.pop(0)
        else:
            self._first = asyncio.get_running_loop().create_future()
            payload = await self._first
        try:
            frame = first_frame_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ServiceError(ErrorCode.UNAUTHENTICATED, "the first frame must bring a token") from None
        return frame.token, frame.tenant_id

    def on_text(self, payload: bytes) -> None:
        """Keep a frame that came before the session is there."""
        assert self._connection is not None
        if self._connection.closing:
            return
        if self._first is not None and not self._first.done():
            self._first.set_result(payload)
            return
        # More than this waits in the client until it has proven itself.
        self._connection.pause_reading()
        self._early.append(payload)
        self._early_bytes += len(payload)
        if len(self._early) > EARLY_FRAMES_MAX or self._early_bytes > EARLY_BYTES_MAX:
            self._connection.close(CloseCode.PROTOCOL, "too much before authentication")

    def on_alive(self) -> None:
        """Ignore pings and pongs: only the deadline counts."""

    def on_closed(self, code: int) -> None:
        """Stop: nobody is there any more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, connection: Connection, authenticate: Authenticate) -> None:
        outcome = "gone"
        try:
            async with asyncio.timeout(self._timeout):
                await authenticate(connection)
            outcome = "accepted"
        except ServiceError as error:
            outcome = error.code
            connection.send(error_event(error, None))
            connection.close(close_code_of(error), error.detail)
        except TimeoutError:
            outcome = ErrorCode.DEADLINE_EXCEEDED
            connection.close(CloseCode.UNAVAILABLE, "no authentication in time")
        except Exception:
            outcome = ErrorCode.INTERNAL
            logger.exception("handshake_failed")
            connection.close(CloseCode.INTERNAL, "internal error")
        finally:
            metrics.HANDSHAKES.labels(self._kind, outcome).inc()


def _parameters(query: str) -> dict[str, str]:
    """Read a query; a plus sign stays one, since base64 is often sent without percent-encoding."""
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        parameters[name] = unquote(value)
    return parameters
