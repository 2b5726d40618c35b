"""Tables of DynamoDB: what a service declares of them, how they differ from it, and what is done about that.

`differences` compares what was declared with what was found and does nothing. `Tables` looks and mends: it
makes what is missing (a table, an index, expiry, recovery, protection, tags) and never takes away or changes
what is there, because that may lose rows or stop a service that runs. What it leaves is for a person, who is
told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from botocore.exceptions import ClientError

from artcafe_common.config import SharedConfig

logger = logging.getLogger(__name__)

# AWS needs some ten seconds for a table; for an index as long as it takes to read all rows.
TABLE_WAIT_SECONDS = 180.0
INDEX_WAIT_SECONDS = 12 * 3600.0
LOOK_AGAIN_SECONDS = 0.2
LOOK_AGAIN_MAX_SECONDS = 5.0
TELL_SECONDS = 30.0
TABLES_AT_ONCE = 4
# A round mends what a look has found; all of them, with the pauses, take AWS's patience of about a minute.
ROUNDS_MAX = 14

_PER_REQUEST = "PAY_PER_REQUEST"
NOT_FOUND = "ResourceNotFoundException"
# Somebody else is changing the table, or AWS wants fewer changes at once: the same later is fine.
_LATER = frozenset(
    {
        *("ResourceInUseException", "TableAlreadyExistsException", "LimitExceededException"),
        *("ContinuousBackupsUnavailableException", "ThrottlingException", "InternalServerError"),
    }
)
_BUSY = frozenset({"CREATING", "UPDATING"})
# Somebody else was first, seen only in the text of AWS's answer.
_REFUSED = "ValidationException"

Say = Callable[[str, str], None]
Kind = Literal[
    "missing", "index", "ttl", "recovery", "protection", "tags",  # what can be mended
    "status", "keys", "index-keys", "index-unknown", "ttl-attribute", "ttl-unknown", "billing",
]  # fmt: skip
MENDABLE: frozenset[Kind] = frozenset({"missing", "index", "ttl", "recovery", "protection", "tags"})


@dataclass(frozen=True, slots=True)
class Index:
    """A global secondary index; its keys are strings (``S``) or numbers (``N``)."""

    name: str
    hash_key: str
    range_key: str | None = None
    range_type: str = "S"


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table without its prefix: string keys, indexes, and the attribute of its time to live.

    `recovery` is off where rows are of no use after minutes: nobody would bring them back.
    """

    name: str
    hash_key: str
    range_key: str | None = None
    indexes: tuple[Index, ...] = ()
    ttl: str | None = None
    recovery: bool = True


@dataclass(frozen=True, slots=True)
class Care:
    """What is asked of all tables beside their shape: tags, and whether they are protected from deletion."""

    tags: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False


def care_of(config: SharedConfig, service: str) -> Care:
    """Return what a service asks of its tables: its tags, and in production that they are protected."""
    own = {"application": "artcafe-pubsub", "service": service, "environment": config.environment}
    return Care(tags=config.table_tags_by_key() | own, protected=config.environment == "production")


@dataclass(frozen=True, slots=True)
class Difference:
    """One point in which a table is not what was declared; `name` is the index, where it is about one."""

    table: str
    kind: Kind
    text: str
    name: str = ""

    @property
    def mendable(self) -> bool:
        """Whether `Tables.ensure` does something about it."""
        return self.kind in MENDABLE

    def __str__(self) -> str:
        return f"{self.table}: {self.text}"


@dataclass(frozen=True, slots=True)
class Found:
    """What AWS tells of a table; an index of a table that is missing is missing with it."""

    table: Mapping[str, Any]
    ttl: str | None = None
    recovery: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def differences(name: str, spec: TableSpec, care: Care, found: Found | None) -> list[Difference]:
    """Return in what a table differs from what was declared, what can be mended first."""
    if found is None:
        return [Difference(name, "missing", "is missing")]
    mendable: list[Difference] = []
    others: list[Difference] = []

    def differ(kind: Kind, text: str, index: str = "") -> None:
        (mendable if kind in MENDABLE else others).append(Difference(name, kind, text, index))

    table = found.table
    if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
        differ("status", f"is {table['TableStatus']}")
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    there = _keys(table["KeySchema"], types)
    wanted = [(spec.hash_key, "S"), *([(spec.range_key, "S")] if spec.range_key else [])]
    if there != wanted:
        differ("keys", f"has the key {_shown(there)}, not {_shown(wanted)}: its rows need a new table")
    indexes = {each["IndexName"]: each for each in table.get("GlobalSecondaryIndexes", [])}
    for index in spec.indexes:
        if index.name not in indexes:
            differ("index", f"has no index {index.name}", index.name)
            continue
        has = indexes.pop(index.name)
        there, wanted = _keys(has["KeySchema"], types), _index_keys(index)
        projection = has.get("Projection", {}).get("ProjectionType", "ALL")
        if there != wanted or projection != "ALL":
            has_not = f"{_shown(there)} of {projection}, not {_shown(wanted)} of ALL"
            text = f"has the index {index.name} with {has_not}: remove it, then create-tables makes it anew"
            differ("index-keys", text, index.name)
    for index_name in indexes:
        differ("index-unknown", f"has the index {index_name}, which no service uses", index_name)
    if spec.ttl and found.ttl is None:
        differ("ttl", f"does not expire rows by {spec.ttl}")
    elif spec.ttl and found.ttl != spec.ttl:
        differ(
            "ttl-attribute",
            f"expires rows by {found.ttl}, not {spec.ttl}: switch it off, then create-tables an hour later",
        )
    elif found.ttl and not spec.ttl:
        differ("ttl-unknown", f"expires rows by {found.ttl}, though none of its rows may go: switch it off")
    if spec.recovery and not found.recovery:
        differ("recovery", "has no point-in-time recovery")
    if care.protected and not table.get("DeletionProtectionEnabled", False):
        differ("protection", "can be deleted")
    missing = {key: value for key, value in care.tags.items() if found.tags.get(key) != value}
    if missing:
        differ("tags", f"lacks the tags {', '.join(f'{k}={v}' for k, v in sorted(missing.items()))}")
    billing = table.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
    if billing != _PER_REQUEST:
        differ("billing", f"is paid by {billing}, not by request: it refuses what is over its capacity")
    return mendable + others


