"""How much usage waits in the stream, and since when: what was not delivered, and what is out and not done.

A batch that is refused again and again is delivered, and so in no count of what is pending: its age tells.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.streams import USAGE
from artcafe_metering import metrics
from artcafe_metering.streams import CONSUMER

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0


class Backlog:
    """What the stream has that is not counted yet."""

    def __init__(self, jetstream: JetStreamContext, clock: Clock) -> None:
        self._jetstream = jetstream
        self._clock = clock

    async def undelivered(self) -> int:
        """Return how many batches no replica has taken yet. Raises: ServiceError ``unavailable``."""
        return (await self._consumer()).num_pending or 0

    async def look(self) -> None:
        """Set the metrics. Raises: ServiceError ``unavailable``."""
        info = await self._consumer()
        pending, out = info.num_pending or 0, info.num_ack_pending or 0
        done = info.ack_floor.stream_seq if info.ack_floor else 0
        age = await self._age_of_next(done + 1) if pending or out else 0.0
        metrics.BACKLOG.set(pending)
        metrics.OUT.set(out)
        metrics.OLDEST_AGE.set(age)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.7, 1.3))
            try:
                await self.look()
            except ServiceError as error:
                logger.warning("backlog_not_known", extra={"error": str(error)})

    async def _consumer(self) -> ConsumerInfo:
        assert USAGE.name is not None and CONSUMER.durable_name is not None
        try:
            info: ConsumerInfo = await self._jetstream.consumer_info(USAGE.name, CONSUMER.durable_name)
        except (NatsError, TimeoutError):
            raise unavailable("usage stream") from None
        return info

    async def _age_of_next(self, place: int) -> float:
        """Return for how many seconds the first batch from a place on has been in the stream."""
        assert USAGE.name is not None and CONSUMER.filter_subject is not None
        try:
            # Those that the stream has forgotten meanwhile are passed over.
            message = await self._jetstream.get_msg(
                USAGE.name, seq=place, subject=CONSUMER.filter_subject, next=True
            )
        except NotFoundError:
            return 0.0
        except (NatsError, TimeoutError):
            raise unavailable("usage stream") from None
        stored = message.time
        if not isinstance(stored, datetime):
            return 0.0
        return max(0.0, self._clock.now() - stored.timestamp())
