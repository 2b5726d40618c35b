"""Tenants: their plans and limits, as registry tells them, and which there are or were."""

from __future__ import annotations

from datetime import date
from typing import Protocol

from artcafe_common.bus import Bus
from artcafe_common.contracts.registry import GET_TENANT, GetTenant, Limits, TenantInfo
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.rpc import call
from artcafe_metering import keys, periods
from artcafe_metering.counters import Counters


class Tenants(Protocol):
    """Where tenants are looked up."""

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return a tenant, or None where there is none."""
        ...


async def limits_of(tenants: Tenants, tenant_id: str) -> Limits | None:
    """Return what a tenant may use; None where there is none, or none any more: only platform roles ask."""
    tenant = await tenants.find(tenant_id)
    return tenant.limits if tenant else None


async def check_known(tenants: Tenants, counters: Counters, tenant_id: str, start: date, end: date) -> None:
    """Raise ServiceError ``not_found`` where there is no tenant, and in these days there was none."""
    if await tenants.find(tenant_id) is not None:
        return
    names = [keys.day_key(tenant_id, day) for day in periods.days_of(start, end)]
    if not any(await counters.figures(names)):
        raise not_found("tenant")


class RemoteTenants:
    """Asks registry over NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return a tenant, or None where there is none."""
        try:
            return await call(self._bus, GET_TENANT, GetTenant(tenant_id))
        except ServiceError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return None
            raise
