"""How much of its monthly messages a tenant has left, as metering counts them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import GET_MONTH, GetMonth
from artcafe_common.errors import ServiceError
from artcafe_common.rpc import call
from artcafe_registry.domain.plans import quota_error
from artcafe_registry.domain.records import Tenant

logger = logging.getLogger(__name__)

FRESH_SECONDS = 10.0
ASK_TIMEOUT_SECONDS = 1.0
CAPACITY = 10_000


@dataclass(slots=True)
class _Used:
    """What metering said at `asked_at`, and what was accepted here since."""

    messages: int
    asked_at: float


class MonthlyAllowance:
    """Holds tenants to their plan's messages per month.

    Metering's figure is asked for every few seconds by whoever publishes; what was accepted meanwhile is
    added. While metering is away the last figure holds, and one that was never told stops nobody.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._used: OrderedDict[str, _Used] = OrderedDict()

    async def check(self, tenant: Tenant) -> None:
        """Raise ``resource_exhausted`` with a quota where the month is used up."""
        limit = tenant.limits.messages_per_month
        if limit is None:
            return
        used = await self._current(tenant.tenant_id)
        if used.messages >= limit:
            raise quota_error("messages_per_month", used.messages, limit, tenant.plan)

    def accepted(self, tenant_id: str) -> None:
        """Count one message that was accepted."""
        if used := self._used.get(tenant_id):
            used.messages += 1

    async def _current(self, tenant_id: str) -> _Used:
        now = self._clock.monotonic()
        used = self._used.get(tenant_id)
        if used is not None and now - used.asked_at < FRESH_SECONDS:
            return used
        if used is None:
            used = self._used[tenant_id] = _Used(0, now)
            if len(self._used) > CAPACITY:
                self._used.popitem(last=False)
        # Set before the answer is there, so that one of those who publish at once asks for all.
        used.asked_at = now
        self._used.move_to_end(tenant_id)
        try:
            month = await call(self._bus, GET_MONTH, GetMonth(tenant_id), timeout=ASK_TIMEOUT_SECONDS)
        except ServiceError as error:
            logger.warning("month_not_known", extra={"code": error.code})
        else:
            used.messages = month.messages
        return used
