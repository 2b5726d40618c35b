"""Compare the counters of closed days with what the batches in the stream come to.

A difference is an error, whichever side has more, and somebody is called for it. So it is told only when all
batches that were recounted are applied, and a second look at both sides finds the same; where that cannot be
had, the day is put off.

Every day that the stream still holds is compared once it is closed, and again when something was counted for
it since: whoever applies a batch changes the day's stamp (`keys.changed_key`), and the outcome has the stamp
that the day had when its counters were read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import date, datetime, timedelta

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.errors import ErrorCode, ServiceError, invalid, unavailable
from artcafe_common.streams import USAGE
from artcafe_metering import keys, metrics, periods
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.differences import compare
from artcafe_metering.figures import Figures, total
from artcafe_metering.lease import Lease
from artcafe_metering.outcomes import SCOPES, Difference, Outcome
from artcafe_metering.reconciled import Reconciled, Standing
from artcafe_metering.recount import FETCH_SECONDS, Recount
from artcafe_metering.streams import CONSUMER
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

LOOKS_MAX = 4
BACKLOG_CHECK_SECONDS = 1.0
# A day that was never compared is still told of when the stream has it no longer.
LOOK_BACK_DAYS = 14
LOGGED_MAX = 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look whether there is something to do, to try again, and how long to wait; in seconds.

    `backlog` is for how long batches are waited for that are not applied yet; `lease` for how long a process
    that is gone keeps others from comparing.
    """

    look: float = 60.0
    retry: float = 600.0
    backlog: float = 60.0
    lease: float = 60.0


