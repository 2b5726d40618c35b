"""Tenants in DynamoDB, with the counters by which their limits hold under concurrent creation.

The id of a deleted tenant is never given to another: usage, exports and invoices are kept under it for longer
than the tenant. Its item stays as a *tombstone*: marked ``deleted`` and emptied of everything that people
wrote, with the status ``deleting``, so that every condition which keeps things from being made in a tenant
that is on its way out holds for it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from artcafe_common.dynamo import Item, TransactionFailed, marshal, unmarshal
from artcafe_common.errors import ErrorCode, ServiceError, not_found, permission_denied, quota_error
from artcafe_registry.domain.people import MONTHLY_TENANTS_MAX, OWNED_TENANTS_MAX
from artcafe_registry.domain.records import Member, Resource, Tenant
from artcafe_registry.store.access import already_exists, assignments, settle, transact_if
from artcafe_registry.store.members import membership_ops
from artcafe_registry.store.pending import PendingStore, Work
from artcafe_registry.store.tables import CREATED_ROW, Tables, person_hash

_encode = msgspec.json.encode
_EXISTS = "attribute_exists(#tenant_id) AND #status <> :deleting"
_NOT_DELETED = "attribute_exists(#tenant_id) AND attribute_not_exists(#deleted)"


class TenantStore:
    """Reads and writes tenants."""

    def __init__(self, tables: Tables, pending: PendingStore) -> None:
        self._tables = tables
        self._pending = pending

    async def get(self, tenant_id: str) -> Tenant | None:
        """Return a tenant, also one that is being deleted, or None."""
        item = await self._tables.tenants.get({"tenant_id": tenant_id})
        return _tenant(item) if item and not item.get("deleted") else None

    async def require_active(self, tenant_id: str) -> Tenant:
        """Return a tenant in which things may be made. Raises: ServiceError."""
        tenant = await self.get(tenant_id)
        if tenant is None or tenant.status == "deleting":
            raise not_found("tenant")
        if tenant.status != "active":
            raise permission_denied("this organisation is suspended")
        return tenant

    async def create(self, tenant: Tenant, owner: Member) -> None:
        """Write a tenant and its first owner; a self-service one counts against its maker's allowances.

        Raises: ServiceError ``already_exists``, also where one of this id was deleted;
        ``failed_precondition`` where an allowance is used up.
        """
        writes = [
            self._tables.tenants.put_op(_item(tenant), "attribute_not_exists(#tenant_id)"),
            *membership_ops(self._tables, owner),
        ]
        if tenant.self_service:
            month = _made_in(tenant.created_at)
            writes.append(
                self._tables.members.update_op(
                    _created_key(tenant.created_by),
                    f"ADD #tenants :one, #{month} :one",
                    {"one": 1, "max": OWNED_TENANTS_MAX, "max_made": MONTHLY_TENANTS_MAX},
                    "(attribute_not_exists(#tenants) OR #tenants < :max)"
                    f" AND (attribute_not_exists(#{month}) OR #{month} < :max_made)",
                )
            )

        async def attempt() -> None:
            try:
                await self._tables.dynamo.transact(writes)
            except TransactionFailed as error:
                if 0 in error.failed:
                    raise already_exists("tenant") from None
                if len(writes) - 1 in error.failed and tenant.self_service:
                    raise ServiceError(
                        ErrorCode.FAILED_PRECONDITION,
                        f"a person creates at most {OWNED_TENANTS_MAX} organisations, and"
                        f" {MONTHLY_TENANTS_MAX} in a month with those that were deleted",
                    ) from None
                raise

        await settle(attempt)

    async def update(self, seen: Tenant, changes: Mapping[str, Any], now: str) -> tuple[Tenant, Work] | None:
        """Change a tenant; return it and the work that this leaves, or None where it is gone.

        Holds only for the tenant as it was read (`TransactionFailed` otherwise).
        """
        attributes = dict(changes)
        if "overrides" in attributes:
            attributes["overrides"] = _encode(attributes["overrides"]).decode()
        attributes["updated_at"] = now
        update = self._tables.tenants.update_op(
            {"tenant_id": seen.tenant_id},
            assignments(attributes) + " ADD #revision :one",
            attributes | {"one": 1, "deleting": "deleting", "seen": seen.revision},
            f"{_EXISTS} AND #revision = :seen",
        )
        work = Work(kind="tenant_update", tenant_id=seen.tenant_id, started_at=now)
        await self._tables.dynamo.transact([update, self._pending.put_op(work)])
        tenant = await self.get(seen.tenant_id)
        return None if tenant is None else (tenant, work)

    async def list_all(self, limit: int, after: Item | None) -> tuple[list[Tenant], Item | None]:
        """Return one page of all tenants, in no order, and where the next one starts."""
        found: list[Tenant] = []
        position = after
        while len(found) < limit:
            arguments: Item = {
                "TableName": self._tables.tenants.name,
                "Limit": limit - len(found),
                "FilterExpression": "#status <> :deleting",
                "ExpressionAttributeNames": {"#status": "status"},
                "ExpressionAttributeValues": {":deleting": {"S": "deleting"}},
            }
            if position is not None:
                arguments["ExclusiveStartKey"] = marshal(position)
            reply = await self._tables.dynamo.call("scan", **arguments)
            found += [_tenant(unmarshal(item)) for item in reply.get("Items", [])]
            last = reply.get("LastEvaluatedKey")
            if not last:
                return found, None
            position = unmarshal(last)
        return found, position

    def room_op(self, tenant: Tenant, resource: Resource) -> Item:
        """Return the write that counts one more of a resource; it holds only for the tenant as it was read.

        Raises: ServiceError with a quota where the plan has no room.
        """
        limit: int | None = getattr(tenant.limits, resource)
        if limit is not None and tenant.count(resource) >= limit:
            raise quota_error(resource, tenant.count(resource), limit, tenant.plan)
        condition = "#status = :active AND #revision = :revision"
        values: Item = {"one": 1, "active": "active", "revision": tenant.revision}
        if limit is not None:
            condition += f" AND #{resource} < :limit"
            values["limit"] = limit
        return self._tables.tenants.update_op(
            {"tenant_id": tenant.tenant_id}, f"ADD #{resource} :one", values, condition
        )

    def release_op(self, tenant_id: str, resource: Resource) -> Item:
        """Return the write that counts one less of a resource."""
        return self._tables.tenants.update_op(
            {"tenant_id": tenant_id}, f"ADD #{resource} :less", {"less": -1}, "attribute_exists(#tenant_id)"
        )

    async def mark_deleting(self, tenant_id: str, now: str) -> Work | None:
        """Begin a tenant's deletion: nothing can be made in it any more.

        Return the work that this leaves, or None where there is no such tenant.
        """
        work = Work(kind="tenant", tenant_id=tenant_id, started_at=now)
        mark = self._tables.tenants.update_op(
            {"tenant_id": tenant_id},
            "SET #status = :deleting",
            {"deleting": "deleting"},
            _NOT_DELETED,
        )
        return work if await transact_if(self._tables.dynamo, [mark, self._pending.put_op(work)]) else None

    async def finish_delete(self, tenant: Tenant) -> None:
        """End a deletion: of the tenant's item its tombstone is left, and its maker may make another."""
        writes = [self._tables.tenants.put_op(_tombstone(tenant), _NOT_DELETED)]
        if tenant.self_service:
            writes.append(
                self._tables.members.update_op(
                    _created_key(tenant.created_by), "ADD #tenants :less", {"less": -1}
                )
            )

        # Where the condition does not hold somebody else has finished it.
        await transact_if(self._tables.dynamo, writes)


