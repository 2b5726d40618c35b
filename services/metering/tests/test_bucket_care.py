"""What is asked of buckets, as far as the emulator of AWS does not know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from artcafe_metering.bucket_care import ENCRYPTION, PUBLIC_ACCESS_BLOCK, BucketSpec, OneBucket, bucket_policy

SPEC = BucketSpec("b", "eu-central-1", expire_days=2)
ABSENT = {
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
}


class S3:
    """A bucket whose answers a test puts in place; what is put is noted."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "head_bucket": {},
            "get_public_access_block": {"PublicAccessBlockConfiguration": PUBLIC_ACCESS_BLOCK},
            "get_bucket_encryption": {"ServerSideEncryptionConfiguration": ENCRYPTION},
            "get_bucket_tagging": {"TagSet": []},
        } | answers
        self.put: dict[str, Any] = {}

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            if operation.startswith("put_"):
                self.put[operation] = arguments
                return {}
            if operation not in self.answers:
                raise ClientError({"Error": {"Code": ABSENT[operation]}}, operation)
            return self.answers[operation]

        return call


def _rules(**rule: Any) -> dict[str, Any]:
    return {"Rules": [{"ID": "mine", "Status": "Enabled", "Filter": {"Prefix": ""}} | rule]}


async def test_a_bucket_refuses_requests_without_tls() -> None:
    """Where there is no policy ours is made; one of the operator is never replaced, but told of."""
    s3, said = S3(), list[str]()
    assert await OneBucket(s3, SPEC, lambda _, what: said.append(what), tls=True).differences() == []
    assert json.loads(s3.put["put_bucket_policy"]["Policy"]) == bucket_policy("b")
    assert said == ["has its lifecycle", "takes requests by TLS only"]

    s3 = S3(get_bucket_policy={"Policy": json.dumps({"Statement": []})})
    (left,) = await OneBucket(s3, SPEC, lambda *_: None, tls=True).differences()
    assert "does not refuse requests without TLS" in left and "put_bucket_policy" not in s3.put


@pytest.mark.parametrize(("days", "differs"), [(1, True), (2, False), (30, False)])
async def test_backups_may_stay_longer_but_not_shorter(days: int, differs: bool) -> None:
    """An operator's longer expiry is fine; one that takes backups away too soon is told, and left."""
    rules = _rules(Expiration={"Days": days}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7})
    s3 = S3(get_bucket_lifecycle_configuration=rules)
    found = await OneBucket(s3, SPEC, lambda *_: None, tls=False).differences()
    assert bool(found) == differs and "put_bucket_lifecycle_configuration" not in s3.put


async def test_exports_that_expire_are_told() -> None:
    """A bucket whose objects must stay has no expiry of any length."""
    rules = _rules(Expiration={"Days": 400}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7})
    found = await OneBucket(
        S3(get_bucket_lifecycle_configuration=rules), BucketSpec("b", "eu-central-1"), None, tls=False
    ).differences()
    assert found == ["its objects expire after 400 days, which is too soon: change its lifecycle"]
