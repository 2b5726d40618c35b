"""Messages that people publish by REST: limits, frame, NATS, usage, and requests that are made twice."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict

from artcafe_common.allowance import Allowance, Allowances
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, rfc3339
from artcafe_common.contracts.subjects import channel_subject
from artcafe_common.envelope import build_frame, sender_field
from artcafe_common.errors import ErrorCode, ServiceError, invalid, quota_error
from artcafe_common.http import TenantRates
from artcafe_common.ids import REST, MessageIds
from artcafe_common.usage import UsageCounter
from artcafe_registry import metrics
from artcafe_registry.domain.records import Channel, Tenant
from artcafe_registry.store.replays import Replay, ReplayStore
from artcafe_registry.wire import PublishedMessage

logger = logging.getLogger(__name__)

KEY_MAX_LENGTH = 255
# After this a request that was begun and not finished is taken to have died.
UNFINISHED_SECONDS = 5.0
TENANTS_REMEMBERED = 10_000
SENT_REMEMBERED = 10_000


class Publisher:
    """Accepts messages from people and puts them on the bus."""

    def __init__(
        self, bus: Bus, replays: ReplayStore, usage: UsageCounter, allowances: Allowances, clock: Clock
    ) -> None:
        self._bus = bus
        self._replays = replays
        self._usage = usage
        self.allowances = allowances
        # Held here, the longest unused forgotten first.
        self._months: OrderedDict[str, Allowance] = OrderedDict()
        # What was sent here and is not noted as such yet: (tenant, request) -> message id.
        self._sent: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._clock = clock
        self._rates = TenantRates("messages per second", clock)
        self._message_ids = MessageIds(REST)

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
            month = await self._take(tenant)
            now = self._clock.now()
            return self._send(month, channel, sender, data, self._message_ids.new(now), now)
        return await self._publish_once(tenant, channel, sender, data, _checked_key(key))

    async def _publish_once(
        self, tenant: Tenant, channel: Channel, sender: str, data: bytes, key: str
    ) -> PublishedMessage:
        now = self._clock.now()
        replay = Replay(
            tenant_id=tenant.tenant_id,
            request=f"messages/{channel.channel_id}#{key}",
            digest=hashlib.sha256(data).hexdigest(),
            message_id=self._message_ids.new(now),
            accepted_at=now,
            tried_at=now,
        )
        earlier = await self._replays.claim(replay)
        name = (replay.tenant_id, replay.request)
        if earlier is not None:
            if earlier.digest != replay.digest:
                raise ServiceError(
                    ErrorCode.FAILED_PRECONDITION, "this Idempotency-Key was used with another body"
                )
            if earlier.state == "done" or self._sent.get(name) == earlier.message_id:
                metrics.MESSAGES.labels("replayed").inc()
                return _published(earlier.message_id, earlier.accepted_at)
            if now - earlier.tried_at < UNFINISHED_SECONDS or not await self._replays.take_over(earlier, now):
                raise ServiceError(
                    ErrorCode.UNAVAILABLE,
                    "a request with this Idempotency-Key is being worked on",
                    retry_after=UNFINISHED_SECONDS,
                )
            # Whoever began it died before or after sending: readers tell by the id, which stays the same. It
            # may have been counted, too; nobody pays twice.
            replay = earlier
        try:
            month = await self._take(tenant)
            published = self._send(
                month, channel, sender, data, replay.message_id, replay.accepted_at, count=earlier is None
            )
        except ServiceError:
            # What somebody else began may have been sent: forgotten, it would be sent again under another id.
            if earlier is None:
                await self._replays.forget(replay)
            raise
        await self._note_sent(replay, name)
        return published

    async def _note_sent(self, replay: Replay, name: tuple[str, str]) -> None:
        """Have it known that a message is on its way, also where the store is away: it was accepted."""
        self._sent[name] = replay.message_id
        if len(self._sent) > SENT_REMEMBERED:
            self._sent.popitem(last=False)
        try:
            await self._replays.finish(replay)
        except ServiceError as error:
            # Told of an error, the client would send it again.
            logger.warning("message_not_noted", extra={"tenant_id": replay.tenant_id, "error": str(error)})
        else:
            self._sent.pop(name, None)

    def _send(
        self,
        month: Allowance,
        channel: Channel,
        sender: str,
        data: bytes,
        message_id: str,
        now: float,
        *,
        count: bool = True,
    ) -> PublishedMessage:
        frame = build_frame(message_id, sender_field(sender), now, channel.channel_id, data)
        self._bus.publish_nowait(channel_subject(channel.tenant_id, channel.channel_id), frame)
        if count:
            self._usage.message(self._clock.now(), channel.tenant_id, "", channel.channel_id, len(data))
            month.used += 1
        metrics.MESSAGES.labels("accepted").inc()
        return _published(message_id, now)

    def _check_size(self, tenant: Tenant, size: int) -> None:
        limit = tenant.limits.bytes_per_message
        if limit is not None and size > limit:
            metrics.MESSAGES.labels("too_big").inc()
            raise quota_error("bytes_per_message", size, limit, tenant.plan)

    async def _take(self, tenant: Tenant) -> Allowance:
        """Hold a message to the month and the rate of the plan; return the month, to count it there."""
        month = self._months.get(tenant.tenant_id)
        if month is None:
            month = self._months[tenant.tenant_id] = self.allowances.of(tenant.tenant_id)
            if len(self._months) > TENANTS_REMEMBERED:
                self._months.popitem(last=False)
        self._months.move_to_end(tenant.tenant_id)
        month.update(tenant.plan, tenant.limits.messages_per_month)
        await self.allowances.know(month)
        month.check()
        limit = tenant.limits.messages_per_second
        if limit is not None:
            self._rates.take(tenant.tenant_id, limit, limit)
        return month


def _published(message_id: str, accepted_at: float) -> PublishedMessage:
    return PublishedMessage(message_id=message_id, timestamp=rfc3339(accepted_at))


def _checked_key(key: str) -> str:
    if not 0 < len(key) <= KEY_MAX_LENGTH or not key.isprintable():
        raise invalid(f"Idempotency-Key: 1 to {KEY_MAX_LENGTH} printable characters")
    return key
