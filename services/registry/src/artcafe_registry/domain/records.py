"""The things that the registry keeps, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from artcafe_common.contracts.gateway import PresenceStatus
from artcafe_common.contracts.registry import (
    ChannelAccess,
    Delivery,
    Limits,
    MemberRole,
    TenantStatus,
)
from artcafe_registry.domain.plans import limits_of

Resource = Literal["agents", "channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An organisation. `agents`, `channels` and `owners` are counters that move with what they count.

    `overrides` are the limits in which it differs from its plan. `revision` grows with every change of what
    people set, so that a write can be made to hold only for what was read.
    """

    tenant_id: str
    name: str
    plan: str
    status: TenantStatus | Literal["deleting"] = "active"
    agents: int = 0
    channels: int = 0
    owners: int = 1
    overrides: dict[str, int | None] = field(default_factory=dict)
    auto_create_channels: bool = False
    revision: int = 1
    created_at: str
    updated_at: str
    created_by: str
    self_service: bool = False

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return limits_of(self.plan, self.overrides)

    @property
    def public_status(self) -> TenantStatus:
        """The status as others know it; one that is being deleted is shown to nobody."""
        return "active" if self.status == "active" else "suspended"

    def count(self, resource: Resource) -> int:
        """How many of a resource it has."""
        return self.agents if resource == "agents" else self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person in a tenant."""

    tenant_id: str
    user_id: str
    role: str
    email: str = ""
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key of an agent; `public_key` is the OpenSSH one-liner without its comment."""

    fingerprint: str
    type: str
    public_key: str
    name: str = ""
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent, its keys and its presence as last heard."""

    tenant_id: str
    agent_id: str
    name: str
    type: str = ""
    description: str = ""
    capabilities: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[PublicKey] = field(default_factory=list)
    keys_revision: int = 1
    status: PresenceStatus = "offline"
    last_seen: str | None = None
    connected_at: str | None = None
    reason: str = ""
    created_at: str
    updated_at: str
    created_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel; its id never changes."""

    tenant_id: str
    channel_id: str
    name: str
    description: str = ""
    access: ChannelAccess = "open"
    delivery: Delivery = "live"
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: str
    updated_at: str
    created_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """An agent's member row in a channel."""

    tenant_id: str
    channel_id: str
    agent_id: str
    role: MemberRole
    auto_subscribe: bool = False
    created_at: str
    updated_at: str
