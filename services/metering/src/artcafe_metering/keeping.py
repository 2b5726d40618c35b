"""For how long closed hours and days are kept: as a tenant's plan says; never shown as zeros afterwards.

A closed period expires by the plan that the tenant had when it was closed, in DynamoDB and, where that is
sooner than for everybody, in Valkey. Where a plan changes, DynamoDB notes since when: `<tenant>#kept` with
the items `hour` and `day` of `usage-metrics`, written before the first period that is kept so. From that
follows the oldest day since which all are there, and a question about what lies before is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Protocol

from artcafe_common.dynamo import Dynamo
from artcafe_metering.keys import Kind
from artcafe_metering.periods import DAY_DAYS_MIN, HOUR_DAYS_MIN, Retention
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_metering.tenants import Tenants


@dataclass(frozen=True, slots=True)
class Kept:
    """What was closed since a day is kept for `days`, what was closed before it for `before` days."""

    days: int
    since: date
    before: int

    def changed(self, since: date, days: int) -> Kept:
        """Return what holds once another plan does, from a day on."""
        return Kept(days, since, min(self.days, self.before))

    def oldest(self, today: date) -> date:
        """Return the first day since which every day is kept."""
        both = today - timedelta(days=min(self.days, self.before))
        return both if both < self.since else max(self.since, today - timedelta(days=self.days))


class Keeping(Protocol):
    """What can be read of a tenant."""

    async def retention(self, tenant_id: str, kind: Kind, start: date, today: date) -> Retention:
        """Return for how long hours or days can be read, where they are asked for since `start`."""
        ...


class KeptByPlan:
    """`Keeping` by plans: `hours` and `days` give days by plan, for those that differ from `retention`."""

    def __init__(
        self,
        dynamo: Dynamo,
        tenants: Tenants,
        retention: Retention,
        hours: Mapping[str, int],
        days: Mapping[str, int],
    ) -> None:
        self._table = dynamo.table(USAGE_METRICS)
        self._tenants = tenants
        self._retention = retention
        self._by_plan: dict[Kind, Mapping[str, int]] = {"hour": hours, "day": days}

    async def retention(self, tenant_id: str, kind: Kind, start: date, today: date) -> Retention:
        """Return for how long hours or days can be read, where they are asked for since `start`."""
        least = HOUR_DAYS_MIN - 1 if kind == "hour" else DAY_DAYS_MIN
        if (today - start).days <= least:
            # Valkey has it, whatever the plan: this is answered without DynamoDB.
            return self._retention
        kept = (today - (await self._kept(tenant_id, kind)).oldest(today)).days
        base = self._retention
        if kind == "hour":
            return replace(base, hours=min(base.hours, kept), rolled_hours=kept)
        return replace(base, days=min(base.days, kept), rolled_days=kept)

    async def days_for(self, tenant_id: str, kind: Kind, today: date) -> int:
        """Return for how many days what is closed now is to be kept, and note it where that is new."""
        tenant = await self._tenants.find(tenant_id)
        days = self._by_plan[kind].get(tenant.plan if tenant else "", self._usual(kind))
        kept = await self._kept(tenant_id, kind)
        if days != kept.days:
            # Periods before this moment may have been closed already.
            changed = kept.changed(today, days)
            await self._table.put(
                {
                    "scope": f"{tenant_id}#kept",
                    "item": kind,
                    "days": changed.days,
                    "since": f"{changed.since}",
                    "before": changed.before,
                }
            )
        return days

    async def _kept(self, tenant_id: str, kind: Kind) -> Kept:
        item = await self._table.get({"scope": f"{tenant_id}#kept", "item": kind})
        if item is None:
            return Kept(self._usual(kind), date.min, self._usual(kind))
        return Kept(int(item["days"]), date.fromisoformat(item["since"]), int(item["before"]))

    def _usual(self, kind: Kind) -> int:
        return self._retention.readable_hours if kind == "hour" else self._retention.readable_days
