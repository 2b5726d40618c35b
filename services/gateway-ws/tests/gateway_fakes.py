"""Collaborators of the gateway in memory: a socket, a client, NATS, a clock, a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

import msgspec
from nats.errors import NoRespondersError

from artcafe_common.bus import Bus
from artcafe_common.bus_wire import DirectHandler
from artcafe_common.contracts.endpoint import Endpoint
from artcafe_common.contracts.gateway import PRESENCE, Presence
from artcafe_common.contracts.registry import (
    RESOLVE_CHANNEL,
    ChannelAccess,
    ChannelInfo,
    Limits,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.errors import ServiceError, not_found, unavailable
from artcafe_common.ids import MessageIds, new_ulid
from artcafe_common.rpc import HEADER_ERROR, HEADER_ERROR_CODE
from artcafe_common.usage import UsageCounter
from artcafe_gateway.agent_session import AgentSession
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.directory import Directory, Tenant
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.outbox import Policy
from artcafe_gateway.presence import Presences
from artcafe_gateway.preview.tap_bus import Resting
from artcafe_gateway.store import Acquired, ConnectionStore, Holder, Orphan

START = 1_780_000_000.0


class FakeClock:
    """A clock that a test moves."""

    def __init__(self, now: float = START) -> None:
        self.wall = now
        self.elapsed = 1000.0

    def now(self) -> float:
        """Return the wall clock."""
        return self.wall

    def monotonic(self) -> float:
        """Return the other clock."""
        return self.elapsed

    def move(self, seconds: float) -> None:
        """Let time pass on both."""
        self.wall += seconds
        self.elapsed += seconds


class FakeTransport:
    """A socket's transport and its socket, which takes at most `room` bytes from `put` where that is set."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.written = bytearray()
        self.writes: list[bytes] = []
        self.closed = False
        self.aborted = False
        self.reading = True
        # Called with each write: a test lets the buffer fill up in the middle of something.
        self.on_write: Callable[[], None] = lambda: None

    def put(self, data: bytes) -> int:
        """Take bytes at once, as many as there is room for."""
        if self.room is None:
            self.write(data)
            return len(data)
        if self.room == 0:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.written += taken
        return len(taken)

    def write(self, data: bytes) -> None:
        """Take bytes, and keep what the socket does not."""
        self.writes.append(data)
        self.written += data
        self.on_write()

    def close(self) -> None:
        """Note a close."""
        self.closed = True

    def abort(self) -> None:
        """Note an abort."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Stop."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON of every text message written so far."""
        return [json.loads(frame.payload) for frame in parse(bytes(self.written)) if frame.opcode == 1]

    @property
    def close_codes(self) -> list[int]:
        """The codes of the close frames written so far."""
        return [int.from_bytes(f.payload[:2]) for f in parse(bytes(self.written)) if f.opcode == 8]

    @property
    def opcodes(self) -> list[int]:
        """What kinds of frames were written, in order."""
        return [frame.opcode for frame in parse(bytes(self.written))]


class Frame(NamedTuple):
    """A WebSocket frame of the server's side."""

    fin: bool
    opcode: int
    payload: bytes


def parse(data: bytes) -> list[Frame]:
    """Take apart what a server wrote, by the RFC and nothing of the code under test."""
    frames = []
    at = 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        assert not second & 0x80, "a server must not mask"
        size, at = second & 0x7F, at + 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2]), at + 2
        elif size == 127:
            size, at = int.from_bytes(data[at : at + 8]), at + 8
        payload = data[at : at + size]
        assert len(payload) == size
        frames.append(Frame(bool(first & 0x80), first & 0x0F, payload))
        at += size
    return frames


