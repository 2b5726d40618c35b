"""The emulator holds the services to the rights of their roles, so that the embedded stack proves these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from artcafe_common.dynamo import Dynamo
from artcafe_devstack.emulator.rights import Rights, dynamodb_rights, s3_rights
from artcafe_devstack.repository import repository_root
from artcafe_devstack.servers import AwsEndpoint, aws_emulator
from artcafe_registry.store import TABLES

from .aws_support import aws_client

POLICIES = repository_root() / "deploy" / "aws" / "iam"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an emulator that looks at rights."""
    with aws_emulator(tmp_path_factory.mktemp("aws"), durable=False, rights=POLICIES) as server:
        yield server.url


def _client(service: str, url: str, key: str) -> Any:
    return aws_client(service, AwsEndpoint(url, access_key_id=key))


async def _refused(call: Any, right: str) -> None:
    with pytest.raises(ClientError) as caught:
        await call
    assert caught.value.response["Error"]["Code"].startswith("AccessDenied")
    assert right in caught.value.response["Error"]["Message"]


async def test_a_role_does_its_own_work_and_no_other(url: str) -> None:
    """Registry reads and writes its tables, auth does not read them, and neither makes or removes one."""
    async with _client("dynamodb", url, "rights.registry.tables") as both:
        await Dynamo(both, "artcafe-").create_tables(TABLES)
    key = {"tenant_id": {"S": "t"}, "agent_id": {"S": "a"}}
    async with _client("dynamodb", url, "rights.registry") as registry:
        await registry.put_item(TableName="artcafe-agents", Item=key)
        put = {
            "Put": {
                "TableName": "artcafe-channels",
                "Item": {"tenant_id": {"S": "t"}, "channel_id": {"S": "c"}},
            }
        }
        check = {
            "ConditionCheck": {
                "TableName": "artcafe-agents",
                "Key": key,
                "ConditionExpression": "attribute_exists(agent_id)",
            }
        }
        await registry.transact_write_items(TransactItems=[put, check])
        await _refused(registry.delete_table(TableName="artcafe-agents"), "dynamodb:DeleteTable")
        await _refused(registry.scan(TableName="artcafe-agents"), "dynamodb:Scan")
    async with _client("dynamodb", url, "rights.auth") as auth:
        await _refused(auth.get_item(TableName="artcafe-agents", Key=key), "dynamodb:GetItem")
        await _refused(auth.transact_write_items(TransactItems=[put]), "dynamodb:PutItem")
    async with _client("dynamodb", url, "rights.tables") as tables:
        await _refused(tables.get_item(TableName="artcafe-agents", Key=key), "dynamodb:GetItem")
    async with _client("dynamodb", url, "000000000000") as anybody:
        assert "Item" in await anybody.get_item(TableName="artcafe-agents", Key=key)


async def test_objects_can_be_written_and_not_read(url: str) -> None:
    """Metering writes exports and backups to its buckets; it cannot read, remove or make another bucket."""
    async with _client("s3", url, "rights.metering.tables") as both:
        await both.create_bucket(Bucket="artcafe-usage-backups")
    async with _client("s3", url, "rights.metering") as metering:
        await metering.put_object(Bucket="artcafe-usage-backups", Key="a/b.rdb", Body=b"x")
        upload = await metering.create_multipart_upload(Bucket="artcafe-usage-backups", Key="c")
        place = {"Bucket": "artcafe-usage-backups", "Key": "c", "UploadId": upload["UploadId"]}
        await metering.abort_multipart_upload(**place)
        await _refused(metering.get_object(Bucket="artcafe-usage-backups", Key="a/b.rdb"), "s3:GetObject")
        await _refused(
            metering.delete_object(Bucket="artcafe-usage-backups", Key="a/b.rdb"), "s3:DeleteObject"
        )
        await _refused(metering.create_bucket(Bucket="artcafe-usage-exports"), "s3:CreateBucket")
    async with _client("s3", url, "rights.auth") as auth:
        await _refused(auth.put_object(Bucket="artcafe-usage-backups", Key="x", Body=b"x"), "s3:PutObject")


def test_rights_are_told_apart_by_operation_and_place() -> None:
    """An index is a place of its own, a batch asks for each of its tables, tags for a right of theirs."""
    arn = "arn:aws:dynamodb:us-east-1:000000000000:table/"
    query = {"TableName": "t", "IndexName": "i"}
    assert list(dynamodb_rights("Query", query)) == [("dynamodb:Query", f"{arn}t/index/i")]
    batch: dict[str, Any] = {"RequestItems": {"a": [], "b": []}}
    assert list(dynamodb_rights("BatchWriteItem", batch)) == [
        ("dynamodb:BatchWriteItem", f"{arn}a"),
        ("dynamodb:BatchWriteItem", f"{arn}b"),
    ]
    made = {"TableName": "t", "Tags": [{"Key": "k", "Value": "v"}]}
    assert [right for right, _ in dynamodb_rights("CreateTable", made)] == [
        "dynamodb:CreateTable",
        "dynamodb:TagResource",
    ]
    assert list(dynamodb_rights("ListTables", {})) == [("dynamodb:ListTables", "*")]
    assert list(s3_rights("PUT", "/b", {"lifecycle": [""]})) == [
        ("s3:PutLifecycleConfiguration", "arn:aws:s3:::b")
    ]
    assert list(s3_rights("GET", "/b/k%20l", {})) == [("s3:GetObject", "arn:aws:s3:::b/k l")]


def test_a_role_that_nobody_knows_has_no_rights(tmp_path: Path) -> None:
    """A key with a misspelt role may do nothing, rather than everything."""
    wanted = [("dynamodb:GetItem", "arn:aws:dynamodb:eu-west-1:1:table/artcafe-agents")]
    assert Rights(POLICIES).missing("rights.registry", wanted) is None
    assert Rights(POLICIES).missing("rights.registri", wanted) == wanted[0]
    assert Rights(tmp_path).missing("rights.registry", wanted) == wanted[0]
