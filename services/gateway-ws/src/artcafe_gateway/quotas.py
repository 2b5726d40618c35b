"""Telling dashboards how much of its monthly messages their tenant has used.

Each dashboard hears once of each threshold that is reached while it is open, at its beginning of the highest
that was reached before, and when the month's end or another plan makes room again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from artcafe_common.allowance import RESOURCE, Allowance, Allowances
from artcafe_gateway.dashboard_session import DashboardSession
from artcafe_gateway.frames import event

logger = logging.getLogger(__name__)


class QuotaEvents:
    """Sends the event ``quota`` to the dashboards of this process."""

    def __init__(self, months: Allowances, dashboards: Iterable[DashboardSession]) -> None:
        self._dashboards = dashboards
        months.on_level(self._changed)

    def opened(self, dashboard: DashboardSession) -> None:
        """Keep the month of a dashboard's tenant up to date, and tell where it stands."""
        month = dashboard.tenant.month
        month.watchers += 1
        if month.level:
            dashboard.connection.send(_quota(month, month.level))

    def closed(self, dashboard: DashboardSession) -> None:
        """Let go of what `opened` asked for."""
        dashboard.tenant.month.watchers -= 1

    def _changed(self, month: Allowance, percent: int) -> None:
        logger.info(
            "quota_level",
            extra={
                "tenant_id": month.tenant_id,
                "resource": RESOURCE,
                "percent": percent,
                "plan": month.plan,
            },
        )
        text = _quota(month, percent)
        for dashboard in self._dashboards:
            if dashboard.tenant_id == month.tenant_id:
                dashboard.connection.send(text)


def _quota(month: Allowance, percent: int) -> bytes:
    return event(
        "quota",
        resource=RESOURCE,
        current=month.used,
        limit=None if month.limit == math.inf else int(month.limit),
        percent=percent,
        plan=month.plan,
        month=month.month,
    )
