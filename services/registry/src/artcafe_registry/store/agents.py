"""Agents in DynamoDB: one item each, with keys and presence."""

from __future__ import annotations

import dataclasses

import msgspec

from artcafe_common.contracts.gateway import Presence
from artcafe_common.dynamo import ConditionFailed, Item
from artcafe_registry.domain.records import Agent, PublicKey
from artcafe_registry.store.access import NOT_DELETING, assignments, settle
from artcafe_registry.store.counted import CountedStore, attributes_of
from artcafe_registry.store.pending import PendingStore, Work
from artcafe_registry.store.tables import Tables
from artcafe_registry.store.tenants import TenantStore


class AgentStore(CountedStore[Agent]):
    """Reads and writes agents."""

    kind = "agent"
    update_kind = "agent_update"
    resource = "agents"

    def __init__(self, tables: Tables, tenants: TenantStore, pending: PendingStore) -> None:
        super().__init__(tables, tables.agents, _agent, tenants, pending)

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
        filters: list[str] = []
        values: Item = {}
        if status is not None:
            filters.append("#status = :status")
            values["status"] = status
        if capability is not None:
            filters.append("contains(#capabilities, :capability)")
            values["capability"] = capability
        return await self._read_page(tenant_id, limit, after, filters, values)

    async def set_keys(self, agent: Agent, keys: list[PublicKey], now: str, revoked: str = "") -> None:
        """Replace an agent's keys; holds only for the agent as it was read (`TransactionFailed` otherwise).

        `revoked` is the fingerprint that goes: its sessions must be closed (see `store.pending`).
        """
        update = self._table.update_op(
            self._key(agent.tenant_id, agent.agent_id),
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
            "connected_at": presence.connected_at,
            "reason": presence.reason,
            "presence_version": presence.version,
        }
        # Where it is not said, nobody knows more of one that is gone than was known before.
        last_seen = presence.last_seen or (presence.at if presence.status != "offline" else None)
        if last_seen is not None:
            attributes["last_seen"] = last_seen
        if presence.capabilities is not None:
            attributes["capabilities"] = presence.capabilities
        if presence.metadata is not None:
            attributes["metadata"] = presence.metadata
        attributes = attributes_of(attributes)

        async def attempt() -> bool:
            try:
                await self._table.update(
                    self._key(presence.tenant_id, presence.agent_id),
                    assignments(attributes),
                    attributes,
                    f"{self._there} AND (attribute_not_exists(#presence_version)"
                    " OR #presence_version < :presence_version)",
                    returns="NONE",
                )
            except ConditionFailed:
                return False
            return True

        return await settle(attempt)


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
        connected_at=item.get("connected_at"),
        reason=item.get("reason", ""),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        created_by=item["created_by"],
    )
