"""Bodies, queries and replies of the REST routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from artcafe_common.contracts.gateway import PresenceStatus
from artcafe_common.contracts.registry import ChannelAccess, Delivery, Limits, MemberRole, TenantStatus
from artcafe_common.http import PageQuery
from artcafe_common.ids import CHANNEL_ID_MAX_LENGTH
from artcafe_registry.domain import bounds
from artcafe_registry.domain.plans import PlanName

Name = Annotated[str, Meta(min_length=1, max_length=bounds.NAME_MAX_LENGTH)]
Description = Annotated[str, Meta(max_length=bounds.DESCRIPTION_MAX_LENGTH)]
AgentType = Annotated[str, Meta(max_length=bounds.TYPE_MAX_LENGTH)]
Capability = Annotated[str, Meta(min_length=1, max_length=bounds.CAPABILITY_MAX_LENGTH)]
Capabilities = Annotated[list[Capability], Meta(max_length=bounds.CAPABILITIES_MAX)]
TokenId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ChannelId = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*$", max_length=CHANNEL_ID_MAX_LENGTH),
]
UserId = Annotated[str, Meta(min_length=1, max_length=255)]
Email = Annotated[str, Meta(max_length=254)]
LimitValue = Annotated[int, Meta(ge=0, le=10**15)]
RateValue = Annotated[int, Meta(ge=1, le=10**9)]
RoleName = Literal["owner", "admin", "member", "viewer", "billing"]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body from outside: what it may hold is all it may hold."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A public key; `fingerprint` as OpenSSH prints it."""

    fingerprint: str
    type: str
    public_key: str
    name: str
    created_at: str


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `status`, `reason` and the times of its connection are what gateways said last.

    `connected_at` is since when it is connected, while it is.
    """

    id: str
    agent_id: str
    tenant_id: str
    name: str
    type: str
    description: str
    capabilities: list[str]
    metadata: dict[str, Any]
    status: PresenceStatus
    last_seen: str | None
    connected_at: str | None
    reason: str
    keys: list[KeyView]
    created_at: str
    updated_at: str
    created_by: str


class AgentsQuery(PageQuery, frozen=True, kw_only=True):
    """The query of the list of agents."""

    status: PresenceStatus | None = None
    capability: Capability | None = None


class AgentList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of agents."""

    agents: list[AgentView]
    next_token: str | None


class CreateAgent(Body, frozen=True, kw_only=True):
    """A new agent; without `public_key` a pair is made and the private key returned once."""

    name: Name
    agent_id: TokenId | None = None
    type: AgentType = ""
    description: Description = ""
    capabilities: Capabilities = []
    metadata: dict[str, Any] = {}
    public_key: str | None = None


class UpdateAgent(Body, frozen=True, kw_only=True):
    """What is to be replaced in an agent; a field that is not given stays."""

    name: Name | UnsetType = UNSET
    type: AgentType | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class CreatedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """A new agent; `private_key` (OpenSSH PEM) where the pair was made here, and never again."""

    agent: AgentView
    private_key: str | None
    success: bool = True


class AddKey(Body, frozen=True, kw_only=True):
    """A key to add; without `public_key` a pair is made and the private key returned once."""

    public_key: str | None = None
    name: Annotated[str, Meta(max_length=bounds.NAME_MAX_LENGTH)] = ""


class AddedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key; `private_key` where the pair was made here."""

    key: KeyView
    private_key: str | None
    success: bool = True


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's keys."""

    keys: list[KeyView]


class KeyQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which key: its fingerprint."""

    fingerprint: str


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a durable channel keeps messages."""

    max_age_seconds: Annotated[int, Meta(ge=1)] | None = None
    max_messages: Annotated[int, Meta(ge=1)] | None = None
    max_bytes: Annotated[int, Meta(ge=1)] | None = None


class ChannelView(msgspec.Struct, frozen=True, kw_only=True):
    """A channel."""

    id: str
    channel_id: str
    tenant_id: str
    name: str
    description: str
    access: ChannelAccess
    delivery: Delivery
    retention: Retention | None
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    created_by: str


