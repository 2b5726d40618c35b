"""Keep an agent connected: open, restore what was there before, hand out the usable connection."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from artcafe_agent.address import ServerAddress
from artcafe_agent.connection import Connection, Notice
from artcafe_agent.errors import AckTimeout, ArtcafeError, ClientClosed, CommandError, NotConnected
from artcafe_agent.keys import AgentKey
from artcafe_agent.opening import open_agent_socket
from artcafe_agent.protocol import (
    Delivery,
    Dropped,
    Presence,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from artcafe_agent.routes import Routes
from artcafe_agent.states import (
    Backoff,
    ConnectionMachine,
    ConnectionState,
    Heartbeats,
    ReconnectPolicy,
    StateChange,
)
from artcafe_agent.supervisor import Supervisor

# One logger for the client's life: its parts are not the reader's business.
logger = logging.getLogger("artcafe_agent.client")

SHORTEST_HEARTBEAT_INTERVAL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Identity:
    """Who connects, and where to."""

    address: ServerAddress
    tenant_id: str
    agent_id: str
    key: AgentKey
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; ``heartbeat_interval`` only ever shortens what the server asks for."""

    command_timeout: float
    connect_timeout: float
    heartbeat_interval: float | None
    intervals_without_ack: float

    def heartbeats(self, asked: float) -> Heartbeats:
        """Return the heartbeats of a connection whose server asks for an interval."""
        wanted = asked if self.heartbeat_interval is None else min(asked, self.heartbeat_interval)
        return Heartbeats(max(wanted, SHORTEST_HEARTBEAT_INTERVAL_SECONDS), self.intervals_without_ack)


@dataclass(slots=True)
class Traffic:
    """What went through a client since it was made, and its latest connection."""

    messages_sent: int = 0
    messages_received: int = 0
    connection_id: str = ""
    server_id: str = ""
    connected_at: datetime | None = None