class FakePeer:
    """Whoever talks over a connection."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.alive = 0
        self.codes: list[int] = []

    def on_text(self, payload: bytes) -> None:
        """Keep a message."""
        self.texts.append(payload)

    def on_alive(self) -> None:
        """Count a sign of life."""
        self.alive += 1

    def on_closed(self, code: int) -> None:
        """Keep the code."""
        self.codes.append(code)


def connect(agent_id: str | None = None, outbox: int = 65_536) -> tuple[Connection, FakeTransport]:
    """Return a connection over a fake transport, of an agent where one is named."""
    transport = FakeTransport()
    connection = Connection(transport, new_ulid(), "", outbox, FakePeer())
    connection.agent_id = agent_id
    return connection, transport


class FakeSession:
    """A receiver: it may read what `allowed` says, and everything where that says nothing."""

    def __init__(self, agent_id: str | None = "a", tenant_id: str = "t", outbox: int = 65_536) -> None:
        self.tenant_id = tenant_id
        self.connection, self.transport = connect(agent_id, outbox)
        self.patterns: dict[str, Policy] = {}
        self.allowed: dict[str, bool | None] = {}
        self.rendered = 0

    def may_read(self, channel_id: str) -> bool | None:
        """Answer as the test says."""
        return self.allowed.get(channel_id, True)

    def render(self, frame: bytes) -> bytes:
        """Return a message as a dashboard reads it."""
        self.rendered += 1
        return b'{"seen":%b}' % frame

    @property
    def got(self) -> list[Any]:
        """The data of each message received."""
        return [event["data"] for event in self.transport.events if event["type"] == "message"]


class FakeSubscription(NamedTuple):
    """A subscription at the fake NATS."""

    subject: str
    handler: DirectHandler


class Message(NamedTuple):
    """A reply."""

    data: bytes
    headers: dict[str, str] | None


class FakeBus:
    """NATS in memory: what is subscribed and published, and services answered by the test.

    It stands for the taps' connection as well, where messages may rest.
    """

    def __init__(self) -> None:
        self._resting: dict[str, Resting] = {}
        self._announced = ""
        self.busy_seconds = 0.0
        self.is_connected = True
        self.subscriptions: list[FakeSubscription] = []
        self.published: list[tuple[str, bytes]] = []
        self.asked: list[tuple[str, Any]] = []
        # Cleared, it holds back every flush; `flush_error` is raised by it.
        self.gate = asyncio.Event()
        self.gate.set()
        self.flush_error: Exception | None = None
        self._services: dict[str, tuple[Endpoint[Any, Any], Callable[[Any], Awaitable[Any]]]] = {}

    def serve(self, endpoint: Endpoint[Any, Any], handler: Callable[[Any], Awaitable[Any]]) -> None:
        """Answer an endpoint with a function."""
        self._services[endpoint.subject] = (endpoint, handler)

    async def request(
        self, subject: str, payload: bytes, timeout: float, headers: dict[str, str] | None
    ) -> Message:
        """Ask a service."""
        if subject not in self._services:
            raise NoRespondersError
        endpoint, handler = self._services[subject]
        request = msgspec.json.decode(payload, type=endpoint.request)
        self.asked.append((subject, request))
        try:
            return Message(msgspec.json.encode(await handler(request)), None)
        except ServiceError as error:
            headers = {HEADER_ERROR_CODE: "0", HEADER_ERROR: error.code}
            return Message(msgspec.json.encode(error.body()), headers)

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> FakeSubscription:
        """Subscribe."""
        subscription = FakeSubscription(subject, handler)
        self.subscriptions.append(subscription)
        return subscription

    def at_end_of_read(self, callback: Callable[[], None]) -> None:
        """Call a function when what `deliver` was called for is done."""
        asyncio.get_running_loop().call_soon(callback)

    async def unsubscribe_direct(self, subscription: FakeSubscription) -> None:
        """End a subscription."""
        self.subscriptions.remove(subscription)

    async def flush(self, timeout: int = 10) -> None:
        """Wait for the gate."""
        await self.gate.wait()
        if self.flush_error is not None:
            raise self.flush_error

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        """Keep what is published."""
        if not self.is_connected:
            raise unavailable("message bus")
        self.published.append((subject, payload))

    def deliver(self, subject: str, payload: bytes) -> None:
        """Bring a message to every subscription that matches, as one read from the server does."""
        for subscription in list(self.subscriptions):
            if not subject_matches(subscription.subject, subject):
                continue
            self._announced = f"{subject} {subscription.subject}"
            if (rests := self._resting.get(self._announced)) is not None:
                rests.passed += 1
            else:
                subscription.handler(subject.encode(), payload)

    def rest(self, who: Resting) -> None:
        """Only count messages like this one."""
        self._resting[self._announced] = who

    def wake(self) -> list[Resting]:
        """Hand over all again."""
        rested = list(self._resting.values())
        self._resting.clear()
        return rested

    @property
    def subjects(self) -> list[str]:
        """What is subscribed to, in order."""
        return [subscription.subject for subscription in self.subscriptions]


def subject_matches(pattern: str, subject: str) -> bool:
    """Tell whether NATS would deliver a subject to a subscription."""
    wanted, given = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def message(channel_id: str, data: Any, sender: str = "alice", message_id: str | None = None) -> bytes:
    """Return the frame of a message as publishers make it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return build_frame(message_id or new_ulid(), sender_field(sender), START, channel_id, text)


