"""Who is connected and what they hear: asked of every gateway process, for a dashboard that shows it.

Nothing of it is announced: each heartbeat would be a message on the bus, and nobody looks at most agents.
Each process answers from memory about its own sessions, of the tenant that it is asked about and no other;
which processes there are is told by their leases (`lease`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.gateway import GetSessions, OpenSession, OpenSessions, sessions_endpoint
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_gateway.agent_session import AgentSession
from artcafe_gateway.directory import Directory
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.presence import Presences
from artcafe_gateway.store import ConnectionStore

logger = logging.getLogger(__name__)

# Who listens in one channel; a page shows no more.
SESSIONS_MAX = 500
# A process that has started since is not asked yet.
PROCESSES_KNOWN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Sessions by agent; not `complete` where a process did not answer, or knows of more."""

    sessions: list[OpenSession]
    complete: bool


class SessionsView:
    """The sessions of this process for others, and those of all processes for its dashboards."""

    def __init__(
        self,
        bus: Bus,
        store: ConnectionStore,
        directory: Directory,
        presences: Presences,
        fanout: Fanout,
        clock: Clock,
        process_id: str,
    ) -> None:
        self._bus = bus
        self._store = store
        self._directory = directory
        self._presences = presences
        self._fanout = fanout
        self._clock = clock
        self._process_id = process_id
        self._processes: list[str] = []
        self._asked_at: float | None = None

    async def here(self, request: GetSessions) -> OpenSessions:
        """Return sessions of this process. Raises: ServiceError where it cannot be known who may read."""
        if request.channel_id is not None:
            return await self._listeners(request.tenant_id, request.channel_id)
        alone = len(request.agent_ids) == 1
        found = [self._presences.get(request.tenant_id, agent_id) for agent_id in request.agent_ids]
        return OpenSessions(
            sessions=[
                self._told(
                    session,
                    sorted(session.patterns) if alone else [],
                    session.published_to if alone else [],
                )
                for session in found
                if session is not None and not session.ended
            ]
        )

    async def everywhere(self, request: GetSessions) -> Answer:
        """Return sessions of all processes: the newest of each agent."""
        processes = await self._others()
        replies = await asyncio.gather(
            self._of_this(request), *(self._of(process, request) for process in processes or ())
        )
        newest: dict[str, OpenSession] = {}
        for session in [session for reply in replies if reply is not None for session in reply.sessions]:
            known = newest.get(session.agent_id)
            if known is None or known.last_seen < session.last_seen:
                newest[session.agent_id] = session
        sessions = sorted(newest.values(), key=lambda session: session.agent_id)
        known_all = processes is not None and all(reply is not None and not reply.more for reply in replies)
        return Answer(sessions[:SESSIONS_MAX], known_all and len(sessions) <= SESSIONS_MAX)

    async def _others(self) -> list[str] | None:
        """Return the other processes there are; None where that is not known."""
        now = self._clock.monotonic()
        if self._asked_at is None or now - self._asked_at >= PROCESSES_KNOWN_SECONDS:
            try:
                leases = await self._store.leases()
            except ServiceError as error:
                logger.warning("gateways_not_known", extra={"code": error.code})
                return None
            self._processes = [process for process in leases if process != self._process_id]
            self._asked_at = now
        return self._processes

    async def _of_this(self, request: GetSessions) -> OpenSessions | None:
        try:
            return await self.here(request)
        except ServiceError:
            return None

    async def _of(self, process_id: str, request: GetSessions) -> OpenSessions | None:
        try:
            return await call(self._bus, sessions_endpoint(process_id), request)
        except ServiceError as error:
            if error.code == ErrorCode.UNAVAILABLE and self._bus.is_connected:
                # Nobody is at its address: it has ended, and its sessions with it.
                return OpenSessions(sessions=[])
            return None

    async def _listeners(self, tenant_id: str, channel_id: str) -> OpenSessions:
        listeners = self._fanout.listeners(tenant_id, channel_id)
        if listeners:
            # Who may read it is not known of a channel that no message came from yet.
            try:
                await self._directory.channel(tenant_id, channel_id)
            except ServiceError as error:
                if error.code != ErrorCode.NOT_FOUND:
                    raise
        sessions = [
            self._told(session, patterns, [])
            for session, patterns in listeners.items()
            if isinstance(session, AgentSession) and session.may_read(channel_id)
        ]
        return OpenSessions(sessions=sessions[:SESSIONS_MAX], more=len(sessions) > SESSIONS_MAX)

    def _told(self, session: AgentSession, subscribed: list[str], published: list[str]) -> OpenSession:
        silent = self._clock.monotonic() - session.last_life
        return OpenSession(
            agent_id=session.agent_id,
            last_seen=rfc3339(self._clock.now() - silent),
            subscribed=subscribed,
            published=published,
        )
