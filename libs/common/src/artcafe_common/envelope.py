"""The live message as agents receive it, built once by whoever accepts a publish.

The bytes go to NATS and from there to every socket unchanged. Fields stand in a fixed order with the
message id first, so that it is found without decoding.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

_PREFIX = b'{"type":"message","message_id":"'
_ID_START = len(_PREFIX)
_ID_END = _ID_START + 26


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
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")[:-6]
    head = f'{message_id}","from":{sender.decode()},"timestamp":"{moment}Z",'
    tail = f'"channel":"{channel_id}","subject":"{channel_id}","data":'
    return b"".join((_PREFIX, head.encode(), tail.encode(), data, b"}"))


def message_id_of(frame: bytes) -> bytes:
    """Return the message id of a frame, from its fixed place."""
    return frame[_ID_START:_ID_END]


def decode_frame(frame: bytes) -> LiveMessage:
    """Decode a frame (not done on the way to agents)."""
    return _decoder.decode(frame)
