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

logger = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(Presence)


class _View:
    def __init__(self) -> None:
        self.watchers: set[Connection] = set()
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
                view.nats = await self._bus.subscribe_direct(subject, self._handler(view))
                self._views[tenant_id] = view
                await self._bus.flush()
            # Changes may come before the snapshot is complete: later ones are right, each carries its time.
            if not connection.closing:
                view.watchers.add(connection)
        if connection.closing:
            await self.leave(tenant_id, connection)
            return
        await self._snapshot(tenant_id, connection)

    async def leave(self, tenant_id: str, connection: Connection) -> None:
        """Send nothing more to a connection; the last one of a tenant ends its subscription."""
        async with self._lock:
            view = self._views.get(tenant_id)
            if view is None:
                return
            view.watchers.discard(connection)
            if not view.watchers:
                del self._views[tenant_id]
                if view.nats is not None:
                    await self._bus.unsubscribe_direct(view.nats)

    async def _snapshot(self, tenant_id: str, connection: Connection) -> None:
        next_token: str | None = None
        while True:
            request = ListAgentStatus(tenant_id=tenant_id, next_token=next_token)
            page = await call(self._bus, LIST_AGENT_STATUS, request)
            for agent in page.agents:
                connection.send(event("agent_status", snapshot=True, **msgspec.to_builtins(agent)))
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
                "timestamp": presence.at,
                "version": presence.version,
                "server_id": presence.server_id,
            }
            if presence.capabilities is not None:
                fields["capabilities"] = presence.capabilities
            if presence.metadata is not None:
                fields["metadata"] = presence.metadata
            text = event("agent_status", **fields)
            for connection in view.watchers:
                connection.send(text)

        return on_presence
