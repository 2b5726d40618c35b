"""Counters in two layers: Valkey, and below it the closed periods in DynamoDB.

Valkey is asked for everything. A period which it does not have, and which is old enough that it may have
expired there, is looked for in DynamoDB: so each period is read from one place, and from the other as soon as
it is gone, whenever that is. Every period is in both for weeks before. What is younger than that is never
looked for: without DynamoDB the recent past is still answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from artcafe_common.clock import Clock
from artcafe_common.errors import invalid
from artcafe_metering import keys, periods
from artcafe_metering.batches import PERSON_PREFIX
from artcafe_metering.counters import BROKEN_DOWN_MAX, ValkeyCounters
from artcafe_metering.figures import Figures, total_by_name
from artcafe_metering.keys import Breakdown, Place
from artcafe_metering.rolled import Entry, Rolled, period_name, sums


class LayeredCounters:
    """`Counters` over Valkey and the rollups."""

    def __init__(self, valkey: ValkeyCounters, rolled: Rolled, clock: Clock) -> None:
        self._valkey = valkey
        self._rolled = rolled
        self._clock = clock

    async def figures(self, period_keys: Sequence[str]) -> list[Figures]:
        """Return the figures of each period."""
        found = await self._valkey.figures(period_keys)
        missing = self._missing(period_keys, found)
        closed = sums(await self._entries(list(missing.values())))
        for index, place in missing.items():
            found[index] = closed.get(_name(place), Figures())
        return found

    async def broken_down(self, period_keys: Sequence[str], by: Breakdown) -> list[dict[str, Figures]]:
        """Return the figures of each period per agent or channel.

        Raises: ServiceError ``invalid_argument`` where that is too much for one answer.
        """
        found = await self._valkey.broken_down(period_keys, by)
        missing = self._missing(period_keys, found)
        closed = await self._breakdown(list(missing.values()), by, sum(map(len, found)))
        for index, place in missing.items():
            found[index] = closed.get(_name(place), {})
        return found

    async def active(self, set_keys: Sequence[str]) -> list[int]:
        """Return the number of ids in each set."""
        found = await self._valkey.active(set_keys)
        missing = self._missing(set_keys, found)
        # The last entry knows of all until then.
        last = {entry.period: entry for entry in await self._entries(list(missing.values()))}
        for index, place in missing.items():
            if entry := last.get(_name(place)):
                agents = set_keys[index].endswith(":agents")
                found[index] = entry.active_agents if agents else entry.active_channels
        return found

    async def active_in_all(self, set_keys: Sequence[str]) -> int:
        """Return the number of distinct ids in several sets of one tenant."""
        missing = self._missing(set_keys, await self._valkey.active(set_keys))
        if not missing:
            return await self._valkey.active_in_all(set_keys)
        by: Breakdown = "agent" if set_keys[0].endswith(":agents") else "channel"
        closed = await self._breakdown(list(missing.values()), by, 0)
        ids = {name for group in closed.values() for name in group if not name.startswith(PERSON_PREFIX)}
        held = [key for index, key in enumerate(set_keys) if index not in missing]
        return len(ids | await self._valkey.members(held))

    def _missing(self, names: Sequence[str], found: Sequence[object]) -> dict[int, Place]:
        """Return the places, by position, which Valkey has not and may have had."""
        now = periods.utc(self._clock.now())
        missing: dict[int, Place] = {}
        for index, (name, value) in enumerate(zip(names, found, strict=True)):
            place = None if value else keys.place_of(name)
            if place is None:
                continue
            days = periods.HOUR_DAYS_MIN if place.kind == "hour" else periods.DAY_DAYS_MIN
            if place.start <= now - timedelta(days=days):
                missing[index] = place
        return missing

    async def _entries(self, places: list[Place]) -> list[Entry]:
        """Return the entries between the first and the last of some places of one tenant and kind."""
        if not places:
            return []
        names = sorted(map(_name, places))
        return await self._rolled.entries(places[0].tenant_id, places[0].kind, names[0], names[-1])

    async def _breakdown(self, places: list[Place], by: Breakdown, ids: int) -> dict[str, dict[str, Figures]]:
        wanted = set(map(_name, places))
        entries = [entry for entry in await self._entries(places) if entry.period in wanted]
        found: dict[str, dict[str, Figures]] = {}
        if not entries:
            return found
        tenant_id, kind = places[0].tenant_id, places[0].kind
        async for entry, part in self._rolled.breakdown(tenant_id, kind, by, entries):
            ids += len(part)
            if ids > BROKEN_DOWN_MAX:
                raise invalid(
                    f"too many {by}s for one answer: choose a shorter range or a larger granularity"
                )
            found[entry.period] = total_by_name([found.get(entry.period, {}), part])
        return found


def _name(place: Place) -> str:
    return period_name(place.kind, place.start)
