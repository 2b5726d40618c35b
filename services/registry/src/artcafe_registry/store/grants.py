"""Agents' member rows in channels, in DynamoDB; each is written twice (see `store.tables`).

A change leaves work behind, kind ``grants``: gateways must be told, or they let the agent go on as before.
"""

from __future__ import annotations

from artcafe_common.contracts.registry import MemberRole
from artcafe_common.dynamo import Item, TransactionFailed
from artcafe_common.errors import not_found
from artcafe_registry.domain.records import GrantRow
from artcafe_registry.store.access import NOT_DELETING, all_rows, read_page, settle, transact_if
from artcafe_registry.store.pending import PendingStore, Work
from artcafe_registry.store.tables import Tables

_PREFIXED = "#tenant_id = :tenant AND begins_with(#channel_agent, :prefix)"


class GrantStore:
    """Reads and writes member rows."""

    def __init__(self, tables: Tables, pending: PendingStore) -> None:
        self._tables = tables
        self._pending = pending

    async def get(self, tenant_id: str, channel_id: str, agent_id: str) -> GrantRow | None:
        """Return an agent's row in a channel, or None."""
        item = await self._tables.grants.get(_key(tenant_id, channel_id, agent_id))
        return _grant(item) if item else None

    async def put(
        self,
        tenant_id: str,
        channel_id: str,
        agent_id: str,
        *,
        role: MemberRole,
        auto_subscribe: bool,
        now: str,
    ) -> tuple[GrantRow, Work]:
        """Make or replace a row; return it, and the work that this leaves.

        Raises: ServiceError ``not_found`` (agent or channel).
        """
        work = _untold(tenant_id, agent_id, now)
        expression = (
            "SET #channel_id = :channel, #agent_id = :agent, #role = :role, #auto_subscribe = :auto,"
            " #created_at = if_not_exists(#created_at, :now), #updated_at = :now"
        )
        values = {
            "channel": channel_id,
            "agent": agent_id,
            "role": role,
            "auto": auto_subscribe,
            "now": now,
        }
        writes = [
            self._tables.channels.check_op(
                {"tenant_id": tenant_id, "channel_id": channel_id},
                f"attribute_exists(#channel_id) AND {NOT_DELETING}",
            ),
            self._tables.agents.check_op(
                {"tenant_id": tenant_id, "agent_id": agent_id},
                f"attribute_exists(#agent_id) AND {NOT_DELETING}",
            ),
            self._tables.grants.update_op(_key(tenant_id, channel_id, agent_id), expression, values),
            self._tables.grants.update_op(_mirror_key(tenant_id, channel_id, agent_id), expression, values),
            self._pending.put_op(work),
        ]

        async def attempt() -> GrantRow:
            try:
                await self._tables.dynamo.transact(writes)
            except TransactionFailed as error:
                if error.failed:
                    raise not_found("channel" if 0 in error.failed else "agent") from None
                raise
            row = await self.get(tenant_id, channel_id, agent_id)
            if row is None:
                raise not_found("member")
            return row

        return await settle(attempt), work

    async def delete(self, tenant_id: str, channel_id: str, agent_id: str, now: str) -> Work | None:
        """Remove a row; return the work that this leaves, or None where there was no row."""
        work = _untold(tenant_id, agent_id, now)
        removed = await transact_if(
            self._tables.dynamo,
            [
                self._tables.grants.delete_op(
                    _key(tenant_id, channel_id, agent_id), "attribute_exists(#channel_agent)"
                ),
                self._tables.grants.delete_op(_mirror_key(tenant_id, channel_id, agent_id)),
                self._pending.put_op(work),
            ],
        )
        return work if removed else None

    async def list_page(
        self, tenant_id: str, channel_id: str, limit: int, after: str | None
    ) -> tuple[list[GrantRow], bool]:
        """Return one page of a channel's rows after an agent id, and whether there are more."""
        items, more = await read_page(
            self._tables.grants,
            _PREFIXED,
            {"tenant": tenant_id, "prefix": f"{channel_id}#"},
            limit=limit,
            after=_key(tenant_id, channel_id, after) if after is not None else None,
            filters=[],
            selective=False,
        )
        return [_grant(item) for item in items], more

    async def of_agent(self, tenant_id: str, agent_id: str) -> list[GrantRow]:
        """Return every row of an agent."""
        return await self._rows(tenant_id, f"@{agent_id}#")

    async def remove_agent(self, tenant_id: str, agent_id: str) -> None:
        """Remove every row of an agent."""
        rows = await self._rows(tenant_id, f"@{agent_id}#")
        # The side by which they were found goes last: what is left by a removal cut short is found again.
        await self._tables.grants.delete_many([_key(*_ids(row)) for row in rows])
        await self._tables.grants.delete_many([_mirror_key(*_ids(row)) for row in rows])

    async def remove_channel(self, tenant_id: str, channel_id: str) -> list[str]:
        """Remove every row of a channel; return whose they were."""
        rows = await self._rows(tenant_id, f"{channel_id}#")
        await self._tables.grants.delete_many([_mirror_key(*_ids(row)) for row in rows])
        await self._tables.grants.delete_many([_key(*_ids(row)) for row in rows])
        return [row.agent_id for row in rows]

    async def _rows(self, tenant_id: str, prefix: str) -> list[GrantRow]:
        values = {"tenant": tenant_id, "prefix": prefix}
        return [_grant(item) for item in await all_rows(self._tables.grants, _PREFIXED, values)]


def _key(tenant_id: str, channel_id: str, agent_id: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "channel_agent": f"{channel_id}#{agent_id}"}


def _mirror_key(tenant_id: str, channel_id: str, agent_id: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "channel_agent": f"@{agent_id}#{channel_id}"}


def _untold(tenant_id: str, agent_id: str, now: str) -> Work:
    return Work(kind="grants", tenant_id=tenant_id, id=agent_id, started_at=now)


def _ids(row: GrantRow) -> tuple[str, str, str]:
    return row.tenant_id, row.channel_id, row.agent_id


def _grant(item: Item) -> GrantRow:
    return GrantRow(
        tenant_id=item["tenant_id"],
        channel_id=item["channel_id"],
        agent_id=item["agent_id"],
        role=item["role"],
        auto_subscribe=item["auto_subscribe"],
        created_at=item["created_at"],
        updated_at=item["updated_at"],
    )
