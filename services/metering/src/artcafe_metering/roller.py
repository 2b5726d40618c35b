"""Close hours and days: write them to DynamoDB once their grace has passed, and what comes later beside them.

The ledger notes whose usage of which hour and day has changed, with a stamp that is new each round, and on
disk before a batch is acknowledged. The rollup reads the stamp, then the counters, writes the entry, and
takes the note away only if its stamp is still the same: what was counted meanwhile is looked at again. So
nothing is forgotten, whichever process ends at whichever moment, and any number of replicas may do this at
once: each entry has a number, and of two that write the same one by a conditional write one wins.

Who had used nothing when a period was closed has no entry of it, and what comes later is an adjustment all
the same: a pass that leaves nothing notes until when all is rolled up (`rolled:until`), and a period from
before that is closed with nothing first. Where that is not known it is closed with what has come.

A period that would come to less than its entries is left alone and reported: that is what counters look like
which were restored from a backup and have not caught up. It is looked at again, unless the counters of that
time are known to be lost (`generation.py`): then what was closed holds, until it is counted for again.

How late the rollup is goes by the clock: since when the oldest period is closed that is not rolled up, and
where there is none, since that was last known. It grows by itself where nothing is rolled up any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError, unavailable
from artcafe_metering import keys, metrics, periods
from artcafe_metering.counters import Snapshot, ValkeyCounters
from artcafe_metering.figures import Figures, counts, total
from artcafe_metering.generation import nothing_lost
from artcafe_metering.groups import Groups
from artcafe_metering.keeping import KeptByPlan
from artcafe_metering.keys import BREAKDOWNS, Kind
from artcafe_metering.periods import Retention
from artcafe_metering.rolled import Rolled, period_name
from artcafe_metering.valkey import WHAT, Valkey

logger = logging.getLogger(__name__)

PASS_SECONDS = 60.0
AT_ONCE = 8
# How often a large period is read before it is put off.
STILL_ATTEMPTS = 3
# With so many batches still to come the counters are catching up, and closing would be too early.
BACKLOG_MAX = 10_000

# Longer than there are notes.
_UNTIL_LIFETIME_SECONDS = 400 * 86_400

_KINDS: tuple[Kind, ...] = ("hour", "day")
_FORGET = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""


class Roller:
    """The rollup of one replica."""

    def __init__(
        self,
        valkey: Valkey,
        counters: ValkeyCounters,
        rolled: Rolled,
        clock: Clock,
        retention: Retention,
        backlog: Callable[[], Awaitable[int]],
        keeping: KeptByPlan,
        since: Callable[[], Awaitable[float]] = nothing_lost,
    ) -> None:
        self._valkey = valkey
        self._counters = counters
        self._rolled = rolled
        self._clock = clock
        self._retention = retention
        self._backlog = backlog
        self._keeping = keeping
        self._since = since
        # Until when all is rolled up, epoch seconds.
        self._done_until = clock.now()

    async def run(self) -> None:
        """Work until cancelled."""
        metrics.ROLLUP_LAG.set_function(self.lag)
        while True:
            # Replicas that started together drift apart.
            await asyncio.sleep(PASS_SECONDS * random.uniform(0.7, 1.3))
            try:
                if await self._backlog() <= BACKLOG_MAX:
                    await self.roll()
                else:
                    await self._look()
            except ServiceError as error:
                logger.warning("rollup_put_off", extra={"error": str(error)})
            except Exception:
                metrics.ROLLUPS.labels("failed").inc()
                logger.exception("rollup_failed")

    def lag(self) -> float:
        """Return for how many seconds the rollup may be behind."""
        return max(0.0, self._clock.now() - self._done_until)

    async def roll(self) -> None:
        """Roll up every closed period that has a note."""
        looked_at, until = self._clock.now(), await self._rolled_until()
        due = await self._look()
        limit = asyncio.Semaphore(AT_ONCE)
        left = [
            _closed_at(kind, start)
            for kind, start in due
            if await self._roll_period(kind, start, limit, until)
        ]
        if due:
            self._done_until = min([each.timestamp() for each in left], default=self._clock.now())
        if not left:
            lifetime = _UNTIL_LIFETIME_SECONDS
            await self._valkey.read([("SET", keys.ROLLED_UNTIL, f"{looked_at}", "EX", lifetime)])

    async def _rolled_until(self) -> float:
        """Return the time until which every closed period is rolled up; 0 where that is not known."""
        (text,) = await self._valkey.read([("GET", keys.ROLLED_UNTIL)])
        return float(text or 0)

    async def _look(self) -> list[tuple[Kind, datetime]]:
        """Return the closed periods with notes, and know from them how late it is."""
        now = periods.utc(self._clock.now())
        due = [(kind, start) for kind in _KINDS for start in await self._noted(kind, now)]
        self._done_until = min([_closed_at(*each).timestamp() for each in due], default=now.timestamp())
        return due

    async def _noted(self, kind: Kind, now: datetime) -> list[datetime]:
        """Return the closed periods with notes, oldest first."""
        length = periods.HOUR if kind == "hour" else periods.DAY
        kept = self._retention.hours if kind == "hour" else self._retention.days
        start = now.replace(minute=0, second=0, microsecond=0)
        if kind == "day":
            start = start.replace(hour=0)
        starts = [start - number * length for number in range(timedelta(days=kept + 1) // length)]
        closed = [each for each in reversed(starts) if _closed_at(kind, each) <= now]
        sizes = await self._valkey.read(("HLEN", keys.unrolled_key(kind, each)) for each in closed)
        return [each for each, size in zip(closed, sizes, strict=True) if size]

    async def _roll_period(self, kind: Kind, start: datetime, limit: asyncio.Semaphore, until: float) -> bool:
        """Roll up a period of all its tenants; tell whether some are left."""
        noted = keys.unrolled_key(kind, start)
        (answer,) = await self._valkey.read([("HGETALL", noted)])
        notes = list(
            answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
        )
        random.shuffle(notes)
        lost = _end(kind, start).timestamp() <= await self._since()
        is_late = _closed_at(kind, start).timestamp() <= until

        async def one(tenant_id: str, stamp: bytes) -> bool:
            async with limit:
                try:
                    outcome = await self._roll_one(tenant_id, kind, start, is_late=is_late)
                except ServiceError as error:
                    logger.warning("rollup_put_off", extra={"tenant_id": tenant_id, "error": str(error)})
                    outcome = "failed"
                metrics.ROLLUPS.labels(outcome).inc()
                if outcome == "failed" or (outcome == "shrunk" and not lost):
                    return False
                await self._valkey.read([("EVAL", _FORGET, 1, noted, tenant_id, stamp)])
                return True

        done = await asyncio.gather(*(one(name.decode(), stamp) for name, stamp in notes))
        return not all(done)

    async def _roll_one(self, tenant_id: str, kind: Kind, start: datetime, *, is_late: bool) -> str:
        period = period_name(kind, start)
        key = keys.hour_key(tenant_id, start) if kind == "hour" else keys.day_key(tenant_id, start.date())
        today = periods.utc(self._clock.now()).date()
        kept = timedelta(days=await self._keeping.days_for(tenant_id, kind, today))
        expiry = int((_end(kind, start) + kept).timestamp())
        while True:
            # In this order: an entry that was written in between is met by the number.
            entries = await self._rolled.entries(tenant_id, kind, period, period)
            if is_late and not entries:
                nothing, now = dict.fromkeys(BREAKDOWNS, ()), self._clock.now()
                active = dict.fromkeys(BREAKDOWNS, 0)
                await self._rolled.add(tenant_id, kind, period, 0, Figures(), nothing, active, now, expiry)
                continue
            held = await self._still(key)
            active = {by: group.active for by, group in held.groups.items()}
            figures = held.figures - total(entry.figures for entry in entries)
            if entries:
                if not figures:
                    await self._counters.expire_by(keys.keys_of(tenant_id, kind, start), expiry)
                    return "unchanged"
                for by, group in held.groups.items():
                    # What is left is by how much each agent or channel has grown.
                    async for _, part in self._rolled.breakdown(tenant_id, kind, by, entries):
                        group.subtract(part)
                        await asyncio.sleep(0)
            if min(counts(figures)) < 0 or await _any_below_zero(held.groups.values()):
                logger.error("rollup_above_counters", extra={"tenant_id": tenant_id, "period": period})
                return "shrunk"
            number, now = len(entries), self._clock.now()
            groups = {by: group.parts() for by, group in held.groups.items()}
            if await self._rolled.add(tenant_id, kind, period, number, figures, groups, active, now, expiry):
                if number:
                    logger.warning("usage_adjusted", extra={"tenant_id": tenant_id, "period": period})
                await self._counters.expire_by(keys.keys_of(tenant_id, kind, start), expiry)
                return "adjusted" if number else "closed"

    async def _still(self, key: str) -> Snapshot:
        """Return a period as it was at one moment.

        Raises: ServiceError ``unavailable`` where batches for it keep coming: then it is closed later.
        """
        for _ in range(STILL_ATTEMPTS):
            held = await self._counters.snapshot(key, BREAKDOWNS)
            if held.exact:
                return held
        raise unavailable(WHAT)


async def _any_below_zero(groups: Iterable[Groups]) -> bool:
    for group in groups:
        for part in group.parts():
            if any(min(counts(figures)) < 0 for figures in part.values()):
                return True
            await asyncio.sleep(0)
    return False


def _end(kind: Kind, start: datetime) -> datetime:
    return start + (periods.HOUR if kind == "hour" else periods.DAY)


def _closed_at(kind: Kind, start: datetime) -> datetime:
    return _end(kind, start) + periods.GRACE
