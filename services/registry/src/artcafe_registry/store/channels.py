"""Channels in DynamoDB."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from artcafe_common.dynamo import ConditionFailed, Item, TransactionFailed
from artcafe_common.errors import not_found
from artcafe_registry.domain.records import Channel
from artcafe_registry.store.access import (
    NOT_DELETING,
    already_exists,
    assignments,
    being_deleted,
    read_page,
    settle,
    transact_if,
)
from artcafe_registry.store.pending import PendingStore, Work
from artcafe_registry.store.tables import Tables
from artcafe_registry.store.tenants import TenantStore


class ChannelStore:
    """Reads and writes channels."""

    def __init__(self, tables: Tables, tenants: TenantStore, pending: PendingStore) -> None:
        self._tables = tables
        self._tenants = tenants
        self._pending = pending

    async def get(self, tenant_id: str, channel_id: str) -> Channel | None:
        """Return a channel, or None."""
        item = await self._tables.channels.get(_key(tenant_id, channel_id))
        return _channel(item) if item and not item.get("deleting") else None

    async def list_page(self, tenant_id: str, limit: int, after: str | None) -> tuple[list[Channel], bool]:
        """Return one page of a tenant's channels after a channel id, and whether there are more."""
        items, more = await read_page(
            self._tables.channels,
            "#tenant_id = :tenant",
            {"tenant": tenant_id},
            limit=limit,
            after=_key(tenant_id, after) if after is not None else None,
            filters=[NOT_DELETING],
            selective=False,
        )
        return [_channel(item) for item in items], more

    async def create(self, channel: Channel) -> None:
        """Write a new channel and count it.

        Raises: ServiceError ``already_exists``; with a quota where the plan has no room; ``not_found``
        (the tenant).
        """
        put = self._tables.channels.put_op(_item(channel), "attribute_not_exists(#channel_id)")

        async def attempt() -> None:
            tenant = await self._tenants.require_active(channel.tenant_id)
            try:
                await self._tables.dynamo.transact([put, self._tenants.room_op(tenant, "channels")])
            except TransactionFailed as error:
                if 0 in error.failed:
                    raise await self._taken(channel) from None
                raise

        await settle(attempt)

    async def update(self, tenant_id: str, channel_id: str, changes: Mapping[str, Any], now: str) -> Channel:
        """Change the given fields and return the channel. Raises: ServiceError ``not_found``."""
        attributes = _attributes(changes) | {"updated_at": now}

        async def attempt() -> Channel:
            try:
                item = await self._tables.channels.update(
                    _key(tenant_id, channel_id),
                    assignments(attributes),
                    attributes,
                    f"attribute_exists(#channel_id) AND {NOT_DELETING}",
                )
            except ConditionFailed:
                raise not_found("channel") from None
            return _channel(item)

        return await settle(attempt)

    async def mark_deleting(self, tenant_id: str, channel_id: str, now: str) -> bool:
        """Begin a channel's deletion: it is there for nobody any more. False where there is none."""
        work = Work(kind="channel", tenant_id=tenant_id, id=channel_id, started_at=now)
        mark = self._tables.channels.update_op(
            _key(tenant_id, channel_id),
            "SET #deleting = :yes",
            {"yes": True},
            "attribute_exists(#channel_id)",
        )

        return await transact_if(self._tables.dynamo, [mark, self._pending.put_op(work)])

    async def is_deleting(self, tenant_id: str, channel_id: str) -> bool:
        """Tell whether a deletion was begun and not finished."""
        item = await self._tables.channels.get(_key(tenant_id, channel_id))
        return bool(item and item.get("deleting"))

    async def finish_delete(self, tenant_id: str, channel_id: str) -> None:
        """End a deletion: the item goes and is counted off."""
        delete = self._tables.channels.delete_op(
            _key(tenant_id, channel_id), "attribute_exists(#channel_id) AND #deleting = :yes", {"yes": True}
        )

        # Where the condition does not hold somebody else has finished it.
        await transact_if(self._tables.dynamo, [delete, self._tenants.release_op(tenant_id, "channels")])

    async def _taken(self, channel: Channel) -> Exception:
        item = await self._tables.channels.get(_key(channel.tenant_id, channel.channel_id))
        deleting = item is None or item.get("deleting")
        return being_deleted("a channel") if deleting else already_exists("a channel of this id")


def _key(tenant_id: str, channel_id: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "channel_id": channel_id}


def _attributes(changes: Mapping[str, Any]) -> Item:
    attributes = dict(changes)
    if "metadata" in attributes:
        attributes["metadata"] = msgspec.json.encode(attributes["metadata"]).decode()
    return attributes


def _item(channel: Channel) -> Item:
    # Not `asdict`: it would copy the metadata, level by level, for nothing.
    return _attributes({field.name: getattr(channel, field.name) for field in dataclasses.fields(channel)})


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