def _created_key(user_id: str) -> Item:
    return {"tenant_id": person_hash(user_id), "user_id": CREATED_ROW}


def _made_in(created_at: str) -> str:
    """Return the attribute that counts what a person makes in a month, from a time as records hold it."""
    return f"made_{created_at[:4]}_{created_at[5:7]}"


def _item(tenant: Tenant) -> Item:
    return {
        "tenant_id": tenant.tenant_id,
        "name": tenant.name,
        "plan": tenant.plan,
        "status": tenant.status,
        "agents": tenant.agents,
        "channels": tenant.channels,
        "owners": tenant.owners,
        "overrides": _encode(tenant.overrides).decode(),
        "auto_create_channels": tenant.auto_create_channels,
        "revision": tenant.revision,
        "created_at": tenant.created_at,
        "updated_at": tenant.updated_at,
        "created_by": tenant.created_by,
        "self_service": tenant.self_service,
    }


def _tombstone(tenant: Tenant) -> Item:
    """Return what is left of a deleted tenant for ever; an older registry reads it as one being deleted."""
    emptied = Tenant(
        tenant_id=tenant.tenant_id,
        name="",
        plan=tenant.plan,
        status="deleting",
        owners=0,
        created_at=tenant.created_at,
        updated_at=tenant.updated_at,
        created_by="",
    )
    return _item(emptied) | {"deleted": True}


def _tenant(item: Item) -> Tenant:
    return Tenant(
        tenant_id=item["tenant_id"],
        name=item["name"],
        plan=item["plan"],
        status=item["status"],
        agents=item["agents"],
        channels=item["channels"],
        owners=item["owners"],
        overrides=msgspec.json.decode(item.get("overrides", "{}"), type=dict[str, int | None]),
        auto_create_channels=item["auto_create_channels"],
        revision=item["revision"],
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        created_by=item["created_by"],
        self_service=item["self_service"],
    )
