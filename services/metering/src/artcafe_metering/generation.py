"""Know since when the counters in Valkey count: one that lost them must not look like one that had none.

`counters:since` is set before the first batch is applied, and is in every backup. Where it is missing, either
these counters are new, or they are those of a version that did not know it, or they were lost:

| counters | what else is known | meaning | key |
|---|---|---|---|
| some | this process has seen no key | an older version's | `0` |
| none | the stream has no batch yet | a new installation | `0` |
| none | batches were acknowledged, or periods rolled up | lost | now |
| none | neither, and DynamoDB cannot be asked | not known | now, `unknown` |

Any number of replicas may come to this at once. Whoever finds counters lost notes that in `counters:lost`,
has the stream read from its beginning by deleting its consumer, and sets the key after that. The consumer was
what told of the loss; the note does in its place, so that one who comes meanwhile, or after the first has
ended in between, does the rest.
"""

from __future__ import annotations

import asyncio
import logging
import random

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.streams import USAGE
from artcafe_metering import keys, metrics
from artcafe_metering.rolled import Rolled
from artcafe_metering.streams import CONSUMER
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
# Longer than any counter; renewed whenever it is looked at.
LIFETIME_SECONDS = 1500 * 86_400
_STREAM_MARGIN_SECONDS = 86_400.0
_UNKNOWN = "unknown"
_SCAN_COUNT = 1000


async def nothing_lost() -> float:
    """Return what `Generation.since` does where the counters never lost any."""
    return 0.0


async def settle_restored(valkey: Valkey, made_at: float, started: float, now: float) -> None:
    """Set the key after a restore, which is no loss where the stream has all that came after the backup.

    `made_at` is when the backup was made, `started` when the restore began (epoch seconds). A key that is of
    after that was set by a service that found Valkey in between. Raises: ServiceError ``unavailable``.
    """
    assert USAGE.max_age is not None
    (text,) = await valkey.read([("GET", keys.SINCE)])
    if now - made_at > USAGE.max_age - _STREAM_MARGIN_SECONDS:
        value = str(now)
    elif text is None or float(text.split()[0]) >= started:
        value = "0"
    else:
        return
    await valkey.read([("SET", keys.SINCE, value, "EX", LIFETIME_SECONDS)])


class Generation:
    """Since when the counters count."""

    def __init__(self, valkey: Valkey, jetstream: JetStreamContext, rolled: Rolled, clock: Clock) -> None:
        self._valkey = valkey
        self._jetstream = jetstream
        self._rolled = rolled
        self._clock = clock
        self._seen = False
        self._beginning = asyncio.Lock()

    async def since(self) -> float:
        """Return since when the counters have all that came (epoch seconds); 0 where they never lost any.

        Raises: ServiceError ``unavailable``.
        """
        text = await self._read()
        # Not noticed yet: whatever was before may be missing.
        return self._clock.now() if text is None else float(text.split()[0])

    async def begin(self) -> None:
        """Make sure that the key is there, and of all that follows where it is missing.

        Raises: ServiceError ``unavailable``.
        """
        async with self._beginning:
            if await self._read() is not None:
                return
            lost = await self._lost()
            # In this order: whoever deletes the consumer, which tells of a loss, has noted it before.
            if lost or await self._get(keys.LOST) is not None:
                await self._begin_anew()
                return
            now = self._clock.now()
            await self._set(keys.SINCE, "0" if lost is False else f"{now} {_UNKNOWN}")
            if lost is None:
                logger.warning("counters_may_be_lost", extra={"since": rfc3339(now)})

    async def look(self) -> None:
        """Begin where that is needed, and set the metric. Raises: ServiceError ``unavailable``."""
        text = await self._read()
        if text is None:
            await self.begin()
            text = await self._read() or "0"
        await self._valkey.read([("EXPIRE", keys.SINCE, LIFETIME_SECONDS)])
        metrics.COUNTERS_SINCE.set(0 if text.endswith(_UNKNOWN) else float(text))

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except ServiceError as error:
                logger.warning("counters_not_looked_at", extra={"error": str(error)})
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.7, 1.3))

    async def _read(self) -> str | None:
        text = await self._get(keys.SINCE)
        if text is not None:
            self._seen = True
        return text

    async def _get(self, key: str) -> str | None:
        (value,) = await self._valkey.read([("GET", key)])
        return None if value is None else str(value.decode())

    async def _set(self, key: str, value: str) -> None:
        """Give a key its value, unless another replica has."""
        await self._valkey.read([("SET", key, value, "NX", "EX", LIFETIME_SECONDS)])

    async def _begin_anew(self) -> None:
        now = self._clock.now()
        await self._set(keys.LOST, f"{now}")
        # What the first of several has noted, or nothing where one has done it all meanwhile.
        since = float(await self._get(keys.LOST) or now)
        logger.error("counters_lost", extra={"since": rfc3339(since)})
        await self._start_over()
        await self._set(keys.SINCE, f"{since}")
        await self._valkey.read([("DEL", keys.LOST)])

    async def _lost(self) -> bool | None:
        """Tell whether there were counters that are gone; None where that cannot be said."""
        if self._seen:
            return True
        if await self._has_counters():
            return False
        assert USAGE.name is not None and CONSUMER.durable_name is not None
        try:
            if not (await self._jetstream.stream_info(USAGE.name)).state.last_seq:
                return False
            consumer = await self._jetstream.consumer_info(USAGE.name, CONSUMER.durable_name)
            if consumer.ack_floor is not None and consumer.ack_floor.consumer_seq:
                return True
        except NotFoundError:
            # No stream, or a consumer that was deleted.
            pass
        except (NatsError, TimeoutError):
            raise unavailable("usage stream") from None
        try:
            return await self._rolled.has_any()
        except ServiceError:
            return None

    async def _has_counters(self) -> bool:
        cursor: bytes | int = 0
        while True:
            ((cursor, names),) = await self._valkey.read(
                [("SCAN", cursor, "MATCH", "stats:*", "COUNT", _SCAN_COUNT)]
            )
            if names or int(cursor) == 0:
                return bool(names)

    async def _start_over(self) -> None:
        assert USAGE.name is not None and CONSUMER.durable_name is not None
        try:
            await self._jetstream.delete_consumer(USAGE.name, CONSUMER.durable_name)
        except NotFoundError:
            return
        except (NatsError, TimeoutError):
            raise unavailable("usage stream") from None
