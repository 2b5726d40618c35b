"""DynamoDB over aioboto3: items and expressions, and errors as the platform's own.

Items are plain dicts. Numbers come back as `int` where they are whole, else `float`; sets and bytes stay what
they are. In an expression every ``#name`` stands for the attribute ``name`` (so that reserved words cannot
matter) and every ``:name`` for a value given by that name.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from artcafe_common import metrics
from artcafe_common.dynamo_items import Item, expressions_of, marshal, unmarshal
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.log import Repeats
from artcafe_common.tables import NOT_FOUND, Care, Index, Tables, TableSpec, log_change

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 5
ATTEMPTS_MAX = 3
# All attempts of one call together: who waits for an answer has gone by then.
CALL_TIMEOUT_SECONDS = 8.0
POOL_CONNECTIONS = 50
BATCH_WRITE_MAX = 25
BATCH_REFUSALS_MAX = 10
# Between two times that missing tables are made: AWS may not know a new one everywhere at once.
MEND_AGAIN_SECONDS = 1.0
NO_CARE = Care()

Key = Mapping[str, str]


class ConditionFailed(Exception):
    """A conditional write was not carried out; `item` is what stood there, where it was asked for.

    `repeated` says that it was sent more than once: the answer of an earlier attempt may have been lost, and
    what the last one failed on may be what that one did.
    """

    def __init__(self, item: Item | None = None, *, repeated: bool = False) -> None:
        super().__init__("condition failed")
        self.item = item
        self.repeated = repeated


class TransactionFailed(Exception):
    """A transaction was not carried out; `failed` has the positions of the writes whose condition failed.

    It is empty where another transaction was in the way: try again.
    """

    def __init__(self, failed: list[int]) -> None:
        super().__init__("transaction failed", failed)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a query; `position` is where the next one starts, or None at the end."""

    items: list[Item]
    position: Item | None


