"""What a tenant has of a kind and its plan limits: the ways in which agents and channels are stored alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from artcafe_common.dynamo import Item, Table, TransactionFailed
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_registry.domain.records import Agent, Channel, Resource
from artcafe_registry.store.access import (
    NOT_DELETING,
    already_exists,
    assignments,
    read_page,
    settle,
    transact_if,
)
from artcafe_registry.store.pending import PendingStore, Work, WorkKind
from artcafe_registry.store.tables import Tables
from artcafe_registry.store.tenants import TenantStore

RecordT = TypeVar("RecordT", Agent, Channel)


class CountedStore(Generic[RecordT]):
    """Reads and writes things of one kind; one that is being deleted is there for nobody."""

    kind: ClassVar[WorkKind]
    update_kind: ClassVar[WorkKind]
    resource: ClassVar[Resource]

    def __init__(
        self,
        tables: Tables,
        table: Table,
        record: Callable[[Item], RecordT],
        tenants: TenantStore,
        pending: PendingStore,
    ) -> None:
        assert table.spec.range_key is not None
        self._tables = tables
        self._table = table
        self._record: Callable[[Item], RecordT] = record
        self._id = table.spec.range_key
        self._tenants = tenants
        self._pending = pending
        self._there = f"attribute_exists(#{self._id}) AND {NOT_DELETING}"

    async def get(self, tenant_id: str, id: str) -> RecordT | None:
        """Return a thing, or None."""
        item = await self._table.get(self._key(tenant_id, id))
        return self._record(item) if item and not item.get("deleting") else None

    async def create(self, record: RecordT) -> None:
        """Write a new thing and count it.

        Raises: ServiceError ``already_exists``; with a quota where the plan has no room; ``not_found`` where
        there is no such tenant.
        """
        put = self._table.put_op(_item(record), f"attribute_not_exists(#{self._id})")

        async def attempt() -> None:
            tenant = await self._tenants.require_active(record.tenant_id)
            try:
                await self._tables.dynamo.transact([put, self._tenants.room_op(tenant, self.resource)])
            except TransactionFailed as error:
                if 0 in error.failed:
                    raise await self._taken(record.tenant_id, getattr(record, self._id)) from None
                raise

        await settle(attempt)

    async def update(
        self, tenant_id: str, id: str, changes: Mapping[str, Any], now: str
    ) -> tuple[RecordT, Work]:
        """Change the given fields; return the thing, and the work that this leaves.

        Raises: ServiceError ``not_found``.
        """
        attributes = attributes_of(changes) | {"updated_at": now}
        work = Work(kind=self.update_kind, tenant_id=tenant_id, id=id, started_at=now)
        update = self._table.update_op(
            self._key(tenant_id, id), assignments(attributes), attributes, self._there
        )
        if not await transact_if(self._tables.dynamo, [update, self._pending.put_op(work)]):
            raise not_found(self.kind)
        record = await self.get(tenant_id, id)
        if record is None:
            raise not_found(self.kind)
        return record, work

    async def mark_deleting(self, tenant_id: str, id: str, now: str) -> Work | None:
        """Begin a deletion: the thing is there for nobody any more.

        Return the work that this leaves, or None where there is none to delete.
        """
        work = Work(kind=self.kind, tenant_id=tenant_id, id=id, started_at=now)
        mark = self._table.update_op(
            self._key(tenant_id, id), "SET #deleting = :yes", {"yes": True}, f"attribute_exists(#{self._id})"
        )
        return work if await transact_if(self._tables.dynamo, [mark, self._pending.put_op(work)]) else None

    async def is_deleting(self, tenant_id: str, id: str) -> bool:
        """Tell whether a deletion was begun and not finished."""
        item = await self._table.get(self._key(tenant_id, id))
        return bool(item and item.get("deleting"))

    async def finish_delete(self, tenant_id: str, id: str) -> None:
        """End a deletion: the item goes and is counted off."""
        delete = self._table.delete_op(
            self._key(tenant_id, id), f"attribute_exists(#{self._id}) AND #deleting = :yes", {"yes": True}
        )
        # Where the condition does not hold somebody else has finished it.
        await transact_if(self._tables.dynamo, [delete, self._tenants.release_op(tenant_id, self.resource)])

    async def _read_page(
        self, tenant_id: str, limit: int, after: str | None, filters: list[str], values: Item
    ) -> tuple[list[RecordT], bool]:
        items, more = await read_page(
            self._table,
            "#tenant_id = :tenant",
            {"tenant": tenant_id} | values,
            limit=limit,
            after=self._key(tenant_id, after) if after is not None else None,
            filters=[NOT_DELETING, *filters],
            selective=bool(filters),
        )
        return [self._record(item) for item in items], more

    async def _taken(self, tenant_id: str, id: str) -> ServiceError:
        if await self.get(tenant_id, id) is not None:
            return already_exists(self.kind)
        return ServiceError(
            ErrorCode.UNAVAILABLE, f"this {self.kind} is being deleted, try again", retry_after=1.0
        )

    def _key(self, tenant_id: str, id: str) -> dict[str, str]:
        return {"tenant_id": tenant_id, self._id: id}


def attributes_of(changes: Mapping[str, Any]) -> Item:
    """Return fields as attributes: free-form JSON as its text, so that it comes back as it was."""
    attributes = dict(changes)
    if "metadata" in attributes:
        attributes["metadata"] = msgspec.json.encode(attributes["metadata"]).decode()
    return attributes


def _item(record: Agent | Channel) -> Item:
    # Not `asdict`: it would copy the metadata, level by level, for nothing.
    item = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if isinstance(record, Agent):
        item["keys"] = [dataclasses.asdict(key) for key in record.keys]
    return attributes_of(item)
