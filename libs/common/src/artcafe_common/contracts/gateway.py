"""What gateways tell the other services and each other."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from artcafe_common.contracts.endpoint import Event

PresenceStatus = Literal["online", "suspect", "offline"]


class Presence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent's presence has changed.

    ``version`` grows with every change of one agent, over all its connections and gateways: a reader keeps
    the highest it has seen and ignores lower ones. ``at`` is RFC 3339 UTC. ``capabilities`` and ``metadata``
    are given where the agent stated them on this connection.
    """

    tenant_id: str
    agent_id: str
    status: PresenceStatus
    version: int
    at: str
    connection_id: str
    server_id: str
    reason: str = ""
    detail: str = ""
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """A newer connection of this agent was accepted elsewhere: close the old one on this server."""

    tenant_id: str
    agent_id: str
    connection_id: str


# Kept by the JetStream stream PRESENCE, the last event of each agent.
PRESENCE = Event("gateway.v1.presence.{tenant_id}.{agent_id}", Presence)
REPLACED = Event("gateway.v1.replaced.{server_id}", Replaced)