class ChannelList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of channels."""

    channels: list[ChannelView]
    next_token: str | None


class CreateChannel(Body, frozen=True, kw_only=True):
    """A new channel; its id comes from `name` where it is not given."""

    name: Name
    channel_id: ChannelId | None = None
    description: Description = ""
    access: ChannelAccess = "open"
    delivery: Delivery = "live"
    retention: Retention | None = None
    metadata: dict[str, Any] = {}


class UpdateChannel(Body, frozen=True, kw_only=True):
    """What is to be replaced in a channel; a field that is not given stays."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    access: ChannelAccess | UnsetType = UNSET
    delivery: Delivery | UnsetType = UNSET
    retention: Retention | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's member row in a channel."""

    tenant_id: str
    channel_id: str
    agent_id: str
    role: MemberRole
    auto_subscribe: bool
    created_at: str
    updated_at: str


class GrantList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of member rows."""

    members: list[GrantView]
    next_token: str | None


class PutGrant(Body, frozen=True, kw_only=True):
    """What an agent may do in a channel, and whether it subscribes by connecting."""

    role: MemberRole = "both"
    auto_subscribe: bool = False


class PublishedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was accepted."""

    message_id: str
    timestamp: str
    success: bool = True


class MessagesQuery(PageQuery, frozen=True, kw_only=True):
    """The query of a channel's kept messages."""

    since: str | None = None


class MessageList(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that a durable channel has kept."""

    messages: list[dict[str, Any]]
    next_token: str | None


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant; `role` is the caller's in it."""

    id: str
    tenant_id: str
    name: str
    status: TenantStatus
    plan: str
    limits: Limits
    agents: int
    channels: int
    auto_create_channels: bool
    role: str
    created_at: str
    updated_at: str


class TenantList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of tenants."""

    tenants: list[TenantView]
    next_token: str | None


class LimitChanges(Body, frozen=True, kw_only=True):
    """Limits of a tenant's own in place of its plan's; null is unlimited, what is not given stays."""

    agents: LimitValue | UnsetType | None = UNSET
    channels: LimitValue | UnsetType | None = UNSET
    connections: LimitValue | UnsetType | None = UNSET
    messages_per_month: LimitValue | UnsetType | None = UNSET
    messages_per_second: RateValue | UnsetType | None = UNSET
    bytes_per_message: LimitValue | UnsetType | None = UNSET
    api_calls_per_minute: RateValue | UnsetType | None = UNSET


class CreateTenant(Body, frozen=True, kw_only=True):
    """A new tenant; `plan`, `limits` and `owner_user_id` are for platform administrators."""

    name: Name
    tenant_id: TokenId | None = None
    plan: PlanName | UnsetType = UNSET
    limits: LimitChanges | UnsetType = UNSET
    auto_create_channels: bool | None = None
    owner_user_id: UserId | UnsetType = UNSET


class UpdateTenant(Body, frozen=True, kw_only=True):
    """What is to be changed in a tenant; `plan`, `status` and `limits` by platform administrators.

    `limits` null takes the tenant's own limits away.
    """

    name: Name | UnsetType = UNSET
    auto_create_channels: bool | UnsetType = UNSET
    plan: PlanName | UnsetType = UNSET
    status: TenantStatus | UnsetType = UNSET
    limits: LimitChanges | UnsetType | None = UNSET


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A person in a tenant."""

    tenant_id: str
    user_id: str
    role: str
    email: str
    created_at: str
    updated_at: str


class MemberList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of people."""

    members: list[MemberView]
    next_token: str | None


class AddMember(Body, frozen=True, kw_only=True):
    """A person to add; `user_id` is the ``sub`` of their token, after their issuer's prefix."""

    user_id: UserId
    role: RoleName = "member"
    email: Email = ""


class UpdateMember(Body, frozen=True, kw_only=True):
    """What is to be changed about a member."""

    role: RoleName | UnsetType = UNSET
    email: Email | UnsetType = UNSET
