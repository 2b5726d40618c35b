"""The commands ``create-tables`` and ``check-tables`` of every service, on the emulator of AWS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from artcafe_devstack.ports import free_port
from artcafe_devstack.process import inherited_environment
from artcafe_devstack.servers import AwsEndpoint

from .aws_support import TABLES, aws_client

COMMAND_SECONDS = 60
FAILED, DIFFERENT = 1, 3


def _run(service: str, command: str, aws: AwsEndpoint, **settings: str) -> tuple[int, str, str]:
    """Run a command of a service with the settings of the store alone."""
    done = subprocess.run(
        [sys.executable, "-m", f"artcafe_{service.removesuffix('-ws')}", command],
        env=inherited_environment() | aws.environment() | settings,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
async def dynamodb(aws: AwsEndpoint) -> AsyncIterator[Any]:
    """Yield a client of DynamoDB in the test's account."""
    async with aws_client("dynamodb", aws) as client:
        yield client


@pytest.mark.parametrize("service", TABLES)
async def test_a_service_makes_its_tables_whole_and_finds_them_so(
    service: str, aws: AwsEndpoint, dynamodb: Any
) -> None:
    """From nothing to as declared with one command, twice without harm; checking agrees before and after."""
    names = [f"artcafe-{spec.name}" for spec in TABLES[service]]
    name_of = service.removesuffix("-ws")
    code, out, _ = _run(service, "check-tables", aws)
    assert code == DIFFERENT
    assert out.splitlines() == [
        *(f"{name}: is missing" for name in names),
        f"{name_of}: {len(names)} {'difference' if len(names) == 1 else 'differences'}",
    ]
    code, out, err = _run(service, "create-tables", aws, TABLE_TAGS="team=agents")
    assert (code, err) == (0, "")
    assert {f"{name}: created" for name in names} <= set(out.splitlines())
    for spec, name in zip(TABLES[service], names, strict=True):
        table = (await dynamodb.describe_table(TableName=name))["Table"]
        assert table["DeletionProtectionEnabled"], "ENVIRONMENT is production unless said otherwise"
        assert {index["IndexName"] for index in table.get("GlobalSecondaryIndexes", [])} == {
            index.name for index in spec.indexes
        }
        ttl = (await dynamodb.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
        assert ttl.get("AttributeName") == spec.ttl
        backups = (await dynamodb.describe_continuous_backups(TableName=name))["ContinuousBackupsDescription"]
        recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
        assert recovery == ("ENABLED" if spec.recovery else "DISABLED"), name
        tags = (await dynamodb.list_tags_of_resource(ResourceArn=table["TableArn"]))["Tags"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {
            "application": "artcafe-pubsub",
            "service": name_of,
            "environment": "production",
            "team": "agents",
        }
    code, out, _ = _run(service, "create-tables", aws)
    assert (code, len(out.splitlines())) == (0, 1), "there was nothing left to do"
    assert _run(service, "check-tables", aws)[0] == 0


async def test_what_somebody_has_changed_is_found_and_mended(aws: AwsEndpoint, dynamodb: Any) -> None:
    """Recovery, expiry, protection, an index and a tag that are gone are told, and back afterwards."""
    _run("gateway", "create-tables", aws)
    _run("metering", "create-tables", aws)
    connections, usage = "artcafe-websocket-connections", "artcafe-usage-metrics"
    await dynamodb.update_table(TableName=connections, DeletionProtectionEnabled=False)
    await dynamodb.update_table(
        TableName=connections, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "by-server"}}]
    )
    off = {"PointInTimeRecoveryEnabled": False}
    await dynamodb.update_continuous_backups(TableName=usage, PointInTimeRecoverySpecification=off)
    no_expiry = {"Enabled": False, "AttributeName": "expires_at"}
    await dynamodb.update_time_to_live(TableName=usage, TimeToLiveSpecification=no_expiry)
    arn = (await dynamodb.describe_table(TableName=usage))["Table"]["TableArn"]
    await dynamodb.untag_resource(ResourceArn=arn, TagKeys=["service"])

    code, out, _ = _run("gateway", "check-tables", aws)
    assert (code, out.splitlines()) == (
        DIFFERENT,
        [
            f"{connections}: has no index by-server",
            f"{connections}: can be deleted",
            "gateway: 2 differences",
        ],
    )
    code, out, _ = _run("metering", "check-tables", aws)
    assert (code, out.splitlines()) == (
        DIFFERENT,
        [
            f"{usage}: does not expire rows by expires_at",
            f"{usage}: has no point-in-time recovery",
            f"{usage}: lacks the tags service=metering",
            "metering: 3 differences",
        ],
    )
    for service in ("gateway", "metering"):
        assert _run(service, "create-tables", aws)[0] == 0
        assert _run(service, "check-tables", aws)[0] == 0


