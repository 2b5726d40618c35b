"""Ways of reading and writing that the stores share: bounded retries, whole pages, rows of a partition."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from artcafe_common.dynamo import Dynamo, Item, Table, TransactionFailed
from artcafe_common.errors import ErrorCode, ServiceError, unavailable
from artcafe_registry import metrics

ATTEMPTS_MAX = 14
PAUSE_FIRST_SECONDS = 0.01
PAUSE_MAX_SECONDS = 0.5
# A page of a filtered list looks at this many rows at a time: most of them may be left out.
FILTERED_ROWS = 250

# What stands on a row whose removal has begun: it is there for nobody any more.
NOT_DELETING = "attribute_not_exists(#deleting)"

T = TypeVar("T")


async def settle(attempt: Callable[[], Awaitable[T]]) -> T:
    """Run an attempt again while other transactions are in its way.

    The attempt reads what it decides on, raises `ServiceError` for what is decided, and lets
    `TransactionFailed` through where something changed under it.

    Raises: ServiceError ``unavailable`` where it never got through.
    """
    for number in range(ATTEMPTS_MAX):
        try:
            return await attempt()
        except TransactionFailed:
            metrics.STORE_CONFLICTS.inc()
            # Random, so that those who met do not meet again.
            await asyncio.sleep(random.uniform(0, min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2**number)))
    raise unavailable("the store")


async def read_page(
    table: Table,
    condition: str,
    values: Mapping[str, Any],
    *,
    limit: int,
    after: Item | None,
    filters: list[str],
    selective: bool,
) -> tuple[list[Item], bool]:
    """Return up to `limit` rows of a partition that pass the filters, and whether there are more.

    `selective` says that the filters leave out much. `after` is the key of the last row seen.
    """
    found: list[Item] = []
    position = after
    while True:
        wanted = limit + 1 - len(found)
        part = await table.query(
            condition,
            values,
            limit=max(wanted, FILTERED_ROWS) if selective else wanted,
            position=position,
            filter=" AND ".join(filters) if filters else None,
            consistent=True,
        )
        found += part.items
        if len(found) > limit:
            return found[:limit], True
        if part.position is None:
            return found, False
        position = part.position


async def transact_if(dynamo: Dynamo, writes: list[Item]) -> bool:
    """Carry out all writes, or none where the first one's condition does not hold: then return False.

    Raises: ServiceError ``unavailable``.
    """

    async def attempt() -> bool:
        try:
            await dynamo.transact(writes)
        except TransactionFailed as error:
            if 0 in error.failed:
                return False
            raise
        return True

    return await settle(attempt)


async def all_rows(table: Table, condition: str, values: Mapping[str, Any]) -> list[Item]:
    """Return every row of a query, as it stands now."""
    rows: list[Item] = []
    position: Item | None = None
    while True:
        part = await table.query(condition, values, position=position, consistent=True)
        rows += part.items
        if part.position is None:
            return rows
        position = part.position


async def clear_tenant(table: Table, tenant_id: str) -> None:
    """Remove all of a tenant's rows from a table whose hash key is ``tenant_id``."""
    range_key = table.spec.range_key
    assert range_key is not None
    while True:
        part = await table.query("#tenant_id = :tenant", {"tenant": tenant_id}, consistent=True)
        await table.delete_many([{"tenant_id": tenant_id, range_key: item[range_key]} for item in part.items])
        if part.position is None:
            return


def assignments(changes: Mapping[str, Any]) -> str:
    """Return the ``SET`` expression that gives each attribute the value of its name."""
    return "SET " + ", ".join(f"#{name} = :{name}" for name in changes)


def already_exists(what: str) -> ServiceError:
    """Return an ``already_exists`` error about a kind of thing."""
    return ServiceError(ErrorCode.ALREADY_EXISTS, f"{what} exists already")