class FakeStore:
    """The connection records, in memory."""

    def __init__(self, server: str = "me") -> None:
        self.server = server
        self.holders: dict[tuple[str, str], Holder] = {}
        self.released: list[tuple[str, str, str]] = []
        self.lease_times: dict[str, float] = {}
        self.orphans: dict[str, list[Orphan]] = {}
        self.dropped: list[str] = []
        self.renewals = 0
        self.error: ServiceError | None = None
        self.generation = 0

    async def acquire(
        self, tenant_id: str, agent_id: str, connection_id: str, limit: int | None, plan: str
    ) -> Acquired:
        """Record a connection."""
        self.check()
        self.generation += 1
        replaced = self.holders.get((tenant_id, agent_id))
        self.holders[tenant_id, agent_id] = Holder(self.server, connection_id)
        return Acquired(self.generation, False, replaced)

    async def release(self, tenant_id: str, agent_id: str, connection_id: str, counted: bool) -> bool:
        """Release a connection."""
        self.check()
        self.released.append((tenant_id, agent_id, connection_id))
        holder = self.holders.get((tenant_id, agent_id))
        if holder is None or holder.connection_id != connection_id:
            return False
        del self.holders[tenant_id, agent_id]
        return True

    async def holder(self, tenant_id: str, agent_id: str) -> Holder | None:
        """Return the holder."""
        self.check()
        return self.holders.get((tenant_id, agent_id))

    async def renew_lease(self) -> None:
        """Count a renewal."""
        self.check()
        self.renewals += 1

    async def leases(self) -> dict[str, float]:
        """Return the leases."""
        return dict(self.lease_times)

    async def orphans_of(self, server: str) -> Any:
        """Yield orphans."""
        for orphan in self.orphans.get(server, []):
            yield orphan

    async def drop_lease(self, server: str) -> None:
        """Drop a lease."""
        del self.lease_times[server]
        self.dropped.append(server)

    def check(self) -> None:
        """Fail where the test says so."""
        if self.error is not None:
            raise self.error


async def settle(turns: int = 20) -> None:
    """Let everything run that can run now."""
    for _ in range(turns):
        await asyncio.sleep(0)


class House:
    """A gateway's parts around a fake NATS and store, to put agents' sessions into."""

    def __init__(self, bus: FakeBus, clock: FakeClock) -> None:
        self.bus = bus
        self.clock = clock
        self.store = FakeStore()
        self.counter = UsageCounter(clock)
        self.background = Background()
        self.directory = Directory(cast(Bus, bus), clock)
        self.fanout = Fanout(cast(Bus, bus), self.counter, clock, self._resolve)
        self.presences = Presences(
            cast(Bus, bus),
            cast(ConnectionStore, self.store),
            self.counter,
            clock,
            server_id="gateway-1",
            process_id=self.store.server,
            heartbeat_timeout=90.0,
            ping_interval=25.0,
            ping_timeout=20.0,
        )
        self.generation = 0
        self.access: ChannelAccess = "open"
        # Whether there are no channels any more, and none can be made.
        self.missing = False
        self.registry_gate = asyncio.Event()
        self.registry_gate.set()
        bus.serve(RESOLVE_CHANNEL, self.resolve_channel)

    async def resolve_channel(self, request: ResolveChannel) -> ChannelInfo:
        """Answer as registry does: every channel there may be is there."""
        info = ChannelInfo(channel_id=request.channel_id, name="", access=self.access, delivery="live")
        await self.registry_gate.wait()
        if self.missing:
            raise not_found("channel")
        return info

    async def _resolve(self, tenant_id: str, channel_id: str) -> None:
        await self.directory.channel(tenant_id, channel_id)

    def session(
        self, agent_id: str = "alice", limits: Limits | None = None, generation: int | None = None
    ) -> tuple[AgentSession, FakeTransport]:
        """Return an agent's session that is not opened yet."""
        connection, transport = connect(agent_id)
        connection.pinged_at = self.clock.monotonic()
        info = TenantInfo(
            tenant_id="t",
            name="",
            status="active",
            plan="pro",
            limits=limits or Limits(),
            auto_create_channels=True,
        )
        self.generation += 1
        session = AgentSession(
            connection,
            agent_id,
            f"SHA256:{agent_id}",
            tenant=Tenant(info, self.clock, self.directory.months.of("t")),
            grants={},
            generation=self.generation if generation is None else generation,
            counted=False,
            message_ids=MessageIds("gateway-1-process"),
            bus=cast(Bus, self.bus),
            directory=self.directory,
            fanout=self.fanout,
            presences=self.presences,
            counter=self.counter,
            clock=self.clock,
            background=self.background,
        )
        connection.peer = session
        return session, transport

    def open(self, agent_id: str = "alice") -> tuple[AgentSession, FakeTransport]:
        """Open an agent's session as its newest connection."""
        session, transport = self.session(agent_id)
        key = ("t", agent_id)
        replaced = self.store.holders.get(key)
        self.store.holders[key] = Holder(self.store.server, session.connection.connection_id)
        self.presences.opened(session, replaced)
        return session, transport

    def announced(self, agent_id: str = "alice") -> list[tuple[str, str]]:
        """Return the (status, reason) announced of an agent since the last call, as registry hears it."""
        return [(p.status, p.reason) for p in self.presence_events(agent_id)]

    def presence_events(self, agent_id: str = "alice") -> list[Presence]:
        """Return and forget the presence events of an agent."""
        subject = PRESENCE.subject(tenant_id="t", agent_id=agent_id)
        found = [payload for name, payload in self.bus.published if name == subject]
        self.bus.published = [item for item in self.bus.published if item[0] != subject]
        return [msgspec.json.decode(payload, type=Presence) for payload in found]
