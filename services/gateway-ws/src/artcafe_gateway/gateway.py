"""One gateway process: how its parts are put together, and what happens between them."""

from __future__ import annotations

import asyncio
import logging
import random
from http import HTTPStatus

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import VERIFY_AGENT, VerifiedAgent, VerifyAgent
from artcafe_common.contracts.gateway import Replaced
from artcafe_common.contracts.registry import Grant
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError
from artcafe_common.ids import MessageIds
from artcafe_common.rpc import call
from artcafe_common.tokens import Access
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.agent_session import AgentSession
from artcafe_gateway.agents_view import AgentsView
from artcafe_gateway.background import Background
from artcafe_gateway.changes_view import ChangesView
from artcafe_gateway.config import GatewayConfig
from artcafe_gateway.connection import ABNORMAL_CLOSURE, Connection, Peer
from artcafe_gateway.dashboard_session import DashboardSession
from artcafe_gateway.directory import Directory, Tenant
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.frames import event
from artcafe_gateway.handshake import AgentHello, DashboardHello, Handshake, read_hello
from artcafe_gateway.lease import Lease
from artcafe_gateway.listener import Listener, Refusal, Upgrade
from artcafe_gateway.open_dashboards import OpenDashboards
from artcafe_gateway.presence import Presences, paused
from artcafe_gateway.preview.origin import Origins
from artcafe_gateway.preview.previews import PreviewLimits, Previews
from artcafe_gateway.preview.tap_bus import TapBus
from artcafe_gateway.quotas import QuotaEvents
from artcafe_gateway.sessions_view import SessionsView
from artcafe_gateway.store import ConnectionStore
from artcafe_gateway.upkeep import Upkeep

logger = logging.getLogger(__name__)

GOODBYE_SECONDS = 2.0
# How often it is looked whether dashboards answer.
WATCH_SECONDS = 1.0
_BUS_AWAY = event("service_status", status="degraded", reason="the message bus is away")
_BUS_BACK = event("service_status", status="ok", reason="the message bus is back")


class _Arrival(Handshake):
    """A handshake that knows what it is for."""

    def __init__(self, hello: AgentHello | DashboardHello, timeout: float) -> None:
        super().__init__("agent" if isinstance(hello, AgentHello) else "dashboard", timeout)
        self.hello = hello


