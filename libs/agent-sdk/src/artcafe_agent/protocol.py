"""The frames of the agent socket: commands out, events in. No I/O.

Unknown fields of an event are ignored and unknown events are told apart from garbage, so that a newer
server can be talked to.
"""

from __future__ import annotations

from typing import Any

import msgspec

from artcafe_agent.errors import QUOTA_MEMBERS, ProtocolError


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of what a client sends; ``id`` is echoed in the answer."""

    id: str | None = None


class Heartbeat(Command, frozen=True, kw_only=True, omit_defaults=True, tag="heartbeat"):
    """A sign of life."""

    timestamp: str | None = None
    status: str | None = None
    metrics: dict[str, Any] | None = None


class Presence(Command, frozen=True, kw_only=True, omit_defaults=True, tag="presence"):
    """The agent's own statement about itself."""

    status: str
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None


class Subscribe(Command, frozen=True, kw_only=True, omit_defaults=True, tag="subscribe"):
    """Ask for the messages of a channel or of a pattern."""

    channel: str


class Unsubscribe(Command, frozen=True, kw_only=True, omit_defaults=True, tag="unsubscribe"):
    """Take a subscription back."""

    channel: str


class Publish(Command, frozen=True, kw_only=True, omit_defaults=True, tag="publish"):
    """Send a message; it is acknowledged when ``id`` is given."""

    channel: str
    data: Any  # without a default: null is a message too, and must not be omitted
    echo: bool = True


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what the server sends."""

    id: str | int | None = None


class Welcome(Event, frozen=True, kw_only=True, tag="welcome"):
    """The session is open. ``heartbeat_interval`` is in seconds."""

    agent_id: str = ""
    tenant_id: str = ""
    connection_id: str = ""
    server_id: str = ""
    heartbeat_interval: float = 30.0
    limits: dict[str, Any] = {}
    timestamp: str = ""


class HeartbeatAck(Event, frozen=True, kw_only=True, tag="heartbeat_ack"):
    """Answer to `Heartbeat`."""

    timestamp: str = ""


class PresenceAck(Event, frozen=True, kw_only=True, tag="presence_ack"):
    """Answer to `Presence`."""


class Subscribed(Event, frozen=True, kw_only=True, tag="subscribed"):
    """Answer to `Subscribe`; ``subject`` is the channel id or pattern that the name was taken for."""

    channel: str = ""
    subject: str = ""


class Unsubscribed(Event, frozen=True, kw_only=True, tag="unsubscribed"):
    """Answer to `Unsubscribe`, or news that a subscription is allowed no longer, with the reason."""

    channel: str = ""
    subject: str = ""
    reason: str = ""


class Dropped(Event, frozen=True, kw_only=True, tag="dropped"):
    """The server left out messages of a channel, because this socket was read too slowly."""

    channel: str = ""
    count: int = 0


class Published(Event, frozen=True, kw_only=True, tag="published"):
    """Answer to `Publish`: the message is on its way."""

    channel: str = ""
    message_id: str = ""


class Pong(Event, frozen=True, kw_only=True, tag="pong"):
    """Answer to a ping."""

    timestamp: str = ""


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """A command was refused; ``id`` is that command's, if it had one."""

    code: str = "internal"
    message: str = ""
    retry_after: float = 0.0
    resource: str = ""
    current: int = 0
    limit: int = 0
    plan: str = ""

    def quota(self) -> dict[str, Any]:
        """Return the limit of the plan that was reached, by its members; nothing for other errors."""
        return {name: getattr(self, name) for name in QUOTA_MEMBERS} if self.resource else {}


class Delivery(Event, frozen=True, kw_only=True, tag="message"):
    """A message of a channel."""

    channel: str
    subject: str = ""
    data: Any = None
    sender: str = msgspec.field(default="", name="from")
    message_id: str = ""
    timestamp: str = ""
    seq: int | None = None
    prev: int | None = None


class Unknown(msgspec.Struct, frozen=True):
    """An event of a newer server."""

    type: str


KnownEvent = (
    Welcome
    | HeartbeatAck
    | PresenceAck
    | Subscribed
    | Unsubscribed
    | Dropped
    | Published
    | Pong
    | Error
    | Delivery
)
AnyEvent = KnownEvent | Unknown

_KNOWN_TYPES = frozenset(
    {
        "welcome",
        "heartbeat_ack",
        "presence_ack",
        "subscribed",
        "unsubscribed",
        "dropped",
        "published",
        "pong",
        "error",
        "message",
    }
)
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[KnownEvent] = msgspec.json.Decoder(KnownEvent)
_envelope: msgspec.json.Decoder[Unknown] = msgspec.json.Decoder(Unknown)


def encode(command: Command) -> str:
    """Return the text frame of a command.

    Raises:
        TypeError: Its data cannot be written as JSON.
    """
    return _encoder.encode(command).decode()


def decode(frame: bytes | str) -> AnyEvent:
    """Read a frame of the server.

    Raises:
        ProtocolError: It is no JSON object with a ``type``, or a known type with impossible fields.
    """
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        try:
            event = _envelope.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ProtocolError("the server sent a frame that is no event") from problem
        if event.type in _KNOWN_TYPES:
            raise ProtocolError(f"the server sent a {event.type} event that cannot be read") from problem
        return event
