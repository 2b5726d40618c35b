"""Connection records in DynamoDB, table ``websocket-connections``.

=====================  ==============  =====================================================================
``pk``                 ``sk``          what it holds
=====================  ==============  =====================================================================
``agent#{T}#{A}``      ``connection``  the newest connection of an agent: ``generation`` (milliseconds of its
                                       start, always growing), ``connection_id``, ``server`` (the process that
                                       holds it; missing once it has ended), ``counted``, ``connected_at``
``tenant#{T}``         ``open``        ``count`` of connections, kept where the plan limits them
``servers``            process id      the lease of a gateway process: ``renewed_at`` (epoch seconds)
``dashboard#{T}``      connection id   a dashboard's connection, with its ``server``
=====================  ==============  =====================================================================

The index ``by-server`` finds what a process held. A connection lives as long as its process renews the lease,
so a heartbeat never writes here. The newest connection wins by a conditional write on ``generation``; whoever
ends one names its ``connection_id``, so that the late end of an older connection changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from artcafe_common.clock import Clock
from artcafe_common.dynamo import ConditionFailed, Dynamo, Index, Item, TableSpec, TransactionFailed
from artcafe_common.errors import ServiceError, quota_error, unavailable

CONNECTIONS = TableSpec(
    "websocket-connections", "pk", "sk", (Index("by-server", "server"),), ttl="expires_at", recovery=False
)

ATTEMPTS_MAX = 12
ENDED_KEPT_SECONDS = 24 * 3600
_OPEN = "open"
_CONNECTION = "connection"
_SERVERS = "servers"


@dataclass(frozen=True, slots=True)
class Acquired:
    """An agent's connection was recorded; `replaced` is the one before it, where that was still open."""

    generation: int
    counted: bool
    replaced: Holder | None


@dataclass(frozen=True, slots=True)
class Holder:
    """The process and the connection that held an agent."""

    server: str
    connection_id: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """A connection of a process that is gone."""

    tenant_id: str
    agent_id: str
    connection_id: str
    generation: int
    counted: bool


