"""One person's session: what they watch, and what their role lets them do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, decode_frame, sender_field
from artcafe_common.errors import CloseCode, ErrorCode, ServiceError, invalid, permission_denied
from artcafe_common.ids import new_ulid
from artcafe_common.roles import Permission
from artcafe_common.tokens import LEEWAY_SECONDS, Access, TenantScope
from artcafe_common.usage import UsageCounter
from artcafe_gateway import metrics
from artcafe_gateway.agents_view import AgentsView
from artcafe_gateway.background import Background
from artcafe_gateway.connection import Connection
from artcafe_gateway.directory import Directory, Tenant
from artcafe_gateway.fanout import PRESENCE_CHANNELS, Fanout
from artcafe_gateway.frames import (
    Authenticate,
    Ping,
    PublishChannel,
    Refresh,
    SubscribeAgents,
    SubscribeChannel,
    SubscribeTopicPreview,
    UnsubscribeAgents,
    UnsubscribeChannel,
    UnsubscribeTopicPreview,
    dashboard_decoder,
    event,
    later,
)
from artcafe_gateway.names import channel_named, pattern_named
from artcafe_gateway.outbox import Policy
from artcafe_gateway.preview import Previews
from artcafe_gateway.session import Session, Work

logger = logging.getLogger(__name__)

EXPIRY_NOTICE_SECONDS = 60.0
CHANNELS_MAX = 1000


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
        bus: Bus,
        directory: Directory,
        fanout: Fanout,
        previews: Previews,
        agents: AgentsView,
        counter: UsageCounter,
        clock: Clock,
        background: Background,
        on_end: Callable[[DashboardSession], None],
    ) -> None:
        super().__init__(connection, scope.tenant_id, clock, background)
        self.scope = scope
        self.tenant = tenant
        self.patterns: dict[str, Policy] = {}
        self.connected_at = clock.now()
        self._token = token
        self._access = access
        self._bus = bus
        self._directory = directory
        self._fanout = fanout
        self._previews = previews
        self._preview_bucket = previews.bucket()
        self._previewed = False
        self._agents = agents
        self._counter = counter
        self._on_end = on_end
        self._expiry: asyncio.TimerHandle | None = None
        connection.on_drop = self._tell_dropped

    def start(self) -> None:
        """Tell the person who they are here, and watch the token's end."""
        self.connection.send(
            event(
                "connected",
                tenant_id=self.tenant_id,
                user_id=self.scope.person.user_id,
                role=self.scope.role,
                permissions=sorted(self.scope.permissions),
                connection_id=self.connection.connection_id,
                expires_at=rfc3339(self.scope.person.expires_at),
            )
        )
        self._watch_expiry()

    def is_of(self, tenant_id: str, user_id: str) -> bool:
        """Tell whether this is a session of a person in a tenant."""
        return self.tenant_id == tenant_id and self.scope.person.user_id == user_id

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
        """Take the session out of the preview and the agents' view."""
        await self._previews.leave(self.tenant_id, self.connection)
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
        await self._directory.channel(self.tenant_id, channel_id)
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
        named = [*(command.patterns or []), *([command.pattern] if command.pattern else [])] or [">"]
        patterns = tuple(pattern_named(_relative(name), self.tenant_id) for name in named)
        rate = await self._previews.watch(
            self.tenant_id, self.connection, patterns, command.max_rate, self._preview_bucket
        )
        if not self._previewed:
            self._previewed = True
            logger.info(
                "preview_watched",
                extra={"tenant_id": self.tenant_id, "user_id": self.scope.person.user_id},
            )
        self.connection.send(
            event(
                "subscription_confirmed",
                command.id,
                subscription="topic_preview",
                patterns=list(patterns),
                max_rate=rate,
            )
        )

    async def _unsubscribe_preview(self, command: UnsubscribeTopicPreview) -> None:
        await self._previews.leave(self.tenant_id, self.connection)
        self.connection.send(event("unsubscription_confirmed", command.id, subscription="topic_preview"))

    async def _subscribe_agents(self, command: SubscribeAgents) -> None:
        self.scope.require(Permission.AGENTS_READ)
        self.connection.send(event("subscription_confirmed", command.id, subscription="agents"))
        await self._agents.watch(self.tenant_id, self.connection)

    async def _unsubscribe_agents(self, command: UnsubscribeAgents) -> None:
        await self._agents.leave(self.tenant_id, self.connection)
        self.connection.send(event("unsubscription_confirmed", command.id, subscription="agents"))

    async def _publish(self, command: PublishChannel) -> None:
        self.scope.require(Permission.MESSAGES_PUBLISH)
        channel_id = channel_named(command.channel_id, self.tenant_id)
        if channel_id.startswith(PRESENCE_CHANNELS):
            raise permission_denied("the platform itself tells of presence")
        channel = await self._directory.channel(self.tenant_id, channel_id)
        if not self.takes_publish(command.id is not None):
            return
        if channel.delivery == "durable":
            raise later("durable channels")
        data = bytes(command.data)
        limit = self.tenant.info.limits.bytes_per_message
        if limit is not None and len(data) > limit:
            raise invalid(f"data is larger than {limit} bytes")
        if not self.tenant.take_message():
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "too many messages per second", retry_after=1.0)
        now = self.clock.now()
        message_id = new_ulid(now)
        # No agent id can hold a colon, so nobody can be taken for a person.
        sender = sender_field(f"user:{self.scope.person.user_id}")
        frame = build_frame(message_id, sender, now, channel_id, data)
        self._bus.publish_nowait(channel_subject(self.tenant_id, channel_id), frame)
        self._counter.message(now, self.tenant_id, "", channel_id, len(data))
        metrics.MESSAGES.inc()
        self.connection.send(
            event("published", command.id, channel_id=channel_id, message_id=message_id, success=True)
        )

    async def _refresh(self, command: Refresh) -> None:
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


def _relative(pattern: str) -> str:
    """Take a pattern over subjects (``channel.team.*``) for one over channel ids."""
    return pattern.removeprefix("channel.")
