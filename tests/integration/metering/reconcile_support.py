"""What the tests of comparing days share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.registry import Limits, TenantInfo
from artcafe_common.http import Call
from artcafe_metering.adjustments import RangeQuery
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.layers import LayeredCounters
from artcafe_metering.periods import Retention, midnight
from artcafe_metering.reconcile import Pace, Reconciler
from artcafe_metering.reconciled import Reconciled, ReconciledDay, ReconciliationApi
from artcafe_metering.rolled import Rolled
from artcafe_metering.valkey import Valkey

DAY = timedelta(days=1)
HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
# In a test everything happens at once, but for what a busy machine needs.
QUICK = Pace(look=0.05, retry=0.1, backlog=20.0, lease=600.0)


@dataclass
class Noon(SystemClock):
    """A clock that goes, and by which it is always noon, of today or of `days` later."""

    days: int = 0

    def now(self) -> float:
        """Return noon."""
        return (midnight(datetime.now(UTC).date()) + DAY / 2 + self.days * DAY).timestamp()


class Everybody:
    """A registry in which every tenant exists."""

    async def find(self, tenant_id: str) -> TenantInfo:
        """Return a tenant."""
        return TenantInfo(
            tenant_id=tenant_id,
            name="",
            status="active",
            plan="pro",
            limits=Limits(),
            auto_create_channels=False,
        )


@dataclass
class Office:
    """What compares, and what others are told of it."""

    bus: Bus
    valkey: Valkey
    clock: Noon = field(default_factory=Noon)

    def __post_init__(self) -> None:
        self.today = datetime.now(UTC).date()
        self.yesterday = self.today - DAY
        self.reconciled = Reconciled(self.valkey, Retention())

    def reconciler(
        self, counters: ValkeyCounters | None = None, reconciled: Reconciled | None = None, pace: Pace = QUICK
    ) -> Reconciler:
        """Return that of one replica."""
        counters = counters or ValkeyCounters(self.valkey)
        return Reconciler(self.bus, self.valkey, counters, self.clock, reconciled or self.reconciled, pace)

    @asynccontextmanager
    async def running(self, reconciled: Reconciled | None = None) -> AsyncIterator[asyncio.Task[None]]:
        """Run a replica's, and end it as on SIGTERM."""
        task = asyncio.create_task(self.reconciler(reconciled=reconciled).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def told(self, tenant_id: str, days: int = 1) -> list[ReconciledDay]:
        """Ask as billing does about the days before today, oldest first."""
        counters = LayeredCounters(ValkeyCounters(self.valkey), cast(Rolled, None), self.clock)
        api = ReconciliationApi(self.reconciled, counters, Everybody(), self.clock, Retention())
        query = RangeQuery(start_date=self.today - days * DAY, end_date=self.yesterday)
        reply = await api.reconciliation(cast(Call, SimpleNamespace(query=query, tenant_id=tenant_id)))
        return reply.days

    def results(self, tenant_id: str, days: int) -> Callable[[], Any]:
        """Return a question for the results of the days before today."""

        async def ask() -> list[str]:
            return [each.result for each in await self.told(tenant_id, days)]

        return ask


def at(day: date) -> float:
    """Return a time in a day."""
    return midnight(day).timestamp() + HOUR_SECONDS