class ConnectionStore:
    """The records of all gateways; this process is `server`."""

    def __init__(self, dynamo: Dynamo, server: str, clock: Clock) -> None:
        self._dynamo = dynamo
        self._table = dynamo.table(CONNECTIONS)
        self._server = server
        self._clock = clock

    async def acquire(
        self, tenant_id: str, agent_id: str, connection_id: str, limit: int | None, plan: str
    ) -> Acquired:
        """Record the newest connection of an agent.

        Raises: ServiceError ``resource_exhausted`` with a quota where the plan has no connection left,
        ``unavailable``.
        """
        for attempt in range(ATTEMPTS_MAX):
            now = self._clock.now()
            old = await self._table.get(_agent_key(tenant_id, agent_id))
            generation = max(int(now * 1000), old["generation"] + 1 if old else 0)
            open_before = old is not None and "server" in old
            counted_before = open_before and old is not None and bool(old["counted"])
            counted = counted_before or limit is not None
            item: Item = {
                **_agent_key(tenant_id, agent_id),
                "tenant_id": tenant_id,
                "agent_id": agent_id,
                "generation": generation,
                "connection_id": connection_id,
                "server": self._server,
                "counted": counted,
                "connected_at": now,
            }
            condition, values = _unchanged(old)
            try:
                if counted and not counted_before:
                    await self._acquire_counted(item, condition, values, tenant_id, limit, plan)
                else:
                    await self._table.put(item, condition, values)
            except ConditionFailed as error:
                if error.item is None or error.item["connection_id"] != connection_id:
                    await _pause(attempt)
                    continue
                # The answer was lost on the way, and what stands there is what this call wrote.
            except TransactionFailed as error:
                # Where the record changed as well, its agent may be counted by now: look again.
                if error.failed == [1]:
                    raise await self._over_limit(tenant_id, limit, plan) from None
                await _pause(attempt)
                continue
            replaced = Holder(old["server"], old["connection_id"]) if open_before and old else None
            return Acquired(generation, counted, replaced)
        raise unavailable("the connection store")

    async def release(self, tenant_id: str, agent_id: str, connection_id: str, counted: bool) -> bool:
        """Record that a connection has ended; False where a newer one had taken its place."""
        key = _agent_key(tenant_id, agent_id)
        values = {"mine": connection_id, "expires": int(self._clock.now()) + ENDED_KEPT_SECONDS}
        expression = "SET #expires_at = :expires REMOVE #server"
        condition = "#connection_id = :mine AND attribute_exists(#server)"
        for attempt in range(ATTEMPTS_MAX):
            try:
                if not counted:
                    await self._table.update(key, expression, values, condition, returns="NONE")
                else:
                    await self._dynamo.transact(
                        [
                            self._table.update_op(key, expression, values, condition),
                            self._table.update_op(
                                _tenant_key(tenant_id),
                                "ADD #count :less",
                                {"less": -1, "zero": 0},
                                "#count > :zero",
                            ),
                        ]
                    )
            except ConditionFailed as error:
                # What was sent again because the answer was lost finds done what it did.
                left = error.item or {}
                return error.repeated and left.get("connection_id") == connection_id
            except TransactionFailed as error:
                if 0 in error.failed:
                    return False
                # The record must go even where the counter has been lost.
                counted = not error.failed
                await _pause(attempt)
                continue
            return True
        raise unavailable("the connection store")

    async def holder(self, tenant_id: str, agent_id: str) -> Holder | None:
        """Return who holds an agent now, None where nobody does."""
        item = await self._table.get(_agent_key(tenant_id, agent_id))
        return Holder(item["server"], item["connection_id"]) if item and "server" in item else None

    async def open_connections(self, tenant_id: str) -> int:
        """Return how many connections a tenant has open, where its plan limits them."""
        counter = await self._table.get(_tenant_key(tenant_id))
        return int(counter["count"]) if counter else 0

    async def forget_agent(self, tenant_id: str, agent_id: str) -> None:
        """Remove the record of an agent that was deleted, once no connection holds it."""
        try:
            await self._table.delete(_agent_key(tenant_id, agent_id), "attribute_not_exists(#server)")
        except ConditionFailed:
            return

    async def put_dashboard(self, tenant_id: str, connection_id: str, user_id: str) -> None:
        """Record a dashboard's connection."""
        await self._table.put(
            {
                "pk": f"dashboard#{tenant_id}",
                "sk": connection_id,
                "tenant_id": tenant_id,
                "user_id": user_id,
                "server": self._server,
                "connected_at": self._clock.now(),
            }
        )

    async def delete_dashboard(self, tenant_id: str, connection_id: str) -> None:
        """Remove a dashboard's connection."""
        await self._table.delete({"pk": f"dashboard#{tenant_id}", "sk": connection_id})

    async def renew_lease(self) -> None:
        """Say that this process lives."""
        await self._table.put({"pk": _SERVERS, "sk": self._server, "renewed_at": self._clock.now()})

    async def drop_lease(self, server: str) -> None:
        """Remove the lease of a process that has left nothing behind."""
        await self._table.delete({"pk": _SERVERS, "sk": server})

    async def leases(self) -> dict[str, float]:
        """Return when each process last renewed its lease (epoch seconds)."""
        return {
            item["sk"]: item["renewed_at"]
            async for item in self._table.query_all("#pk = :servers", {"servers": _SERVERS})
        }

    async def orphans_of(self, server: str) -> AsyncIterator[Orphan]:
        """Yield the agents' connections that a process held; its dashboards' records are removed."""
        async for item in self._table.query_all("#server = :server", {"server": server}, index="by-server"):
            if item["pk"].startswith("dashboard#"):
                await self._table.delete({"pk": item["pk"], "sk": item["sk"]})
                continue
            yield Orphan(
                item["tenant_id"],
                item["agent_id"],
                item["connection_id"],
                item["generation"],
                item["counted"],
            )

    async def _acquire_counted(
        self,
        item: Item,
        condition: str,
        values: Item,
        tenant_id: str,
        limit: int | None,
        plan: str,
    ) -> None:
        if limit == 0:
            raise await self._over_limit(tenant_id, limit, plan)
        await self._dynamo.transact(
            [
                self._table.put_op(item, condition, values),
                self._table.update_op(
                    _tenant_key(tenant_id),
                    "ADD #count :one",
                    {"one": 1, "limit": limit},
                    "attribute_not_exists(#count) OR #count < :limit",
                ),
            ]
        )

    async def _over_limit(self, tenant_id: str, limit: int | None, plan: str) -> ServiceError:
        return quota_error("connections", await self.open_connections(tenant_id), limit or 0, plan)


def _agent_key(tenant_id: str, agent_id: str) -> dict[str, str]:
    return {"pk": f"agent#{tenant_id}#{agent_id}", "sk": _CONNECTION}


def _tenant_key(tenant_id: str) -> dict[str, str]:
    return {"pk": f"tenant#{tenant_id}", "sk": _OPEN}


def _unchanged(old: Item | None) -> tuple[str, Item]:
    if old is None:
        return "attribute_not_exists(#pk)", {}
    condition = "#generation = :generation AND attribute_exists(#server)"
    if "server" not in old:
        condition = "#generation = :generation AND attribute_not_exists(#server)"
    return condition, {"generation": old["generation"]}


async def _pause(attempt: int) -> None:
    # Two connections of one agent, or many of one tenant, at the same moment.
    await asyncio.sleep(random.uniform(0.002, 0.01 * 2 ** min(attempt, 5)))
