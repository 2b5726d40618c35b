"""What agents and dashboards say, and what they are told: the JSON of the two sockets.

Commands decode into one struct each, chosen by ``type``; unknown fields are ignored, as clients of several
generations speak to one server. Events are built with `event`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.json_bounds import check_bounds

CommandId = str | int | None
Name = Annotated[str, Meta(max_length=512)]
_MAX_CHANNELS = 100
_MAX_AGENTS = 200


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
    metadata: msgspec.Raw = msgspec.Raw(b"null")


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


class SizeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes of a message's data, both ends included."""

    min: Annotated[int, Meta(ge=0)] = 0
    max: Annotated[int, Meta(ge=0)] | None = None


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a previewed message must be like; unknown fields are refused, as they would filter nothing."""

    sender: Name | Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None
    channel: Name | Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None
    size: SizeRange | None = None


class SubscribeTopicPreview(msgspec.Struct, frozen=True, tag="subscribe_topic_preview"):
    """See the tenant's live traffic, filtered and limited."""

    id: CommandId = None
    pattern: Name | None = None
    patterns: Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None
    where: Where | None = None
    max_rate: Annotated[float, Meta(gt=0)] | None = None
    sample: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    batch: bool = False
    max_bytes: Annotated[int, Meta(ge=0)] | None = None
    counts_only: bool = False


class UnsubscribeTopicPreview(msgspec.Struct, frozen=True, tag="unsubscribe_topic_preview"):
    """See the tenant's live traffic no longer."""

    id: CommandId = None


class SubscribeAgents(msgspec.Struct, frozen=True, tag="subscribe_agents"):
    """See every agent's presence, and each change of it."""

    id: CommandId = None


class UnsubscribeAgents(msgspec.Struct, frozen=True, tag="unsubscribe_agents"):
    """See agents' presence no longer."""

    id: CommandId = None


class AskSessions(msgspec.Struct, frozen=True, tag="get_sessions"):
    """Ask who is connected: which of these agents, or who listens in a channel."""

    id: CommandId = None
    agents: Annotated[list[Name], Meta(min_length=1, max_length=_MAX_AGENTS)] | None = None
    channel_id: Name | None = None


class AskConnections(msgspec.Struct, frozen=True, tag="get_connections"):
    """Ask how many connections the plan's limit is counted against now."""

    id: CommandId = None


class SubscribeChanges(msgspec.Struct, frozen=True, tag="subscribe_changes"):
    """Hear of what registry changes: agents, channels, grants, members, the tenant."""

    id: CommandId = None
    kinds: Annotated[list[Name], Meta(max_length=_MAX_CHANNELS)] | None = None


class UnsubscribeChanges(msgspec.Struct, frozen=True, tag="unsubscribe_changes"):
    """Hear of changes no longer."""

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
    | AskSessions
    | AskConnections
    | SubscribeChanges
    | UnsubscribeChanges
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
_metadata_decoder: msgspec.json.Decoder[dict[str, Any] | None] = msgspec.json.Decoder(dict[str, Any] | None)
_encode = msgspec.json.Encoder().encode


def event(kind: str, /, id: CommandId = None, **fields: Any) -> bytes:
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


def data_of(command: Publish | PublishChannel, bytes_max: int | None) -> bytes:
    """Return what is to be published. Raises: ServiceError ``invalid_argument``."""
    data = bytes(command.data)
    if bytes_max is not None and len(data) > bytes_max:
        raise invalid(f"data is larger than {bytes_max} bytes")
    check_bounds(data, "data")
    return data


def metadata_of(command: PresenceCommand) -> dict[str, Any] | None:
    """Return what an agent states of itself: others decode it, and none of them may fail at it.

    Raises: ServiceError ``invalid_argument``.
    """
    text = bytes(command.metadata)
    check_bounds(text, "metadata")
    try:
        return _metadata_decoder.decode(text)
    except msgspec.DecodeError:
        raise invalid("metadata: expected an object") from None


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
