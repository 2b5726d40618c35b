"""A message as a preview shows it: its data, cut where it is long, and the way it took."""

from __future__ import annotations

from typing import Any

import msgspec

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import channel_of
from artcafe_common.envelope import LiveMessage, decode_frame
from artcafe_common.ids import PRESENCE_CHANNELS
from artcafe_gateway.frames import event
from artcafe_gateway.preview.origin import Origins


class Renderer:
    """Makes the events; `server_id` is the gateway that they are shown by."""

    def __init__(self, server_id: str, clock: Clock, origins: Origins) -> None:
        self._server_id = server_id
        self._clock = clock
        self._origins = origins

    def render(self, subject: str, frame: bytes, data_bytes: int) -> bytes:
        """Return the event that shows a message with at most so many bytes of its data."""
        message = decode_frame(frame)
        raw = bytes(message.data)
        more: dict[str, Any] = {}
        data: msgspec.Raw | str = message.data
        if len(raw) > data_bytes:
            # Half a value is no JSON: its beginning is shown as text.
            data = raw[:data_bytes].decode(errors="ignore")
            more["truncated"] = True
        return event(
            "topic_preview_message",
            subject=subject,
            topic=channel_of(subject)[1],
            data=data,
            size=len(raw),
            timestamp=message.timestamp,
            message_id=message.message_id,
            **more,
            path={
                "publisher": message.sender,
                "publisher_gateway": self._origins.gateway_of(message.message_id),
                "subject": subject,
                "gateway": self._server_id,
                "published_at": message.timestamp,
                "forwarded_at": rfc3339(self._clock.now()),
                "kind": _kind(message),
            },
        )


def _kind(message: LiveMessage) -> str:
    """Return what sort of message it is: presence is told by the platform itself."""
    if message.channel.startswith(PRESENCE_CHANNELS):
        return "presence"
    return "live" if message.seq is None else "durable"
