"""Look at what has no metrics of its own in this deployment: Valkey's memory, and the copies of the stream.

Both go on working until they do not: Valkey until it is full, NATS until a second server is lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.streams import USAGE
from artcafe_metering import metrics
from artcafe_metering.valkey import WHAT, Valkey

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0


class Watch:
    """Sets the metrics of both; `copies` is on how many servers the stream should be."""

    def __init__(self, valkey: Valkey, jetstream: JetStreamContext, copies: int) -> None:
        self._valkey = valkey
        self._jetstream = jetstream
        self._copies = copies

    async def run(self) -> None:
        """Look again and again, until cancelled; a server that cannot be asked leaves the last figures."""
        while True:
            for look in (self.look_at_memory, self.look_at_copies):
                try:
                    await look()
                except ServiceError as error:
                    logger.warning("surroundings_not_seen", extra={"error": str(error)})
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.7, 1.3))

    async def look_at_memory(self) -> None:
        """Set how much memory Valkey uses and may use, in bytes. Raises: ServiceError ``unavailable``."""
        (answer,) = await self._valkey.read([("INFO", "memory")])
        # The client has made a mapping of it; an answer like none of Valkey's must not end the counting.
        if not isinstance(answer, Mapping) or not {"used_memory", "maxmemory"} <= answer.keys():
            raise unavailable(WHAT)
        metrics.VALKEY_MEMORY.set(answer["used_memory"])
        metrics.VALKEY_MEMORY_MAX.set(answer["maxmemory"])

    async def look_at_copies(self) -> None:
        """Set how many copies of the stream are missing. Raises: ServiceError ``unavailable``."""
        assert USAGE.name is not None
        try:
            info = await self._jetstream.stream_info(USAGE.name)
        except (NatsError, TimeoutError):
            raise unavailable("usage stream") from None
        metrics.COPIES_MISSING.set(missing_copies(info, self._copies))


def missing_copies(info: StreamInfo, wanted: int) -> int:
    """Return how many servers that should have a stream are away, do not follow, or were never given it."""
    followers = (info.cluster.replicas if info.cluster else None) or []
    following = sum(bool(each.current) and not each.offline for each in followers)
    # The one that answers leads.
    return max(0, max(wanted, info.config.num_replicas or 1) - 1 - following)