async def test_what_cannot_be_mended_is_told_and_left(aws: AwsEndpoint, dynamodb: Any) -> None:
    """A table of the name with another key stays as it is, and `create-tables` says so by its exit status."""
    await dynamodb.create_table(
        TableName="artcafe-websocket-connections",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    code, out, _ = _run("gateway", "create-tables", aws)
    assert code == DIFFERENT
    assert "artcafe-websocket-connections: has the key (id), not (pk, sk)" in out
    table = (await dynamodb.describe_table(TableName="artcafe-websocket-connections"))["Table"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["id"]


async def test_buckets_of_metering_are_made_and_checked(aws: AwsEndpoint) -> None:
    """Both buckets come closed, encrypted, with their lifecycle; what is taken from them is found."""
    suffix = aws.access_key_id
    settings = {
        "METERING_EXPORT_BUCKET": f"exports-{suffix}",
        "METERING_BACKUP_BUCKET": f"backups-{suffix}",
        "AWS_REGION": "eu-central-1",
    }
    code, out, _ = _run("metering", "check-tables", aws, **settings)
    assert code == DIFFERENT and f"exports-{suffix}: is missing" in out
    code, out, err = _run("metering", "create-tables", aws, **settings)
    assert code == 0, out + err
    assert _run("metering", "check-tables", aws, **settings)[0] == 0
    async with aws_client("s3", aws) as s3:
        place = await s3.get_bucket_location(Bucket=f"backups-{suffix}")
        assert place["LocationConstraint"] == "eu-central-1"
        rules = (await s3.get_bucket_lifecycle_configuration(Bucket=f"backups-{suffix}"))["Rules"]
        assert [rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule] == [2]
        rules = (await s3.get_bucket_lifecycle_configuration(Bucket=f"exports-{suffix}"))["Rules"]
        assert not [rule for rule in rules if "Expiration" in rule], "exports stay"
        assert (await s3.get_bucket_versioning(Bucket=f"exports-{suffix}"))["Status"] == "Enabled"
        closed = await s3.get_public_access_block(Bucket=f"backups-{suffix}")
        assert set(closed["PublicAccessBlockConfiguration"].values()) == {True}
        await s3.delete_public_access_block(Bucket=f"backups-{suffix}")
        own = {"ID": "mine", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 9}}
        await s3.put_bucket_lifecycle_configuration(
            Bucket=f"backups-{suffix}", LifecycleConfiguration={"Rules": [own]}
        )
        code, out, _ = _run("metering", "check-tables", aws, **settings)
        assert (code, out.splitlines()[:-1]) == (
            DIFFERENT,
            [f"backups-{suffix}: is not closed to the public", f"backups-{suffix}: has no expiry of backups"],
        )
        assert _run("metering", "create-tables", aws, **settings)[0] == 0
        rules = (await s3.get_bucket_lifecycle_configuration(Bucket=f"backups-{suffix}"))["Rules"]
        assert "mine" in [rule["ID"] for rule in rules], "the operator's own rules stay"


def test_a_store_that_is_away_is_one_line(aws: AwsEndpoint) -> None:
    """Whoever runs the command is told that AWS does not answer, without a stack."""
    nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    for command in ("create-tables", "check-tables"):
        code, out, err = _run("gateway", command, aws, **nowhere)
        assert (code, out) == (FAILED, "") and err.startswith(f"{command}: ") and len(err.splitlines()) == 1
    code, _, err = _run("auth", "check-tables", aws, TABLE_TAGS="team")
    assert code == 2 and "TABLE_TAGS is not valid" in err and os.linesep in err
