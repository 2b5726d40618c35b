"""Keeping open sessions right: what was allowed when one opened may be allowed no longer.

Revocations close sockets at once. Changes that registry announces are applied in the background, one at a
time for each thing that changed: a question that takes long delays nothing else, and several changes of one
thing become one more question. After NATS was away everything is asked again, until every answer has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import Revoked
from artcafe_common.contracts.registry import GET_AGENT, Changed, GetAgent
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_gateway.agent_session import AgentSession
from artcafe_gateway.background import Background
from artcafe_gateway.changes_view import ChangesView
from artcafe_gateway.dashboard_session import DashboardSession
from artcafe_gateway.directory import Directory
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.latest import Latest
from artcafe_gateway.presence import Presences
from artcafe_gateway.recent import Recent
from artcafe_gateway.store import ConnectionStore

logger = logging.getLogger(__name__)

REGRANT_ATTEMPTS = 5
RETRY_SECONDS = 1.0
RECHECK_AT_ONCE = 16
RECHECK_PER_SECOND = 400
# Not every loss of a right is announced: roles on the platform are not, nor what a token claims.
DASHBOARDS_RECHECKED_SECONDS = 60.0


class Upkeep:
    """Applies revocations and changes to the sessions of this process."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        store: ConnectionStore,
        directory: Directory,
        fanout: Fanout,
        presences: Presences,
        dashboards: Iterable[DashboardSession],
        changes: ChangesView,
        background: Background,
    ) -> None:
        self._bus = bus
        self._store = store
        self._directory = directory
        self._fanout = fanout
        self._presences = presences
        self._dashboards = dashboards
        self._changes = changes
        self._latest = Latest(background)
        self._revoked: Recent[Revoked] = Recent(clock)
        self._changed: Recent[Changed] = Recent(clock)

    async def on_revoked(self, revoked: Revoked) -> None:
        """Close the sessions that a revocation names."""
        self._revoked.add(revoked)
        if revoked.agent_id is not None:
            session = self._presences.get(revoked.tenant_id, revoked.agent_id)
            if session is not None:
                _revoke(session, revoked)
            return
        for session in self._presences.sessions():
            _revoke(session, revoked)
        for dashboard in self._dashboards:
            _revoke(dashboard, revoked)
        self._directory.drop_tenant(revoked.tenant_id)

    async def on_changed(self, changed: Changed) -> None:
        """Drop what registry's change makes old, and check again what was allowed by it."""
        self._changed.add(changed)
        self._directory.forget(changed)
        self._changes.changed(changed)
        tenant_id, id = changed.tenant_id, changed.id
        key = (changed.kind, tenant_id, id)
        if changed.kind == "tenant":
            if self._directory.uses(tenant_id):
                self._latest.run(key, lambda: self._refresh_tenant(tenant_id))
        elif changed.kind == "channel":
            if changed.action != "created":
                self._fanout.invalidate_channel(tenant_id, id)
                self._latest.run(key, lambda: self._check_channel(tenant_id, id))
        elif changed.kind == "grants":
            if self._presences.get(tenant_id, id) is not None:
                self._latest.run(key, lambda: self._regrant(tenant_id, id))
        elif changed.kind == "agent":
            if changed.action == "deleted":
                self._latest.run(key, lambda: self._store.forget_agent(tenant_id, id))
        elif changed.kind == "member":
            for dashboard in self._dashboards:
                if dashboard.is_of(tenant_id, id):
                    self._recheck_soon(dashboard)

    def agent_opened(self, session: AgentSession, started: float) -> None:
        """Apply to a new session what came since its handshake `started` (monotonic seconds)."""
        for revoked in self._revoked.since(started):
            _revoke(session, revoked)
        mine = ("grants", session.tenant_id, session.agent_id)
        if any((change.kind, change.tenant_id, change.id) == mine for change in self._changed.since(started)):
            self._latest.run(mine, lambda: self._regrant(session.tenant_id, session.agent_id))

    def dashboard_opened(self, dashboard: DashboardSession, started: float) -> None:
        """Apply to a new session what came since its handshake `started` (monotonic seconds)."""
        for revoked in self._revoked.since(started):
            if revoked.agent_id is None:
                _revoke(dashboard, revoked)
        for change in self._changed.since(started):
            if change.kind == "member" and dashboard.is_of(change.tenant_id, change.id):
                self._recheck_soon(dashboard)

    def recheck_all(self) -> None:
        """Check every session again: what was announced while the bus was away was not heard."""
        self._directory.forget_all()
        self._changes.missed()
        self._latest.run("all", self._recheck_all)

    async def recheck_dashboards(self) -> None:
        """Check now and then whether people still belong to where they look, until cancelled."""
        while True:
            await asyncio.sleep(DASHBOARDS_RECHECKED_SECONDS)
            self._latest.run("dashboards", self._recheck_dashboards)

    async def _refresh_tenant(self, tenant_id: str) -> None:
        # Until it answers, the limits that were known hold.
        await self._patiently(
            lambda: self._directory.tenant(tenant_id), lambda: self._directory.uses(tenant_id)
        )

    async def _check_channel(self, tenant_id: str, channel_id: str) -> None:
        await self._patiently(
            lambda: self._directory.channel(tenant_id, channel_id),
            lambda: bool(self._fanout.sessions_on(tenant_id, channel_id)),
        )
        for session in self._fanout.sessions_on(tenant_id, channel_id):
            if isinstance(session, AgentSession):
                await session.check_subscriptions(channel_id)

    async def _regrant(self, tenant_id: str, agent_id: str) -> None:
        for attempt in range(1, REGRANT_ATTEMPTS + 1):
            session = self._presences.get(tenant_id, agent_id)
            if session is None or session.ended:
                return
            try:
                await self._renew_grants(session)
                return
            except ServiceError as error:
                logger.warning("grants_not_refreshed", extra={"code": error.code})
            if attempt == REGRANT_ATTEMPTS:
                # Without knowing what is allowed nothing goes on: the agent comes back and is asked about.
                session.end(CloseCode.RESTART, "permissions have changed")
            await asyncio.sleep(RETRY_SECONDS)

    async def _renew_grants(self, session: AgentSession) -> None:
        session.take_grants(await self._directory.grants(session.tenant_id, session.agent_id))
        self._fanout.invalidate_session(session)
        await session.check_subscriptions()

    def _recheck_soon(self, dashboard: DashboardSession) -> None:
        self._latest.run(dashboard, lambda: self._patiently(dashboard.recheck, lambda: not dashboard.ended))

    async def _recheck_dashboards(self) -> None:
        # One whose token ends is told so, and is no stranger.
        await self._recheck_each([each for each in self._dashboards if not each.is_expiring])

    async def _recheck_all(self) -> None:
        await self._recheck_each([*self._dashboards, *self._presences.sessions()])

    async def _recheck_each(self, sessions: Sequence[AgentSession | DashboardSession]) -> None:
        waiting = sessions
        while waiting and self._bus.is_connected:
            again: list[AgentSession | DashboardSession] = []
            for first in range(0, len(waiting), RECHECK_AT_ONCE):
                some = [session for session in waiting[first : first + RECHECK_AT_ONCE] if not session.ended]
                done = await asyncio.gather(*(self._recheck(session) for session in some))
                again += [session for session, ok in zip(some, done, strict=True) if not ok]
                await asyncio.sleep(len(some) / RECHECK_PER_SECOND)
            if again:
                # Registry may have lost the bus as well, and come back later.
                logger.warning("sessions_not_rechecked", extra={"count": len(again)})
                await asyncio.sleep(RETRY_SECONDS)
            waiting = again

    async def _recheck(self, session: AgentSession | DashboardSession) -> bool:
        try:
            if isinstance(session, AgentSession):
                await self._recheck_agent(session)
            else:
                await session.recheck()
        except ServiceError:
            return False
        return True

    async def _recheck_agent(self, session: AgentSession) -> None:
        try:
            agent = await call(self._bus, GET_AGENT, GetAgent(session.tenant_id, session.agent_id))
        except ServiceError as error:
            if error.code != ErrorCode.NOT_FOUND:
                raise
            session.end(CloseCode.REVOKED, "agent deleted")
            return
        if agent.tenant_status != "active":
            session.end(CloseCode.TENANT_SUSPENDED, "tenant suspended")
        elif session.fingerprint not in {key.fingerprint for key in agent.keys}:
            session.end(CloseCode.REVOKED, "key revoked")
        elif await self._presences.still_holds(session):
            await self._directory.tenant(session.tenant_id)
            await self._renew_grants(session)

    async def _patiently(self, ask: Callable[[], Awaitable[object]], wanted: Callable[[], bool]) -> None:
        """Ask until an answer comes, the bus is lost (then all is checked again), or nobody wants it."""
        while wanted() and self._bus.is_connected:
            try:
                await ask()
                return
            except ServiceError as error:
                if error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED):
                    return
                logger.warning("change_not_applied", extra={"code": error.code})
            await asyncio.sleep(RETRY_SECONDS)


def _revoke(session: AgentSession | DashboardSession, revoked: Revoked) -> None:
    if session.tenant_id != revoked.tenant_id:
        return
    if isinstance(session, AgentSession) and (
        revoked.agent_id not in (None, session.agent_id)
        or revoked.fingerprint not in (None, session.fingerprint)
    ):
        return
    suspended = revoked.reason == "tenant_suspended"
    code = CloseCode.TENANT_SUSPENDED if suspended else CloseCode.REVOKED
    session.connection.revoke(code, revoked.reason.replace("_", " "))
