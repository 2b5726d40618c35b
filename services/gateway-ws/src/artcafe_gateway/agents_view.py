"""The live view of a tenant's agents for its dashboards: a snapshot, then every change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from artcafe_common.bus import Bus
from artcafe_common.contracts.gateway import PRESENCE, Presence
from artcafe_common.contracts.registry import LIST_AGENT_STATUS, ListAgentStatus
from artcafe_common.rpc import call
from artcafe_gateway.connection import Connection
from artcafe_gateway.frames import event
from artcafe_gateway.tap import close_tap, open_tap

logger = logging.getLogger(__name__)

# How often it is looked whether a dashboard has read what it was sent, and how long it may take to.
PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 60.0

_decoder = msgspec.json.Decoder(Presence)


class _View:
    def __init__(self) -> None:
        # To each, while its snapshot is being sent, the agents that have changed since it was begun.
        self.watchers: dict[Connection, set[str] | None] = {}
        self.nats: NatsSubscription | None = None


class AgentsView:
    """All dashboards of this process that watch agents; one NATS subscription per tenant."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._views: dict[str, _View] = {}
        self._lock = asyncio.Lock()

    async def watch(self, tenant_id: str, connection: Connection) -> None:
        """Send the state of every agent, and from then on each change. Raises: ServiceError."""
        async with self._lock:
            view = self._views.get(tenant_id)
            if view is None:
                view = _View()
                subject = PRESENCE.subject(tenant_id=tenant_id, agent_id="*")
                view.nats = await open_tap(self._bus, subject, self._handler(view))
                self._views[tenant_id] = view
            changed: set[str] = set()
            if not connection.closing:
                view.watchers[connection] = changed
        if connection.closing:
            await self.leave(tenant_id, connection)
            return
        try:
            await self._snapshot(tenant_id, connection, changed)
        finally:
            if connection in view.watchers:
                view.watchers[connection] = None

    async def leave(self, tenant_id: str, connection: Connection) -> None:
        """Send nothing more to a connection; the last one of a tenant ends its subscription."""
        async with self._lock:
            view = self._views.get(tenant_id)
            if view is None:
                return
            view.watchers.pop(connection, None)
            if not view.watchers:
                del self._views[tenant_id]
                if view.nats is not None:
                    await close_tap(self._bus, view.nats)

    async def _snapshot(self, tenant_id: str, connection: Connection, changed: set[str]) -> None:
        next_token: str | None = None
        while True:
            request = ListAgentStatus(tenant_id=tenant_id, next_token=next_token)
            page = await call(self._bus, LIST_AGENT_STATUS, request)
            for agent in page.agents:
                # Of a change that came meanwhile the page may not know yet.
                if agent.agent_id not in changed:
                    connection.send(event("agent_status", snapshot=True, **msgspec.to_builtins(agent)))
            await _drained(connection)
            next_token = page.next_token
            if next_token is None or connection.closing:
                break
        connection.send(event("agents_snapshot_complete"))

    def _handler(self, view: _View) -> Callable[[bytes, bytes], None]:
        def on_presence(_: bytes, payload: bytes) -> None:
            presence = _decoder.decode(payload)
            fields: dict[str, Any] = {
                "agent_id": presence.agent_id,
                "status": presence.status,
                "detail": presence.detail,
                "reason": presence.reason,
                # When it was announced, and when the agent was last heard of: a frozen one long before.
                "timestamp": presence.at,
                "connected_at": presence.connected_at,
                # More digits than a number of JavaScript holds.
                "version": str(presence.version),
                "server_id": presence.server_id,
            }
            # Where it is not said, nobody knows more of one that is gone than was known before.
            last_seen = presence.last_seen or (presence.at if presence.status != "offline" else None)
            if last_seen is not None:
                fields["last_seen"] = last_seen
            if presence.capabilities is not None:
                fields["capabilities"] = presence.capabilities
            if presence.metadata is not None:
                fields["metadata"] = presence.metadata
            text = event("agent_status", **fields)
            for connection, changed in view.watchers.items():
                if changed is not None:
                    changed.add(presence.agent_id)
                connection.send(text)

        return on_presence


async def _drained(connection: Connection) -> None:
    """Wait for a dashboard that reads slowly: a tenant's agents may be more than fits its outbox."""
    waited = 0.0
    while connection.blocked and not connection.closing and waited < PATIENCE_SECONDS:
        await asyncio.sleep(PAUSE_SECONDS)
        waited += PAUSE_SECONDS
