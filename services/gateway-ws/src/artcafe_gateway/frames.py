"""What agents and dashboards say, and what they are told: the JSON of the two sockets.

Commands decode into one struct each, chosen by ``type``; unknown fields are ignored, as clients of several
generations speak to one server. Events are built with `event`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from artcafe_common.errors import ErrorCode, ServiceError, invalid

CommandId = str | int | None
Name = Annotated[str, Meta(max_length=512)]
_MAX_CHANNELS = 100


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """An agent is alive."""

    id: CommandId = None
    status: Annotated[str, Meta(max_length=64)] | None = None
    metrics: msgspec.Raw = msgspec.Raw(b"null")


class PresenceCommand(msgspec.Struct, frozen=True, tag="presence"):
    """An agent states what it is doing and what it can."""

    status: Annotated[str, Meta(max_length=64)] = "online"
    id: CommandId = None
    capabilities: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=64)] | None = None
    metadata: dict[str, Any] | None = None


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    """Receive one channel, several, or all under a pattern."""

    id: CommandId = None
    channel: Name | None = None
    subject: Name | None = None
    channels: Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None
    since: int | None = None
    policy: Literal["disconnect", "drop_newest", "drop_oldest"] = "disconnect"


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Receive a channel or pattern no longer."""

    id: CommandId = None
    channel: Name | None = None
    subject: Name | None = None
    channels: Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Send data to a channel; with an id the publish is acknowledged."""

    id: CommandId = None
    channel: Name | None = None
    subject: Name | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    echo: bool = True


class Request(msgspec.Struct, frozen=True, tag="request"):
    """Ask another agent."""

    id: CommandId = None


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """Answer another agent."""

    id: CommandId = None


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Ask for a pong."""

    id: CommandId = None


AgentCommand = Heartbeat | PresenceCommand | Subscribe | Unsubscribe | Publish | Request | Reply | Ping


class SubscribeChannel(msgspec.Struct, frozen=True, tag="subscribe_channel"):
    """Watch one channel."""

    channel_id: Name
    id: CommandId = None


class UnsubscribeChannel(msgspec.Struct, frozen=True, tag="unsubscribe_channel"):
    """Watch a channel no longer."""

    channel_id: Name
    id: CommandId = None


class SubscribeTopicPreview(msgspec.Struct, frozen=True, tag="subscribe_topic_preview"):
    """See the tenant's live traffic, filtered and limited."""

    id: CommandId = None
    pattern: Name | None = None
    patterns: Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None
    max_rate: Annotated[float, Meta(gt=0)] | None = None


class UnsubscribeTopicPreview(msgspec.Struct, frozen=True, tag="unsubscribe_topic_preview"):
    """See the tenant's live traffic no longer."""

    id: CommandId = None


class SubscribeAgents(msgspec.Struct, frozen=True, tag="subscribe_agents"):
    """See every agent's presence, and each change of it."""

    id: CommandId = None


class UnsubscribeAgents(msgspec.Struct, frozen=True, tag="unsubscribe_agents"):
    """See agents' presence no longer."""

    id: CommandId = None


class PublishChannel(msgspec.Struct, frozen=True, tag="publish_channel"):
    """Send data to a channel as a person."""

    channel_id: Name
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: CommandId = None


class Refresh(msgspec.Struct, frozen=True, tag="refresh"):
    """Go on with a newer token."""

    token: str
    id: CommandId = None


class Authenticate(msgspec.Struct, frozen=True, tag="authenticate"):
    """Prove oneself with the first frame (``auth`` is understood as well)."""

    token: str
    tenant_id: str | None = None
    id: CommandId = None


DashboardCommand = (
    SubscribeChannel
    | UnsubscribeChannel
    | SubscribeTopicPreview
    | UnsubscribeTopicPreview
    | SubscribeAgents
    | UnsubscribeAgents
    | PublishChannel
    | Refresh
    | Authenticate
    | Ping
)


class _Envelope(msgspec.Struct, frozen=True):
    type: Any = None
    id: Any = None


class FirstFrame(msgspec.Struct, frozen=True):
    """A dashboard's first frame where it did not bring its token otherwise; `type` is not looked at."""

    token: str
    tenant_id: str | None = None


agent_decoder: msgspec.json.Decoder[AgentCommand] = msgspec.json.Decoder(AgentCommand)
dashboard_decoder: msgspec.json.Decoder[DashboardCommand] = msgspec.json.Decoder(DashboardCommand)
first_frame_decoder = msgspec.json.Decoder(FirstFrame)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_encode = msgspec.json.Encoder().encode


def event(kind: str, id: CommandId = None, **fields: Any) -> bytes:
    """Return an event's JSON; `id` is that of the command it answers."""
    body: dict[str, Any] = {"type": kind, **fields}
    if id is not None:
        body["id"] = id
    return _encode(body)


def error_event(error: ServiceError, id: CommandId) -> bytes:
    """Return the answer to a command that failed; ``error`` repeats ``message`` for older clients."""
    fields: dict[str, Any] = {"code": error.code, "message": error.detail, "error": error.detail}
    if error.retry_after is not None:
        fields["retry_after"] = error.retry_after
    if error.quota is not None:
        fields |= msgspec.structs.asdict(error.quota)
    return event("error", id, **fields)


def undecodable(payload: bytes, problem: Exception) -> tuple[ServiceError, CommandId]:
    """Return what to answer to a frame that is no command, and its id where one can be found."""
    try:
        envelope = _envelope_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return invalid("not a JSON object"), None
    usable = isinstance(envelope.id, str | int) and not isinstance(envelope.id, bool)
    command_id = envelope.id if usable else None
    if not isinstance(envelope.type, str):
        return invalid("a frame needs a type"), command_id
    if "$.type" in str(problem):
        return invalid(f"unknown type {envelope.type[:64]!r}"), command_id
    return invalid(str(problem)), command_id


def later(feature: str) -> ServiceError:
    """Return the refusal of a feature that this server does not have."""
    return ServiceError(ErrorCode.FAILED_PRECONDITION, f"{feature} are not available on this server")


def names_of(command: Subscribe | Unsubscribe) -> list[str]:
    """Return the channels that a command is about."""
    names = list(command.channels or [])
    single = command.channel if command.channel is not None else command.subject
    if single is not None:
        names.insert(0, single)
    if not names:
        raise invalid("channel is missing")
    return names