class ConnectionKeeper:
    """Own the connection of one client over all its breaks.

    A connection is handed out only when presence and subscriptions are restored on it: an answer to what
    is published next must find us listening.
    """

    def __init__(
        self,
        identity: Identity,
        timing: Timing,
        policy: ReconnectPolicy,
        *,
        metrics: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.identity = identity
        self.timing = timing
        self.machine = ConnectionMachine(policy, self._changed)
        self.routes = Routes()
        self.traffic = Traffic()
        self.presence: Presence | None = None
        self.link: Connection | None = None  # the open socket
        self.ready: Connection | None = None  # the same, once everything is restored
        self.end: Exception | None = None  # why there will be no connection any more
        self.state_listeners: list[Callable[[StateChange], None]] = []
        self.error_listeners: list[Callable[[CommandError], None]] = []
        self._metrics = metrics
        self._supervisor = Supervisor(self.machine, self._attempt)
        self._task: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Future[Connection]] = set()

    def start(self) -> None:
        """Begin to connect."""
        if self._task is not None or self.end is not None:
            raise ClientClosed("a client connects once: make a new one")
        self._task = asyncio.create_task(self._supervise(), name=f"artcafe-{self.identity.agent_id}")

    async def stop(self) -> None:
        """Close the connection, if any, and end every subscription."""
        self.machine.stop()
        if self.link is not None:
            await self.link.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._finish(ClientClosed("the client was closed"), None)

    async def wait_ended(self) -> None:
        """Wait until there will be no connection any more."""
        if self._task is None:
            raise ClientClosed("connect first")
        await asyncio.wait({self._task})

    async def connection(self, timeout: float | None) -> Connection:
        """Return the usable connection, once there is one.

        Raises:
            NotConnected: There was none within ``timeout`` seconds.
            ClientClosed: There never will be: the client was closed, or not opened yet.
            ArtcafeError: There never will be: why the client ended by itself.
        """
        if self.ready is not None and self.ready.is_open:
            return self.ready
        if self.end is not None:
            raise self.end
        if self._task is None:
            raise ClientClosed("connect first")
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            raise NotConnected(f"not connected to {self.identity.address} within {timeout:.3g} s") from None
        finally:
            self._waiters.discard(waiter)

    async def _supervise(self) -> None:
        try:
            error = await self._supervisor.run()
        except Exception as bug:
            logger.exception("the client stopped because of an unexpected exception")
            self._finish(bug, bug)
        else:
            self._finish(error or ClientClosed("the client was closed"), error)

    def _finish(self, why: Exception, error: Exception | None) -> None:
        """End for good; the first reason stays."""
        if self.end is None:
            self.end = why
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self.end)
        for subscription in self.routes.subscriptions:
            subscription.end(error)

    async def _attempt(self) -> None:
        who = self.identity
        socket, welcome = await open_agent_socket(
            who.address,
            who.tenant_id,
            who.agent_id,
            who.key,
            timeout=self.timing.connect_timeout,
            tls=who.tls,
        )
        heartbeats = self.timing.heartbeats(welcome.heartbeat_interval)
        link = self.link = Connection(socket, welcome, heartbeats, metrics=self._metrics)
        self.traffic.connection_id = welcome.connection_id
        self.traffic.server_id = welcome.server_id
        self.traffic.connected_at = link.connected_at
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.run(self._deliver, partial(self._notice, tasks, link)))
                tasks.create_task(self._restore(link))
        finally:
            self.link = self.ready = None

    async def _restore(self, link: Connection) -> None:
        if self.presence is not None:
            try:
                await link.ask(self.presence, self.timing.command_timeout)
            except (CommandError, AckTimeout) as problem:
                logger.warning("presence could not be restored: %s", problem)
        missing = await self._subscribe_all(link, self.routes.names)
        self.ready = link
        self._supervisor.opened()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(link)
        policy = self.machine.policy
        backoff = Backoff(policy.first_delay, policy.longest_delay)
        while missing:
            await asyncio.sleep(backoff.next())
            missing = await self._subscribe_all(link, missing & self.routes.names)

    async def _subscribe_all(self, link: Connection, names: frozenset[str]) -> frozenset[str]:
        """Subscribe on a new connection; return the names that failed for now."""
        outcomes = await asyncio.gather(*(self._subscribe_one(link, name) for name in names))
        return frozenset(name for name, done in zip(names, outcomes, strict=True) if not done)

    async def _subscribe_one(self, link: Connection, name: str) -> bool:
        try:
            answer = await link.ask(Subscribe(channel=name), self.timing.command_timeout)
        except (CommandError, AckTimeout) as problem:
            if problem.temporary:
                logger.warning("subscription to %s is not restored yet: %s", name, problem)
                return False
            await self._take_away(link, name, problem)
            return True
        if isinstance(answer, Subscribed):
            self.routes.confirm(name, answer.channel, answer.subject)
        return True

    async def _take_away(self, link: Connection, name: str, why: ArtcafeError) -> None:
        """End the subscriptions that hold a channel which the server refuses."""
        for subscription in self.routes.holders(name):
            subscription.end(why)
            for orphan in self.routes.remove(subscription):
                # Meanwhile somebody may have subscribed to it again.
                if orphan != name and orphan not in self.routes.names:
                    await link.leave(orphan, 0.0)

    def _deliver(self, delivery: Delivery) -> None:
        self.traffic.messages_received += 1
        for subscription in self.routes.find(delivery.channel):
            subscription.offer(delivery)

    def _notice(self, tasks: asyncio.TaskGroup, link: Connection, notice: Notice) -> None:
        if isinstance(notice, Dropped):
            logger.warning("the server dropped %d messages of %s", notice.count, notice.channel)
            for subscription in self.routes.find(notice.channel):
                subscription.note_gap(notice.count)
        elif isinstance(notice, Unsubscribed):
            why = CommandError(
                notice.reason or "permission_denied", f"{notice.channel} may not be read any more"
            )
            for name in self.routes.known_as(notice.channel, notice.subject):
                tasks.create_task(self._take_away(link, name, why))
        else:
            quota = notice.quota()
            error = CommandError(notice.code, notice.message, retry_after=notice.retry_after, extra=quota)
            logger.warning("the server reports: %s", error)
            for listener in self.error_listeners:
                _call(partial(listener, error))

    def _changed(self, change: StateChange) -> None:
        _log(self.identity, change)
        for listener in self.state_listeners:
            _call(partial(listener, change))


def _log(identity: Identity, change: StateChange) -> None:
    agent_id = identity.agent_id
    if change.current is ConnectionState.WAITING:
        logger.warning("agent %s: %s; next attempt in %.1f s", agent_id, change.error, change.retry_in)
    elif change.current is ConnectionState.FAILED:
        logger.error("agent %s: stopped: %s", agent_id, change.error)
    elif change.current is ConnectionState.ONLINE:
        logger.info("connected as %s to %s", agent_id, identity.address)
    else:
        level = logging.INFO if change.current is ConnectionState.STOPPED else logging.DEBUG
        logger.log(level, "agent %s: %s", agent_id, change.current)


def _call(listener: Callable[[], None]) -> None:
    try:
        listener()
    except Exception:
        logger.exception("a listener raised")
