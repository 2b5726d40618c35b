"""Counters in two layers: Valkey, and below it the closed periods in DynamoDB.

Valkey is asked for everything. A period which it does not have, and which is old enough that it may have
expired there, is looked for in DynamoDB: so each period is read from one place, and from the other as soon as
it is gone, whenever that is. Every period is in both for weeks before. What is younger than that is never
looked for: without DynamoDB the recent past is still answered.

That holds as long as Valkey lost nothing. Where it did (`generation.py`), a period that had ended before is
looked for in DynamoDB too, and is what was closed unless Valkey has come to at least as much again, from what
the stream still had. Months are not closed by themselves: one that had begun before is the sum of its days.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date, timedelta

from artcafe_common.clock import Clock
from artcafe_metering import keys, periods
from artcafe_metering.batches import PERSON_PREFIX
from artcafe_metering.closed_days import ClosedDays, gather_some
from artcafe_metering.counters import BROKEN_DOWN_MAX, PAGED_MAX, GroupPage, ValkeyCounters, too_many
from artcafe_metering.figures import Figures, total, total_by_name
from artcafe_metering.generation import nothing_lost
from artcafe_metering.groups import FirstIds, Part
from artcafe_metering.keys import Breakdown, MonthPlace, Place
from artcafe_metering.rolled import Entry, Rolled, period_name, sums


class LayeredCounters:
    """`Counters` over Valkey and the rollups; `since` is that of `Generation`."""

    def __init__(
        self,
        valkey: ValkeyCounters,
        rolled: Rolled,
        clock: Clock,
        since: Callable[[], Awaitable[float]] = nothing_lost,
    ) -> None:
        self._valkey = valkey
        self._rolled = rolled
        self._clock = clock
        self._since = since
        self._closed_days = ClosedDays(rolled, clock)

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        found = await self._valkey.figures(period_keys)
        below = await self._below(period_keys, found)
        closed = sums(await self._entries(list(below.values())))
        for index, place in below.items():
            found[index] = closed.get(_name(place), Figures())
        lost_months = await self._lost_months(period_keys)
        added_up = await gather_some(self._added_up(month) for month in lost_months.values())
        for index, figures in zip(lost_months, added_up, strict=True):
            found[index] = found[index].at_least(figures)
        return found

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel.

        Raises: ServiceError ``invalid_argument`` where that is too much for one answer.
        """
        found = await self._valkey.broken_down(period_keys, by)
        below = await self._below(period_keys, found)
        closed = await self._breakdown(list(below.values()), by, sum(map(len, found)))
        for index, place in below.items():
            found[index] = closed.get(_name(place), {})
        return found

    async def page(
        self, period_keys: Sequence[str], by: Breakdown, after: str | None, limit: int
    ) -> GroupPage:
        """Return the first so many agents or channels of some periods behind an id.

        Raises: ServiceError ``invalid_argument`` where too many would have to be looked at for that.
        """
        sizes = await self._valkey.sizes(period_keys, by)
        if sum(sizes) > PAGED_MAX:
            raise too_many(by)
        below = await self._below(period_keys, sizes)
        places = list(below.values())
        # With one more than is asked for it is known whether there are more.
        first = FirstIds(after, limit + 1)
        for index, (key, size) in enumerate(zip(period_keys, sizes, strict=True)):
            if size and index not in below:
                await self._valkey.offer(first, key, by)
        async for _, part in self._closed(places, by, sum(sizes), PAGED_MAX):
            first.offer(part)
        ids = first.ids()
        chosen = ids[:limit]
        wanted = set(chosen)
        closed: dict[str, dict[str, Figures]] = {}
        if chosen:
            async for period, part in self._closed(places, by, 0, PAGED_MAX):
                some = {name: part[name] for name in part.keys() & wanted}
                closed[period] = total_by_name([closed.get(period, {}), some])
        groups = [
            closed.get(_name(below[index]), {})
            if index in below
            else (await self._valkey.of_ids(key, by, chosen) if size else {})
            for index, (key, size) in enumerate(zip(period_keys, sizes, strict=True))
        ]
        return GroupPage(chosen, groups, len(ids) > limit)

    async def active(self, set_keys: Sequence[str]) -> list[int]:
        """Return the number of ids in each set."""
        found = await self._valkey.active(set_keys)
        below = await self._below(set_keys, found)
        # The last entry knows of all until then.
        last = {entry.period: entry for entry in await self._entries(list(below.values()))}
        for index, place in below.items():
            if entry := last.get(_name(place)):
                agents = set_keys[index].endswith(":agents")
                found[index] = entry.active_agents if agents else entry.active_channels
        for index, month in (await self._lost_months(set_keys)).items():
            # However many there are, a month is answered.
            found[index] = await self._distinct([set_keys[index], *self._day_sets(month)], sys.maxsize)
        return found

    async def active_in_all(self, set_keys: Sequence[str]) -> int:
        """Return the number of distinct ids in several sets of one tenant."""
        if len(set_keys) == 1:
            return (await self.active(set_keys))[0]
        months = (await self._lost_months(set_keys)).values()
        days = [key for month in months for key in self._day_sets(month)]
        return await self._distinct(list(dict.fromkeys([*set_keys, *days])), PAGED_MAX)

    async def _distinct(self, set_keys: Sequence[str], most: int) -> int:
        """Return the number of distinct ids in sets of one tenant, of which at most so many are looked at."""
        below = await self._below(set_keys, await self._valkey.active(set_keys))
        if not below:
            return await self._valkey.active_in_all(set_keys)
        by: Breakdown = "agent" if set_keys[0].endswith(":agents") else "channel"
        ids: set[str] = set()
        async for _, part in self._closed(list(below.values()), by, 0, most):
            ids.update(name for name in part if not name.startswith(PERSON_PREFIX))
        held = [key for index, key in enumerate(set_keys) if index not in below]
        return len(ids | await self._valkey.members(held))

    async def _below(self, names: Sequence[str], found: Sequence[object]) -> dict[int, Place]:
        """Return the places, by position, which are to be read from DynamoDB."""
        now = periods.utc(self._clock.now())
        since = periods.utc(await self._since())
        below: dict[int, Place] = {}
        lost: dict[int, Place] = {}
        for index, (name, value) in enumerate(zip(names, found, strict=True)):
            place = keys.place_of(name)
            if place is None:
                continue
            days = periods.HOUR_DAYS_MIN if place.kind == "hour" else periods.DAY_DAYS_MIN
            if not value and place.start <= now - timedelta(days=days):
                below[index] = place
            elif place.end <= since:
                lost[index] = place
        if lost:
            held = await self._valkey.figures([place.figures_key for place in lost.values()])
            closed = sums(await self._entries(list(lost.values())))
            for (index, place), counted in zip(lost.items(), held, strict=True):
                if not counted.covers(closed.get(_name(place), Figures())):
                    below[index] = place
        return below

    async def _lost_months(self, names: Sequence[str]) -> dict[int, MonthPlace]:
        """Return the months, by position, that had begun before some of the counters were lost."""
        months = {index: month for index, name in enumerate(names) if (month := keys.month_of(name))}
        if not months:
            return {}
        since = periods.utc(await self._since())
        return {index: month for index, month in months.items() if periods.midnight(month.first) < since}

    async def _added_up(self, month: MonthPlace) -> Figures:
        """Return what a month's days come to, each read from where there is more of it."""
        days = self._days_until_now(month)
        closed = await self._closed_days.between(month.tenant_id, days[0], days[-1])
        held = await self._valkey.figures([keys.day_key(month.tenant_id, day) for day in days])
        nothing = Figures()
        return total(
            counted if counted.covers(closed.get(day, nothing)) else closed[day]
            for day, counted in zip(days, held, strict=True)
        )

    def _day_sets(self, month: MonthPlace) -> list[str]:
        """Return the keys of the sets of a month's days, for the set of the month."""
        assert month.by is not None
        return [keys.active_day_key(month.tenant_id, day, month.by) for day in self._days_until_now(month)]

    def _days_until_now(self, month: MonthPlace) -> list[date]:
        last = periods.first_of_next_month(month.first) - periods.DAY
        today = periods.utc(self._clock.now()).date()
        return periods.days_of(month.first, max(month.first, min(last, today)))

    async def _entries(self, places: list[Place]) -> list[Entry]:
        """Return the entries between the first and the last of some places of one tenant and kind."""
        if not places:
            return []
        names = sorted(map(_name, places))
        return await self._rolled.entries(places[0].tenant_id, places[0].kind, names[0], names[-1])

    async def _breakdown(self, places: list[Place], by: Breakdown, ids: int) -> dict[str, dict[str, Figures]]:
        found: dict[str, dict[str, Figures]] = {}
        async for period, part in self._closed(places, by, ids, BROKEN_DOWN_MAX):
            sums = found.setdefault(period, {})
            for name, figures in part.items():
                sums[name] = sums[name] + figures if name in sums else figures
        return found

    async def _closed(
        self, places: list[Place], by: Breakdown, ids: int, most: int
    ) -> AsyncIterator[tuple[str, Part]]:
        """Yield closed periods by id in parts; `ids` there are already, and at most so many there may be."""
        wanted = set(map(_name, places))
        entries = [entry for entry in await self._entries(places) if entry.period in wanted]
        if not entries:
            return
        tenant_id, kind = places[0].tenant_id, places[0].kind
        async for entry, part in self._rolled.breakdown(tenant_id, kind, by, entries):
            ids += len(part)
            if ids > most:
                raise too_many(by)
            yield entry.period, part
            await asyncio.sleep(0)


def _name(place: Place) -> str:
    return period_name(place.kind, place.start)
