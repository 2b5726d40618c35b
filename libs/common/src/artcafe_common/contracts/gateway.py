"""What gateways tell the other services and each other."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from artcafe_common.contracts.endpoint import Endpoint, Event

# Somebody looks at a page meanwhile.
SESSIONS_TIMEOUT_SECONDS = 1.5

PresenceStatus = Literal["online", "suspect", "offline"]


class Presence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent's presence has changed.

    ``version`` grows with every change of one agent, over all its connections and gateways: a reader keeps
    the highest it has seen and ignores lower ones. ``at`` is RFC 3339 UTC, and so are ``last_seen``, when the
    agent was last heard of where that is known, and ``connected_at``, since when this connection holds, while
    it does. ``capabilities`` and ``metadata`` are given where the agent
    stated them on this connection.
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
    connected_at: str | None = None
    last_seen: str | None = None
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """A newer connection of this agent was accepted elsewhere: close the old one on this server."""

    tenant_id: str
    agent_id: str
    connection_id: str


class GetSessions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask one gateway process for open sessions of a tenant: of some agents, or of who hears a channel."""

    tenant_id: str
    agent_ids: list[str] = []
    channel_id: str | None = None


class OpenSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent's open session; ``last_seen`` is when it was last heard of (RFC 3339 UTC).

    ``subscribed`` are channels and patterns: of one agent alone all, of those that hear a channel the ones by
    which they do. ``published`` are the channels that one agent alone has published to on this connection,
    or since its rights last changed.
    """

    agent_id: str
    last_seen: str
    subscribed: list[str] = []
    published: list[str] = []


class OpenSessions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Open sessions of one process; ``more`` where not all of them are in it."""

    sessions: list[OpenSession]
    more: bool = False


def sessions_endpoint(process_id: str) -> Endpoint[GetSessions, OpenSessions]:
    """Return the endpoint at which one gateway process tells of its sessions."""
    return Endpoint(f"gateway.v1.sessions.{process_id}", GetSessions, OpenSessions, SESSIONS_TIMEOUT_SECONDS)


# Kept by the JetStream stream PRESENCE, the last event of each agent.
PRESENCE = Event("gateway.v1.presence.{tenant_id}.{agent_id}", Presence)
REPLACED = Event("gateway.v1.replaced.{server_id}", Replaced)
