"""Local delivery: from one message at NATS to every local socket that wants it.

There is one NATS subscription per (tenant, pattern) that somebody here subscribed to, counted by reference.
A message that comes in on it finds a prepared `Route`, the sockets it goes to, in a dictionary by subject. A
route is built by the first message; who comes and goes is put in and taken out, so that neither costs more
the more readers there are. Messages of one read are joined once per route, and each socket gets one write.

A socket with overlapping patterns belongs, for each channel, to the first of them that matches: so it gets a
message once, and always from the same NATS subscription, in order. A new subscription therefore touches the
routes of its own subject alone, and one that ends also those of the session's other patterns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from nats.aio.subscription import Subscription as NatsSubscription

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.subjects import channel_of, channel_subject
from artcafe_common.envelope import data_size, message_id_of
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.ids import PRESENCE_CHANNELS, has_wildcard, pattern_matches, tokens_match
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics, wire
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.outbox import Held, Policy
from artcafe_gateway.route import Receiver, Route, Watcher
from artcafe_gateway.tap import close_tap, open_tap

logger = logging.getLogger(__name__)

# What waits while it is found out who may read a channel, and for how long it is tried.
PENDING_BYTES_MAX = 1024 * 1024
RESOLVE_PATIENCE_SECONDS = 10.0
RESOLVE_PAUSE_SECONDS = 0.2
NO_ECHO_SECONDS = 10.0


# Makes `may_read` of a tenant's channel answerable without asking; raises ServiceError.
Resolve = Callable[[str, str], Awaitable[None]]


class _Subject:
    """One NATS subscription: a tenant's channel or pattern, and the local sessions on it."""

    __slots__ = ("nats", "opening", "pattern", "routes", "sessions", "tenant_id", "wild")

    def __init__(self, tenant_id: str, pattern: str) -> None:
        self.tenant_id = tenant_id
        self.pattern = pattern
        self.wild = has_wildcard(pattern)
        # A dict for its order.
        self.sessions: dict[Receiver, None] = {}
        self.routes: dict[bytes, Route] = {}
        self.nats: NatsSubscription | None = None
        # Ends when NATS has the subscription, with its error where it could not be had.
        self.opening: asyncio.Future[ServiceError | None] = asyncio.get_running_loop().create_future()


