"""Presence of the agents on this process, and of those that dead processes left behind.

A heartbeat only moves a time in memory. A change of state is announced once: to registry and dashboards as a
`Presence` event, and on the tenant's channels ``agents.presence.*`` for agents that watch each other.

An agent whose socket ended without a goodbye is `suspect` and becomes `offline` when it does not come back in
time. What a dead process left is found by the sweep (`lease`) and announced here.
"""

from __future__ import annotations

import asyncio
import logging
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
from artcafe_gateway.background import Background
from artcafe_gateway.store import ConnectionStore, Holder, Orphan

if TYPE_CHECKING:
    from artcafe_gateway.agent_session import AgentSession

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
# How often the time connected is counted: each time is a row of usage for each agent.
COUNT_SECONDS = 30.0
HOUR_SECONDS = 3600
# How long the end of an agent is told again when the bus comes back, and a replaced connection remembered
# that has not opened yet.
REMEMBERED_SECONDS = 60.0
RETRY_SECONDS = 1.0
ANNOUNCED_AT_ONCE = 200
# What an agent states of itself is written into the stream and the store, and nobody is billed for it. Of
# what comes faster the newest is told, with a later tick.
STATEMENTS_PER_SECOND = 1.0
STATEMENTS_BURST = 10.0
ANNOUNCE_PAUSE_SECONDS = 0.02
# The last version of a generation: whatever its process had announced came before.
FINAL_STEP = 999_999
VERSIONS_PER_GENERATION = 1_000_000

_GOODBYES = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY})
_FINAL_CLOSES = frozenset({CloseCode.REVOKED, CloseCode.TENANT_SUSPENDED, CloseCode.HEARTBEAT_TIMEOUT})
_encode = msgspec.json.Encoder().encode


async def paused(clock: Clock, seconds: float) -> float:
    """Sleep, and return how much longer that took where it took twice as long or more, else 0.0."""
    began = clock.monotonic()
    await asyncio.sleep(seconds)
    late = clock.monotonic() - began - seconds
    return late if late >= seconds else 0.0


