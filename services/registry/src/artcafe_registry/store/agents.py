"""Agents in DynamoDB: one item each, with keys and presence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from artcafe_common.contracts.gateway import Presence
from artcafe_common.dynamo import ConditionFailed, Item, TransactionFailed
from artcafe_common.errors import not_found
from artcafe_registry.domain.records import Agent, PublicKey
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

_THERE = f"attribute_exists(#agent_id) AND {NOT_DELETING}"


class AgentStore:
    """Reads and writes agents."""

    def __init__(self, tables: Tables, tenants: TenantStore, pending: PendingStore) -> None:
        self._tables = tables
        self._tenants = tenants
        self._pending = pending

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        """Return an agent, or None."""
        item = await self._tables.agents.get(_key(tenant_id, agent_id))
        return _agent(item) if item and not item.get("deleting") else None

    async def list_page(
        self,
        tenant_id: str,
        limit: int,
        after: str | None,
        *,
        status: str | None = None,
        capability: str | None = None,
    ) -> tuple[list[Agent], bool]:
        """Return one page of a tenant's agents after an agent id, and whether there are more."""
        filters = [NOT_DELETING]
        values: Item = {"tenant": tenant_id}
        if status is not None:
            filters.append("#status = :status")
            values["status"] = status
        if capability is not None:
            filters.append("contains(#capabilities, :capability)")
            values["capability"] = capability
        items, more = await read_page(
            self._tables.agents,
            "#tenant_id = :tenant",
            values,
            limit=limit,
            after=_key(tenant_id, after) if after is not None else None,
            filters=filters,
            selective=len(filters) > 1,
        )
        return [_agent(item) for item in items], more

    async def create(self, agent: Agent) -> None:
        """Write a new agent and count it.

        Raises: ServiceError ``already_exists``; with a quota where the plan has no room; ``not_found``
        (the tenant).
        """
        put = self._tables.agents.put_op(_item(agent), "attribute_not_exists(#agent_id)")

        async def attempt() -> None:
            tenant = await self._tenants.require_active(agent.tenant_id)
            try:
                await self._tables.dynamo.transact([put, self._tenants.room_op(tenant, "agents")])
            except TransactionFailed as error:
                if 0 in error.failed:
                    raise await self._taken(agent) from None
                raise

        await settle(attempt)

    async def update(self, tenant_id: str, agent_id: str, changes: Mapping[str, Any], now: str) -> Agent:
        """Change the given fields and return the agent. Raises: ServiceError ``not_found``."""
        attributes = _attributes(changes) | {"updated_at": now}

        async def attempt() -> Agent:
            try:
                item = await self._tables.agents.update(
                    _key(tenant_id, agent_id), assignments(attributes), attributes, _THERE
                )
            except ConditionFailed:
                raise not_found("agent") from None
            return _agent(item)

        return await settle(attempt)

    async def set_keys(self, agent: Agent, keys: list[PublicKey], now: str, revoked: str = "") -> None:
        """Replace an agent's keys; holds only for the agent as it was read (`TransactionFailed` otherwise).

        `revoked` is the fingerprint that goes: its sessions must be closed (see `store.pending`).
        """
        update = self._tables.agents.update_op(
            _key(agent.tenant_id, agent.agent_id),
            "SET #keys = :keys, #updated_at = :now ADD #keys_revision :one",
            {
                "keys": [dataclasses.asdict(key) for key in keys],
                "now": now,
                "one": 1,
                "seen": agent.keys_revision,
            },
            f"#keys_revision = :seen AND {NOT_DELETING}",
        )
        writes = [update]
        if revoked:
            work = Work(
                kind="key",
                tenant_id=agent.tenant_id,
                id=agent.agent_id,
                fingerprint=revoked,
                started_at=now,
            )
            writes.append(self._pending.put_op(work))
        await self._tables.dynamo.transact(writes)

    async def set_presence(self, presence: Presence) -> bool:
        """Note what a gateway said unless something newer is known; False where nothing was changed."""
        attributes: Item = {
            "status": presence.status,
            "last_seen": presence.at,
            "presence_version": presence.version,
        }
        if presence.capabilities is not None:
            attributes["capabilities"] = presence.capabilities
        if presence.metadata is not None:
            attributes["metadata"] = presence.metadata
        attributes = _attributes(attributes)

        async def attempt() -> bool:
            try:
                await self._tables.agents.update(
                    _key(presence.tenant_id, presence.agent_id),
                    assignments(attributes),
                    attributes,
                    f"{_THERE} AND (attribute_not_exists(#presence_version)"
                    " OR #presence_version < :presence_version)",
                    returns="NONE",
                )
            except ConditionFailed:
                return False
            return True

        return await settle(attempt)

    async def mark_deleting(self, tenant_id: str, agent_id: str, now: str) -> bool:
        """Begin an agent's deletion: it is there for nobody any more. False where there is none."""
        work = Work(kind="agent", tenant_id=tenant_id, id=agent_id, started_at=now)
        mark = self._tables.agents.update_op(
            _key(tenant_id, agent_id),
            "SET #deleting = :yes",
            {"yes": True},
            "attribute_exists(#agent_id)",
        )

        return await transact_if(self._tables.dynamo, [mark, self._pending.put_op(work)])

    async def is_deleting(self, tenant_id: str, agent_id: str) -> bool:
        """Tell whether a deletion was begun and not finished."""
        item = await self._tables.agents.get(_key(tenant_id, agent_id))
        return bool(item and item.get("deleting"))

    async def finish_delete(self, tenant_id: str, agent_id: str) -> None:
        """End a deletion: the item goes and is counted off."""
        delete = self._tables.agents.delete_op(
            _key(tenant_id, agent_id), "attribute_exists(#agent_id) AND #deleting = :yes", {"yes": True}
        )

        # Where the condition does not hold somebody else has finished it.
        await transact_if(self._tables.dynamo, [delete, self._tenants.release_op(tenant_id, "agents")])

    async def _taken(self, agent: Agent) -> Exception:
        item = await self._tables.agents.get(_key(agent.tenant_id, agent.agent_id))
        deleting = item is None or item.get("deleting")
        return being_deleted("an agent") if deleting else already_exists("an agent of this id")


def _key(tenant_id: str, agent_id: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "agent_id": agent_id}


def _attributes(changes: Mapping[str, Any]) -> Item:
    attributes = dict(changes)
    if "metadata" in attributes:
        attributes["metadata"] = msgspec.json.encode(attributes["metadata"]).decode()
    return attributes


def _item(agent: Agent) -> Item:
    # Not `asdict`: it would copy the metadata, level by level, for nothing.
    item = {field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)}
    item["keys"] = [dataclasses.asdict(key) for key in agent.keys]
    return _attributes(item)


def _agent(item: Item) -> Agent:
    return Agent(
        tenant_id=item["tenant_id"],
        agent_id=item["agent_id"],
        name=item["name"],
        type=item["type"],
        description=item["description"],
        capabilities=item["capabilities"],
        metadata=msgspec.json.decode(item["metadata"]),
        keys=[PublicKey(**key) for key in item["keys"]],
        keys_revision=item["keys_revision"],
        status=item["status"],
        last_seen=item.get("last_seen"),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        created_by=item["created_by"],
    )
