"""One socket as the rest of the gateway sees it: frames in, frames out, close, and a bounded outbox.

Knows nothing of the WebSocket library: a `Transport` writes bytes. A frame goes to the socket with one system
call. What the socket does not take at once is the transport's to send, and until it has, frames wait in the
outbox up to a bound; what happens beyond it is the subscription's policy, and the client is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol

from artcafe_common.errors import CloseCode
from artcafe_gateway import metrics, wire
from artcafe_gateway.outbox import Held, Outbox

CLOSE_GRACE_SECONDS = 5.0
# What a socket that has room again is given at once.
RESUME_BYTES = 64 * 1024
ABNORMAL_CLOSURE = 1006

# Why a connection is closing: the client left (or vanished), this server restarts, or this server refuses it.
End = Literal["client", "restart", "refused"]

# Only these become labels of a metric: a client may send any code.
_KNOWN_CODES = frozenset(CloseCode)


class Transport(Protocol):
    """Where bytes go. It calls `Connection.pause` as soon as it keeps any, `resume` when it has none left."""

    @property
    def put(self) -> Callable[[bytes], int]:
        """Hand bytes to the socket and return how many it took; OSError where it took none.

        Only while the transport keeps nothing: they would overtake it.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them until the socket takes them."""
        ...

    def close(self) -> None:
        """Close when everything written was sent."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def pause_reading(self) -> None:
        """Take nothing from the socket for now."""
        ...

    def resume_reading(self) -> None:
        """Go on reading."""
        ...


class Peer(Protocol):
    """Who talks over the connection: a session, or a handshake on its way to one."""

    def on_text(self, payload: bytes) -> None:
        """Handle one text message."""
        ...

    def on_alive(self) -> None:
        """Note a sign of life below the messages: a ping or a pong."""
        ...

    def on_closed(self, code: int) -> None:
        """Clean up; `code` is the client's close code, the server's own, or 1006 for none."""
        ...


class _Nobody:
    """The peer of a connection that has ended."""

    def on_text(self, payload: bytes) -> None:
        """Ignore what comes late."""

    def on_alive(self) -> None:
        """Ignore what comes late."""

    def on_closed(self, code: int) -> None:
        """Ignore a second end."""


_NOBODY = _Nobody()


