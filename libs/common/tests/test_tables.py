"""How a table differs from what was declared, and what a careful hand does about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from artcafe_common import tables
from artcafe_common.table_commands import TablesConfig
from artcafe_common.tables import Care, Found, Index, Tables, TableSpec, care_of, differences

SPEC = TableSpec(
    "things", "tenant_id", "thing_id", (Index("by-owner", "owner", "changed_at", "N"),), ttl="expires_at"
)
CARE = Care({"service": "demo"}, protected=True)


def _table(**changes: Any) -> dict[str, Any]:
    """A description as AWS gives it of a table that is as declared."""
    return {
        "TableName": "p-things",
        "TableArn": "arn:aws:dynamodb:us-east-1:000000000000:table/p-things",
        "TableStatus": "ACTIVE",
        "KeySchema": _schema("tenant_id", "thing_id"),
        "AttributeDefinitions": [
            {"AttributeName": name, "AttributeType": "N" if name == "changed_at" else "S"}
            for name in ("tenant_id", "thing_id", "owner", "changed_at")
        ],
        "GlobalSecondaryIndexes": [_index()],
        "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        "DeletionProtectionEnabled": True,
    } | changes


def _index(**changes: Any) -> dict[str, Any]:
    return {
        "IndexName": "by-owner",
        "IndexStatus": "ACTIVE",
        "KeySchema": _schema("owner", "changed_at"),
        "Projection": {"ProjectionType": "ALL"},
    } | changes


def _schema(hash_key: str, range_key: str) -> list[dict[str, str]]:
    # AWS promises no order.
    return [
        {"AttributeName": range_key, "KeyType": "RANGE"},
        {"AttributeName": hash_key, "KeyType": "HASH"},
    ]


def _found(ttl: str | None = "expires_at", recovery: bool = True, **changes: Any) -> Found:
    return Found(_table(**changes), ttl=ttl, recovery=recovery, tags={"service": "demo", "other": "x"})


def test_a_table_as_declared_does_not_differ() -> None:
    """What was declared, with tags of others beside ours, is no difference."""
    assert differences("p-things", SPEC, CARE, _found()) == []


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (None, "missing", "is missing"),
        (_found(GlobalSecondaryIndexes=[]), "index", "no index by-owner"),
        (_found(ttl=None), "ttl", "does not expire rows by expires_at"),
        (_found(recovery=False), "recovery", "no point-in-time recovery"),
        (_found(DeletionProtectionEnabled=False), "protection", "can be deleted"),
        (Found(_table(), "expires_at", True, {"service": "else"}), "tags", "service=demo"),
    ],
)
def test_what_is_missing_is_told_and_can_be_made(found: Found | None, kind: str, words: str) -> None:
    """Each part that a table may lack is one difference that `create-tables` mends."""
    (difference,) = differences("p-things", SPEC, CARE, found)
    assert (difference.kind, difference.mendable) == (kind, True)
    assert words in str(difference) and str(difference).startswith("p-things: ")


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (_found(TableStatus="DELETING"), "status", "DELETING"),
        (
            _found(KeySchema=_schema("tenant_id", "owner")),
            "keys",
            "(tenant_id, owner), not (tenant_id, thing_id)",
        ),
        (
            _found(GlobalSecondaryIndexes=[_index(KeySchema=_schema("owner", "thing_id"))]),
            "index-keys",
            "by-owner",
        ),
        (
            _found(GlobalSecondaryIndexes=[_index(Projection={"ProjectionType": "KEYS_ONLY"})]),
            "index-keys",
            "ALL",
        ),
        (_found(GlobalSecondaryIndexes=[_index(), _index(IndexName="old")]), "index-unknown", "old"),
        (_found(ttl="deleted_at"), "ttl-attribute", "by deleted_at, not expires_at"),
        (_found(BillingModeSummary={"BillingMode": "PROVISIONED"}), "billing", "PROVISIONED"),
    ],
)
def test_what_would_change_or_remove_is_left_to_a_person(found: Found, kind: str, words: str) -> None:
    """A difference that cannot be mended by adding something is told and not touched."""
    (difference,) = differences("p-things", SPEC, CARE, found)
    assert (difference.kind, difference.mendable) == (kind, False)
    assert words in difference.text


def test_rows_that_expire_though_they_must_stay_are_told() -> None:
    """A time to live that nobody declared removes rows silently."""
    forever = TableSpec("things", "tenant_id", "thing_id", SPEC.indexes)
    (difference,) = differences("p-things", forever, CARE, _found())
    assert difference.kind == "ttl-unknown" and not difference.mendable


def test_production_protects_and_all_tables_say_whose_they_are() -> None:
    """Tags name the service and the environment; the operator's own come with them and never replace ours."""
    config = TablesConfig(environment="production", table_tags=("team=agents", "service=theirs"))
    assert care_of(config, "auth") == Care(
        {
            "application": "artcafe-pubsub",
            "service": "auth",
            "environment": "production",
            "team": "agents",
        },
        protected=True,
    )
    assert not care_of(TablesConfig(environment="development"), "auth").protected


def _error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


