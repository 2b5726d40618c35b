"""Local delivery: from one message at NATS to every local socket that wants it.

There is one NATS subscription per (tenant, pattern) that somebody here subscribed to, counted by reference.
A message that comes in on it finds a prepared `Route`, the tuple of sockets, in a dictionary by subject; the
route is built once and dropped whenever a subscription or a grant of its tenant changes. Messages of one turn
of the event loop are joined once per route and each socket gets one write.

A socket with overlapping patterns belongs, for each channel, to the first of them that matches: so it gets a
message once, and always from the same NATS subscription, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Protocol, cast

from nats.aio.subscription import Subscription as NatsSubscription

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.subjects import channel_of, channel_subject
from artcafe_common.envelope import message_id_of
from artcafe_common.errors import ServiceError
from artcafe_common.ids import has_wildcard, pattern_matches
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics, wire
from artcafe_gateway.connection import Connection, Held, Policy

logger = logging.getLogger(__name__)

PENDING_WHILE_RESOLVING_MAX = 1000
NO_ECHO_SECONDS = 10.0
# Built-in channels on which the platform tells of presence: nobody is billed for them.
PRESENCE_CHANNELS = "agents.presence."

_DATA_FIELD = b',"data":'
_DATA_SEARCH_START = 58
_AROUND_DATA = len(_DATA_FIELD) + 1


class Receiver(Protocol):
    """A session that messages are delivered to."""

    tenant_id: str
    connection: Connection
    # Pattern -> policy, in the order of subscription.
    patterns: dict[str, Policy]

    def may_read(self, channel_id: str) -> bool | None:
        """Whether the session may read a channel; None where that must be looked up first."""
        ...


class Watcher(Receiver, Protocol):
    """A dashboard: its copies are not counted, and it reads another text than agents do."""

    def render(self, frame: bytes) -> bytes:
        """Return the text of a message as dashboards read it."""
        ...


# Makes `may_read` of a tenant's channel answerable without asking; raises ServiceError.
Resolve = Callable[[str, str], Awaitable[None]]


class Route:
    """Where messages of one channel go that come in on one NATS subscription."""

    __slots__ = (
        "_counter",
        "bytes_out",
        "channel_id",
        "count",
        "counted",
        "frames",
        "receivers",
        "tenant_id",
        "watchers",
    )

    def __init__(self, tenant_id: str, channel_id: str, counter: UsageCounter, counted: bool) -> None:
        self.tenant_id = tenant_id
        self.channel_id = channel_id
        # None while it is being found out who may read the channel.
        self.receivers: tuple[tuple[Connection, Policy], ...] | None = None
        self.watchers: tuple[Watcher, ...] = ()
        self.frames: list[bytes] = []
        # Since the last settlement: messages delivered to every receiver, and bytes of their data.
        self.count = 0
        self.bytes_out = 0
        self.counted = counted
        self._counter = counter

    def delivered(self, connection: Connection, count: int, size: int) -> None:
        """Count copies for one connection (a negative count takes back)."""
        if self.counted and connection.agent_id is not None:
            tally = self._counter.tally(
                self._counter.now(), self.tenant_id, connection.agent_id, self.channel_id
            )
            tally.deliveries += count
            tally.bytes_out += size

    def settle(self) -> None:
        """Hand what was counted for all receivers to the usage counter."""
        count, size = self.count, self.bytes_out
        if count:
            self.count = self.bytes_out = 0
            metrics.DELIVERIES.inc(count * len(self.receivers or ()))
            for connection, _ in self.receivers or ():
                self.delivered(connection, count, size)


class _Subject:
    """One NATS subscription: a tenant's channel or pattern, and the local sessions on it."""

    __slots__ = ("nats", "pattern", "ready", "routes", "sessions", "tenant_id")

    def __init__(self, tenant_id: str, pattern: str) -> None:
        self.tenant_id = tenant_id
        self.pattern = pattern
        # A dict for its order.
        self.sessions: dict[Receiver, None] = {}
        self.routes: dict[bytes, Route] = {}
        self.nats: NatsSubscription | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Fanout:
    """All local subscriptions of this process."""

    def __init__(self, bus: Bus, counter: UsageCounter, clock: Clock, resolve: Resolve) -> None:
        self._bus = bus
        self._counter = counter
        self._clock = clock
        self._resolve = resolve
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._by_tenant: dict[str, dict[str, _Subject]] = {}
        self._dirty: list[Route] = []
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # Message id -> the connection that did not want to hear its own message, and until when that is kept.
        self._no_echo: dict[bytes, tuple[Connection, float]] = {}
        counter.before_close(self.settle)

    @property
    def subject_count(self) -> int:
        """How many NATS subscriptions are held."""
        return len(self._subjects)

    async def subscribe(self, session: Receiver, pattern: str, policy: Policy) -> None:
        """Add a session to a channel or pattern; returns when messages from now on will arrive.

        Subscribing again changes the policy only.
        """
        again = pattern in session.patterns
        session.patterns[pattern] = policy
        key = (session.tenant_id, pattern)
        subject = self._subjects.get(key)
        if subject is None:
            subject = self._subjects[key] = _Subject(*key)
            self._by_tenant.setdefault(session.tenant_id, {})[pattern] = subject
            metrics.SUBSCRIPTIONS.set(len(self._subjects))
            subject.sessions[session] = None
            await self._open(subject)
        else:
            subject.sessions[session] = None
            if not again:
                self._forget_routes(session.tenant_id, pattern)
            await asyncio.shield(subject.ready)
        if again:
            self._forget_routes(session.tenant_id, pattern)

    async def unsubscribe(self, session: Receiver, pattern: str) -> bool:
        """Remove a session from a channel or pattern; False where it was not on it."""
        if session.patterns.pop(pattern, None) is None:
            return False
        await self._leave(session, pattern)
        return True

    def leave_all(self, session: Receiver) -> None:
        """Remove a session that has ended from everything, at once."""
        patterns = list(session.patterns)
        session.patterns.clear()
        for pattern in patterns:
            self._spawn(self._leave(session, pattern))

    def invalidate(self, tenant_id: str) -> None:
        """Forget a tenant's routes: who may read what has changed."""
        for subject in self._by_tenant.get(tenant_id, {}).values():
            self._settle_routes(subject)

    def no_echo(self, message_id: bytes, connection: Connection) -> None:
        """Do not deliver a message to the connection it came from."""
        self._no_echo[message_id] = (connection, self._clock.monotonic() + NO_ECHO_SECONDS)

    def settle(self) -> None:
        """Hand what the routes have counted to the usage counter."""
        for subject in self._subjects.values():
            for route in subject.routes.values():
                route.settle()
        if self._no_echo:
            now = self._clock.monotonic()
            self._no_echo = {key: kept for key, kept in self._no_echo.items() if kept[1] > now}

    async def close(self) -> None:
        """Wait for what was begun in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _open(self, subject: _Subject) -> None:
        try:
            subject.nats = await self._bus.subscribe_direct(
                channel_subject(subject.tenant_id, subject.pattern),
                lambda name, payload: self._on_message(subject, name, payload),
            )
            await self._bus.flush()
        except BaseException as error:
            if not subject.ready.done():
                subject.ready.set_exception(error)
                # Whoever waits hears it; nobody may be waiting.
                subject.ready.exception()
            raise
        if not subject.ready.done():
            subject.ready.set_result(None)

    async def _leave(self, session: Receiver, pattern: str) -> None:
        subject = self._subjects.get((session.tenant_id, pattern))
        if subject is None or session not in subject.sessions:
            return
        self._forget_routes(session.tenant_id, pattern)
        del subject.sessions[session]
        if subject.sessions:
            return
        del self._subjects[session.tenant_id, pattern]
        of_tenant = self._by_tenant[session.tenant_id]
        del of_tenant[pattern]
        if not of_tenant:
            del self._by_tenant[session.tenant_id]
        metrics.SUBSCRIPTIONS.set(len(self._subjects))
        if subject.nats is not None:
            await self._bus.unsubscribe_direct(subject.nats)

    def _forget_routes(self, tenant_id: str, pattern: str) -> None:
        """Forget the routes that a change of one pattern's sessions may touch."""
        wild = has_wildcard(pattern)
        for other in self._by_tenant.get(tenant_id, {}).values():
            # Two different exact channels have nothing in common.
            if wild or other.pattern == pattern or has_wildcard(other.pattern):
                self._settle_routes(other)

    def _settle_routes(self, subject: _Subject) -> None:
        routes, subject.routes = subject.routes, {}
        for name, route in routes.items():
            if route.receivers is None:
                # It is being filled, and will be with what holds then.
                subject.routes[name] = route
                continue
            # What was counted belongs to the receivers it had.
            self._flush_route(route)
            route.settle()

    def _on_message(self, subject: _Subject, name: bytes, payload: bytes) -> None:
        route = subject.routes.get(name)
        if route is None:
            route = self._make_route(subject, name)
        frames = route.frames
        if not frames and route.receivers is not None:
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.append(route)
        elif route.receivers is None and len(frames) >= PENDING_WHILE_RESOLVING_MAX:
            logger.error("messages_lost_while_resolving", extra={"tenant_id": route.tenant_id})
            return
        frames.append(payload)

    def _make_route(self, subject: _Subject, name: bytes) -> Route:
        tenant_id, channel_id = channel_of(name.decode())
        counted = not channel_id.startswith(PRESENCE_CHANNELS)
        route = subject.routes[name] = Route(tenant_id, channel_id, self._counter, counted)
        if not self._fill(route, subject):
            self._spawn(self._fill_later(route, subject, name))
        return route

    def _fill(self, route: Route, subject: _Subject) -> bool:
        receivers: list[tuple[Connection, Policy]] = []
        watchers: list[Watcher] = []
        for session in subject.sessions:
            if _first_match(session.patterns, route.channel_id) != subject.pattern:
                continue
            allowed = session.may_read(route.channel_id)
            if allowed is None:
                return False
            if not allowed:
                continue
            if session.connection.agent_id is not None:
                receivers.append((session.connection, session.patterns[subject.pattern]))
            else:
                watchers.append(cast(Watcher, session))
        route.receivers = tuple(receivers)
        route.watchers = tuple(watchers)
        return True

    async def _fill_later(self, route: Route, subject: _Subject, name: bytes) -> None:
        try:
            await self._resolve(route.tenant_id, route.channel_id)
            filled = self._fill(route, subject)
        except ServiceError as error:
            logger.warning("channel_not_resolved", extra={"tenant_id": route.tenant_id, "code": error.code})
            filled = False
        if not filled:
            # Nobody is given what they may not be allowed to read; the next message tries again.
            subject.routes.pop(name, None)
            return
        self._flush_route(route)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for route in dirty:
            self._flush_route(route)

    def _flush_route(self, route: Route) -> None:
        frames = route.frames
        receivers = route.receivers
        if not frames or receivers is None:
            return
        route.frames = []
        if self._no_echo and any(message_id_of(frame) in self._no_echo for frame in frames):
            # Rare: one by one, so that each can leave out its own sender.
            for frame in frames:
                sender = self._no_echo.get(message_id_of(frame))
                self._write(route, receivers, [frame], sender[0] if sender else None)
        else:
            self._write(route, receivers, frames, None)
        for frame in frames if route.watchers else ():
            # All watchers read the same text: it is made once.
            text = route.watchers[0].render(frame)
            for watcher in route.watchers:
                watcher.connection.send(text)

    def _write(
        self,
        route: Route,
        receivers: tuple[tuple[Connection, Policy], ...],
        frames: list[bytes],
        silent: Connection | None,
    ) -> None:
        if not receivers:
            return
        count = len(frames)
        size = sum([data_size(frame) for frame in frames])
        joined = wire.text_frame(frames[0]) if count == 1 else b"".join(map(wire.text_frame, frames))
        for connection, policy in receivers:
            if connection.blocked or connection is silent:
                # It is counted with all others below; a held batch is counted when the socket takes it.
                route.delivered(connection, -count, -size)
                if connection is not silent:
                    connection.hold(Held(route, policy, joined, count, size))
            else:
                connection.write(joined)
        route.count += count
        route.bytes_out += size

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def data_size(frame: bytes) -> int:
    """Return the bytes of a frame's data; what stands before it is escaped and cannot hold its name."""
    return len(frame) - frame.index(_DATA_FIELD, _DATA_SEARCH_START) - _AROUND_DATA


def _first_match(patterns: Iterable[str], channel_id: str) -> str | None:
    for pattern in patterns:
        if pattern == channel_id or (has_wildcard(pattern) and pattern_matches(pattern, channel_id)):
            return pattern
    return None
