"""What registry offers to the other services."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from artcafe_common.contracts.endpoint import Endpoint, Event

ChannelAccess = Literal["open", "members"]
Delivery = Literal["live", "durable"]
MemberRole = Literal["subscriber", "publisher", "both"]
TenantStatus = Literal["active", "suspended"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant may use; ``None`` is unlimited."""

    agents: int | None = None
    channels: int | None = None
    connections: int | None = None
    messages_per_month: int | None = None
    messages_per_second: int | None = None
    bytes_per_message: int | None = None
    api_calls_per_minute: int | None = None


class TenantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as gateways and metering need it."""

    tenant_id: str
    name: str
    status: TenantStatus
    plan: str
    limits: Limits
    auto_create_channels: bool


class GetTenant(msgspec.Struct, frozen=True):
    """Ask for one tenant; ``not_found`` where there is none."""

    tenant_id: str


class AgentKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key of an agent: OpenSSH one-liner and its SHA256 fingerprint."""

    fingerprint: str
    public_key: str


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An agent with the keys that may prove it, and its tenant's status."""

    tenant_id: str
    agent_id: str
    name: str
    tenant_status: TenantStatus
    keys: list[AgentKey]


class GetAgent(msgspec.Struct, frozen=True):
    """Ask for one agent; ``not_found`` where there is none."""

    tenant_id: str
    agent_id: str


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's member row in one channel."""

    channel_id: str
    role: MemberRole
    auto_subscribe: bool = False


class GetGrants(msgspec.Struct, frozen=True):
    """Ask for every member row of one agent."""

    tenant_id: str
    agent_id: str


class Grants(msgspec.Struct, frozen=True):
    """Every member row of one agent."""

    grants: list[Grant]


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as gateways need it."""

    channel_id: str
    name: str
    access: ChannelAccess
    delivery: Delivery


class ResolveChannel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one channel; with ``create_for`` (an agent id) it is created where the tenant allows that.

    ``not_found`` where it does not exist and may not be created; ``resource_exhausted`` with a quota where
    the plan has no room for one more.
    """

    tenant_id: str
    channel_id: str
    create_for: str | None = None


class GetMemberships(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask for every tenant a person belongs to, and whether the one their token claims exists."""

    user_id: str
    claimed_tenant_id: str | None = None


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A person's role in one tenant."""

    tenant_id: str
    role: str
    tenant_status: TenantStatus = "active"


class Memberships(msgspec.Struct, frozen=True, kw_only=True):
    """Every tenant of a person, and the roles that hold on the whole platform.

    `claimed_status` is the status of the tenant that was claimed, or None where there is no such tenant.
    """

    user_id: str
    memberships: list[Membership]
    platform_roles: list[str] = []
    claimed_status: TenantStatus | None = None


class ListAgentStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one page of a tenant's agents with their presence."""

    tenant_id: str
    next_token: str | None = None


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent's presence as registry last heard of it.

    ``connected_at`` is since when it is connected, while it is; ``reason`` why it was said to be as it is.
    """

    agent_id: str
    name: str
    status: str
    last_seen: str | None = None
    connected_at: str | None = None
    reason: str = ""
    capabilities: list[str] = []
    metadata: dict[str, Any] = {}


class AgentStatusPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of agents; ``next_token`` where there are more."""

    agents: list[AgentStatus]
    next_token: str | None = None


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Something registry owns has changed: whoever caches it asks again.

    ``kind`` is one of ``tenant``, ``agent``, ``channel``, ``grants`` (id: the agent's), ``member`` (id: the
    person's). ``action`` is ``created``, ``updated`` or ``deleted``.
    """

    tenant_id: str
    kind: str
    id: str
    action: str


GET_TENANT = Endpoint("registry.v1.tenant.get", GetTenant, TenantInfo)
GET_AGENT = Endpoint("registry.v1.agent.get", GetAgent, AgentInfo)
GET_GRANTS = Endpoint("registry.v1.agent.grants", GetGrants, Grants)
RESOLVE_CHANNEL = Endpoint("registry.v1.channel.resolve", ResolveChannel, ChannelInfo)
GET_MEMBERSHIPS = Endpoint("registry.v1.membership.get", GetMemberships, Memberships)
LIST_AGENT_STATUS = Endpoint("registry.v1.agent.status", ListAgentStatus, AgentStatusPage)
# The id of a person may hold characters that a subject cannot: `member` events carry `-` in its place.
CHANGED = Event("registry.v1.changed.{tenant_id}.{kind}.{id}", Changed)
