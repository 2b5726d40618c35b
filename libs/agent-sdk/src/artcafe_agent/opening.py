"""Open sockets: challenge, signature, handshake, welcome."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from artcafe_agent.address import ServerAddress
from artcafe_agent.connection import reason_of
from artcafe_agent.errors import ArtcafeError, ProtocolError, UnexpectedAnswer, Unreachable
from artcafe_agent.http import Answer, api_error, in_thread, request_json
from artcafe_agent.keys import AgentKey
from artcafe_agent.protocol import Error, Welcome, decode
from artcafe_agent.version import USER_AGENT

LARGEST_FRAME_BYTES = 4 * 1024 * 1024  # four times what a server may be configured to accept
CLOSE_TIMEOUT_SECONDS = 3.0

# At DEBUG the library logs whole frames and the request line with its signature: never below INFO.
_websocket_logger = logging.getLogger("artcafe_agent.websocket")
_websocket_logger.setLevel(logging.INFO)


class _Challenge(msgspec.Struct):
    challenge: str


async def open_agent_socket(
    address: ServerAddress,
    tenant_id: str,
    agent_id: str,
    key: AgentKey,
    *,
    timeout: float,
    tls: ssl.SSLContext | None = None,
) -> tuple[ClientConnection, Welcome]:
    """Prove who we are with a fresh challenge and return the open socket with the server's welcome.

    ``timeout`` (seconds) is for each of the three steps: the challenge, the handshake, the welcome.

    Raises:
        ArtcafeError: It failed; ``temporary`` says whether trying again may help.
    """
    reply = await in_thread(
        partial(
            request_json,
            "POST",
            address.api("auth", "agent", "challenge"),
            body={"tenant_id": tenant_id, "agent_id": agent_id},
            timeout=timeout,
            tls=tls,
        )
    )
    try:
        challenge = msgspec.convert(reply, _Challenge).challenge
    except msgspec.ValidationError:
        raise UnexpectedAnswer("the server gave no challenge") from None
    url = address.socket("agent", agent_id, query={"challenge": challenge, "signature": key.sign(challenge)})
    socket = await open_socket(url, timeout=timeout, tls=tls)
    try:
        event = decode(await next_frame(socket, timeout))
        if isinstance(event, Error):
            # The reason in words; the close that follows says what to do.
            await next_frame(socket, timeout)
        if not isinstance(event, Welcome):
            raise UnexpectedAnswer("the server did not begin with a welcome")
    except ProtocolError as problem:
        socket.transport.abort()
        raise UnexpectedAnswer(str(problem)) from None
    except BaseException:
        socket.transport.abort()
        raise
    return socket, event


async def open_socket(
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    ping_interval: float | None = None,
) -> ClientConnection:
    """Open a WebSocket; ``ping_interval`` is for sockets without heartbeats of their own.

    Raises:
        ApiError: The handshake was refused with an HTTP status.
        Unreachable: Nothing answered, or not in time.
    """
    options: dict[str, Any] = {"ssl": tls} if tls is not None and url.startswith("wss:") else {}
    try:
        return await connect(
            url,
            additional_headers=dict(headers or {}),
            user_agent_header=USER_AGENT,
            compression=None,  # the server has none
            ping_interval=ping_interval,
            open_timeout=timeout,
            close_timeout=CLOSE_TIMEOUT_SECONDS,
            max_size=LARGEST_FRAME_BYTES,
            logger=_websocket_logger,
            **options,
        )
    except InvalidStatus as refusal:
        response = refusal.response
        received = {name.lower(): value for name, value in response.headers.raw_items()}
        raise api_error(Answer(response.status_code, received, bytes(response.body))) from None
    except (OSError, WebSocketException) as problem:
        raise _unreachable(url, problem) from problem


async def next_frame(socket: ClientConnection, timeout: float) -> bytes:
    """Return a frame of a server that has not welcomed us yet, and may close instead.

    Raises:
        Disconnected: It closed.
        Unreachable: Nothing came in time.
    """
    try:
        async with asyncio.timeout(timeout):
            return await socket.recv(decode=False)
    except ConnectionClosed as closed:
        raise reason_of(closed) from None
    except TimeoutError:
        raise Unreachable(
            "the server", f"it accepted the socket but said nothing for {timeout:g} s"
        ) from None


def _unreachable(url: str, problem: Exception) -> ArtcafeError:
    where = url.split("?", 1)[0]
    if isinstance(problem, TimeoutError):
        return Unreachable(where, "no answer in time")
    if isinstance(problem, OSError):
        return Unreachable(where, (problem.strerror or str(problem) or type(problem).__name__).lower())
    return Unreachable(where, f"the handshake failed: {problem}")
