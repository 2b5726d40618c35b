"""One person's session: what they watch, and what their role lets them do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.gateway import GetSessions
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, decode_frame, sender_field
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError, invalid
from artcafe_common.ids import MessageIds, check_agent_id, check_not_presence
from artcafe_common.quota import TokenBucket
from artcafe_common.roles import Permission
from artcafe_common.tokens import LEEWAY_SECONDS, Access, TenantScope
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.agents_view import AgentsView
from artcafe_gateway.background import Background
from artcafe_gateway.changes_view import ChangesView, kinds_for
from artcafe_gateway.connection import Connection
from artcafe_gateway.directory import Directory, Tenant
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.frames import (
    AskConnections,
    AskSessions,
    Authenticate,
    Ping,
    PublishChannel,
    Refresh,
    SubscribeAgents,
    SubscribeChanges,
    SubscribeChannel,
    SubscribeTopicPreview,
    UnsubscribeAgents,
    UnsubscribeChanges,
    UnsubscribeChannel,
    UnsubscribeTopicPreview,
    dashboard_decoder,
    data_of,
    event,
    later,
)
from artcafe_gateway.names import channel_named
from artcafe_gateway.outbox import Policy
from artcafe_gateway.preview.previews import Previews
from artcafe_gateway.preview.wanted import wanted
from artcafe_gateway.session import Session, Work
from artcafe_gateway.sessions_view import SessionsView
from artcafe_gateway.store import ConnectionStore

logger = logging.getLogger(__name__)

EXPIRY_NOTICE_SECONDS = 60.0
CHANNELS_MAX = 1000
# Each change of a preview is an entry in the log.
PREVIEW_CHANGES_PER_SECOND = 1.0
PREVIEW_CHANGES_BURST = 30.0
# Each question goes to every gateway, to registry, or to the store.
QUESTIONS_PER_SECOND = 2.0
QUESTIONS_BURST = 20.0
# Each new token is checked, and registry asked whom it lets in.
REFRESHES_PER_SECOND = 1.0
REFRESHES_BURST = 20.0


class DashboardSession(Session):
    """One person on one connection."""

    kind = "dashboard"

    def __init__(
        self,
        connection: Connection,
        scope: TenantScope,
        token: str,
        *,
        tenant: Tenant,
        access: Access,
        message_ids: MessageIds,
        bus: Bus,
        directory: Directory,
        fanout: Fanout,
        previews: Previews,
        agents: AgentsView,
        changes: ChangesView,
        sessions: SessionsView,
        store: ConnectionStore,
        counter: UsageCounter,
        clock: Clock,
        background: Background,
        on_end: Callable[[DashboardSession], None],
    ) -> None:
        super().__init__(connection, scope.tenant_id, directory, clock, background)
        self.scope = scope
        self.tenant = tenant
        self.patterns: dict[str, Policy] = {}
        self.connected_at = clock.now()
        self._token = token
        self._access = access
        self._message_ids = message_ids
        self._bus = bus
        self._fanout = fanout
        self._previews = previews
        self._preview = previews.viewer(scope.tenant_id, scope.person.user_id, connection)
        self._preview_changes = TokenBucket(
            PREVIEW_CHANGES_PER_SECOND, PREVIEW_CHANGES_BURST, clock.monotonic()
        )
        self._agents = agents
        self._changes = changes
        self._sessions = sessions
        self._store = store
        self._questions = TokenBucket(QUESTIONS_PER_SECOND, QUESTIONS_BURST, clock.monotonic())
        self._refreshes = TokenBucket(REFRESHES_PER_SECOND, REFRESHES_BURST, clock.monotonic())
        self._counter = counter
        self._on_end = on_end
        self._expiry: asyncio.TimerHandle | None = None
        connection.on_drop = self._tell_dropped

    def start(self, max_frame_bytes: int) -> None:
        """Tell the person who they are here and how much they may send at once, and watch the token's end."""
        self.connection.send(
            event(
                "connected",
                tenant_id=self.tenant_id,
                user_id=self.scope.person.user_id,
                role=self.scope.role,
                permissions=sorted(self.scope.permissions),
                connection_id=self.connection.connection_id,
                expires_at=rfc3339(self.scope.person.expires_at),
                limits={"frame_bytes": max_frame_bytes},
            )
        )
        self._watch_expiry()

    def is_of(self, tenant_id: str, user_id: str) -> bool:
        """Tell whether this is a session of a person in a tenant."""
        return self.tenant_id == tenant_id and self.scope.person.user_id == user_id

    @property
    def is_expiring(self) -> bool:
        """Whether the token's end is near enough to be told of."""
        return self.scope.person.expires_at - self.clock.now() <= EXPIRY_NOTICE_SECONDS

    def may_read(self, channel_id: str) -> bool | None:
        """Tell whether the person may see a channel: all of the tenant's, where the role allows to read."""
        return Permission.MESSAGES_READ in self.scope.permissions

    def render(self, frame: bytes) -> bytes:
        """Return a message as dashboards read it; ``content`` repeats ``data`` for older ones."""
        message = decode_frame(frame)
        return event(
            "channel_message",
            channel_id=message.channel,
            **{"from": message.sender},
            agent_id=message.sender,
            content=message.data,
            data=message.data,
            message_id=message.message_id,
            timestamp=message.timestamp,
        )

    def handle(self, payload: bytes) -> Work | None:
        """Do what one frame says."""
        command = dashboard_decoder.decode(payload)
        if type(command) is PublishChannel:
            if not self.takes_publish(command.id is not None):
                return None
        elif self.connection.closing:
            return None
        self.spend_command()
        work: Awaitable[None] | None = None
        match command:
            case SubscribeChannel():
                work = self._subscribe_channel(command)
            case UnsubscribeChannel():
                work = self._unsubscribe_channel(command)
            case SubscribeTopicPreview():
                work = self._subscribe_preview(command)
            case UnsubscribeTopicPreview():
                work = self._unsubscribe_preview(command)
            case SubscribeAgents():
                work = self._subscribe_agents(command)
            case UnsubscribeAgents():
                work = self._unsubscribe_agents(command)
            case AskSessions():
                work = self._tell_sessions(command)
            case AskConnections():
                work = self._tell_connections(command)
            case SubscribeChanges():
                work = self._subscribe_changes(command)
            case UnsubscribeChanges():
                work = self._unsubscribe_changes(command)
            case PublishChannel():
                work = self._publish(command)
            case Refresh():
                work = self._refresh(command)
            case Authenticate():
                self.refuse(invalid("this session is authenticated already"), command.id)
                return None
            case Ping():
                self.connection.send(event("pong", command.id, timestamp=rfc3339(self.clock.now())))
                return None
        return self.answer(work, command.id)

    def on_closed(self, code: int) -> None:
        """Clean up after the socket has ended."""
        super().on_closed(code)
        if self._expiry is not None:
            self._expiry.cancel()
        self._fanout.leave_all(self)
        self._on_end(self)
        logger.info(
            "dashboard_closed",
            extra={
                "tenant_id": self.tenant_id,
                "connection_id": self.connection.connection_id,
                "code": code,
                "seconds": round(self.clock.now() - self.connected_at, 1),
            },
        )

    async def leave_views(self) -> None:
        """Take the session out of all that dashboards watch."""
        self._changes.leave(self.tenant_id, self.connection)
        await self._previews.leave(self._preview)
        await self._agents.leave(self.tenant_id, self.connection)

    async def recheck(self) -> None:
        """Check the person's membership again; a session that is allowed no longer is closed.

        Raises: ServiceError ``unavailable``, ``deadline_exceeded``: try again.
        """
        try:
            scope = await self._access.scope(self._token, self.tenant_id)
        except ServiceError as error:
            if error.code not in (ErrorCode.PERMISSION_DENIED, ErrorCode.UNAUTHENTICATED):
                raise
            self.connection.close(CloseCode.REVOKED, "no longer a member of this organisation")
            return
        self._take_over(scope)

    async def _subscribe_channel(self, command: SubscribeChannel) -> None:
        self.scope.require(Permission.MESSAGES_READ)
        channel_id = channel_named(command.channel_id, self.tenant_id)
        if len(self.patterns) >= CHANNELS_MAX and channel_id not in self.patterns:
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, f"at most {CHANNELS_MAX} channels")
        await self.find_channel(channel_id)
        if not self.ended:
            await self._fanout.subscribe(self, channel_id, "drop_newest")
        self.connection.send(
            event("subscription_confirmed", command.id, subscription="channel", channel_id=channel_id)
        )

    async def _unsubscribe_channel(self, command: UnsubscribeChannel) -> None:
        channel_id = channel_named(command.channel_id, self.tenant_id)
        await self._fanout.unsubscribe(self, channel_id)
        self.connection.send(
            event("unsubscription_confirmed", command.id, subscription="channel", channel_id=channel_id)
        )

    async def _subscribe_preview(self, command: SubscribeTopicPreview) -> None:
        self.scope.require(Permission.MESSAGES_READ)
        asked = wanted(command, self.tenant_id)
        self._take(self._preview_changes, "the preview is changed too often")
        limits = await self._previews.watch(self._preview, asked)
        self.connection.send(
            event(
                "subscription_confirmed",
                command.id,
                subscription="topic_preview",
                patterns=asked.patterns,
                where=command.where,
                sample=asked.sample,
                batch=asked.batch,
                counts_only=asked.counts_only,
                **limits,
            )
        )

    async def _unsubscribe_preview(self, command: UnsubscribeTopicPreview) -> None:
        await self._previews.leave(self._preview)
        self.connection.send(event("unsubscription_confirmed", command.id, subscription="topic_preview"))

    async def _subscribe_agents(self, command: SubscribeAgents) -> None:
        self.scope.require(Permission.AGENTS_READ)
        # Registry reads every agent for it.
        self._take(self._questions, "too many questions")
        self.connection.send(event("subscription_confirmed", command.id, subscription="agents"))
        await self._agents.watch(self.tenant_id, self.connection)

    async def _unsubscribe_agents(self, command: UnsubscribeAgents) -> None:
        await self._agents.leave(self.tenant_id, self.connection)
        self.connection.send(event("unsubscription_confirmed", command.id, subscription="agents"))

    async def _tell_sessions(self, command: AskSessions) -> None:
        self.scope.require(Permission.AGENTS_READ)
        self.scope.require(Permission.CHANNELS_READ)
        channel_id = command.channel_id
        if (command.agents is None) is (channel_id is None):
            raise invalid("either agents or channel_id is needed")
        request = GetSessions(
            tenant_id=self.tenant_id,
            agent_ids=[check_agent_id(name) for name in command.agents or ()],
            channel_id=None if channel_id is None else channel_named(channel_id, self.tenant_id),
        )
        self._take(self._questions, "too many questions")
        answer = await self._sessions.everywhere(request)
        about = {} if request.channel_id is None else {"channel_id": request.channel_id}
        sessions = [msgspec.structs.asdict(session) for session in answer.sessions]
        self.connection.send(
            event("sessions", command.id, sessions=sessions, complete=answer.complete, **about)
        )

    async def _tell_connections(self, command: AskConnections) -> None:
        self.scope.require(Permission.TENANT_READ)
        self._take(self._questions, "too many questions")
        info = self.tenant.info
        limit = info.limits.connections
        # Without a limit they are not counted.
        current = None if limit is None else await self._store.open_connections(self.tenant_id)
        self.connection.send(event("connections", command.id, current=current, limit=limit, plan=info.plan))

    async def _subscribe_changes(self, command: SubscribeChanges) -> None:
        kinds = kinds_for(command.kinds, self.scope.permissions)
        if not self.ended:
            self._changes.watch(self.tenant_id, self.connection, kinds)
        self.connection.send(
            event("subscription_confirmed", command.id, subscription="changes", kinds=sorted(kinds))
        )

    async def _unsubscribe_changes(self, command: UnsubscribeChanges) -> None:
        self._changes.leave(self.tenant_id, self.connection)
        self.connection.send(event("unsubscription_confirmed", command.id, subscription="changes"))

    async def _publish(self, command: PublishChannel) -> None:
        self.scope.require(Permission.MESSAGES_PUBLISH)
        channel_id = check_not_presence(channel_named(command.channel_id, self.tenant_id))
        channel = await self.find_channel(channel_id)
        if not self.takes_publish(command.id is not None):
            return
        if channel.delivery == "durable":
            raise later("durable channels")
        data = data_of(command, self.tenant.info.limits.bytes_per_message)
        self.tenant.take_message()
        now = self.clock.now()
        message_id = self._message_ids.new(now)
        # No agent id can hold a colon, so nobody can be taken for a person.
        sender = sender_field(f"user:{self.scope.person.user_id}")
        frame = build_frame(message_id, sender, now, channel_id, data)
        self._bus.publish_nowait(channel_subject(self.tenant_id, channel_id), frame)
        self._counter.message(now, self.tenant_id, "", channel_id, len(data))
        self.tenant.month.used += 1
        metrics.MESSAGES.inc()
        self.connection.send(
            event("published", command.id, channel_id=channel_id, message_id=message_id, success=True)
        )

    async def _refresh(self, command: Refresh) -> None:
        self._take(self._refreshes, "too many new tokens")
        scope = await self._access.scope(command.token, self.tenant_id)
        if scope.person.user_id != self.scope.person.user_id:
            raise invalid("the token is of another person")
        if self.ended:
            return
        self._token = command.token
        self._take_over(scope)
        self._watch_expiry()
        self.connection.send(
            event("refreshed", command.id, expires_at=rfc3339(scope.person.expires_at), role=scope.role)
        )

    def _take(self, bucket: TokenBucket, refusal: str) -> None:
        now = self.clock.monotonic()
        if not bucket.take(now):
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, refusal, retry_after=bucket.wait(now))

    def _take_over(self, scope: TenantScope) -> None:
        changed = scope.permissions != self.scope.permissions
        self.scope = scope
        if changed:
            # Views were opened under the old role: the client connects anew and asks for what it may see.
            self.connection.close(CloseCode.RESTART, "your role has changed")

    def _tell_dropped(self, channel_id: str, count: int) -> bytes:
        return event("dropped", channel_id=channel_id, count=count, reason="slow consumer")

    def _watch_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        left = self.scope.person.expires_at - self.clock.now()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(max(0.0, left - EXPIRY_NOTICE_SECONDS), self._tell_expiry)

    def _tell_expiry(self) -> None:
        expires_at = self.scope.person.expires_at
        self.connection.send(event("token_expiring", expires_at=rfc3339(expires_at)))
        left = expires_at + LEEWAY_SECONDS - self.clock.now()
        self._expiry = asyncio.get_running_loop().call_later(
            max(0.0, left), self.connection.close, CloseCode.TOKEN_EXPIRED, "the token has expired"
        )
