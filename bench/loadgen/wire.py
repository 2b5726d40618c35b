"""What both sides of the generator know: the message's data, client frames, and the plan of a socket."""

from __future__ import annotations

import msgspec

DATA_BYTES = 200
# Ends the data of every message of a benchmark and occurs in nothing else that a server sends.
MARK = b'"mark":"@#"}'
TEXT, BINARY, PONG = 0x1, 0x2, 0xA

# A client must mask (RFC 6455 section 5.3); zeros leave the payload as it is and cost the server the same.
_MASK = b"\x00\x00\x00\x00"


class SocketPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to open one socket and what to do with it.

    `opening` is sent after connecting, and answered with `opened`; `hello` follows, and `ready` must come by
    before the socket counts as open. `publish` is one message as this socket sends it. `keepalive` is sent
    every `KEEPALIVE_SECONDS`. One that does not read takes as little as a socket can once it is ready.
    """

    host: str
    port: int
    opening: bytes = b""
    opened: bytes = b""
    hello: bytes = b""
    ready: bytes = b""
    publish: bytes = b""
    keepalive: bytes = b""
    reads: bool = True


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Open the sockets of a group, so many at a time."""

    group: str
    sockets: list[SocketPlan]
    at_a_time: int = 32


class Close(msgspec.Struct, frozen=True, kw_only=True, tag="close"):
    """Close every socket of a group."""

    group: str


class Flood(msgspec.Struct, frozen=True, kw_only=True, tag="flood"):
    """Publish for a time, with a number of messages under way that not every receiver has yet."""

    publisher: str
    receivers: str
    in_flight: int
    seconds: float


class Paced(msgspec.Struct, frozen=True, kw_only=True, tag="paced"):
    """Publish at a fixed rate to one receiver and note how long each message took."""

    publisher: str
    receivers: str
    rate: float
    seconds: float


class Say(msgspec.Struct, frozen=True, kw_only=True, tag="say"):
    """Send something on every socket of a group, and wait until each has its answer."""

    group: str
    frame: bytes
    answer: bytes
    times: int = 1


Command = Open | Close | Flood | Paced | Say


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a command did: counts, wall seconds, those of them with nothing to do, latencies in seconds."""

    count: int = 0
    deliveries: int = 0
    seconds: float = 0.0
    idle_seconds: float = 0.0
    latencies: list[float] = []
    error: str | None = None


def message_data(size: int = DATA_BYTES) -> bytes:
    """Return the data of every message: a JSON object of `size` bytes that ends with the mark."""
    head = b'{"text":"'
    tail = b'",' + MARK
    return head + b"x" * (size - len(head) - len(tail)) + tail


def client_frame(payload: bytes, kind: int = TEXT) -> bytes:
    """Return one whole WebSocket frame as a client sends it."""
    size = len(payload)
    if size <= 125:
        head = bytes((0x80 | kind, 0x80 | size))
    elif size <= 0xFFFF:
        head = bytes((0x80 | kind, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | kind, 0x80 | 127)) + size.to_bytes(8)
    return head + _MASK + payload


def upgrade(host: str, port: int, target: str) -> bytes:
    """Return the HTTP request that opens a WebSocket."""
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


UPGRADED = b"\r\n\r\n"
