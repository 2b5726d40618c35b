"""Find where the counters of a day are not what was recounted."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from datetime import date

from artcafe_metering import keys
from artcafe_metering.counters import PAGE_IDS, ValkeyCounters
from artcafe_metering.figures import Figures
from artcafe_metering.groups import unpacked
from artcafe_metering.keys import BREAKDOWNS, Breakdown
from artcafe_metering.outcomes import SCOPES, Comparison, Difference, Part, Parts, Scope
from artcafe_metering.recount import Recount, Sums, TenantSums

# So many agents and channels are named: of one tenant, and in all. All of them are in the sums.
NAMED_OF_TENANT_MAX = 20
NAMED_MAX = 2000


class _Found:
    """The parts of a tenant that differ; keeps the first by name."""

    def __init__(self) -> None:
        self.number = 0
        self.apart = Figures()
        self._named: list[Part] = []

    def look_at(self, name: str, counted: Figures, recounted: Figures) -> None:
        if counted == recounted:
            return
        self.number += 1
        self.apart += distance(counted, recounted)
        self._named.append(Part(name, counted, recounted))
        if len(self._named) > 2 * NAMED_OF_TENANT_MAX:
            self._named = self._first()

    def parts(self, most: int) -> Parts:
        return Parts(self.number, tuple(self._first()[:most]))

    def _first(self) -> list[Part]:
        return sorted(self._named, key=lambda part: part.name)[:NAMED_OF_TENANT_MAX]


def distance(one: Figures, other: Figures) -> Figures:
    """Return by how much each figure differs, without a sign."""
    return Figures(*map(abs, astuple(one - other)))


async def compare(counters: ValkeyCounters, day: date, recount: Recount) -> Comparison:
    """Compare the counters of a day, by tenant, agent and channel, with what was recounted.

    Raises: ServiceError ``unavailable``.
    """
    tenants = sorted(recount.tenants.keys() | await counters.tenants_of(day))
    apart: dict[Scope, Figures] = dict.fromkeys(SCOPES, Figures())
    differences: list[Difference] = []
    nameable = NAMED_MAX
    figures = await counters.figures([keys.day_key(tenant_id, day) for tenant_id in tenants])
    for tenant_id, counted in zip(tenants, figures, strict=True):
        sums = recount.tenants.get(tenant_id) or TenantSums()
        recounted = Figures(*sums.totals)
        apart["tenant"] += distance(counted, recounted)
        parts: dict[Breakdown, Parts] = {}
        for by in BREAKDOWNS:
            found = await _compare_group(counters, keys.day_key(tenant_id, day), by, sums.groups[by])
            if found.number:
                apart[by] += found.apart
                parts[by] = found.parts(nameable)
                nameable -= len(parts[by].named)
        if counted != recounted or parts:
            differences.append(Difference(tenant_id, counted, recounted, parts))
    return Comparison(len(tenants), differences, apart)


async def _compare_group(counters: ValkeyCounters, key: str, by: Breakdown, sums: Sums) -> _Found:
    found = _Found()
    # A hash that grows meanwhile may show an id twice.
    seen = bytearray(len(sums))
    strangers: set[str] = set()
    async for chunk in counters.chunks(key, by):
        for id_, value in chunk.items():
            name, counted = id_.decode(), unpacked(value)
            place = sums.place(name)
            if place is None:
                if name not in strangers:
                    strangers.add(name)
                    found.look_at(name, counted, Figures())
            elif not seen[place]:
                seen[place] = 1
                found.look_at(name, counted, sums.of(name))
    for place, name in enumerate(sums):
        if not seen[place]:
            found.look_at(name, Figures(), sums.of(name))
        if place % PAGE_IDS == 0:
            await asyncio.sleep(0)
    return found
