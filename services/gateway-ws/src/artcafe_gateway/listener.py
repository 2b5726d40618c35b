"""The WebSocket listener: the one module that knows picows.

It turns picows' callbacks into calls of `Connection` and `Peer`: whole text messages (fragments are put
together up to a bound), pings answered, protocol errors closed with the right code (RFC 6455).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from artcafe_common.errors import CloseCode
from artcafe_common.ids import new_ulid
from artcafe_common.listening import take_in_no_more
from artcafe_gateway.connection import Connection, Peer

logger = logging.getLogger(__name__)

BACKLOG = 4096
HANDSHAKE_TIMEOUT_SECONDS = 5.0
# The default of 16 KiB per connection would be most of the memory of an idle one; it grows on demand.
READ_BUFFER_BYTES = 2048
# What is read at once is worked on at once, however many frames it holds: the kernel keeps no more of it than
# this. picows's own buffer grows for as long as reads fill it.
RECEIVE_BUFFER_BYTES = 128 * 1024
# Pings, pongs and parts of messages, and whatever comes behind a close: they cost as much as messages do.
IDLE_FRAMES_PER_SECOND = 500
PROTOCOL_ERROR = 1002


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a client asked for: the path with its query, and the headers by lower-case name."""

    target: str
    headers: Mapping[str, str]
    remote_address: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer the upgrade with an HTTP error instead."""

    status: HTTPStatus
    detail: str


# Decides synchronously; authentication comes after the upgrade.
Admission = Callable[[Upgrade], Peer | Refusal]
Connected = Callable[[Connection], None]


class _Transport:
    """A socket's transport: asyncio's, and the socket's own `send` beside it.

    asyncio's `write` does the same with a fifth more CPU for a small message.
    """

    __slots__ = ("_raw", "put")

    def __init__(self, raw: asyncio.Transport) -> None:
        self._raw = raw
        # From the first byte that it keeps: so it is known when nothing stands before what is put.
        raw.set_write_buffer_limits(high=0)
        # asyncio shows the socket without its methods, since bytes would overtake each other.
        self.put: Callable[[bytes], int] = raw.get_extra_info("socket")._sock.send

    def write(self, data: bytes) -> None:
        # A socket that broke is closing before anybody is told; asyncio logs what is written then.
        if not self._raw.is_closing():
            self._raw.write(data)

    def close(self) -> None:
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()


class _Socket(WSListener):
    """One client's socket in picows' terms."""

    def __init__(self, listener: Listener, peer: Peer, remote_address: str) -> None:
        self._listener = listener
        self._peer: Peer | None = peer
        self._remote_address = remote_address
        self._connection: Connection | None = None
        # The message that is being put together, where one is.
        self._fragments: bytearray | None = None
        # Frames without a message in the second that began then.
        self._idle_frames = 0
        self._idle_since = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        assert self._peer is not None
        connection = Connection(
            _Transport(transport.underlying_transport),
            new_ulid(),
            self._remote_address,
            self._listener.outbox_bytes,
            self._peer,
        )
        # From here on the connection knows its peer: a handshake that is over can go.
        self._peer = None
        self._connection = connection
        self._guarded(self._listener.opened, connection)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # Once picows has found that a client breaks the protocol it ends the socket, but reads on until then.
        if self._connection is not None and not transport.is_close_frame_sent:
            self._guarded(self._on_frame, self._connection, frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._connection is not None:
            self._guarded(self._listener.closed, self._connection)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._guarded(self._connection.resume)

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back; a bug ends this one socket, and is logged here since picows is kept silent."""
        try:
            callback(*arguments)
        except Exception:
            connection = self._connection
            assert connection is not None
            logger.exception("socket_failed", extra={"connection_id": connection.connection_id})
            connection.close(CloseCode.INTERNAL, "internal error")

    def _on_frame(self, connection: Connection, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            body = frame.get_payload_as_bytes()
            # Without a code the client just said goodbye.
            connection.acknowledge_close(int.from_bytes(body[:2]) if len(body) >= 2 else 1000)
            return
        if connection.deaf:
            self._spend(connection)
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            connection.close(PROTOCOL_ERROR, "reserved bits without an extension")
        elif kind == WSMsgType.TEXT and frame.fin and self._fragments is None:
            connection.peer.on_text(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PING:
            if self._spend(connection):
                connection.pong(frame.get_payload_as_bytes())
                connection.peer.on_alive()
        elif kind == WSMsgType.PONG:
            if self._spend(connection):
                connection.ping_unanswered = False
                connection.peer.on_alive()
        elif kind == WSMsgType.BINARY:
            connection.close(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif self._spend(connection):
            self._on_fragment(connection, frame)

    def _spend(self, connection: Connection) -> bool:
        """Count a frame that brings no message; with too many the socket is closed, then cut off."""
        now = time.monotonic()
        if now - self._idle_since >= 1.0:
            self._idle_since = now
            self._idle_frames = 0
        self._idle_frames += 1
        if self._idle_frames <= IDLE_FRAMES_PER_SECOND:
            return True
        if not connection.closing:
            connection.close(CloseCode.RATE, "too many frames")
        elif self._idle_frames > IDLE_FRAMES_PER_SECOND * 2:
            # It does not care what it is told.
            connection.cut()
        return False

    def _on_fragment(self, connection: Connection, frame: WSFrame) -> None:
        if (frame.msg_type == WSMsgType.CONTINUATION) != (self._fragments is not None):
            connection.close(PROTOCOL_ERROR, "fragments out of order")
            return
        if self._fragments is None:
            self._fragments = bytearray()
        # Fragments may be empty and endless: only their bytes are kept.
        self._fragments += frame.get_payload_as_bytes()
        if len(self._fragments) > self._listener.max_message_bytes:
            self._fragments = None
            connection.close(CloseCode.TOO_BIG, "message too big")
        elif frame.fin:
            message = bytes(self._fragments)
            self._fragments = None
            connection.peer.on_text(message)


class Listener:
    """A listening port for sockets; `admit` decides on each, `connected` is told of those that came in."""

    def __init__(
        self,
        admit: Admission,
        connected: Connected,
        *,
        max_message_bytes: int,
        outbox_bytes: int,
    ) -> None:
        self._admit = admit
        self._connected = connected
        self.max_message_bytes = max_message_bytes
        self.outbox_bytes = outbox_bytes
        self.connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, bound: socket.socket) -> None:
        """Listen on a bound socket."""
        # Those that are accepted have it from the one that listens.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._server = await ws_create_server(
            self._upgrade,
            sock=bound,
            backlog=BACKLOG,
            websocket_handshake_timeout=HANDSHAKE_TIMEOUT_SECONDS,
            disconnect_on_exception=True,
            enable_auto_ping=False,
            enable_auto_pong=False,
            max_frame_size=self.max_message_bytes,
            read_buffer_init_size=READ_BUFFER_BYTES,
            # Its transports write no faster than asyncio's and take 5 KiB each, a quarter of an idle
            # connection.
            use_aiofastnet=False,
            logger_name=_Silence(logger),
        )

    async def stop_accepting(self) -> None:
        """Close the listening port; open sockets stay."""
        if self._server is not None:
            for bound in self._server.sockets:
                await take_in_no_more(bound.fileno())
            self._server.close()

    async def wait_closed(self, timeout: float) -> None:
        """Wait until no socket is left, at most `timeout` seconds."""
        if self.connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._empty.wait()
            except TimeoutError:
                logger.info("sockets_left", extra={"count": len(self.connections)})

    def opened(self, connection: Connection) -> None:
        """Note a new socket."""
        self.connections.add(connection)
        self._connected(connection)

    def closed(self, connection: Connection) -> None:
        """Note that a socket has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()
        connection.lost()

    def _upgrade(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        # No header that is read here may hold anything else, and a stray byte is not passed on.
        headers = {name.lower(): value for name, value in request.headers.items() if value.isascii()}
        if "upgrade" in [part.strip().lower() for part in headers.get("connection", "").split(",")]:
            # picows takes only this one token, Firefox sends ``keep-alive, Upgrade``.
            request.headers["Connection"] = "Upgrade"
        try:
            target = request.path.decode("ascii")
        except UnicodeDecodeError:
            return _refuse(Refusal(HTTPStatus.BAD_REQUEST, "the path is not valid"))
        remote_address = headers.get("x-real-ip", "")
        answer = self._admit(Upgrade(target, headers, remote_address))
        if isinstance(answer, Refusal):
            return _refuse(answer)
        return _Socket(self, answer, remote_address)


class _Silence(logging.LoggerAdapter[logging.Logger]):
    """A logger for picows, which would give strangers a line for each frame that breaks the protocol.

    It is no `logging.Logger` on purpose: of such picows makes one per connection.
    """

    def isEnabledFor(self, level: int) -> bool:
        return False

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Drop a record."""


def _refuse(refusal: Refusal) -> WSUpgradeResponseWithListener:
    response = WSUpgradeResponse.create_error_response(
        refusal.status, refusal.detail.encode(), {"Retry-After": "2"} if refusal.status == 503 else None
    )
    return WSUpgradeResponseWithListener(response, None)
