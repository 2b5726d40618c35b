"""Recount a closed day from the batches that the stream still has, and compare it with the counters.

The recount shares nothing with counting but the reading of a batch: no windows, no scripts, one batch after
the other, each once by its source and number. A difference is an error, whichever side has more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import astuple, dataclass
from datetime import date, timedelta

from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError, invalid, unavailable
from artcafe_common.ids import new_ulid
from artcafe_common.streams import USAGE
from artcafe_metering import keys, metrics, periods
from artcafe_metering.batches import Counts, PoisonError, read_batch
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

CHECK_SECONDS = 600.0
LEASE_SECONDS = 3 * 86_400
FETCH_BATCHES = 500
FETCH_SECONDS = 10.0
_SCAN_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A tenant whose counters are not what its batches come to."""

    tenant_id: str
    counted: Figures
    recounted: Figures


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of comparing a day."""

    day: date
    batches: int
    tenants: int
    differences: list[Difference]


class Reconciler:
    """Compares days."""

    def __init__(self, bus: Bus, valkey: Valkey, counters: ValkeyCounters, clock: Clock) -> None:
        self._bus = bus
        self._valkey = valkey
        self._counters = counters
        self._clock = clock

    async def run(self) -> None:
        """Compare each day once it is closed, on one of the replicas, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            day = (periods.utc(self._clock.now()) - periods.GRACE).date() - periods.DAY
            lease, token = f"lease:reconcile:{day:%Y%m%d}", new_ulid()
            try:
                await self._valkey.read([("SET", lease, token, "NX", "EX", LEASE_SECONDS)])
                (holder,) = await self._valkey.read([("GET", lease)])
                if holder != token.encode():
                    continue
                try:
                    await self.compare(day)
                except ServiceError:
                    await self._valkey.read([("DEL", lease)])
                    raise
            except ServiceError as error:
                logger.warning("reconcile_put_off", extra={"day": str(day), "error": str(error)})
            except Exception:
                logger.exception("reconcile_failed", extra={"day": str(day)})

    async def compare(self, day: date) -> Outcome:
        """Recount a day and compare it.

        Raises: ServiceError ``invalid_argument`` where the day is not closed yet or not whole in the stream,
        ``unavailable`` where a server is away.
        """
        now = periods.utc(self._clock.now())
        if now < periods.midnight(day + periods.DAY) + periods.GRACE:
            raise invalid(f"{day} is not closed yet")
        batches, recounted = await self._recount(day)
        tenants = sorted(recounted.keys() | await self._counted_tenants(day))
        figures = await self._counters.figures([keys.day_key(tenant_id, day) for tenant_id in tenants])
        differences = [
            Difference(tenant_id, counted, recounted.get(tenant_id, Figures()))
            for tenant_id, counted in zip(tenants, figures, strict=True)
            if counted != recounted.get(tenant_id, Figures())
        ]
        apart = [astuple(each.counted - each.recounted) for each in differences]
        for index, name in enumerate(keys.FIGURES):
            metrics.RECONCILE_DIFFERENCE.labels(name).set(sum(abs(each[index]) for each in apart))
        for each in differences:
            logger.error("reconcile_difference", extra={"day": str(day), "tenant_id": each.tenant_id})
        logger.info("reconciled", extra={"day": str(day), "batches": batches, "tenants": len(tenants)})
        return Outcome(day, batches, len(tenants), differences)

    async def _recount(self, day: date) -> tuple[int, dict[str, Figures]]:
        assert USAGE.name is not None and USAGE.max_age is not None
        jetstream = self._bus.jetstream(timeout=FETCH_SECONDS)
        start, now = periods.midnight(day), self._clock.now()
        seen: defaultdict[str, set[int]] = defaultdict(set)
        sums: dict[str, Counts] = {}
        batches = 0
        try:
            state = (await jetstream.stream_info(USAGE.name)).state
            if state.first_seq > 1 and now - start.timestamp() > USAGE.max_age:
                raise invalid(f"{day} is no longer whole in the stream")
            # No batch is stored before its time, but clocks differ.
            consumer = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_TIME,
                opt_start_time=start - timedelta(hours=1),
                ack_policy=AckPolicy.NONE,
                inactive_threshold=60.0,
                mem_storage=True,
            )
            subscription = await jetstream.pull_subscribe(
                "usage.v1.batch.*", stream=USAGE.name, config=consumer
            )
            try:
                left = (await subscription.consumer_info()).num_pending or 0
                while left:
                    messages = await subscription.fetch(min(left, FETCH_BATCHES), timeout=FETCH_SECONDS)
                    left -= len(messages)
                    for message in messages:
                        try:
                            batch = read_batch(message.subject, message.data, start.timestamp() - 1, now)
                        except PoisonError:
                            continue
                        if batch.hour.date() != day or batch.seq in seen[batch.source]:
                            continue
                        seen[batch.source].add(batch.seq)
                        batches += 1
                        for tenant_id, additions in batch.tenants.items():
                            before = sums.get(tenant_id)
                            totals = additions.totals
                            sums[tenant_id] = (
                                tuple(a + b for a, b in zip(before, totals, strict=True))
                                if before
                                else totals
                            )
            finally:
                await subscription.unsubscribe()
        except (NatsError, TimeoutError) as error:
            logger.warning("recount_broken_off", extra={"error": type(error).__name__})
            raise unavailable("usage stream") from None
        return batches, {tenant_id: Figures(*counts) for tenant_id, counts in sums.items()}

    async def _counted_tenants(self, day: date) -> set[str]:
        """Return the tenants that have counters of a day."""
        found: set[str] = set()
        cursor: bytes | int = 0
        pattern = keys.day_key("*", day)
        while True:
            ((cursor, names),) = await self._valkey.read(
                [("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)]
            )
            for name in names:
                if place := keys.place_of(name.decode()):
                    found.add(place.tenant_id)
            if int(cursor) == 0:
                return found
