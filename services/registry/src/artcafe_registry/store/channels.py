"""Channels in DynamoDB."""

from __future__ import annotations

import msgspec

from artcafe_common.dynamo import Item
from artcafe_registry.domain.records import Channel
from artcafe_registry.store.counted import CountedStore
from artcafe_registry.store.pending import PendingStore
from artcafe_registry.store.tables import Tables
from artcafe_registry.store.tenants import TenantStore


class ChannelStore(CountedStore[Channel]):
    """Reads and writes channels."""

    kind = "channel"
    update_kind = "channel_update"
    resource = "channels"

    def __init__(self, tables: Tables, tenants: TenantStore, pending: PendingStore) -> None:
        super().__init__(tables, tables.channels, _channel, tenants, pending)

    async def list_page(self, tenant_id: str, limit: int, after: str | None) -> tuple[list[Channel], bool]:
        """Return one page of a tenant's channels after a channel id, and whether there are more."""
        return await self._read_page(tenant_id, limit, after, [], {})


def _channel(item: Item) -> Channel:
    return Channel(
        tenant_id=item["tenant_id"],
        channel_id=item["channel_id"],
        name=item["name"],
        description=item["description"],
        access=item["access"],
        delivery=item["delivery"],
        metadata=msgspec.json.decode(item["metadata"]),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        created_by=item["created_by"],
    )