class Gateway:
    """Sessions of one process and all that they share."""

    def __init__(
        self,
        config: GatewayConfig,
        process_id: str,
        bus: Bus,
        tap_bus: TapBus,
        store: ConnectionStore,
        access: Access,
        counter: UsageCounter,
        clock: Clock,
    ) -> None:
        self._config = config
        self._process_id = process_id
        self._bus = bus
        self._store = store
        self._access = access
        self._counter = counter
        self._clock = clock
        self._draining = False
        self._background = Background()
        self._dashboards = OpenDashboards(
            config.max_dashboards_per_person, config.max_dashboards_per_tenant, clock
        )
        self._records: dict[DashboardSession, asyncio.Task[None]] = {}
        self.directory = Directory(bus, clock)
        self.fanout = Fanout(bus, counter, clock, self._resolve)
        self.previews = Previews(
            tap_bus,
            clock,
            Origins(store, clock, process_id),
            config.server_id,
            PreviewLimits(
                rate=config.preview_rate,
                burst=config.preview_burst,
                tenant_rate=config.preview_tenant_rate,
                data_bytes=config.preview_data_bytes,
                share=config.preview_share,
                late=config.preview_late,
            ),
        )
        self.agents_view = AgentsView(bus)
        self.changes_view = ChangesView()
        self._message_ids = MessageIds(process_id)
        self.quotas = QuotaEvents(self.directory.months, self._dashboards)
        self.presences = Presences(
            bus,
            store,
            counter,
            clock,
            server_id=config.server_id,
            process_id=process_id,
            heartbeat_timeout=config.heartbeat_timeout,
            ping_interval=config.ping_interval,
            ping_timeout=config.ping_timeout,
        )
        self.lease = Lease(
            bus,
            store,
            clock,
            self.presences,
            process_id,
            timeout=config.lease_timeout,
            sweep_interval=config.sweep_interval,
        )
        self.sessions_view = SessionsView(
            bus, store, self.directory, self.presences, self.fanout, clock, process_id
        )
        self.upkeep = Upkeep(
            bus,
            clock,
            store,
            self.directory,
            self.fanout,
            self.presences,
            self._dashboards,
            self.changes_view,
            self._background,
        )
        self.listener = Listener(
            self._admit,
            self._connected,
            max_message_bytes=config.max_message_bytes,
            outbox_bytes=config.outbox_bytes,
        )
        bus.on_lost(self._bus_lost)
        bus.on_back(self._bus_back)

    async def on_replaced(self, replaced: Replaced) -> None:
        """Close a connection that a newer one elsewhere has replaced."""
        self.presences.replaced(replaced)

    async def drain(self) -> None:
        """Accept nothing more and close every socket with 1012, spread over the configured time."""
        self._draining = True
        self.presences.drain()
        await self.listener.stop_accepting()
        connections = list(self.listener.connections)
        random.shuffle(connections)
        pause = self._config.drain_seconds / max(1, len(connections))
        owed = 0.0
        for connection in connections:
            if owed > 0.05:
                await asyncio.sleep(owed)
                owed = 0.0
            connection.close(CloseCode.RESTART, "the server restarts, come back", end="restart")
            owed += pause
        await self.listener.wait_closed(GOODBYE_SECONDS)
        for connection in list(self.listener.connections):
            # It had its time to read why.
            connection.cut()

    async def close(self) -> None:
        """Wait for what was begun in the background."""
        await self._background.wait()
        await self.fanout.close()
        await self.previews.close()
        await self.presences.close()

    async def watch_dashboards(self) -> None:
        """Ping dashboards and close those that do not answer, until cancelled."""
        while True:
            self._look_at_dashboards(await paused(self._clock, WATCH_SECONDS))

    def _look_at_dashboards(self, late: float) -> None:
        # Not in `watch_dashboards` itself, which would keep the last of them for as long as it runs.
        now = self._clock.monotonic()
        for dashboard in list(self._dashboards):
            dashboard.connection.excuse(late, now)
            if not dashboard.connection.reading_paused:
                self._check_ping(dashboard.connection, now)

    def _check_ping(self, connection: Connection, now: float) -> None:
        if connection.ping_unanswered:
            if now - connection.pinged_at > self._config.ping_timeout:
                connection.cut()
        elif now - connection.pinged_at > self._config.ping_interval:
            connection.ping(now)

    def _admit(self, upgrade: Upgrade) -> Peer | Refusal:
        if self._draining:
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "restarting, try again")
        if len(self.listener.connections) >= self._config.max_connections:
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "this gateway is full, try again")
        hello = read_hello(upgrade)
        if hello is None:
            return Refusal(HTTPStatus.NOT_FOUND, "no socket at this path")
        return _Arrival(hello, self._config.auth_timeout)

    def _connected(self, connection: Connection) -> None:
        arrival = connection.peer
        assert isinstance(arrival, _Arrival)
        hello = arrival.hello
        if isinstance(hello, AgentHello):
            arrival.start(connection, lambda c: self._authenticate_agent(c, hello, arrival))
        else:
            arrival.start(connection, lambda c: self._authenticate_dashboard(c, hello, arrival))

    async def _authenticate_agent(self, connection: Connection, hello: AgentHello, arrival: _Arrival) -> None:
        started = self._clock.monotonic()
        verified = await call(
            self._bus,
            VERIFY_AGENT,
            VerifyAgent(
                agent_id=hello.agent_id,
                tenant_id=hello.tenant_id,
                challenge=hello.challenge,
                signature=hello.signature,
                ticket=hello.ticket,
                remote_address=hello.remote_address,
            ),
        )
        tenant = await self.directory.tenant(verified.tenant_id)
        if tenant.info.status != "active":
            raise ServiceError(ErrorCode.PERMISSION_DENIED, "the tenant is suspended")
        grants = await self.directory.grants(verified.tenant_id, verified.agent_id)
        # Once recorded it must become a session that ends as any other, whether the client is there or not.
        await self._background.shielded(
            self._open_agent(connection, arrival, verified, tenant, grants, started)
        )

    async def _open_agent(
        self,
        connection: Connection,
        arrival: _Arrival,
        verified: VerifiedAgent,
        tenant: Tenant,
        grants: dict[str, Grant],
        started: float,
    ) -> None:
        tenant_id, agent_id = verified.tenant_id, verified.agent_id
        acquired = await self._store.acquire(
            tenant_id, agent_id, connection.connection_id, tenant.limits.connections, tenant.info.plan
        )
        session = AgentSession(
            connection,
            agent_id,
            verified.fingerprint,
            tenant=tenant,
            grants=grants,
            generation=acquired.generation,
            counted=acquired.counted,
            message_ids=self._message_ids,
            bus=self._bus,
            directory=self.directory,
            fanout=self.fanout,
            presences=self.presences,
            counter=self._counter,
            clock=self._clock,
            background=self._background,
        )
        self.presences.opened(session, acquired.replaced)
        if connection.gone:
            session.on_closed(ABNORMAL_CLOSURE)
            return
        session.welcome(
            self._config.server_id, self._config.heartbeat_interval, self._config.max_message_bytes
        )
        logger.info(
            "session_opened",
            extra={
                "tenant_id": tenant_id,
                "agent_id": agent_id,
                "connection_id": connection.connection_id,
                "key": verified.fingerprint,
            },
        )
        self.upkeep.agent_opened(session, started)
        if any(grant.auto_subscribe for grant in session.grants.values()):
            session.begin(session.subscribe_automatically())
        arrival.hand_over(session)

    async def _authenticate_dashboard(
        self, connection: Connection, hello: DashboardHello, arrival: _Arrival
    ) -> None:
        started = self._clock.monotonic()
        token, tenant_id = hello.token, hello.tenant_id
        if token is None:
            token, named = await arrival.first_frame()
            tenant_id = named or tenant_id
        scope = await self._access.scope(token, tenant_id)
        tenant = await self.directory.tenant(scope.tenant_id)
        self._dashboards.check(scope.tenant_id, scope.person.user_id)
        session = DashboardSession(
            connection,
            scope,
            token,
            tenant=tenant,
            access=self._access,
            message_ids=self._message_ids,
            bus=self._bus,
            directory=self.directory,
            fanout=self.fanout,
            previews=self.previews,
            agents=self.agents_view,
            changes=self.changes_view,
            sessions=self.sessions_view,
            store=self._store,
            counter=self._counter,
            clock=self._clock,
            background=self._background,
            on_end=self._dashboard_ended,
        )
        self._dashboards.add(session)
        self._records[session] = self._background.spawn(self._record_dashboard(session))
        session.start(self._config.max_message_bytes)
        self.quotas.opened(session)
        logger.info(
            "dashboard_opened",
            extra={
                "tenant_id": scope.tenant_id,
                "connection_id": connection.connection_id,
                "role": scope.role,
            },
        )
        self.upkeep.dashboard_opened(session, started)
        arrival.hand_over(session)

    async def _record_dashboard(self, session: DashboardSession) -> None:
        try:
            await self._store.put_dashboard(
                session.tenant_id, session.connection.connection_id, session.scope.person.user_id
            )
        except ServiceError:
            # The record is for operators; the person can work without it.
            logger.warning("dashboard_not_recorded", extra={"tenant_id": session.tenant_id})

    def _dashboard_ended(self, session: DashboardSession) -> None:
        self._dashboards.discard(session)
        self.quotas.closed(session)
        self._background.spawn(self._forget_dashboard(session))

    async def _forget_dashboard(self, session: DashboardSession) -> None:
        await session.leave_views()
        # A record that comes later than its end would stay.
        await asyncio.wait([self._records.pop(session)])
        try:
            await self._store.delete_dashboard(session.tenant_id, session.connection.connection_id)
        except ServiceError:
            logger.warning("dashboard_not_forgotten", extra={"tenant_id": session.tenant_id})

    async def _resolve(self, tenant_id: str, channel_id: str) -> None:
        await self.directory.channel(tenant_id, channel_id)

    def _bus_lost(self) -> None:
        for connection in self._session_connections():
            connection.send(_BUS_AWAY)

    def _bus_back(self) -> None:
        self.presences.reannounce()
        self.upkeep.recheck_all()
        for connection in self._session_connections():
            connection.send(_BUS_BACK)

    def _session_connections(self) -> list[Connection]:
        agents = [session.connection for session in self.presences.sessions()]
        return agents + [dashboard.connection for dashboard in self._dashboards]

    def update_gauges(self) -> None:
        """Bring the gauges of open sockets up to date."""
        metrics.CONNECTIONS_MAX.set(self._config.max_connections)
        metrics.CONNECTIONS.labels("agent").set(len(self.presences.sessions()))
        metrics.CONNECTIONS.labels("dashboard").set(len(self._dashboards))