class Tables:
    """The tables under a prefix, by a client of DynamoDB; `say` gets a table's name and what is done."""

    def __init__(self, client: Any, prefix: str, care: Care, say: Say) -> None:
        self._client = client
        self._prefix = prefix
        self._care = care
        self._say = say

    async def check(self, specs: Iterable[TableSpec]) -> list[Difference]:
        """Return all differences. Raises: ClientError where AWS does not let us look."""
        return await self._each(specs, self._differences)

    async def ensure(self, specs: Iterable[TableSpec]) -> list[Difference]:
        """Make what is missing and return the differences that are left; several processes may do so at once.

        Raises: ClientError where AWS refuses; TimeoutError where it does not come to an end.
        """
        return await self._each(specs, self._ensured)

    async def _each(
        self, specs: Iterable[TableSpec], work: Callable[[TableSpec], Awaitable[list[Difference]]]
    ) -> list[Difference]:
        places = asyncio.Semaphore(TABLES_AT_ONCE)

        async def one(spec: TableSpec) -> list[Difference]:
            async with places:
                return await work(spec)

        tasks = [asyncio.ensure_future(one(spec)) for spec in specs]
        try:
            return [difference for found in await asyncio.gather(*tasks) for difference in found]
        finally:
            # Where one table fails the others are left in peace, and nobody is left at work.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ensured(self, spec: TableSpec) -> list[Difference]:
        done: set[tuple[Kind, str]] = set()
        pause = LOOK_AGAIN_SECONDS
        for _ in range(ROUNDS_MAX):
            # Somebody else may be at it.
            await self._settled(self._prefix + spec.name, made=False, index=True)
            # What AWS has accepted is not asked for again: it shows some changes seconds later.
            left = [each for each in await self._differences(spec) if (each.kind, each.name) not in done]
            todo = [difference for difference in left if difference.mendable]
            if not todo:
                return left
            for difference in todo:
                if await self._mended(spec, difference):
                    done.add((difference.kind, difference.name))
                    if difference.kind == "missing":
                        done |= {("tags", ""), ("protection", "")}
                    # A table takes one change at a time.
                    await self._settled(difference.table, made=True, index=bool(difference.name))
            if any((difference.kind, difference.name) not in done for difference in todo):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LOOK_AGAIN_MAX_SECONDS)
        return left

    async def _mended(self, spec: TableSpec, difference: Difference) -> bool:
        """Mend, or return False where AWS does not take it now, or who mends at the same time was first."""
        try:
            await self._mend(spec, difference)
            return True
        except ClientError as error:
            if _code(error) not in _LATER and not _was_first(error):
                raise
            return False

    async def _differences(self, spec: TableSpec) -> list[Difference]:
        name = self._prefix + spec.name
        return differences(name, spec, self._care, await self._look(name))

    async def _look(self, name: str) -> Found | None:
        try:
            table = (await self._client.describe_table(TableName=name))["Table"]
            ttl = (await self._client.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
            backups = await self._client.describe_continuous_backups(TableName=name)
            tags = {tag["Key"]: tag["Value"] async for tag in self._tags(table["TableArn"])}
        except ClientError as error:
            if _code(error) in (NOT_FOUND, "TableNotFoundException"):
                return None
            raise
        recovery = backups["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        return Found(
            table=table,
            ttl=ttl.get("AttributeName") if ttl["TimeToLiveStatus"] in ("ENABLED", "ENABLING") else None,
            recovery=recovery.get("PointInTimeRecoveryStatus") == "ENABLED",
            tags=tags,
        )

    async def _tags(self, arn: str) -> AsyncIterator[dict[str, str]]:
        more: dict[str, str] = {}
        while True:
            page = await self._client.list_tags_of_resource(ResourceArn=arn, **more)
            for tag in page.get("Tags", []):
                yield tag
            if not page.get("NextToken"):
                return
            more = {"NextToken": page["NextToken"]}

    async def _mend(self, spec: TableSpec, difference: Difference) -> None:
        name = difference.table
        match difference.kind:
            case "missing":
                await self._client.create_table(**_definition(name, spec, self._care))
                self._say(name, "created")
            case "index":
                (index,) = (each for each in spec.indexes if each.name == difference.name)
                await self._client.update_table(
                    TableName=name,
                    # Of this index alone: AWS refuses what no key uses, as the next index's are yet.
                    AttributeDefinitions=_attributes(_index_keys(index)),
                    GlobalSecondaryIndexUpdates=[{"Create": _index_definition(index)}],
                )
                self._say(
                    name, f"gets the index {index.name}, which takes the longer the more rows there are"
                )
            case "ttl":
                expiry = {"Enabled": True, "AttributeName": spec.ttl}
                await self._client.update_time_to_live(TableName=name, TimeToLiveSpecification=expiry)
                self._say(name, f"expires rows by {spec.ttl}")
            case "recovery":
                on = {"PointInTimeRecoveryEnabled": True}
                await self._client.update_continuous_backups(
                    TableName=name, PointInTimeRecoverySpecification=on
                )
                self._say(name, "has point-in-time recovery")
            case "protection":
                await self._client.update_table(TableName=name, DeletionProtectionEnabled=True)
                self._say(name, "is protected from deletion")
            case "tags":
                described = await self._client.describe_table(TableName=name)
                arn = described["Table"]["TableArn"]
                await self._client.tag_resource(ResourceArn=arn, Tags=_tags(self._care))
                self._say(name, "has its tags")
            case other:
                raise AssertionError(f"{other} cannot be mended")

    async def _settled(self, name: str, *, made: bool, index: bool = False) -> None:
        """Wait until a table and its indexes can be changed, and used; one that was `made`, to be known."""
        pause, waited = LOOK_AGAIN_SECONDS, 0.0
        async with asyncio.timeout(INDEX_WAIT_SECONDS if index else TABLE_WAIT_SECONDS):
            while await self._is_busy(name, made):
                await asyncio.sleep(pause)
                waited += pause
                if waited >= TELL_SECONDS:
                    waited = 0.0
                    self._say(name, "is still being changed by AWS")
                pause = min(2 * pause, LOOK_AGAIN_MAX_SECONDS)

    async def _is_busy(self, name: str, made: bool) -> bool:
        try:
            table = (await self._client.describe_table(TableName=name))["Table"]
        except ClientError as error:
            if _code(error) == NOT_FOUND:
                return made
            raise
        indexes = table.get("GlobalSecondaryIndexes", [])
        return bool({table["TableStatus"], *(index["IndexStatus"] for index in indexes)} & _BUSY)


def log_change(table: str, what: str) -> None:
    """Tell the log what is done to a table: the `say` of a service that makes its tables at start."""
    logger.info("table_changed", extra={"table": table, "change": what})


def _was_first(error: ClientError) -> bool:
    text = error.response["Error"].get("Message", "")
    return _code(error) == _REFUSED and any(
        words in text for words in ("already", "duplicate index", "modified multiple times")
    )


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]