class Reconciler:
    """Compares days."""

    def __init__(
        self,
        bus: Bus,
        valkey: Valkey,
        counters: ValkeyCounters,
        clock: Clock,
        reconciled: Reconciled,
        pace: Pace = Pace(),
    ) -> None:
        self._bus = bus
        self._counters = counters
        self._clock = clock
        self._reconciled = reconciled
        self._pace = pace
        # Not by day: days of which one begins while another is at it would read the stream side by side.
        self._lease = Lease(valkey, "reconcile", pace.lease)
        self._put_off_until = 0.0

    async def run(self) -> None:
        """Compare each day that is due, on one of the replicas at a time, until cancelled."""
        # What waited while there was no replica is counted first.
        self._put_off(self._pace.look)
        while True:
            try:
                if await self._due() and asyncio.get_running_loop().time() >= self._put_off_until:
                    await self._lease.work(self._compare_due)
            except ServiceError as error:
                logger.warning("reconcile_put_off", extra={"error": str(error)})
            except Exception:
                logger.exception("reconcile_failed")
            await asyncio.sleep(self._pace.look)

    async def compare(self, day: date, say: Say = lambda _: None) -> Outcome:
        """Recount a day, compare it, and keep what came of it.

        Raises: ServiceError ``invalid_argument`` where the day is not closed yet or not whole in the stream,
        ``unavailable`` where a server is away, or batches are still to be applied.
        """
        if periods.utc(self._clock.now()) < _closed_at(day):
            raise invalid(f"{day} is not closed yet")
        jetstream = self._bus.jetstream(timeout=FETCH_SECONDS)
        try:
            outcome = await self._compare(jetstream, day, say)
        except (NatsError, TimeoutError) as error:
            logger.warning("recount_broken_off", extra={"error": type(error).__name__})
            raise unavailable("usage stream") from None
        await self._reconciled.keep(outcome, self._clock.now())
        for each in outcome.differences[:LOGGED_MAX]:
            logger.error("reconcile_difference", extra=_described(day, each))
        about = {"batches": outcome.batches, "tenants": outcome.comparison.tenants}
        logger.info("reconciled", extra={"day": str(day), "differences": len(outcome.differences), **about})
        return outcome

    async def _compare(self, jetstream: JetStreamContext, day: date, say: Say) -> Outcome:
        # Before the long work of recounting what is no use then.
        await self._until_applied(jetstream, await self._last(jetstream, day), say)
        recount = Recount(jetstream, day)
        before: list[Difference] | None = None
        for _ in range(LOOKS_MAX):
            say(f"{day}: recounting")
            await self._until_applied(jetstream, await recount.read_on(), say)
            # In this order: what is applied from here on changes the stamp again.
            stamp = await self._reconciled.stamp(day)
            comparison = await compare(self._counters, day, recount)
            # What it had no longer was not recounted.
            await self._last(jetstream, day)
            if not comparison.differences or comparison.differences == before:
                return Outcome(day, recount.batches, stamp, comparison)
            before = comparison.differences
        raise _not_yet(f"something is being counted for {day}: try again later")

    async def _last(self, jetstream: JetStreamContext, day: date) -> int:
        """Return the stream's last place. Raises: ServiceError where it does not hold the whole day."""
        assert USAGE.name is not None
        state = (await jetstream.stream_info(USAGE.name)).state
        if state.first_seq > 1 and not self._held(day):
            raise invalid(f"{day} is no longer whole in the stream")
        return state.last_seq

    async def _until_applied(self, jetstream: JetStreamContext, place: int, say: Say) -> None:
        """Wait until every batch up to a place in the stream is applied and acknowledged.

        Raises: ServiceError ``unavailable`` where that takes too long.
        """
        assert USAGE.name is not None and CONSUMER.durable_name is not None
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._pace.backlog
        told = False
        while place:
            try:
                info = await jetstream.consumer_info(USAGE.name, CONSUMER.durable_name)
            except NotFoundError:
                raise _not_yet("metering has not begun to read the stream: try again when it runs") from None
            left = (info.num_pending or 0) + (info.num_ack_pending or 0)
            if left == 0 or (info.ack_floor is not None and info.ack_floor.stream_seq >= place):
                return
            if loop.time() >= give_up_at:
                raise _not_yet(
                    f"{left} batches in the stream are not counted yet: try again when metering has caught up"
                )
            if not told:
                told = True
                say(f"waiting until metering has counted {left} batches")
            await asyncio.sleep(min(BACKLOG_CHECK_SECONDS, self._pace.backlog / 4))

    async def _compare_due(self) -> None:
        """Compare the days that are due, oldest first: those are the first that the stream loses."""
        for day in await self._due():
            try:
                await self.compare(day)
            except ServiceError as error:
                logger.warning("reconcile_put_off", extra={"day": str(day), "error": str(error)})
                self._put_off(self._pace.retry)
                if error.code is ErrorCode.UNAVAILABLE:
                    break
            except Exception:
                logger.exception("reconcile_failed", extra={"day": str(day)})
                self._put_off(self._pace.retry)
            # A long way may be left to go.
            await self._due()

    def _put_off(self, seconds: float) -> None:
        self._put_off_until = asyncio.get_running_loop().time() + seconds

    async def _due(self) -> list[date]:
        """Return the days that are to be compared, oldest first, and show where all days stand."""
        now = periods.utc(self._clock.now())
        days = periods.days_of(now.date() - LOOK_BACK_DAYS * periods.DAY, now.date() - periods.DAY)
        standings = await self._reconciled.standings([day for day in days if _closed_at(day) <= now])
        held = [each for each in standings if self._held(each.day)]
        _show(held, [each.day for each in standings if self._is_late(each)], now)
        return [each.day for each in held if not each.is_current]

    def _held(self, day: date) -> bool:
        """Tell whether a stream that has dropped what is too old still has all of a day."""
        assert USAGE.max_age is not None
        return self._clock.now() - periods.midnight(day).timestamp() <= USAGE.max_age

    def _is_late(self, standing: Standing) -> bool:
        # Days before the first batch are compared, too, but nobody waits for them. What came for a day that
        # was compared, and is not held any more, is an adjustment that shows for itself.
        if not standing.is_counted or standing.is_current:
            return False
        return not standing.is_compared or self._held(standing.day)


def _show(held: list[Standing], late: list[date], now: datetime) -> None:
    for scope in SCOPES:
        apart = total(each.apart.get(scope, Figures()) for each in held)
        for name, figure in zip(keys.FIGURES, astuple(apart), strict=True):
            metrics.RECONCILE_DIFFERENCE.labels(name, scope).set(figure)
    lag = now - _closed_at(late[0]) if late else timedelta(0)
    metrics.RECONCILE_LAG.set(lag.total_seconds())


def _closed_at(day: date) -> datetime:
    return periods.midnight(day + periods.DAY) + periods.GRACE


def _not_yet(reason: str) -> ServiceError:
    return ServiceError(ErrorCode.UNAVAILABLE, reason)


def _described(day: date, difference: Difference) -> dict[str, object]:
    described: dict[str, object] = {"day": str(day), "tenant_id": difference.tenant_id}
    for by, parts in difference.parts.items():
        described |= {f"{by}s": [part.name for part in parts.named], f"{by}s_different": parts.number}
    return described