class Dynamo:
    """One client for the whole process; open it with `Dynamo.connect`."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self._repeats = Repeats()
        self._missing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connect(cls, *, region: str, endpoint_url: str | None, prefix: str) -> AsyncIterator[Dynamo]:
        """Open the client; AWS's libraries find the credentials, in the environment or by the role."""
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
            max_pool_connections=POOL_CONNECTIONS,
        )
        session = aioboto3.Session()
        async with session.client(
            "dynamodb", region_name=region, endpoint_url=endpoint_url, config=config
        ) as client:
            yield cls(client, prefix)

    def table(self, spec: TableSpec) -> Table:
        """Return a table's handle."""
        return Table(self, spec)

    async def transact(self, writes: list[Item]) -> None:
        """Carry out all writes or none; make them with `Table.put_op`, `update_op`, `delete_op`, `check_op`.

        Raises: TransactionFailed, ServiceError ``unavailable``.
        """
        await self.call("transact_write_items", TransactItems=writes)

    async def call(self, operation: str, **arguments: Any) -> Any:
        """Call one operation of the client with the platform's errors."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await getattr(self.client, operation)(**arguments)
        except ClientError as error:
            raise self._translated(operation, error) from error
        except ParamValidationError:
            # A bug of ours: trying again would not help.
            raise
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise self._unavailable(operation, type(error).__name__) from error

    def _translated(self, operation: str, error: ClientError) -> Exception:
        code = error.response["Error"]["Code"]
        # The stubs know only what every error holds.
        response: Item = dict(error.response)
        if code == "ConditionalCheckFailedException":
            item = unmarshal(response["Item"]) if response.get("Item") else None
            attempts = response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
            return ConditionFailed(item, repeated=attempts > 0)
        if code == "TransactionConflictException":
            return TransactionFailed([])
        if code == "TransactionCanceledException":
            reasons = [reason.get("Code", "None") for reason in response.get("CancellationReasons", [])]
            if set(reasons) <= {"None", "ConditionalCheckFailed", "TransactionConflict"}:
                return TransactionFailed(
                    [n for n, reason in enumerate(reasons) if reason == "ConditionalCheckFailed"]
                )
            code = next(reason for reason in reasons if reason not in ("None", "ConditionalCheckFailed"))
        if code == NOT_FOUND:
            self._missing.set()
        if code in _BUGS:
            metrics.STORE_ERRORS.labels(code).inc()
            return error
        return self._unavailable(operation, code)

    def _unavailable(self, operation: str, kind: str) -> ServiceError:
        metrics.STORE_ERRORS.labels(kind).inc()
        held_back = self._repeats.due(f"{operation} {kind}")
        if held_back is not None:
            details = {"operation": operation, "error": kind, "held_back": held_back}
            logger.warning("store_unavailable", extra=details)
        return unavailable("the store")

    async def ping(self, spec: TableSpec) -> None:
        """Raise unless a table of ours can be read: for readiness."""
        await self.call("describe_table", TableName=self.prefix + spec.name)

    async def create_tables(self, specs: Iterable[TableSpec], care: Care = NO_CARE) -> None:
        """Make what is missing of these tables; several processes may do so at once.

        What of them cannot be made right is logged. Raises: ClientError, TimeoutError.
        """
        for difference in await Tables(self.client, self.prefix, care, log_change).ensure(specs):
            logger.warning("table_differs", extra={"table": difference.table, "detail": difference.text})

    async def mend(self, make: Callable[[], Awaitable[object]]) -> None:
        """Call `make` whenever a table has turned out to be missing; runs until it is cancelled.

        For those who make their tables themselves: an emulator that was killed may have forgotten them. What
        was missing before this began does not count.
        """
        self._missing.clear()
        while True:
            await self._missing.wait()
            self._missing.clear()
            logger.warning("tables_missing")
            await make()
            await asyncio.sleep(MEND_AGAIN_SECONDS)


class Table:
    """One table: items in, items out, conditions as expressions."""

    def __init__(self, dynamo: Dynamo, spec: TableSpec) -> None:
        self._dynamo = dynamo
        self.spec = spec
        self.name = dynamo.prefix + spec.name

    async def count(self) -> int:
        """Return about how many items there are: DynamoDB counts them every few hours."""
        reply = await self._dynamo.call("describe_table", TableName=self.name)
        return int(reply["Table"].get("ItemCount", 0))

    async def get(self, key: Key, *, consistent: bool = True) -> Item | None:
        """Return an item, or None where there is none."""
        reply = await self._dynamo.call(
            "get_item", TableName=self.name, Key=marshal(key), ConsistentRead=consistent
        )
        return unmarshal(reply["Item"]) if "Item" in reply else None

    async def put(
        self, item: Item, condition: str | None = None, values: Mapping[str, Any] | None = None
    ) -> None:
        """Write a whole item. Raises: ConditionFailed with what stood there."""
        await self._dynamo.call(
            "put_item", **self._put(item, condition, values), ReturnValuesOnConditionCheckFailure="ALL_OLD"
        )

    async def update(
        self,
        key: Key,
        expression: str,
        values: Mapping[str, Any] | None = None,
        condition: str | None = None,
        returns: str = "ALL_NEW",
    ) -> Item:
        """Change an item and return it as `returns` says (``ALL_NEW``, ``ALL_OLD``, ``NONE``).

        Raises: ConditionFailed with what stood there.
        """
        reply = await self._dynamo.call(
            "update_item",
            **self._update(key, expression, values, condition),
            ReturnValues=returns,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        return unmarshal(reply.get("Attributes", {}))

    async def delete(
        self, key: Key, condition: str | None = None, values: Mapping[str, Any] | None = None
    ) -> Item | None:
        """Remove an item and return what it was, or None. Raises: ConditionFailed."""
        reply = await self._dynamo.call(
            "delete_item", **self._delete(key, condition, values), ReturnValues="ALL_OLD"
        )
        return unmarshal(reply["Attributes"]) if reply.get("Attributes") else None

    async def query(
        self,
        condition: str,
        values: Mapping[str, Any],
        *,
        index: str | None = None,
        limit: int | None = None,
        position: Item | None = None,
        filter: str | None = None,
        forward: bool = True,
        consistent: bool = False,
        count_only: bool = False,
    ) -> Page:
        """Return one page of a query by key; a page may be short, or empty, without being the last."""
        arguments: Item = {
            "TableName": self.name,
            "KeyConditionExpression": condition,
            "ScanIndexForward": forward,
            **expressions_of([condition, filter], values),
        }
        if index is not None:
            arguments["IndexName"] = index
        elif consistent:
            arguments["ConsistentRead"] = True
        if limit is not None:
            arguments["Limit"] = limit
        if position is not None:
            arguments["ExclusiveStartKey"] = marshal(position)
        if filter is not None:
            arguments["FilterExpression"] = filter
        if count_only:
            arguments["Select"] = "COUNT"
        reply = await self._dynamo.call("query", **arguments)
        items = [unmarshal(item) for item in reply.get("Items", [])]
        last = reply.get("LastEvaluatedKey")
        return Page(items, unmarshal(last) if last else None)

    async def query_all(
        self,
        condition: str,
        values: Mapping[str, Any],
        *,
        index: str | None = None,
        filter: str | None = None,
    ) -> AsyncIterator[Item]:
        """Yield every item of a query, page after page to the end."""
        position: Item | None = None
        while True:
            page = await self.query(condition, values, index=index, filter=filter, position=position)
            for item in page.items:
                yield item
            if page.position is None:
                return
            position = page.position

    async def delete_many(self, keys: Iterable[Key]) -> None:
        """Remove many items, as fast as the table takes them."""
        await self._write_many([{"DeleteRequest": {"Key": marshal(key)}} for key in keys])

    async def put_many(self, items: Iterable[Item]) -> None:
        """Write many whole items, as fast as the table takes them."""
        await self._write_many([{"PutRequest": {"Item": marshal(item)}} for item in items])

    def put_op(
        self, item: Item, condition: str | None = None, values: Mapping[str, Any] | None = None
    ) -> Item:
        """Return a put for `Dynamo.transact`."""
        return {"Put": self._put(item, condition, values)}

    def update_op(
        self,
        key: Key,
        expression: str,
        values: Mapping[str, Any] | None = None,
        condition: str | None = None,
    ) -> Item:
        """Return an update for `Dynamo.transact`."""
        return {"Update": self._update(key, expression, values, condition)}

    def delete_op(
        self, key: Key, condition: str | None = None, values: Mapping[str, Any] | None = None
    ) -> Item:
        """Return a delete for `Dynamo.transact`."""
        return {"Delete": self._delete(key, condition, values)}

    def check_op(self, key: Key, condition: str, values: Mapping[str, Any] | None = None) -> Item:
        """Return a condition on an item that `Dynamo.transact` does not change."""
        arguments = {"TableName": self.name, "Key": marshal(key), "ConditionExpression": condition}
        return {"ConditionCheck": arguments | expressions_of([condition], values)}

    def _put(self, item: Item, condition: str | None, values: Mapping[str, Any] | None) -> Item:
        arguments: Item = {"TableName": self.name, "Item": marshal(item)}
        return arguments | _condition(condition) | expressions_of([condition], values)

    def _update(
        self, key: Key, expression: str, values: Mapping[str, Any] | None, condition: str | None
    ) -> Item:
        arguments: Item = {"TableName": self.name, "Key": marshal(key), "UpdateExpression": expression}
        return arguments | _condition(condition) | expressions_of([expression, condition], values)

    def _delete(self, key: Key, condition: str | None, values: Mapping[str, Any] | None) -> Item:
        arguments: Item = {"TableName": self.name, "Key": marshal(key)}
        return arguments | _condition(condition) | expressions_of([condition], values)

    async def _write_many(self, requests: list[Item]) -> None:
        waiting = deque(requests)
        refusals = 0
        while waiting:
            batch = [waiting.popleft() for _ in range(min(BATCH_WRITE_MAX, len(waiting)))]
            reply = await self._dynamo.call("batch_write_item", RequestItems={self.name: batch})
            # A table at its limit hands back what it did not take.
            rest = reply.get("UnprocessedItems", {}).get(self.name, [])
            if not rest:
                refusals = 0
                continue
            waiting.extendleft(reversed(rest))
            refusals = refusals + 1 if len(rest) == len(batch) else 0
            if refusals > BATCH_REFUSALS_MAX:
                raise unavailable("the store")
            await asyncio.sleep(min(1.0, 0.05 * 2**refusals))


_BUGS = frozenset(
    {
        *("ValidationException", "ValidationError", "AccessDeniedException", "SerializationException"),
        *("DuplicateItem", "IdempotentParameterMismatchException"),
    }
)


def _condition(condition: str | None) -> Item:
    return {} if condition is None else {"ConditionExpression": condition}


__all__ = [
    "Care",
    "ConditionFailed",
    "Dynamo",
    "Index",
    "Item",
    "Page",
    "ServiceError",
    "Table",
    "TableSpec",
    "TransactionFailed",
    "marshal",
    "unmarshal",
]
