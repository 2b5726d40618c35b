"""Presence of the agents on this process, and of those that dead processes left behind.

A heartbeat only moves a time in memory. A change of state is announced once: to registry and dashboards as a
`Presence` event, and on the tenant's channels ``agents.presence.*`` for agents that watch each other.

An agent whose socket ended without a goodbye is `suspect` and becomes `offline` when it does not come back in
time. The process itself holds a lease in the store; when a lease runs out, another process takes over what
was left: each orphan is released by a conditional write, so that one sweeper announces it and none that has
come back is touched. Nobody is declared dead before a full timeout has passed in which this process itself
was up and could reach the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import msgspec

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.gateway import PRESENCE, REPLACED, Presence, PresenceStatus, Replaced
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.errors import CloseCode, ServiceError
from artcafe_common.ids import new_ulid
from artcafe_common.rpc import announce
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.store import ConnectionStore, Holder, Orphan

if TYPE_CHECKING:
    from artcafe_gateway.agent_session import AgentSession

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LEASE_RENEWALS = 4
# The last version of a generation: whatever its process had announced came before.
FINAL_STEP = 999_999
VERSIONS_PER_GENERATION = 1_000_000

_GOODBYES = frozenset({1000, 1001})
_FINAL_CLOSES = frozenset({CloseCode.REVOKED, CloseCode.TENANT_SUSPENDED, CloseCode.HEARTBEAT_TIMEOUT})
_encode = msgspec.json.Encoder().encode


class Presences:
    """All agents of this process."""

    def __init__(
        self,
        bus: Bus,
        store: ConnectionStore,
        counter: UsageCounter,
        clock: Clock,
        *,
        server_id: str,
        process_id: str,
        heartbeat_timeout: float,
        ping_interval: float,
        ping_timeout: float,
        lease_timeout: float,
        sweep_interval: float,
    ) -> None:
        self._bus = bus
        self._store = store
        self._counter = counter
        self._clock = clock
        self._server_id = server_id
        self._process_id = process_id
        self._heartbeat_timeout = heartbeat_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._lease_timeout = lease_timeout
        self._sweep_interval = sweep_interval
        # The newest session of each agent here, also for a while after its socket ended (`suspect`).
        self._agents: dict[tuple[str, str], AgentSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing_since: float | None = None
        self._draining = False

    def get(self, tenant_id: str, agent_id: str) -> AgentSession | None:
        """Return an agent's newest session here."""
        return self._agents.get((tenant_id, agent_id))

    def sessions(self) -> list[AgentSession]:
        """Return every agent's session whose socket is open."""
        return [session for session in self._agents.values() if not session.ended]

    def opened(self, session: AgentSession, replaced: Holder | None) -> None:
        """Take in a new session, close the one it replaces wherever that is, and announce the agent."""
        key = (session.tenant_id, session.agent_id)
        old = self._agents.get(key)
        self._agents[key] = session
        if old is not None:
            old.end(CloseCode.REPLACED, "replaced by a newer connection")
        if replaced is not None and replaced.server != self._process_id:
            event = Replaced(
                tenant_id=session.tenant_id, agent_id=session.agent_id, connection_id=replaced.connection_id
            )
            try:
                announce(self._bus, REPLACED, event, server_id=replaced.server)
            except ServiceError:
                # The other gateway finds out by itself when the bus is back.
                logger.warning("replaced_not_announced", extra={"tenant_id": session.tenant_id})
        self._announce(session, "online", "connected")

    def replaced(self, event: Replaced) -> None:
        """Close a session that a newer connection at another gateway has replaced."""
        session = self._agents.get((event.tenant_id, event.agent_id))
        if session is not None and session.connection.connection_id == event.connection_id:
            del self._agents[event.tenant_id, event.agent_id]
            session.end(CloseCode.REPLACED, "replaced by a newer connection")

    def alive(self, session: AgentSession) -> None:
        """Note a heartbeat."""
        if session.status == "suspect":
            self._announce(session, "online", "heartbeat")

    def stated(self, session: AgentSession, *, offline: bool) -> None:
        """Announce what an agent says of itself."""
        self._announce(session, "offline" if offline else "online", "stated")

    def closed(self, session: AgentSession, code: int) -> None:
        """Handle the end of a session's socket."""
        self._count_time(session, self._clock.monotonic())
        if self._agents.get((session.tenant_id, session.agent_id)) is not session:
            # A newer connection has taken its place.
            return
        if code in _GOODBYES or code in _FINAL_CLOSES or session.status == "offline":
            self._spawn(self._end(session, "closed"))
        elif code != CloseCode.RESTART:
            self._announce(session, "suspect", "connection lost")
        # At a restart the agent comes back elsewhere within moments: what it leaves is swept if it does not.

    def reannounce(self) -> None:
        """Announce every agent again: the bus was away and changes may have been lost."""
        for session in self._agents.values():
            self._announce(session, session.status, "bus is back", always=True)

    def drain(self) -> None:
        """Stop declaring anyone dead: this process is about to end."""
        self._draining = True

    async def run(self) -> None:
        """Watch heartbeats and pings until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.tick()
            except Exception:
                logger.exception("presence_tick_failed")

    def tick(self) -> None:
        """Look once at every agent: ping it, doubt it, give it up."""
        now = self._clock.monotonic()
        for session in list(self._agents.values()):
            silent = now - session.last_life
            if session.ended:
                if silent > self._heartbeat_timeout and not self._draining:
                    self._spawn(self._end(session, "did not come back"))
                continue
            self._count_time(session, now)
            self._check_ping(session, now)
            if silent > self._heartbeat_timeout:
                self._spawn(self._end(session, "heartbeat timeout"))
                session.end(CloseCode.HEARTBEAT_TIMEOUT, "no heartbeat")
            elif silent > self._heartbeat_timeout / 2 and session.status == "online":
                self._announce(session, "suspect", "heartbeat late")

    async def keep_lease(self) -> None:
        """Renew this process's lease until cancelled."""
        while True:
            try:
                await self._store.renew_lease()
                if self._renewing_since is None:
                    self._renewing_since = self._clock.monotonic()
            except ServiceError as error:
                # While the store is away nobody's lease is renewed: no lease says anything then.
                self._renewing_since = None
                logger.warning("lease_not_renewed", extra={"code": error.code})
            await asyncio.sleep(self._lease_timeout / LEASE_RENEWALS)

    async def sweep_forever(self) -> None:
        """Look for dead processes until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_interval)
            try:
                await self.sweep()
            except ServiceError as error:
                logger.warning("sweep_failed", extra={"code": error.code})
            except Exception:
                logger.exception("sweep_failed")

    async def sweep(self) -> None:
        """Take over what dead processes left, once."""
        since = self._renewing_since
        if (
            since is None
            or self._clock.monotonic() - since < self._lease_timeout
            or not self._bus.is_connected
        ):
            return
        now = self._clock.now()
        for server, renewed_at in (await self._store.leases()).items():
            if server == self._process_id or now - renewed_at < self._lease_timeout:
                continue
            async for orphan in self._store.orphans_of(server):
                await self._bury(orphan)
            await self._store.drop_lease(server)
            logger.info("dead_gateway_swept", extra={"process_id": server})

    async def close(self) -> None:
        """Wait for what was begun in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _bury(self, orphan: Orphan) -> None:
        if not await self._store.release(
            orphan.tenant_id, orphan.agent_id, orphan.connection_id, orphan.counted
        ):
            return
        metrics.SWEPT.inc()
        self._publish(
            Presence(
                tenant_id=orphan.tenant_id,
                agent_id=orphan.agent_id,
                status="offline",
                version=orphan.generation * VERSIONS_PER_GENERATION + FINAL_STEP,
                at=rfc3339(self._clock.now()),
                connection_id=orphan.connection_id,
                server_id=self._server_id,
                reason="its gateway ended",
            )
        )

    async def _end(self, session: AgentSession, reason: str) -> None:
        """Forget an agent's session, release its record, and announce that it is offline."""
        key = (session.tenant_id, session.agent_id)
        if self._agents.get(key) is not session:
            return
        del self._agents[key]
        try:
            mine = await self._store.release(
                session.tenant_id, session.agent_id, session.connection.connection_id, session.counted
            )
        except ServiceError:
            # The record stays until this process's lease ends; the agent is gone all the same.
            logger.warning("connection_not_released", extra={"tenant_id": session.tenant_id})
            mine = True
        if mine and session.status != "offline":
            self._announce(session, "offline", reason)

    def _check_ping(self, session: AgentSession, now: float) -> None:
        connection = session.connection
        if connection.ping_unanswered:
            if now - connection.pinged_at > self._ping_timeout:
                connection.cut()
        elif now - connection.pinged_at > self._ping_interval:
            connection.ping(now)

    def _count_time(self, session: AgentSession, now: float) -> None:
        tally = self._counter.tally(self._clock.now(), session.tenant_id, session.agent_id)
        tally.connection_seconds += now - session.counted_until
        session.counted_until = now

    def _announce(
        self, session: AgentSession, status: PresenceStatus, reason: str, *, always: bool = False
    ) -> None:
        if status == session.status and reason not in ("connected", "stated") and not always:
            return
        session.status = status
        self._publish(
            Presence(
                tenant_id=session.tenant_id,
                agent_id=session.agent_id,
                status=status,
                version=session.next_version(),
                at=rfc3339(self._clock.now()),
                connection_id=session.connection.connection_id,
                server_id=self._server_id,
                reason=reason,
                detail=session.detail,
                capabilities=session.capabilities,
                metadata=session.metadata,
            )
        )

    def _publish(self, presence: Presence) -> None:
        try:
            announce(self._bus, PRESENCE, presence, tenant_id=presence.tenant_id, agent_id=presence.agent_id)
            # For agents that watch each other; without a subscriber NATS drops it.
            channel_id = f"agents.presence.{presence.status}"
            data = _encode(
                {"agent_id": presence.agent_id, "status": presence.status, "timestamp": presence.at}
            )
            frame = build_frame(
                new_ulid(), sender_field(presence.agent_id), self._clock.now(), channel_id, data
            )
            self._bus.publish_nowait(channel_subject(presence.tenant_id, channel_id), frame)
        except ServiceError:
            # `reannounce` makes up for it when the bus is back.
            logger.warning("presence_not_announced", extra={"tenant_id": presence.tenant_id})

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