class Aws:
    """Just enough of DynamoDB's control plane: one table, and refusals that a test has put in line."""

    def __init__(self, table: dict[str, Any] | None, *, ttl: str | None = None) -> None:
        self.table = table
        self.ttl, self.recovery = ttl, False
        self.tags: list[dict[str, str]] = []
        self.refusals: dict[str, list[ClientError]] = {}
        self.changes: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            waiting = self.refusals.get(operation)
            if waiting:
                raise waiting.pop(0)
            if self.table is None and operation != "create_table":
                raise _error("ResourceNotFoundException")
            return getattr(self, f"_{operation}")(arguments)

        return call

    def _describe_table(self, _: Any) -> Any:
        return {"Table": self.table}

    def _describe_time_to_live(self, _: Any) -> Any:
        status = {"TimeToLiveStatus": "ENABLED", "AttributeName": self.ttl} if self.ttl else {}
        return {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"} | status}

    def _describe_continuous_backups(self, _: Any) -> Any:
        status = {"PointInTimeRecoveryStatus": "ENABLED" if self.recovery else "DISABLED"}
        return {"ContinuousBackupsDescription": {"PointInTimeRecoveryDescription": status}}

    def _list_tags_of_resource(self, arguments: Any) -> Any:
        # A page for each tag.
        number = int(arguments.get("NextToken", 0))
        more = {"NextToken": str(number + 1)} if number + 1 < len(self.tags) else {}
        return {"Tags": self.tags[number : number + 1], **more}

    def _create_table(self, arguments: Any) -> Any:
        self.changes.append(("create_table", arguments))
        self.table = _table(
            TableStatus="ACTIVE",
            GlobalSecondaryIndexes=[
                i | {"IndexStatus": "ACTIVE"} for i in arguments["GlobalSecondaryIndexes"]
            ],
            DeletionProtectionEnabled=arguments["DeletionProtectionEnabled"],
        )

    def _update_table(self, arguments: Any) -> Any:
        self.changes.append(("update_table", arguments))
        assert self.table is not None
        if arguments.get("DeletionProtectionEnabled"):
            self.table["DeletionProtectionEnabled"] = True
        for update in arguments.get("GlobalSecondaryIndexUpdates", []):
            self.table["GlobalSecondaryIndexes"].append(update["Create"] | {"IndexStatus": "ACTIVE"})

    def _update_time_to_live(self, arguments: Any) -> Any:
        self.changes.append(("update_time_to_live", arguments))
        self.ttl = arguments["TimeToLiveSpecification"]["AttributeName"]

    def _update_continuous_backups(self, arguments: Any) -> Any:
        self.changes.append(("update_continuous_backups", arguments))
        self.recovery = True

    def _tag_resource(self, arguments: Any) -> Any:
        # Not shown at once, as on AWS.
        self.changes.append(("tag_resource", arguments))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait."""
    monkeypatch.setattr(tables, "LOOK_AGAIN_SECONDS", 0.0)


def _tables(aws: Aws, said: list[str] | None = None) -> Tables:
    return Tables(
        aws, "p-", CARE, lambda table, what: (said if said is not None else []).append(f"{table} {what}")
    )


async def test_a_missing_table_is_made_whole() -> None:
    """Index, tags and protection come with the table; expiry and recovery follow; each is told once."""
    aws, said = Aws(None), list[str]()
    assert await _tables(aws, said).ensure([SPEC]) == []
    (_, created), *others = aws.changes
    assert created["Tags"] == [{"Key": "service", "Value": "demo"}] and created["DeletionProtectionEnabled"]
    assert [operation for operation, _ in others] == ["update_time_to_live", "update_continuous_backups"]
    assert said == [
        "p-things created",
        "p-things expires rows by expires_at",
        "p-things has point-in-time recovery",
    ]


async def test_what_an_old_table_lacks_is_added_one_by_one() -> None:
    """A table of an earlier release gets its index with the attributes of that alone, and all else once."""
    aws = Aws(_table(GlobalSecondaryIndexes=[], DeletionProtectionEnabled=False))
    assert await _tables(aws).ensure([SPEC]) == []
    assert [operation for operation, _ in aws.changes] == [
        *("update_table", "update_time_to_live", "update_continuous_backups", "update_table", "tag_resource")
    ]
    assert {each["AttributeName"] for each in aws.changes[0][1]["AttributeDefinitions"]} == {
        "owner",
        "changed_at",
    }
    aws.tags, aws.changes = [{"Key": "else", "Value": "x"}, {"Key": "service", "Value": "demo"}], []
    assert await _tables(aws).ensure([SPEC]) == [] and aws.changes == []


async def test_checking_changes_nothing() -> None:
    """`check` tells every difference and leaves it."""
    aws = Aws(_table(DeletionProtectionEnabled=False), ttl="expires_at")
    kinds = [difference.kind for difference in await _tables(aws).check([SPEC])]
    assert kinds == ["recovery", "protection", "tags"] and aws.changes == []


async def test_what_aws_takes_later_is_tried_again() -> None:
    """Too many changes at once, backups that are being prepared and a faster neighbour are no failures."""
    aws = Aws(None)
    aws.refusals = {
        "create_table": [_error("LimitExceededException"), _error("ResourceInUseException")],
        "update_continuous_backups": [_error("ContinuousBackupsUnavailableException")] * 3,
        "update_time_to_live": [_error("ValidationException", "TimeToLive is already enabled")],
    }
    assert await _tables(aws).ensure([SPEC]) == []
    assert aws.recovery and aws.ttl == "expires_at"


async def test_a_refusal_is_told() -> None:
    """Without the right, or against AWS's rules, nothing is tried again."""
    for operation, code in (
        ("describe_table", "AccessDeniedException"),
        ("create_table", "ValidationException"),
    ):
        aws = Aws(None)
        aws.refusals = {operation: [_error(code, "no")]}
        with pytest.raises(ClientError):
            await _tables(aws).ensure([SPEC])


async def test_a_difference_that_stays_is_returned() -> None:
    """What cannot be mended is what `ensure` answers, also where AWS never takes a change."""
    aws = Aws(_table(BillingModeSummary={"BillingMode": "PROVISIONED"}), ttl="expires_at")
    aws.refusals = {"update_continuous_backups": [_error("ContinuousBackupsUnavailableException")] * 99}
    kinds = [difference.kind for difference in await _tables(aws).ensure([SPEC])]
    assert kinds == ["recovery", "billing"]