def _silence(session: AgentSession, now: float) -> float:
    """Return for how long nothing was heard of an agent while this process listened."""
    since, seconds = session.excused
    return now - session.last_life - (seconds if since == session.last_life else 0.0)


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
        # The newest session of each agent here, also for a while after its socket ended (`suspect`).
        self._agents: dict[tuple[str, str], AgentSession] = {}
        self._background = Background()
        self._draining = False
        self._hour = clock.now() // HOUR_SECONDS
        # Connections that were replaced while still opening, and agents that have gone: when, what was said.
        self._replaced_early: dict[str, float] = {}
        self._gone: dict[tuple[str, str], tuple[float, Presence]] = {}
        # Records that could not be released: (tenant, agent, connection) -> whether it is counted.
        self._unreleased: dict[tuple[str, str, str], bool] = {}
        counter.before_close(self._settle)

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
        early = self._replaced_early.pop(session.connection.connection_id, None)
        if early is not None or (old is not None and old.generation > session.generation):
            # A newer connection was recorded, and opened, while this one was on its way.
            session.end(CloseCode.REPLACED, "replaced by a newer connection")
            return
        self._agents[key] = session
        self._gone.pop(key, None)
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
            self._count_time(session)
            del self._agents[event.tenant_id, event.agent_id]
            session.end(CloseCode.REPLACED, "replaced by a newer connection")
        else:
            self._replaced_early[event.connection_id] = self._clock.monotonic()

    def alive(self, session: AgentSession) -> None:
        """Note a heartbeat."""
        if session.status == "suspect":
            self._announce(session, "online", "heartbeat")

    def stated(self, session: AgentSession, *, offline: bool) -> None:
        """Announce what an agent says of itself."""
        status: PresenceStatus = "offline" if offline else "online"
        if session.may_state(self._clock.monotonic()):
            self._announce(session, status, "stated")
        else:
            session.status = status
            session.untold = True

    def closed(self, session: AgentSession, code: int) -> None:
        """Handle the end of a session's socket."""
        self._count_time(session)
        if self._agents.get((session.tenant_id, session.agent_id)) is not session:
            # A newer connection has taken its place.
            return
        if code in _GOODBYES or code in _FINAL_CLOSES or session.status == "offline":
            self._background.spawn(self._end(session, "closed"))
        elif code != CloseCode.RESTART:
            self._announce(session, "suspect", "connection lost")
        # At a restart the agent comes back elsewhere within moments: what it leaves is swept if it does not.

    def reannounce(self) -> None:
        """Announce every agent again: the bus was away and changes may have been lost."""
        self._background.spawn(self._reannounce())

    def drain(self) -> None:
        """Stop declaring anyone dead: this process is about to end."""
        self._draining = True

    async def run(self) -> None:
        """Watch heartbeats and pings until cancelled."""
        while True:
            late = await paused(self._clock, min(TICK_SECONDS, self._heartbeat_timeout / 10))
            try:
                self.stood_still(late)
                self.tick()
            except Exception:
                logger.exception("presence_tick_failed")

    def stood_still(self, seconds: float) -> None:
        """Count a time in which this process did nothing as nobody's silence.

        It heard nobody and let nobody in, and who is on the same machine may have stood still with it.
        """
        now = self._clock.monotonic()
        for session in self._agents.values() if seconds else ():
            so_far = now - session.last_life - _silence(session, now)
            session.excused = (session.last_life, min(now - session.last_life, so_far + seconds))
            session.connection.excuse(seconds, now)

    def tick(self) -> None:
        """Look once at every agent: ping it, doubt it, give it up."""
        now = self._clock.monotonic()
        for session in list(self._agents.values()):
            if session.ended:
                if _silence(session, now) > self._heartbeat_timeout and not self._draining:
                    self._background.spawn(self._end(session, "did not come back"))
            else:
                self._look_at(session, now)
        for connection_id, at in list(self._replaced_early.items()):
            if now - at < REMEMBERED_SECONDS:
                break
            del self._replaced_early[connection_id]
        for key, (at, _) in list(self._gone.items()) if self._bus.is_connected else ():
            if now - at < REMEMBERED_SECONDS:
                break
            del self._gone[key]

    async def still_holds(self, session: AgentSession) -> bool:
        """Check in the store that a session is its agent's newest, and end one that is not.

        Raises: ServiceError.
        """
        holder = await self._store.holder(session.tenant_id, session.agent_id)
        if holder == Holder(self._process_id, session.connection.connection_id):
            return True
        if holder is None:
            session.end(CloseCode.RESTART, "this connection was taken for dead, come back")
        else:
            session.end(CloseCode.REPLACED, "replaced by a newer connection")
        return False

    async def bury(self, orphan: Orphan, lived_at: float) -> None:
        """Release and announce an agent's connection whose process is gone, unless it has come back.

        `lived_at` is when that process last said that it lives (epoch seconds): until then it had the agent.
        """
        if not await self._store.release(
            orphan.tenant_id, orphan.agent_id, orphan.connection_id, orphan.counted
        ):
            return
        metrics.SWEPT.inc()
        presence = Presence(
            tenant_id=orphan.tenant_id,
            agent_id=orphan.agent_id,
            status="offline",
            version=orphan.generation * VERSIONS_PER_GENERATION + FINAL_STEP,
            at=rfc3339(self._clock.now()),
            connection_id=orphan.connection_id,
            server_id=self._server_id,
            reason="its gateway ended",
            # It may have come after that.
            last_seen=rfc3339(max(lived_at, orphan.generation / 1000)),
        )
        self._gone[orphan.tenant_id, orphan.agent_id] = (self._clock.monotonic(), presence)
        self._publish(presence)

    async def release_late(self) -> None:
        """Release what could not be released when it ended. Raises: ServiceError."""
        for key, counted in list(self._unreleased.items()):
            await self._store.release(*key, counted)
            del self._unreleased[key]

    def reclaim(self) -> None:
        """Look in the background which sessions others have given up meanwhile."""
        self._background.spawn(self._reclaim())

    async def close(self) -> None:
        """Wait for what was begun in the background."""
        await self._background.wait()

    async def _reannounce(self) -> None:
        for _, presence in list(self._gone.values()):
            self._publish(presence)
        for number, (key, session) in enumerate(list(self._agents.items()), 1):
            if self._agents.get(key) is session:
                self._announce(session, session.status, "bus is back", always=True)
            if number % ANNOUNCED_AT_ONCE == 0:
                # So many at once would hold up deliveries, and more than the bus takes.
                await asyncio.sleep(ANNOUNCE_PAUSE_SECONDS)

    async def _reclaim(self) -> None:
        sessions = self.sessions()
        while sessions and not self._draining:
            try:
                if not sessions[-1].ended:
                    await self.still_holds(sessions[-1])
                sessions.pop()
            except ServiceError:
                await asyncio.sleep(RETRY_SECONDS)

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
            # One whose answer was lost is repeated, and then there is nothing left to release.
            mine = mine or await self._store.holder(*key) is None
        except ServiceError:
            # The agent is gone all the same; should it be elsewhere by now, that has a higher version.
            logger.warning("connection_not_released", extra={"tenant_id": session.tenant_id})
            self._unreleased[(*key, session.connection.connection_id)] = session.counted
            mine = True
        # By now the agent may be back, and be taken for offline by those that watch it.
        if mine and key not in self._agents:
            self._announce(session, "offline", reason)

    def _look_at(self, session: AgentSession, now: float) -> None:
        if now - session.counted_until > COUNT_SECONDS:
            self._count_time(session)
        if session.untold and session.may_state(now):
            self._announce(session, session.status, "stated")
        if session.connection.reading_paused:
            # It is this process that does not listen now.
            session.last_life = now
            return
        self._check_ping(session, now)
        silent = _silence(session, now)
        if silent > self._heartbeat_timeout:
            self._background.spawn(self._end(session, "heartbeat timeout"))
            session.end(CloseCode.HEARTBEAT_TIMEOUT, "no heartbeat")
        elif silent > self._heartbeat_timeout / 2:
            if session.status == "online":
                self._announce(session, "suspect", "heartbeat late")
        elif session.status == "suspect":
            self._announce(session, "online", "alive")

    def _check_ping(self, session: AgentSession, now: float) -> None:
        connection = session.connection
        if connection.ping_unanswered:
            if now - connection.pinged_at > self._ping_timeout:
                connection.cut()
        elif now - connection.pinged_at > self._ping_interval:
            connection.ping(now)

    def _settle(self) -> None:
        """At the end of an hour, count everyone's time in it."""
        hour = self._clock.now() // HOUR_SECONDS
        if hour != self._hour:
            self._hour = hour
            for session in self.sessions():
                self._count_time(session)

    def _count_time(self, session: AgentSession) -> None:
        tally = self._counter.tally(self._clock.now(), session.tenant_id, session.agent_id)
        # Not before: that may have ended an hour, and have counted the time until then, this session's too.
        now = self._clock.monotonic()
        tally.connection_seconds += now - session.counted_until
        session.counted_until = now

    def _announce(
        self, session: AgentSession, status: PresenceStatus, reason: str, *, always: bool = False
    ) -> None:
        known = status == session.status and not session.untold
        if known and reason not in ("connected", "stated") and not always:
            return
        session.status = status
        session.untold = False
        presence = Presence(
            tenant_id=session.tenant_id,
            agent_id=session.agent_id,
            status=status,
            version=session.next_version(),
            at=rfc3339(self._clock.now()),
            connection_id=session.connection.connection_id,
            server_id=self._server_id,
            reason=reason,
            detail=session.detail,
            connected_at=None if status == "offline" else rfc3339(session.connected_at),
            last_seen=rfc3339(self._clock.now() - (self._clock.monotonic() - session.last_life)),
            capabilities=session.capabilities,
            metadata=session.metadata,
        )
        key = (session.tenant_id, session.agent_id)
        if key not in self._agents:
            self._gone[key] = (self._clock.monotonic(), presence)
        self._publish(presence)

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
            logger.debug("presence_not_announced", extra={"tenant_id": presence.tenant_id})
