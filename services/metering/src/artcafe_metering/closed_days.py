"""What closed days came to, for some minutes: quotas ask for the months of every tenant every few seconds."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from datetime import date
from typing import TypeVar

from artcafe_common.clock import Clock
from artcafe_metering.figures import Figures
from artcafe_metering.rolled import Rolled, period_start, sums

# A closed day changes by adjustments only.
KEPT_SECONDS = 300.0
AT_ONCE = 16
_REMEMBERED = 20_000

_T = TypeVar("_T")


class ClosedDays:
    """The closed days of tenants."""

    def __init__(self, rolled: Rolled, clock: Clock) -> None:
        self._rolled = rolled
        self._clock = clock
        self._kept: OrderedDict[tuple[str, date, date], tuple[float, dict[date, Figures]]] = OrderedDict()

    async def between(self, tenant_id: str, first: date, last: date) -> dict[date, Figures]:
        """Return what the closed ones of some days came to. Raises: ServiceError ``unavailable``."""
        name, now = (tenant_id, first, last), self._clock.monotonic()
        kept = self._kept.get(name)
        if kept is not None and now - kept[0] < KEPT_SECONDS:
            return kept[1]
        entries = await self._rolled.entries(tenant_id, "day", f"{first}", f"{last}")
        found = {period_start(period).date(): figures for period, figures in sums(entries).items()}
        self._kept[name] = now, found
        self._kept.move_to_end(name)
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
        return found


async def gather_some(calls: Iterable[Awaitable[_T]]) -> list[_T]:
    """Return what each gives, in their order, with some at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(call: Awaitable[_T]) -> _T:
        async with limit:
            return await call

    return await asyncio.gather(*map(one, calls))
