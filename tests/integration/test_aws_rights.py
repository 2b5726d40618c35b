"""deploy/aws: the rights of each service are those that its code uses, and no more."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artcafe_common import tables as common_tables
from artcafe_devstack.repository import repository_root
from artcafe_metering import bucket_care
from artcafe_metering.bucket_care import BucketSpec

from .aws_support import TABLES

ROOT = repository_root()
BUCKETS = ("artcafe-usage-exports", "artcafe-usage-backups")

# What a method of `Table` or `Dynamo` asks AWS for; in a transaction each write asks for its own right.
ROWS = {
    "get": "GetItem",
    "put": "PutItem",
    "put_op": "PutItem",
    "update": "UpdateItem",
    "update_op": "UpdateItem",
    "delete": "DeleteItem",
    "delete_op": "DeleteItem",
    "check_op": "ConditionCheckItem",
    "query": "Query",
    "query_all": "Query",
    "put_many": "BatchWriteItem",
    "delete_many": "BatchWriteItem",
    "ping": "DescribeTable",
}
# Where the name of the right is not that of the operation.
S3_RIGHTS = {
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
TABLES_ARE_NAMED = ("_table", "table", "dynamo", "_dynamo")


def _policy(name: str) -> list[dict[str, Any]]:
    document = json.loads((ROOT / "deploy" / "aws" / "iam" / f"{name}.json").read_text())
    assert document["Version"] == "2012-10-17"
    statements: list[dict[str, Any]] = document["Statement"]
    assert all(each["Effect"] == "Allow" for each in statements)
    return statements


def _rights(name: str, service: str) -> set[str]:
    actions = {action for statement in _policy(name) for action in statement["Action"]}
    assert not [action for action in actions if "*" in action]
    return {action.partition(":")[2] for action in actions if action.startswith(f"{service}:")}


def _calls(*files: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield every method call as (receiver, method, texts given in place)."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                texts = [
                    a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
                ]
                yield ast.unparse(node.func.value), node.func.attr, texts


def _row_rights(service: str) -> set[str]:
    rights = set()
    for receiver, method, texts in _calls(*(ROOT / "services" / service / "src").rglob("*.py")):
        parts = receiver.split(".")
        if parts[-1] in TABLES_ARE_NAMED or parts[-2:-1] in (["_tables"], ["tables"]):
            if method in ROWS:
                rights.add(ROWS[method])
            elif method == "call":
                rights.add(_camel(texts[0]))
    return rights


def _control_rights(file: str) -> set[str]:
    """Return the operations of a module that calls a client by its own names."""
    return {
        _camel(name)
        for receiver, method, texts in _calls(Path(file))
        for name in [method, *texts]
        if receiver in ("self", "self._client", "self.client")
        and name.split("_")[0] in ("create", "describe", "get", "head", "list", "put", "tag", "update")
        and "_" in name
    }


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _looks(rights: set[str]) -> set[str]:
    return {right for right in rights if right.startswith(("Describe", "Get", "List", "Head"))}


@pytest.mark.parametrize("service", TABLES)
def test_a_service_may_do_with_its_rows_what_its_code_does(service: str) -> None:
    """No right is missing, and none is there that the code does not use."""
    looks = _looks(_control_rights(common_tables.__file__))
    assert _rights(service, "dynamodb") == _row_rights(service) | looks
    assert "PutItem" in _row_rights(service) and "DescribeTimeToLive" in looks


def test_metering_may_do_with_objects_what_its_code_does() -> None:
    """Exports and backups are written, and their names listed; nobody reads or removes them by this role."""
    done = set()
    for receiver, method, _ in _calls(Path(bucket_care.__file__).with_name("objects.py")):
        if receiver in ("self.client", "self._client"):
            done.add(S3_RIGHTS.get(_camel(method), _camel(method)))
    assert done == {"PutObject", "AbortMultipartUpload", "ListBucket"}
    looks = {S3_RIGHTS.get(name, name) for name in _looks(_control_rights(bucket_care.__file__))}
    assert _rights("metering", "s3") == done | looks
    for service in TABLES.keys() - {"metering"}:
        assert _rights(service, "s3") == set()


def test_who_makes_tables_can_neither_read_nor_remove() -> None:
    """The rights of `create-tables` are those of its code: no rows, no objects, no deletion."""
    assert _rights("tables", "dynamodb") == _control_rights(common_tables.__file__)
    named = {S3_RIGHTS.get(name, name) for name in _control_rights(bucket_care.__file__)}
    assert _rights("tables", "s3") == named
    assert not [
        r for r in _rights("tables", "dynamodb") if "Item" in r or "Delete" in r or r in ("Query", "Scan")
    ]


@pytest.mark.parametrize("service", TABLES)
def test_rights_are_on_the_service_s_own_tables(service: str) -> None:
    """Each table of the service is named, no other is, and an index only where there is one."""
    arn = "arn:aws:dynamodb:*:*:table/artcafe-"
    named = {
        resource.removeprefix(arn)
        for statement in _policy(service)
        for resource in statement["Resource"]
        if statement["Action"][0].startswith("dynamodb:")
    }
    specs = TABLES[service]
    own = {spec.name for spec in specs}
    assert named == own | {f"{spec.name}/index/{index.name}" for spec in specs for index in spec.indexes}
    scans = [each for each in _policy(service) if "dynamodb:Scan" in each["Action"]]
    assert [each["Resource"] for each in scans] == (
        [[f"{arn}tenants", f"{arn}pending-work"]] if service == "registry" else []
    )


def test_the_tables_job_has_all_tables_and_both_buckets() -> None:
    """Nothing outside the platform can be changed by it, and nothing of it is forgotten."""
    tables, buckets = _policy("tables")
    arn = "arn:aws:dynamodb:*:*:table/artcafe-"
    every = [spec for specs in TABLES.values() for spec in specs]
    assert {r.removeprefix(arn) for r in tables["Resource"]} == {spec.name for spec in every} | {
        f"{spec.name}/index/{index.name}" for spec in every for index in spec.indexes
    }
    assert buckets["Resource"] == [f"arn:aws:s3:::{name}" for name in BUCKETS]


@pytest.mark.parametrize(
    ("folder", "spec"),
    [
        ("usage-backups", BucketSpec("artcafe-usage-backups", "eu-central-1", expire_days=2)),
        ("usage-exports", BucketSpec("artcafe-usage-exports", "eu-central-1", versioned=True)),
    ],
)
def test_the_documents_of_buckets_are_what_create_tables_makes(folder: str, spec: BucketSpec) -> None:
    """Who makes buckets by other tools gets the same."""
    documents = {
        file.stem: json.loads(file.read_text()) for file in (ROOT / "deploy/aws/s3" / folder).glob("*.json")
    }
    expected = {
        "policy": bucket_care.bucket_policy(spec.name),
        "lifecycle": {"Rules": bucket_care.lifecycle_rules(spec)},
        "encryption": bucket_care.ENCRYPTION,
        "public-access-block": bucket_care.PUBLIC_ACCESS_BLOCK,
    } | ({"versioning": {"Status": "Enabled"}} if spec.versioned else {})
    assert documents == expected