class Fanout:
    """All local subscriptions of this process."""

    def __init__(self, bus: Bus, counter: UsageCounter, clock: Clock, resolve: Resolve) -> None:
        self._bus = bus
        self._counter = counter
        self._clock = clock
        self._resolve = resolve
        self._subjects: dict[tuple[str, str], _Subject] = {}
        # Those with wildcards by tenant, and which of them a session is on, in its order, with their tokens.
        self._wild: dict[str, set[_Subject]] = {}
        self._wild_patterns: dict[Receiver, dict[str, list[str]]] = {}
        self._dirty: list[Route] = []
        self._background = Background()
        # Message id -> the connection that did not want to hear its own message, and until when that is kept.
        self._no_echo: dict[bytes, tuple[Connection, float]] = {}
        counter.before_close(self.settle)

    @property
    def subject_count(self) -> int:
        """How many NATS subscriptions are held."""
        return len(self._subjects)

    def sessions_on(self, tenant_id: str, pattern: str) -> list[Receiver]:
        """Return the sessions that subscribed to exactly a channel or pattern."""
        subject = self._subjects.get((tenant_id, pattern))
        return list(subject.sessions) if subject is not None else []

    def listeners(self, tenant_id: str, channel_id: str) -> dict[Receiver, list[str]]:
        """Return the sessions that subscribed to a channel, each with the patterns by which it did."""
        exact = self._subjects.get((tenant_id, channel_id))
        wild = [s for s in self._wild.get(tenant_id, ()) if pattern_matches(s.pattern, channel_id)]
        found: dict[Receiver, list[str]] = {}
        for subject in [*([exact] if exact else []), *sorted(wild, key=lambda subject: subject.pattern)]:
            for session in subject.sessions:
                found.setdefault(session, []).append(subject.pattern)
        return found

    async def subscribe(self, session: Receiver, pattern: str, policy: Policy) -> None:
        """Add a session to a channel or pattern; returns when messages from now on will arrive.

        Subscribing again changes the policy only.

        Raises: ServiceError ``unavailable``; the session is not on the pattern then.
        """
        key = (session.tenant_id, pattern)
        subject = self._subjects.get(key)
        if subject is None:
            subject = self._subjects[key] = _Subject(*key)
            if subject.wild:
                self._wild.setdefault(session.tenant_id, set()).add(subject)
            metrics.SUBSCRIPTIONS.set(len(self._subjects))
            # Not by this session's task: it may end while others have come to wait as well.
            self._background.spawn(self._open(subject))
        if pattern in session.patterns:
            session.patterns[pattern] = policy
            _set_policy(session, subject, policy)
        else:
            if subject.wild:
                self._wild_patterns.setdefault(session, {})[pattern] = pattern.split(".")
            session.patterns[pattern] = policy
            subject.sessions[session] = None
            self._place(session, subject)
        error = await asyncio.shield(subject.opening)
        if error is not None:
            raise error

    async def unsubscribe(self, session: Receiver, pattern: str) -> bool:
        """Remove a session from a channel or pattern; False where it was not on it."""
        if pattern not in session.patterns:
            return False
        nats = self._detach(session, pattern)
        if nats is not None:
            await close_tap(self._bus, nats)
        return True

    def leave_all(self, session: Receiver) -> None:
        """Remove a session that has ended from everything, at once."""
        patterns = list(session.patterns)
        # First all, so that nothing falls from one to the next.
        session.patterns.clear()
        self._wild_patterns.pop(session, None)
        for pattern in patterns:
            nats = self._take_off(session, self._subjects[session.tenant_id, pattern])
            if nats is not None:
                self._background.spawn(close_tap(self._bus, nats))

    def invalidate_channel(self, tenant_id: str, channel_id: str) -> None:
        """Forget a channel's routes: who may read it has changed."""
        name = channel_subject(tenant_id, channel_id).encode()
        exact = self._subjects.get((tenant_id, channel_id))
        for subject in [*self._wild.get(tenant_id, ()), *([exact] if exact else [])]:
            self._drop_route(subject, name)

    def invalidate_session(self, session: Receiver) -> None:
        """Put a session into the routes anew: what it may read has changed."""
        for pattern in session.patterns:
            if (subject := self._subjects.get((session.tenant_id, pattern))) is not None:
                self._place(session, subject)

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
        await self._background.wait()

    async def _open(self, subject: _Subject) -> None:
        try:
            subject.nats = await open_tap(
                self._bus,
                channel_subject(subject.tenant_id, subject.pattern),
                lambda name, payload: self._on_message(subject, name, payload),
            )
        except ServiceError as error:
            for session in list(subject.sessions):
                self._detach(session, subject.pattern)
            subject.opening.set_result(error)
            return
        if not subject.sessions:
            # Everyone has gone meanwhile, and could not end what was not there yet.
            await close_tap(self._bus, subject.nats)
        subject.opening.set_result(None)

    def _detach(self, session: Receiver, pattern: str) -> NatsSubscription | None:
        """Take a session off a pattern; returns the NATS subscription that nobody needs any more."""
        subject = self._subjects[session.tenant_id, pattern]
        wild = self._wild_patterns.get(session, {})
        others = [
            self._subjects[session.tenant_id, other]
            for other in (session.patterns if subject.wild else wild)
            if other != pattern
        ]
        # Channels that the session had by the pattern that goes may fall to others of its patterns. Each is
        # looked at once, however many patterns it lies under.
        falling = {
            channel_id
            for channel_id in {route.channel_id for other in others for route in other.routes.values()}
            if pattern_matches(pattern, channel_id) and self._first_match(session, channel_id) == pattern
        }
        del session.patterns[pattern]
        if subject.wild:
            del wild[pattern]
            if not wild:
                del self._wild_patterns[session]
        nats = self._take_off(session, subject)
        for channel_id in falling:
            taker = self._first_match(session, channel_id)
            if taker is not None:
                self._place(session, self._subjects[session.tenant_id, taker], channel_id)
        return nats

    def _take_off(self, session: Receiver, subject: _Subject) -> NatsSubscription | None:
        del subject.sessions[session]
        self._place(session, subject)
        if subject.sessions:
            return None
        self._remove(subject)
        return subject.nats

    def _remove(self, subject: _Subject) -> None:
        for name in list(subject.routes):
            self._drop_route(subject, name)
        del self._subjects[subject.tenant_id, subject.pattern]
        if subject.wild:
            of_tenant = self._wild[subject.tenant_id]
            of_tenant.discard(subject)
            if not of_tenant:
                del self._wild[subject.tenant_id]
        metrics.SUBSCRIPTIONS.set(len(self._subjects))

    def _place(self, session: Receiver, subject: _Subject, channel_id: str | None = None) -> None:
        """Put a session into those routes of a subject that it belongs to now, and out of the others.

        Only into that of one channel where it is given.
        """
        for name, route in list(subject.routes.items()):
            if channel_id not in (None, route.channel_id):
                continue
            if route.receivers is None:
                # It is being filled, and will be with what holds then.
                continue
            # What has come in so far goes to those who were there.
            self._flush_route(route)
            belongs = self._belongs(session, subject, route.channel_id)
            if belongs is None:
                self._drop_route(subject, name)
            elif session.connection.agent_id is None:
                watcher = cast(Watcher, session)
                route.watchers.pop(watcher, None)
                if belongs:
                    route.watchers[watcher] = session.patterns[subject.pattern]
            elif belongs:
                route.join(session.connection, session.patterns[subject.pattern])
            else:
                route.part(session.connection)

    def _belongs(self, session: Receiver, subject: _Subject, channel_id: str) -> bool | None:
        """Tell whether a session gets a channel's messages from this subject; None where it is not known."""
        if session not in subject.sessions:
            return False
        # Without wildcards a session has just one pattern for a channel.
        if session in self._wild_patterns and self._first_match(session, channel_id) != subject.pattern:
            return False
        return session.may_read(channel_id)

    def _first_match(self, session: Receiver, channel_id: str) -> str | None:
        """Return the first of a session's patterns under which a channel lies."""
        given = channel_id.split(".")
        wild = self._wild_patterns.get(session, {})
        first = next((pattern for pattern, wanted in wild.items() if tokens_match(wanted, given)), None)
        if channel_id not in session.patterns:
            return first
        return next(pattern for pattern in session.patterns if pattern in (first, channel_id))

    def _drop_route(self, subject: _Subject, name: bytes) -> None:
        route = subject.routes.get(name)
        # One that is being filled will be with what holds then.
        if route is not None and route.receivers is not None:
            del subject.routes[name]
            # What was counted belongs to the receivers it had.
            self._flush_route(route)
            route.settle()

    def _on_message(self, subject: _Subject, name: bytes, payload: bytes) -> None:
        route = subject.routes.get(name)
        if route is None:
            route = self._make_route(subject, name)
        frames = route.frames
        if route.receivers is None:
            route.pending_bytes += len(payload)
            if route.pending_bytes > PENDING_BYTES_MAX:
                route.lost += 1
                return
        elif not frames:
            if not self._dirty:
                self._bus.at_end_of_read(self._flush)
            self._dirty.append(route)
        frames.append(payload)

    def _make_route(self, subject: _Subject, name: bytes) -> Route:
        tenant_id, channel_id = channel_of(name.decode())
        counted = not channel_id.startswith(PRESENCE_CHANNELS)
        route = subject.routes[name] = Route(tenant_id, channel_id, self._counter, counted)
        if not self._fill(route, subject):
            self._background.spawn(self._fill_later(route, subject, name))
        return route

    def _fill(self, route: Route, subject: _Subject) -> bool:
        receivers: dict[Connection, Policy] = {}
        watchers: dict[Watcher, Policy] = {}
        for session in subject.sessions:
            belongs = self._belongs(session, subject, route.channel_id)
            if belongs is None:
                return False
            if belongs:
                policy = session.patterns[subject.pattern]
                if session.connection.agent_id is not None:
                    receivers[session.connection] = policy
                else:
                    watchers[cast(Watcher, session)] = policy
        route.receivers = receivers
        route.watchers = watchers
        return True

    async def _fill_later(self, route: Route, subject: _Subject, name: bytes) -> None:
        """Find out who may read a channel; messages wait, also while registry is away for a moment."""
        deadline = self._clock.monotonic() + RESOLVE_PATIENCE_SECONDS
        code = ""
        while not self._fill(route, subject):
            try:
                await self._resolve(route.tenant_id, route.channel_id)
                continue
            except ServiceError as error:
                code = error.code
            if code == ErrorCode.NOT_FOUND or self._clock.monotonic() > deadline:
                # Nobody is given what they may not be allowed to read; the next message tries again.
                break
            await asyncio.sleep(RESOLVE_PAUSE_SECONDS)
        else:
            self._flush_route(route)
        if route.receivers is None:
            route.lost += len(route.frames)
            subject.routes.pop(name, None)
        if route.lost:
            logger.error(
                "messages_lost_while_resolving",
                extra={"tenant_id": route.tenant_id, "count": route.lost, "code": code},
            )

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for route in dirty:
            try:
                self._flush_route(route)
            except Exception:
                # A message that cannot be handled is no reason to keep others from their readers.
                logger.exception("delivery_failed", extra={"tenant_id": route.tenant_id})

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
        if route.watchers:
            self._show(route, frames)

    def _show(self, route: Route, frames: list[bytes]) -> None:
        # All watchers read the same text: it is made once, and is one write for each of them.
        render = next(iter(route.watchers)).render
        framed = [wire.text_frame(render(frame)) for frame in frames]
        joined = framed[0] if len(framed) == 1 else b"".join(framed)
        for watcher, policy in route.watchers.items():
            connection = watcher.connection
            if connection.blocked:
                for text in framed:
                    connection.hold(Held(route, policy, text, 0))
            else:
                connection.write(joined)

    def _write(
        self,
        route: Route,
        receivers: dict[Connection, Policy],
        frames: list[bytes],
        silent: Connection | None,
    ) -> None:
        if not receivers:
            return
        count = len(frames)
        size = sum([data_size(frame) for frame in frames])
        framed = [wire.text_frame(frame) for frame in frames]
        joined = framed[0] if count == 1 else b"".join(framed)
        whole = len(joined)
        for connection, policy in receivers.items():
            if connection.blocked or connection is silent:
                # It is counted with all others below; what is held is counted when the socket takes it.
                route.withhold(connection, count, size)
                if connection is not silent:
                    for text, frame in zip(framed, frames, strict=True):
                        connection.hold(Held(route, policy, text, data_size(frame)))
            else:
                # `Connection.write`, without a call in Python for each copy.
                put = connection.put
                try:
                    sent = put(joined)
                except OSError:
                    sent = 0
                if sent != whole:
                    connection.write(joined[sent:])
        route.count += count
        route.bytes_out += size


def _set_policy(session: Receiver, subject: _Subject, policy: Policy) -> None:
    """Have another policy for a session where it is."""
    for route in subject.routes.values():
        if session.connection.agent_id is None:
            if session in route.watchers:
                route.watchers[session] = policy
        elif route.receivers is not None and session.connection in route.receivers:
            route.receivers[session.connection] = policy
