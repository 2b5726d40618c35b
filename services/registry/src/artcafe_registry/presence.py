"""Agents' status, from the presence events that gateways leave in the stream PRESENCE.

All replicas share one durable consumer, so each event is written once; an event is acknowledged when it was
written or is known to be of no use. What happened while no replica ran is read afterwards.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from artcafe_common.bus import Bus
from artcafe_common.contracts.gateway import PRESENCE as PRESENCE_EVENT
from artcafe_common.contracts.gateway import Presence
from artcafe_common.errors import ServiceError
from artcafe_common.ids import is_token
from artcafe_common.streams import PRESENCE, ensure_stream
from artcafe_registry import metrics
from artcafe_registry.domain.bounds import bounded_capabilities, bounded_metadata
from artcafe_registry.store import Store

logger = logging.getLogger(__name__)

CONSUMER = "registry-presence"
BATCH = 64
CONCURRENCY = 16
FETCH_SECONDS = 5.0
ACKNOWLEDGE_SECONDS = 30.0
RETRY_SECONDS = 1.0

_decode = msgspec.json.Decoder(Presence).decode


class PresenceWriter:
    """Writes presence into agents' records."""

    def __init__(self, bus: Bus, store: Store, stream_replicas: int = 1) -> None:
        self._bus = bus
        self._store = store
        self._stream_replicas = stream_replicas
        self._places = asyncio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            try:
                await self._consume()
            except (NatsError, TimeoutError, ServiceError) as error:
                logger.warning("presence_interrupted", extra={"error": type(error).__name__})
            except Exception:
                logger.exception("presence_interrupted")
            await asyncio.sleep(RETRY_SECONDS)

    async def apply(self, presence: Presence) -> bool:
        """Write one event; False where it is of no use. Raises: ServiceError where the store is away."""
        if not (is_token(presence.tenant_id) and is_token(presence.agent_id)):
            return False
        bounded = msgspec.structs.replace(
            presence,
            capabilities=bounded_capabilities(presence.capabilities),
            metadata=bounded_metadata(presence.metadata),
        )
        return await self._store.agents.set_presence(bounded)

    async def _consume(self) -> None:
        jetstream = self._bus.jetstream()
        await ensure_stream(jetstream, PRESENCE, self._stream_replicas)
        subscription = await jetstream.pull_subscribe(
            PRESENCE_EVENT.all_subjects,
            durable=CONSUMER,
            stream=PRESENCE.name,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACKNOWLEDGE_SECONDS,
                deliver_policy=DeliverPolicy.ALL,
                max_ack_pending=BATCH * CONCURRENCY,
            ),
        )
        try:
            while True:
                await self._handle(subscription)
        finally:
            if not self._bus.is_closed:
                await subscription.unsubscribe()

    async def _handle(self, subscription: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_SECONDS)
        except TimeoutError:
            # Nothing came, whichever way the library says so. Who subscribed anew would leave unread what is
            # on its way to the former subscription, until it is delivered again.
            return
        async with asyncio.TaskGroup() as group:
            for message in messages:
                group.create_task(self._one(message))

    async def _one(self, message: Msg) -> None:
        async with self._places:
            try:
                outcome = "applied" if await self.apply(_decode(message.data)) else "ignored"
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                outcome = "malformed"
            except ServiceError:
                metrics.PRESENCE_EVENTS.labels("retried").inc()
                await message.nak(delay=RETRY_SECONDS)
                return
            except Exception:
                # It would fail again however often it came, and keep the events of others from being read.
                logger.exception("presence_not_written")
                outcome = "failed"
            metrics.PRESENCE_EVENTS.labels(outcome).inc()
            await message.ack()
