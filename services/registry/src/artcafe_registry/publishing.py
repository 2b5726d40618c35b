"""Messages that people publish by REST: limits, frame, NATS, usage, and requests that are made twice."""

from __future__ import annotations

import hashlib

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.ids import new_ulid
from artcafe_common.usage import UsageCounter
from artcafe_registry import metrics
from artcafe_registry.allowance import MonthlyAllowance
from artcafe_registry.domain.plans import quota_error
from artcafe_registry.domain.records import Channel, Tenant
from artcafe_registry.rates import TenantRates
from artcafe_registry.store.replays import Replay, ReplayStore
from artcafe_registry.wire import PublishedMessage

KEY_MAX_LENGTH = 255
# After this a request that was begun and not finished is taken to have died.
UNFINISHED_SECONDS = 5.0


class Publisher:
    """Accepts messages from people and puts them on the bus."""

    def __init__(
        self, bus: Bus, replays: ReplayStore, usage: UsageCounter, allowance: MonthlyAllowance, clock: Clock
    ) -> None:
        self._bus = bus
        self._replays = replays
        self._usage = usage
        self._allowance = allowance
        self._clock = clock
        self._rates = TenantRates("messages per second", clock)

    async def publish(
        self, tenant: Tenant, channel: Channel, sender: str, data: bytes, key: str | None
    ) -> PublishedMessage:
        """Publish `data` (valid JSON) in a channel and count it.

        With a `key` the message is published once in 24 hours, however often this is asked for.

        Raises: ServiceError ``resource_exhausted`` over the plan's limits, ``unavailable`` while the bus
        is away, ``failed_precondition`` where the key came with another body before.
        """
        self._check_size(tenant, len(data))
        if key is None:
            await self._take(tenant)
            return self._send(channel, sender, data, new_ulid(self._clock.now()), self._clock.now())
        return await self._publish_once(tenant, channel, sender, data, _checked_key(key))

    async def _publish_once(
        self, tenant: Tenant, channel: Channel, sender: str, data: bytes, key: str
    ) -> PublishedMessage:
        now = self._clock.now()
        replay = Replay(
            tenant_id=tenant.tenant_id,
            request=f"messages/{channel.channel_id}#{key}",
            digest=hashlib.sha256(data).hexdigest(),
            message_id=new_ulid(now),
            accepted_at=now,
            tried_at=now,
        )
        earlier = await self._replays.claim(replay)
        if earlier is not None:
            if earlier.digest != replay.digest:
                raise ServiceError(
                    ErrorCode.FAILED_PRECONDITION, "this Idempotency-Key was used with another body"
                )
            if earlier.state == "done":
                metrics.MESSAGES.labels("replayed").inc()
                return _published(earlier.message_id, earlier.accepted_at)
            if now - earlier.tried_at < UNFINISHED_SECONDS or not await self._replays.take_over(earlier, now):
                raise ServiceError(
                    ErrorCode.UNAVAILABLE,
                    "a request with this Idempotency-Key is being worked on",
                    retry_after=UNFINISHED_SECONDS,
                )
            # Whoever began it died before or after sending: readers tell by the id, which stays the same.
            replay = earlier
        try:
            await self._take(tenant)
            published = self._send(channel, sender, data, replay.message_id, replay.accepted_at)
        except ServiceError:
            await self._replays.forget(replay)
            raise
        await self._replays.finish(replay)
        return published

    def _send(
        self, channel: Channel, sender: str, data: bytes, message_id: str, now: float
    ) -> PublishedMessage:
        frame = build_frame(message_id, sender_field(sender), now, channel.channel_id, data)
        self._bus.publish_nowait(channel_subject(channel.tenant_id, channel.channel_id), frame)
        self._usage.message(self._clock.now(), channel.tenant_id, "", channel.channel_id, len(data))
        self._allowance.accepted(channel.tenant_id)
        metrics.MESSAGES.labels("accepted").inc()
        return _published(message_id, now)

    def _check_size(self, tenant: Tenant, size: int) -> None:
        limit = tenant.limits.bytes_per_message
        if limit is not None and size > limit:
            metrics.MESSAGES.labels("too_big").inc()
            raise quota_error("bytes_per_message", size, limit, tenant.plan)

    async def _take(self, tenant: Tenant) -> None:
        await self._allowance.check(tenant)
        limit = tenant.limits.messages_per_second
        if limit is not None:
            self._rates.take(tenant.tenant_id, limit, limit)


def _published(message_id: str, accepted_at: float) -> PublishedMessage:
    return PublishedMessage(message_id=message_id, timestamp=rfc3339(accepted_at))


def _checked_key(key: str) -> str:
    if not 0 < len(key) <= KEY_MAX_LENGTH or not key.isprintable():
        raise invalid(f"Idempotency-Key: 1 to {KEY_MAX_LENGTH} printable characters")
    return key
