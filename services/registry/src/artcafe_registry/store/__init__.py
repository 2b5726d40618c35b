"""The registry's data in DynamoDB; keys and rows are described in `store.tables`."""

from __future__ import annotations

from artcafe_common.dynamo import Dynamo
from artcafe_registry.store.access import clear_tenant
from artcafe_registry.store.agents import AgentStore
from artcafe_registry.store.channels import ChannelStore
from artcafe_registry.store.grants import GrantStore
from artcafe_registry.store.members import MemberStore
from artcafe_registry.store.pending import PendingStore
from artcafe_registry.store.replays import ReplayStore
from artcafe_registry.store.tables import TABLES, Tables
from artcafe_registry.store.tenants import TenantStore

__all__ = ["TABLES", "Store"]


class Store:
    """Everything the registry keeps."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self._tables = Tables(dynamo)
        self.pending = PendingStore(self._tables)
        self.tenants = TenantStore(self._tables, self.pending)
        self.members = MemberStore(self._tables)
        self.agents = AgentStore(self._tables, self.tenants, self.pending)
        self.channels = ChannelStore(self._tables, self.tenants, self.pending)
        self.grants = GrantStore(self._tables, self.pending)
        self.replays = ReplayStore(self._tables)

    async def ping(self) -> None:
        """Raise unless the tables can be read: for readiness."""
        await self._dynamo.ping(self._tables.tenants.spec)

    async def clear_content(self, tenant_id: str) -> None:
        """Remove all that a tenant holds but its people; nothing is made in it meanwhile.

        Member rows go last: one may still be written while its agent and its channel are there.
        """
        await clear_tenant(self._tables.agents, tenant_id)
        await clear_tenant(self._tables.channels, tenant_id)
        await clear_tenant(self._tables.grants, tenant_id)
        await clear_tenant(self._tables.replays, tenant_id)
