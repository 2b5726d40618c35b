"""WebSocket framing of the server's side (RFC 6455 section 5.2): no mask, no fragments.

A prepared frame can be written to any number of sockets, alone or joined with others.
"""

from __future__ import annotations

import struct

PING = b"\x89\x00"

_CONTROL_PAYLOAD_MAX = 125


def text_frame(payload: bytes) -> bytes:
    """Return a whole text message; `payload` is UTF-8."""
    size = len(payload)
    if size <= 125:
        return b"\x81%c%b" % (size, payload)
    if size <= 0xFFFF:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping, with the ping's payload."""
    return b"\x8a%c%b" % (len(payload), payload)


def close_frame(code: int, reason: str) -> bytes:
    """Return a close; a reason that is too long for a control frame is cut."""
    # Cut between characters: half of one would not be UTF-8.
    text = reason.encode()[: _CONTROL_PAYLOAD_MAX - 2].decode(errors="ignore").encode()
    body = struct.pack("!H", code) + text
    return b"\x88%c%b" % (len(body), body)
