"""Close hours and days: write them to DynamoDB once their grace has passed, and what comes later beside them.

The ledger notes whose usage of which hour and day has changed, with a stamp that is new each round, and on
disk before a batch is acknowledged. The rollup reads the stamp, then the counters, writes the entry, and
takes the note away only if its stamp is still the same: what was counted meanwhile is looked at again. So
nothing is forgotten, whichever process ends at whichever moment, and any number of replicas may do this at
once: each entry has a number, and of two that write the same one by a conditional write one wins.

A period that would come to less than its entries is left alone and reported: that is what counters look like
which were restored from a backup and have not caught up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_metering import keys, metrics, periods
from artcafe_metering.batches import PERSON_PREFIX
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures, total, total_by_name
from artcafe_metering.keys import BREAKDOWNS, FIGURES, Breakdown, Kind
from artcafe_metering.periods import Retention
from artcafe_metering.rolled import Entry, Rolled, period_name
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

PASS_SECONDS = 60.0
AT_ONCE = 8
# With so many batches still to come the counters are catching up, and closing would be too early.
BACKLOG_MAX = 10_000

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
    ) -> None:
        self._valkey = valkey
        self._counters = counters
        self._rolled = rolled
        self._clock = clock
        self._retention = retention
        self._backlog = backlog

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            # Replicas that started together drift apart.
            await asyncio.sleep(PASS_SECONDS * random.uniform(0.7, 1.3))
            try:
                if await self._backlog() <= BACKLOG_MAX:
                    await self.roll()
            except ServiceError as error:
                logger.warning("rollup_put_off", extra={"error": str(error)})
            except Exception:
                metrics.ROLLUPS.labels("failed").inc()
                logger.exception("rollup_failed")

    async def roll(self) -> None:
        """Roll up every closed period that has a note."""
        now = periods.utc(self._clock.now())
        late = timedelta(0)
        limit = asyncio.Semaphore(AT_ONCE)
        for kind in _KINDS:
            for start in await self._noted(kind, now):
                left = await self._roll_period(kind, start, limit)
                if left:
                    late = max(late, now - _closed_at(kind, start))
        metrics.ROLLUP_LAG.set(late.total_seconds())

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

    async def _roll_period(self, kind: Kind, start: datetime, limit: asyncio.Semaphore) -> bool:
        """Roll up a period of all its tenants; tell whether some are left."""
        noted = keys.unrolled_key(kind, start)
        (answer,) = await self._valkey.read([("HGETALL", noted)])
        notes = list(
            answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
        )
        random.shuffle(notes)

        async def one(tenant_id: str, stamp: bytes) -> bool:
            async with limit:
                try:
                    outcome = await self._roll_one(tenant_id, kind, start)
                except ServiceError as error:
                    logger.warning("rollup_put_off", extra={"tenant_id": tenant_id, "error": str(error)})
                    outcome = "failed"
                metrics.ROLLUPS.labels(outcome).inc()
                if outcome in ("failed", "shrunk"):
                    return False
                await self._valkey.read([("EVAL", _FORGET, 1, noted, tenant_id, stamp)])
                return True

        done = await asyncio.gather(*(one(name.decode(), stamp) for name, stamp in notes))
        return not all(done)

    async def _roll_one(self, tenant_id: str, kind: Kind, start: datetime) -> str:
        period = period_name(kind, start)
        key = keys.hour_key(tenant_id, start) if kind == "hour" else keys.day_key(tenant_id, start.date())
        while True:
            # In this order: an entry that was written in between is met by the number.
            entries = await self._rolled.entries(tenant_id, kind, period, period)
            figures, groups = await self._counters.snapshot(key)
            active = {by: sum(not name.startswith(PERSON_PREFIX) for name in groups[by]) for by in BREAKDOWNS}
            figures -= total(entry.figures for entry in entries)
            if entries:
                if not figures:
                    return "unchanged"
                groups = {
                    by: await self._grown(tenant_id, kind, by, entries, groups[by]) for by in BREAKDOWNS
                }
            parts = [figures, *(each for group in groups.values() for each in group.values())]
            if any(getattr(part, name) < 0 for part in parts for name in FIGURES):
                logger.error("rollup_above_counters", extra={"tenant_id": tenant_id, "period": period})
                return "shrunk"
            number, now = len(entries), self._clock.now()
            expiry = _expiry(kind, start, self._retention)
            if await self._rolled.add(tenant_id, kind, period, number, figures, groups, active, now, expiry):
                if number:
                    logger.warning("usage_adjusted", extra={"tenant_id": tenant_id, "period": period})
                return "adjusted" if number else "closed"

    async def _grown(
        self, tenant_id: str, kind: Kind, by: Breakdown, entries: list[Entry], now: dict[str, Figures]
    ) -> dict[str, Figures]:
        """Return by how much each agent or channel has grown since the entries."""
        parts = [part async for _, part in self._rolled.breakdown(tenant_id, kind, by, entries)]
        before = total_by_name(parts)
        grown = {
            name: now.get(name, Figures()) - before.get(name, Figures())
            for name in now.keys() | before.keys()
        }
        return {name: figures for name, figures in grown.items() if figures}


def _closed_at(kind: Kind, start: datetime) -> datetime:
    return start + (periods.HOUR if kind == "hour" else periods.DAY) + periods.GRACE


def _expiry(kind: Kind, start: datetime, retention: Retention) -> int:
    end = start + (periods.HOUR if kind == "hour" else periods.DAY)
    kept = retention.rolled_hours if kind == "hour" else retention.rolled_days
    return int((end + timedelta(days=kept)).timestamp())
