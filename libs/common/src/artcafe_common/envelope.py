"""The live message as agents receive it, built once by whoever accepts a publish.

The bytes go to NATS and from there to every socket unchanged. Fields stand in a fixed order with the
message id first, so that it is found without decoding.
"""

from __future__ import annotations

import json
from functools import lru_cache

import msgspec

from artcafe_common.clock import milliseconds_of, rfc3339_of

_PREFIX = b'{"type":"message","message_id":"'
_ID_START = len(_PREFIX)
_ID_END = _ID_START + 26
_DATA_FIELD = b',"data":'
_AROUND_DATA = len(_DATA_FIELD) + 1
_FRAME = _PREFIX + b'%b","from":%b,"timestamp":"%b","channel":"%b","subject":"%b","data":%b}'
_BEFORE_SENDER = b'","from":'
_AFTER_SENDER = b',"timestamp":'


class LiveMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A live message, decoded; `sender` is ``from`` on the wire, `data` stays raw JSON."""

    message_id: str
    sender: str = msgspec.field(name="from")
    timestamp: str
    channel: str
    subject: str
    data: msgspec.Raw
    seq: int | None = None
    prev: int | None = None


_decoder = msgspec.json.Decoder(LiveMessage)


def sender_field(sender: str) -> bytes:
    """Return a sender's name as it stands in the frame; made once per session."""
    return json.dumps(sender).encode()


def build_frame(message_id: str, sender: bytes, now: float, channel_id: str, data: bytes) -> bytes:
    """Return the frame of a message: `sender` from `sender_field`, `now` epoch seconds, `data` valid JSON."""
    channel = channel_id.encode()
    return _FRAME % (message_id.encode(), sender, _timestamp(milliseconds_of(now)), channel, channel, data)


@lru_cache(maxsize=8)
def _timestamp(milliseconds: int) -> bytes:
    """Return a time as it stands in the frame; many messages are accepted in the same millisecond."""
    return rfc3339_of(milliseconds).encode()


def message_id_of(frame: bytes) -> bytes:
    """Return the message id of a frame, from its fixed place."""
    return frame[_ID_START:_ID_END]


def sender_of(frame: bytes) -> bytes:
    """Return a frame's sender as `sender_field` writes it, without decoding."""
    start = _ID_END + len(_BEFORE_SENDER)
    return frame[start : frame.index(_AFTER_SENDER, start)]


def data_size(frame: bytes) -> int:
    """Return the bytes of a frame's data; what stands before it is escaped and cannot hold its name."""
    return len(frame) - frame.index(_DATA_FIELD, _ID_END) - _AROUND_DATA


def decode_frame(frame: bytes) -> LiveMessage:
    """Decode a frame (not done on the way to agents)."""
    return _decoder.decode(frame)