def _definition(name: str, spec: TableSpec, care: Care) -> dict[str, Any]:
    keys = [(spec.hash_key, "S"), *([(spec.range_key, "S")] if spec.range_key else [])]
    attributes = dict(keys)
    for index in spec.indexes:
        attributes |= dict(_index_keys(index))
    definition: dict[str, Any] = {
        "TableName": name,
        "BillingMode": _PER_REQUEST,
        "AttributeDefinitions": _attributes(attributes.items()),
        "KeySchema": _schema(keys),
        "DeletionProtectionEnabled": care.protected,
    }
    if spec.indexes:
        definition["GlobalSecondaryIndexes"] = [_index_definition(index) for index in spec.indexes]
    if care.tags:
        definition["Tags"] = _tags(care)
    return definition


def _index_definition(index: Index) -> dict[str, Any]:
    return {
        "IndexName": index.name,
        "KeySchema": _schema(_index_keys(index)),
        "Projection": {"ProjectionType": "ALL"},
    }


def _index_keys(index: Index) -> list[tuple[str, str]]:
    return [(index.hash_key, "S"), *([(index.range_key, index.range_type)] if index.range_key else [])]


def _attributes(keys: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": kind} for name, kind in keys]


def _schema(keys: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"AttributeName": name, "KeyType": kind}
        for (name, _), kind in zip(keys, ("HASH", "RANGE"), strict=False)
    ]


def _tags(care: Care) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(care.tags.items())]


def _keys(schema: Iterable[Mapping[str, str]], types: Mapping[str, str]) -> list[tuple[str, str]]:
    names = {each["KeyType"]: each["AttributeName"] for each in schema}
    return [(names[kind], types.get(names[kind], "?")) for kind in ("HASH", "RANGE") if kind in names]


def _shown(keys: list[tuple[str, str]]) -> str:
    return f"({', '.join(name if kind == 'S' else f'{name}:{kind}' for name, kind in keys)})"