class Connection:
    """One open socket. `write` and `put` are the hot path: call them only while not `blocked`."""

    __slots__ = (
        "_close_code",
        "_dropped",
        "_kill",
        "_outbox",
        "_outbox_max",
        "_reading_paused",
        "_transport",
        "agent_id",
        "blocked",
        "connection_id",
        "deaf",
        "end",
        "gone",
        "on_drop",
        "peer",
        "ping_unanswered",
        "pinged_at",
        "put",
        "remote_address",
    )

    def __init__(
        self, transport: Transport, connection_id: str, remote_address: str, outbox_max: int, peer: Peer
    ) -> None:
        self._transport = transport
        self.put: Callable[[bytes], int] = transport.put
        self.connection_id = connection_id
        self.remote_address = remote_address
        self.peer: Peer = peer
        # Whose deliveries are counted; None for dashboards and before the handshake.
        self.agent_id: str | None = None
        # Nothing may be written now: the transport is full, or a close was sent.
        self.blocked = False
        self.end: End | None = None
        # The socket itself has ended, and the peer has been told.
        self.gone = False
        # What comes in now is for nobody. At a restart what was on its way is still heard.
        self.deaf = False
        # Monotonic seconds of the last ping, or of the start, and whether its answer is still out.
        self.pinged_at = asyncio.get_running_loop().time()
        self.ping_unanswered = False
        # Tells the client that copies were dropped: (channel_id, count).
        self.on_drop: Callable[[str, int], bytes] | None = None
        # There only while something waits: most sockets never need one.
        self._outbox: Outbox | None = None
        self._outbox_max = outbox_max
        self._dropped: dict[str, int] = {}
        self._close_code: int | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._reading_paused = False

    @property
    def closing(self) -> bool:
        """Whether a close was sent or the socket has ended."""
        return self._close_code is not None

    @property
    def reading_paused(self) -> bool:
        """Whether nothing is read from the client, so that its silence says nothing."""
        return self._reading_paused

    def write(self, data: bytes) -> None:
        """Send whole frames; what the socket does not take at once blocks the connection until it has."""
        try:
            sent = self.put(data)
        except OSError:
            # Full, or broken: the transport finds out which.
            sent = 0
        if sent != len(data):
            self._transport.write(data[sent:])

    def send(self, payload: bytes) -> None:
        """Send one text message of the session itself (an answer, an event)."""
        if self._close_code is not None:
            return
        frame = wire.text_frame(payload)
        if not self.blocked:
            self.write(frame)
            return
        # Answers are few: a client that asks for more than it reads is a slow consumer.
        if not self._has_room(len(frame)):
            self.close(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        self._push(frame)

    def hold(self, held: Held) -> None:
        """Keep a message for a blocked socket, or do what its subscription's policy says."""
        if self._close_code is not None:
            return
        size = len(held.frame)
        if not self._has_room(size):
            if held.policy == "drop_newest":
                self._drop(held)
                return
            if held.policy == "drop_oldest":
                self._make_room(size)
            if not self._has_room(size):
                self.close(CloseCode.SLOW_CONSUMER, "slow consumer")
                return
        self._push(held)

    def pong(self, payload: bytes) -> None:
        """Answer a client's ping; one that does not read gets no answers rather than a growing buffer."""
        if self._close_code is None and not self.blocked:
            self.write(wire.pong_frame(payload))

    def ping(self, now: float) -> None:
        """Ping the client at a time of the monotonic clock; `ping_unanswered` until it answers."""
        if self._close_code is None:
            self.pinged_at = now
            self.ping_unanswered = True
            if not self.blocked:
                self.write(wire.PING)

    def excuse(self, seconds: float, now: float) -> None:
        """Count a time up to now in which nobody here listened for the answer to a ping as none (seconds)."""
        self.pinged_at = min(now, self.pinged_at + seconds)

    def cut(self) -> None:
        """End a socket whose other side does not answer any more."""
        self._transport.abort()

    def close(self, code: int, reason: str, *, end: End = "refused") -> None:
        """Say why and close; a client that does not read is cut off after `CLOSE_GRACE_SECONDS`."""
        if self._close_code is not None:
            return
        self._say_close(code, reason, end)
        # The client answers and `acknowledge_close` ends it: ending TCP now could reset it
        # before it has read why.

    def revoke(self, code: int, reason: str) -> None:
        """Say why and close, and hear nothing more; also where a close for another reason is under way."""
        self.close(code, reason)
        self.end = "refused"
        self.deaf = True

    def acknowledge_close(self, client_code: int) -> None:
        """Handle the client's close frame: the answer to ours, or its own goodbye, which is answered."""
        if self._close_code is None:
            self._say_close(client_code, "", "client")
        self.deaf = True
        self._transport.close()

    def pause_reading(self) -> None:
        """Read no more from a client that asks for more than can be done at once."""
        if not self._reading_paused and self._close_code is None:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._reading_paused and self._close_code is None:
            self._reading_paused = False
            self._transport.resume_reading()

    def pause(self) -> None:
        """Note that the transport keeps bytes that the socket did not take."""
        self.blocked = True

    def resume(self) -> None:
        """Note that the socket has taken all of it, and send what waited."""
        if self._close_code is not None:
            return
        self.blocked = False
        # Whoever takes bytes is there, also when a ping is still behind others in its buffers.
        self.ping_unanswered = False
        while self._outbox and not self.blocked:
            self.write(b"".join(self._take_waiting(self._outbox)))
        if not self._outbox:
            self._outbox = None
        if not self.blocked and self._dropped and self.on_drop is not None:
            dropped, self._dropped = self._dropped, {}
            for channel_id, count in dropped.items():
                self.send(self.on_drop(channel_id, count))

    def lost(self) -> None:
        """Note that the socket has ended; the peer hears the code of the first close frame, or 1006."""
        if self._kill is not None:
            self._kill.cancel()
        if self._close_code is None:
            self._close_code = ABNORMAL_CLOSURE
            self.end = "client"
            metrics.CLOSES.labels(ABNORMAL_CLOSURE).inc()
        self.blocked = True
        self.gone = True
        self._discard()
        # Session and connection let go of each other, so that both are freed at once.
        peer, self.peer = self.peer, _NOBODY
        self.on_drop = None
        peer.on_closed(self._close_code)

    def _say_close(self, code: int, reason: str, end: End) -> None:
        # The answer to our close must be read.
        self.resume_reading()
        self._close_code = code
        self.end = end
        self.deaf = end == "refused"
        metrics.CLOSES.labels(code if code in _KNOWN_CODES else "other").inc()
        self._discard()
        self._transport.write(wire.close_frame(code, reason))
        # No data may follow a close frame (RFC 6455, 5.5.1), and nobody is billed for what is not sent.
        self.blocked = True
        self._kill = asyncio.get_running_loop().call_later(CLOSE_GRACE_SECONDS, self._transport.abort)

    def _push(self, item: Held | bytes) -> None:
        if self._outbox is None:
            self._outbox = Outbox()
        self._outbox.push(item)

    def _take_waiting(self, outbox: Outbox) -> list[bytes]:
        """Take out the oldest frames, about as many as a socket takes at once; they count from here on."""
        frames: list[bytes] = []
        size = 0
        while outbox and size < RESUME_BYTES:
            item = outbox.pop()
            if isinstance(item, bytes):
                frame = item
            else:
                frame = item.frame
                item.source.delivered(self, item.size)
            frames.append(frame)
            size += len(frame)
        return frames

    def _has_room(self, size: int) -> bool:
        # One message always has, however large: what is allowed to be sent must be possible to receive.
        return self._outbox is None or self._outbox.size + size <= self._outbox_max

    def _make_room(self, size: int) -> None:
        while self._outbox and not self._has_room(size):
            held = self._outbox.drop_oldest()
            if held is None:
                return
            self._drop(held)
        if not self._outbox:
            self._outbox = None

    def _drop(self, held: Held) -> None:
        channel_id = held.source.channel_id
        self._dropped[channel_id] = self._dropped.get(channel_id, 0) + 1
        metrics.DROPPED.inc()

    def _discard(self) -> None:
        self._outbox = None
