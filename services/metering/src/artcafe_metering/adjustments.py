"""GET /usage/adjustments: what was counted for periods that had been closed before it came."""

from __future__ import annotations

from datetime import date

import msgspec

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.errors import ErrorCode
from artcafe_common.http import Call, Operation
from artcafe_common.roles import Permission
from artcafe_metering import periods, ranges
from artcafe_metering.counters import Counters
from artcafe_metering.keeping import Keeping
from artcafe_metering.rolled import Rolled
from artcafe_metering.tenants import Tenants, check_known
from artcafe_metering.wire import Usage, shown


class RangeQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of UTC dates, both included."""

    start_date: date | None = None
    end_date: date | None = None
    tenant_id: str | None = None


class Adjustment(Usage, frozen=True, kw_only=True):
    """By how much a closed day has grown, and when that was found; the first one has the number 1."""

    date: date
    number: int
    recorded_at: str


class AdjustmentsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The adjustments of a range of days. `/metrics` and `/history` contain them already."""

    tenant_id: str
    start_date: date
    end_date: date
    adjustments: list[Adjustment]


class AdjustmentsApi:
    """What billing asks after it has billed a day."""

    def __init__(
        self, rolled: Rolled, counters: Counters, tenants: Tenants, clock: Clock, keeping: Keeping
    ) -> None:
        self._rolled = rolled
        self._counters = counters
        self._tenants = tenants
        self._clock = clock
        self._keeping = keeping

    def operations(self) -> list[Operation]:
        """Return the route."""
        return [
            Operation(
                "GET", "/usage/adjustments", self.adjustments, "What came after a day had been closed",
                Permission.USAGE_READ, query=RangeQuery, reply=AdjustmentsReply,
                errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
            ),
        ]  # fmt: skip

    async def adjustments(self, call: Call) -> AdjustmentsReply:
        """Answer GET /usage/adjustments."""
        query: RangeQuery = call.query
        today = periods.utc(self._clock.now()).date()
        start, end = ranges.resolve(query.start_date, query.end_date, "day", today)
        retention = await self._keeping.retention(call.tenant_id, "day", start, today)
        ranges.divide(call.tenant_id, start, end, "day", today, retention)
        await check_known(self._tenants, self._counters, call.tenant_id, start, end)
        entries = await self._rolled.entries(call.tenant_id, "day", f"{start}", f"{end}")
        return AdjustmentsReply(
            tenant_id=call.tenant_id,
            start_date=start,
            end_date=end,
            adjustments=[
                msgspec.convert(
                    shown(entry.figures)
                    | {
                        "date": entry.period,
                        "number": entry.number,
                        "recorded_at": rfc3339(entry.recorded_at),
                    },
                    Adjustment,
                )
                for entry in entries
                if entry.number
            ],
        )
