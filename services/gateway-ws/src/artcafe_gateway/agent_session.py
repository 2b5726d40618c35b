"""One agent's session: its commands, its subscriptions, its presence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.registry import ChannelInfo, Grant
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError, invalid, permission_denied
from artcafe_common.ids import PRESENCE_CHANNELS, MessageIds, has_wildcard, new_ulid
from artcafe_common.quota import TokenBucket
from artcafe_common.usage import Meter, UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.directory import Directory, Tenant
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.frames import (
    Heartbeat,
    Ping,
    PresenceCommand,
    Publish,
    Reply,
    Request,
    Subscribe,
    Unsubscribe,
    agent_decoder,
    data_of,
    event,
    later,
    metadata_of,
    names_of,
)
from artcafe_gateway.grants import may_publish, may_subscribe
from artcafe_gateway.names import channel_named, pattern_named
from artcafe_gateway.outbox import Policy
from artcafe_gateway.presence import (
    FINAL_STEP,
    STATEMENTS_BURST,
    STATEMENTS_PER_SECOND,
    VERSIONS_PER_GENERATION,
    Presences,
)
from artcafe_gateway.session import Session, Work

logger = logging.getLogger(__name__)

PATTERNS_MAX = 1000
# Each is compared with every channel that messages come from.
WILDCARDS_MAX = 100
NAMES_MAX = 1000
# What the names in a command that subscribes or unsubscribes cost beside the command, in commands.
NAME_COST = 0.5
WILDCARD_COST = 1.0


class AgentSession(Session):
    """One agent on one connection."""

    kind = "agent"

    def __init__(
        self,
        connection: Connection,
        agent_id: str,
        fingerprint: str,
        *,
        tenant: Tenant,
        grants: dict[str, Grant],
        generation: int,
        counted: bool,
        message_ids: MessageIds,
        bus: Bus,
        directory: Directory,
        fanout: Fanout,
        presences: Presences,
        counter: UsageCounter,
        clock: Clock,
        background: Background,
    ) -> None:
        super().__init__(connection, tenant.info.tenant_id, directory, clock, background)
        self.agent_id = agent_id
        self.fingerprint = fingerprint
        self.tenant = tenant
        self.grants = grants
        self.generation = generation
        self.counted = counted
        self.patterns: dict[str, Policy] = {}
        self.status: Literal["online", "suspect", "offline"] = "online"
        self.detail = "online"
        self.capabilities: list[str] | None = None
        self.metadata: dict[str, Any] | None = None
        # Whether it has stated something of itself that was not announced yet.
        self.untold = False
        self._statements: TokenBucket | None = None
        self.sends_heartbeats = False
        # While `last_life` is the first of these, so many seconds since then are no silence (`presence`).
        self.excused = (0.0, 0.0)
        self.connected_at = clock.now()
        # Until when the time connected has been counted (monotonic seconds).
        self.counted_until = clock.monotonic()
        self._message_ids = message_ids
        self._bus = bus
        self._fanout = fanout
        self._presences = presences
        self._counter = counter
        self._sender = sender_field(agent_id)
        self._step = 0
        # What this client calls a channel -> the channel, its subject and what is counted, for those it may
        # publish to.
        self._publishable: dict[str, tuple[ChannelInfo, str, Meter]] = {}
        self._sent = 0
        connection.agent_id = agent_id
        connection.on_drop = self._tell_dropped

    @property
    def published_to(self) -> list[str]:
        """The channels it has published to on this connection, or since its rights last changed."""
        return sorted({channel.channel_id for channel, _, _ in self._publishable.values()})

    def next_version(self) -> int:
        """Return the next version of this agent's presence; see `contracts.gateway.Presence`."""
        self._step = min(self._step + 1, FINAL_STEP - 1)
        return self.generation * VERSIONS_PER_GENERATION + self._step

    def may_state(self, now: float) -> bool:
        """Take one of the announcements that it may cause by what it states (`now`: monotonic seconds)."""
        if self._statements is None:
            # Most agents never state anything.
            self._statements = TokenBucket(STATEMENTS_PER_SECOND, STATEMENTS_BURST, now)
        return self._statements.take(now)

    def may_read(self, channel_id: str) -> bool | None:
        """Tell whether the agent may receive a channel; None where the channel is not known yet."""
        if channel_id.startswith(PRESENCE_CHANNELS):
            return True
        channel = self._directory.known_channel(self.tenant_id, channel_id)
        return None if channel is None else may_subscribe(channel, self.grants)

    def take_grants(self, grants: dict[str, Grant]) -> None:
        """Go on with other member rows."""
        self.grants = grants
        self._publishable.clear()

    def handle(self, payload: bytes) -> Work | None:
        """Do what one frame says."""
        command = agent_decoder.decode(payload)
        if type(command) is Publish:
            if self.connection.end is not None and not self.takes_publish(command.id is not None):
                return None
            return self._publish(command)
        if self.connection.closing:
            return None
        self.spend_command()
        try:
            match command:
                case Heartbeat():
                    self._heartbeat(command)
                case PresenceCommand():
                    self._presence(command)
                case Subscribe():
                    return self._subscribe(command)
                case Unsubscribe():
                    return self._unsubscribe(command)
                case Ping():
                    self.connection.send(event("pong", command.id, timestamp=rfc3339(self.clock.now())))
                case Request() | Reply():
                    raise later("requests between agents")
        except ServiceError as error:
            self.refuse(error, command.id)
        return None

    def on_alive(self) -> None:
        """Note a ping or pong: life only for agents without heartbeats, since a library answers pings."""
        if not self.sends_heartbeats:
            super().on_alive()

    def on_closed(self, code: int) -> None:
        """Clean up after the socket has ended."""
        super().on_closed(code)
        self._fanout.leave_all(self)
        self._presences.closed(self, code)
        logger.info(
            "session_closed",
            extra={
                "tenant_id": self.tenant_id,
                "agent_id": self.agent_id,
                "connection_id": self.connection.connection_id,
                "code": code,
                "seconds": round(self.clock.now() - self.connected_at, 1),
                "published": self._sent,
            },
        )

    async def subscribe_to(self, name: str, policy: Policy = "disconnect") -> str:
        """Add a subscription and return its pattern. Raises: ServiceError."""
        pattern = pattern_named(name, self.tenant_id)
        if len(self.patterns) >= PATTERNS_MAX and pattern not in self.patterns:
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, f"at most {PATTERNS_MAX} subscriptions")
        if has_wildcard(pattern):
            if pattern not in self.patterns and sum(map(has_wildcard, self.patterns)) >= WILDCARDS_MAX:
                raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, f"at most {WILDCARDS_MAX} wildcards")
        elif not pattern.startswith(PRESENCE_CHANNELS):
            channel = await self.find_channel(pattern, self.agent_id)
            if not may_subscribe(channel, self.grants):
                raise permission_denied("this agent may not receive the channel")
        if not self.ended:
            # It is on the pattern from here on, so that the end of the session takes it off.
            await self._fanout.subscribe(self, pattern, policy)
        return pattern

    async def subscribe_automatically(self) -> None:
        """Subscribe to what the agent's member rows say, and tell the client."""
        for grant in list(self.grants.values()):
            if not grant.auto_subscribe or self.ended:
                continue
            try:
                pattern = await self.subscribe_to(grant.channel_id)
            except ServiceError as error:
                self.refuse(error)
            else:
                self.connection.send(event("subscribed", channel=grant.channel_id, subject=pattern))

    async def check_subscriptions(self, channel_id: str | None = None) -> None:
        """End subscriptions (one, or all) that are allowed no longer, and tell the client."""
        for pattern in list(self.patterns) if channel_id is None else [channel_id]:
            if pattern not in self.patterns or has_wildcard(pattern) or pattern.startswith(PRESENCE_CHANNELS):
                continue
            try:
                channel = await self._directory.channel(self.tenant_id, pattern)
                reason = "" if may_subscribe(channel, self.grants) else "permission_denied"
            except ServiceError as error:
                if error.code != ErrorCode.NOT_FOUND:
                    continue
                reason = "not_found"
            if reason and await self._fanout.unsubscribe(self, pattern):
                self.connection.send(event("unsubscribed", channel=pattern, subject=pattern, reason=reason))

    def _publish(self, command: Publish) -> Work | None:
        name = command.channel if command.channel is not None else command.subject
        known = self._publishable.get(name) if name is not None else None
        # It must still be what the directory knows: a change makes it forget.
        if (
            known is None
            or self._directory.known_channel(self.tenant_id, known[0].channel_id) is not known[0]
        ):
            return self.answer(self._publish_checked(command, name), command.id)
        try:
            self._accept(command, *known)
        except ServiceError as error:
            # Refusals cost as well: who does not heed them is closed in the end.
            if error.quota is None:
                self.spend_command()
            else:
                self.spend_command(CloseCode.QUOTA, error.detail)
            self.refuse(error, command.id)
        return None

    async def _publish_checked(self, command: Publish, name: str | None) -> None:
        if name is None or not self._is_known(name):
            # It costs more than a publish: a question to registry, an announcement, a refusal.
            self.spend_command()
        if name is None:
            raise invalid("channel is missing")
        channel_id = channel_named(name, self.tenant_id)
        if channel_id.startswith(PRESENCE_CHANNELS):
            # How older agents state their presence.
            self._old_presence(channel_id, command)
            return
        channel = await self.find_channel(channel_id, self.agent_id)
        if not self.takes_publish(command.id is not None):
            return
        if not may_publish(channel, self.grants):
            raise permission_denied("this agent may not publish to the channel")
        if channel.delivery == "durable":
            raise later("durable channels")
        if len(self._publishable) >= NAMES_MAX:
            self._publishable.clear()
        known = self._publishable[name] = (
            channel,
            channel_subject(self.tenant_id, channel_id),
            Meter(self.tenant_id, self.agent_id, channel_id),
        )
        self._accept(command, *known)

    def _is_known(self, name: str) -> bool:
        channel_id = name.removeprefix(channel_subject(self.tenant_id, ""))
        return self._directory.known_channel(self.tenant_id, channel_id) is not None

    def _accept(self, command: Publish, channel: ChannelInfo, subject: str, meter: Meter) -> None:
        channel_id = channel.channel_id
        data = data_of(command, self.tenant.info.limits.bytes_per_message)
        self.tenant.take_message()
        now = self.clock.now()
        message_id = self._message_ids.new(now)
        if not command.echo:
            self._fanout.no_echo(message_id.encode(), self.connection)
        self._bus.publish_nowait(subject, build_frame(message_id, self._sender, now, channel_id, data))
        if command.id is not None:
            self._counter.message(now, self.tenant_id, self.agent_id, channel_id, len(data))
        else:
            meter.messages += 1
            meter.bytes_in += len(data)
            if meter.messages == 1:
                self._counter.at_end_of_turn(meter, now)
        self.tenant.month.used += 1
        self._sent += 1
        metrics.MESSAGES.inc()
        if command.id is not None:
            self.connection.send(event("published", command.id, channel=channel_id, message_id=message_id))

    def _subscribe(self, command: Subscribe) -> Work:
        return self.answer(self._subscribe_each(command), command.id)

    async def _subscribe_each(self, command: Subscribe) -> None:
        if command.since is not None:
            raise later("durable channels")
        for name in self._paid(names_of(command)):
            try:
                pattern = await self.subscribe_to(name, command.policy)
            except ServiceError as error:
                # Of several channels, those that are allowed are confirmed one by one.
                self.refuse(error, command.id)
                continue
            self.connection.send(event("subscribed", command.id, channel=name, subject=pattern))

    def _unsubscribe(self, command: Unsubscribe) -> Work:
        return self.answer(self._unsubscribe_each(command), command.id)

    async def _unsubscribe_each(self, command: Unsubscribe) -> None:
        for name in self._paid(names_of(command)):
            await self._fanout.unsubscribe(self, pattern_named(name, self.tenant_id))
            self.connection.send(event("unsubscribed", command.id, channel=name))

    def _paid(self, names: list[str]) -> Iterator[str]:
        """Yield the names in a command as far as they are paid for."""
        for number, name in enumerate(names):
            if has_wildcard(name):
                self.spend_command(count=WILDCARD_COST)
            elif number:
                self.spend_command(count=NAME_COST)
            if self.connection.closing:
                return
            yield name

    def _heartbeat(self, command: Heartbeat) -> None:
        self.sends_heartbeats = True
        self._presences.alive(self)
        self.connection.send(event("heartbeat_ack", command.id, timestamp=rfc3339(self.clock.now())))

    def _presence(self, command: PresenceCommand) -> None:
        self._state(command.status, command.capabilities, metadata_of(command))
        self.connection.send(event("presence_ack", command.id, status=command.status))

    def _old_presence(self, channel_id: str, command: Publish) -> None:
        status = channel_id[len(PRESENCE_CHANNELS) :]
        if status not in ("online", "offline"):
            raise invalid("presence is online or offline")
        self._state(status, None, None)
        if command.id is not None:
            self.connection.send(event("published", command.id, channel=channel_id, message_id=new_ulid()))

    def _state(self, status: str, capabilities: list[str] | None, metadata: dict[str, Any] | None) -> None:
        if capabilities is not None:
            self.capabilities = capabilities
        if metadata is not None:
            self.metadata = metadata
        self.detail = status
        self._presences.stated(self, offline=status == "offline")

    def _tell_dropped(self, channel_id: str, count: int) -> bytes:
        return event("dropped", channel=channel_id, count=count, reason="slow consumer")

    def welcome(self, server_id: str, heartbeat_interval: float, max_message_bytes: int) -> None:
        """Send the first event: who the agent is here, and what it may use."""
        limits = self.tenant.limits
        self.connection.send(
            event(
                "welcome",
                agent_id=self.agent_id,
                tenant_id=self.tenant_id,
                connection_id=self.connection.connection_id,
                server_id=server_id,
                heartbeat_interval=heartbeat_interval,
                limits={
                    "message_bytes": min(limits.bytes_per_message or max_message_bytes, max_message_bytes),
                    "messages_per_second": limits.messages_per_second,
                    "messages_per_month": limits.messages_per_month,
                    "connections": limits.connections,
                    "subscriptions": PATTERNS_MAX,
                },
                timestamp=rfc3339(self.clock.now()),
            )
        )

    def end(self, code: int, reason: str) -> None:
        """Close the session's socket."""
        self.connection.close(code, reason)
