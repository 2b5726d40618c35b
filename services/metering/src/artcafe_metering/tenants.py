"""Plans and limits of tenants, as registry tells them."""

from __future__ import annotations

from typing import Protocol

from artcafe_common.bus import Bus
from artcafe_common.contracts.registry import GET_TENANT, GetTenant, TenantInfo
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call


class Tenants(Protocol):
    """Where tenants are looked up."""

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return a tenant, or None where there is none."""
        ...


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
