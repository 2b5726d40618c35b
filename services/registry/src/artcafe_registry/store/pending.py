"""Work that was begun and must be finished, whatever becomes of the process that began it.

A row is written in the transaction that begins the work (an agent is marked as being deleted, a key is taken
away, a tenant is suspended, a channel changes) and removed when everything that follows has been done: rows
cleaned up, sessions closed, gateways told. What is found here later was left by a process that died, and is
done again from the start; every step may be done twice.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

from artcafe_common.dynamo import ConditionFailed, Item, marshal, unmarshal
from artcafe_registry.store.tables import Tables

# The first three are deletions; `suspension` is what earlier versions wrote of some tenants' updates.
WorkKind = Literal[
    "agent",
    "channel",
    "tenant",
    "key",
    "grants",
    "agent_update",
    "channel_update",
    "tenant_update",
    "suspension",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of work.

    `id` is the agent's or channel's; `fingerprint` the key's that was taken away. `grants` is of an agent.
    """

    kind: WorkKind
    tenant_id: str
    id: str = ""
    fingerprint: str = ""
    started_at: str

    @property
    def work_id(self) -> str:
        """The row's key: the same work begun twice is one row."""
        return "#".join((self.kind, self.tenant_id, self.id, self.fingerprint))


class PendingStore:
    """Reads and writes pending work."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def put_op(self, work: Work) -> Item:
        """Return the write that notes a piece of work, for the transaction that begins it."""
        return self._tables.pending.put_op(
            {
                "work_id": work.work_id,
                "kind": work.kind,
                "tenant_id": work.tenant_id,
                "id": work.id,
                "fingerprint": work.fingerprint,
                "started_at": work.started_at,
            }
        )

    async def done(self, work: Work) -> None:
        """Forget a piece of work that is finished, unless it was begun again meanwhile."""
        with contextlib.suppress(ConditionFailed):
            await self._tables.pending.delete(
                {"work_id": work.work_id},
                "attribute_not_exists(#work_id) OR #started_at = :started",
                {"started": work.started_at},
            )

    async def all(self) -> list[Work]:
        """Return all there is: normally nothing, so the table is read as a whole."""
        found: list[Work] = []
        arguments: Item = {"TableName": self._tables.pending.name, "ConsistentRead": True}
        while True:
            reply = await self._tables.dynamo.call("scan", **arguments)
            for raw in reply.get("Items", []):
                item = unmarshal(raw)
                del item["work_id"]
                found.append(Work(**item))
            if not reply.get("LastEvaluatedKey"):
                return found
            arguments["ExclusiveStartKey"] = marshal(unmarshal(reply["LastEvaluatedKey"]))
