"""The buckets of S3: what is asked of them, how they differ from it, and what is done about that.

Both are closed to the public, take requests by TLS only, encrypt what they keep and forget uploads that were
never finished. Backups expire; exports never do, and of one that is overwritten the former version stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from artcafe_common.tables import Say, care_of
from artcafe_metering.config import CommandConfig
from artcafe_metering.objects import Bucket

ABANDONED_DAYS = 2
PUBLIC_ACCESS_BLOCK = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}
ENCRYPTION = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
# The region in which a bucket's place must not be named.
_FIRST_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """One bucket; `expire_days` is None where objects stay for ever."""

    name: str
    region: str
    expire_days: int | None = None
    versioned: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


def specs_of(config: CommandConfig) -> list[BucketSpec]:
    """Return the buckets that are set."""
    tags = care_of(config, "metering").tags
    specs = []
    if config.export_bucket:
        specs.append(BucketSpec(config.export_bucket, config.aws_region, versioned=True, tags=tags))
    if config.backup_bucket:
        days = -(-config.backup_kept_hours // 24)
        specs.append(BucketSpec(config.backup_bucket, config.aws_region, expire_days=days, tags=tags))
    return specs


def bucket_policy(name: str) -> dict[str, Any]:
    """Return the policy that refuses requests without TLS."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def lifecycle_rules(spec: BucketSpec) -> list[dict[str, Any]]:
    """Return the rules by which objects, and what is left of uploads, go."""
    abandoned = {
        "ID": "artcafe-abandoned-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABANDONED_DAYS},
    }
    if spec.expire_days is None:
        return [abandoned]
    expiry = {
        "ID": "artcafe-expire",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": spec.expire_days},
    }
    return [abandoned, expiry]


class BucketCare:
    """Looks after buckets; `say` gets a bucket's name and what is done to it."""

    def __init__(self, say: Say) -> None:
        self._say = say

    async def see_to(
        self, specs: Sequence[BucketSpec], *, endpoint_url: str | None, create: bool
    ) -> list[str]:
        """Return the differences; with `create` make what is missing first. Raises: ClientError."""
        left: list[str] = []
        for spec in specs:
            async with Bucket.connect(spec.name, region=spec.region, endpoint_url=endpoint_url) as bucket:
                # An emulator has no TLS.
                one = OneBucket(bucket.client, spec, self._say if create else None, tls=not endpoint_url)
                left += [f"{spec.name}: {difference}" for difference in await one.differences()]
        return left


class OneBucket:
    """One bucket, looked at; without `say` nothing is done about what differs."""

    def __init__(self, client: Any, spec: BucketSpec, say: Say | None, *, tls: bool) -> None:
        self._client = client
        self._spec = spec
        self._say = say
        self._tls = tls

    async def differences(self) -> list[str]:
        """Return what differs, after making what is missing. Raises: ClientError."""
        if not await self._exists():
            return ["is missing"]
        found = [
            await self._public_access(),
            await self._encryption(),
            await self._lifecycle(),
            await self._tags(),
        ]
        if self._tls:
            found.append(await self._policy())
        if self._spec.versioned:
            found.append(await self._versioning())
        return [each for each in found if each]

    async def _exists(self) -> bool:
        if await self._ask("head_bucket", "404", "NoSuchBucket") is not None:
            return True
        if self._say is None:
            return False
        place: dict[str, Any] = {}
        if self._spec.region != _FIRST_REGION:
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._spec.region}}
        try:
            await self._client.create_bucket(Bucket=self._spec.name, **place)
        except ClientError as error:
            # Another process was first.
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise
        self._say(self._spec.name, "created")
        return True

    async def _public_access(self) -> str:
        answer = await self._ask("get_public_access_block", "NoSuchPublicAccessBlockConfiguration")
        if answer and answer["PublicAccessBlockConfiguration"] == PUBLIC_ACCESS_BLOCK:
            return ""
        return await self._mend(
            "is not closed to the public",
            "closed to the public",
            "put_public_access_block",
            PublicAccessBlockConfiguration=PUBLIC_ACCESS_BLOCK,
        )

    async def _encryption(self) -> str:
        answer = await self._ask("get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError")
        # With which key is the operator's choice.
        if answer and answer["ServerSideEncryptionConfiguration"].get("Rules"):
            return ""
        return await self._mend(
            "does not encrypt",
            "encrypts what it keeps",
            "put_bucket_encryption",
            ServerSideEncryptionConfiguration=ENCRYPTION,
        )

    async def _lifecycle(self) -> str:
        answer = await self._ask("get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration")
        rules = answer["Rules"] if answer else []
        active = [rule for rule in rules if rule["Status"] == "Enabled"]
        missing = [rule for rule in lifecycle_rules(self._spec) if not any(_covers(a, rule) for a in active)]
        expiries = [rule["Expiration"]["Days"] for rule in active if "Days" in rule.get("Expiration", {})]
        if expiries and min(expiries) < (self._spec.expire_days or max(expiries) + 1):
            return f"its objects expire after {min(expiries)} days, which is too soon: change its lifecycle"
        if not missing:
            return ""
        what = "expiry of backups" if "Expiration" in missing[-1] else "end of abandoned uploads"
        named = {rule["ID"] for rule in missing}
        kept = [rule for rule in rules if rule.get("ID") not in named]
        return await self._mend(
            f"has no {what}",
            "has its lifecycle",
            "put_bucket_lifecycle_configuration",
            LifecycleConfiguration={"Rules": [*kept, *missing]},
        )

    async def _tags(self) -> str:
        answer = await self._ask("get_bucket_tagging", "NoSuchTagSet")
        there = {tag["Key"]: tag["Value"] for tag in answer["TagSet"]} if answer else {}
        missing = {key: value for key, value in self._spec.tags.items() if there.get(key) != value}
        if not missing:
            return ""
        # S3 replaces them all.
        tags = [{"Key": key, "Value": value} for key, value in sorted((there | missing).items())]
        lacking = ", ".join(f"{key}={value}" for key, value in sorted(missing.items()))
        return await self._mend(
            f"lacks the tags {lacking}", "has its tags", "put_bucket_tagging", Tagging={"TagSet": tags}
        )

    async def _policy(self) -> str:
        answer = await self._ask("get_bucket_policy", "NoSuchBucketPolicy")
        if answer is None:
            return await self._mend(
                "takes requests without TLS",
                "takes requests by TLS only",
                "put_bucket_policy",
                Policy=json.dumps(bucket_policy(self._spec.name)),
            )
        if "aws:SecureTransport" in answer["Policy"]:
            return ""
        return "has a policy that does not refuse requests without TLS: add what deploy/aws/s3 has"

    async def _versioning(self) -> str:
        answer = await self._ask("get_bucket_versioning") or {}
        if answer.get("Status") == "Enabled":
            return ""
        return await self._mend(
            "does not keep former versions",
            "keeps former versions",
            "put_bucket_versioning",
            VersioningConfiguration={"Status": "Enabled"},
        )

    async def _mend(self, difference: str, done: str, operation: str, **arguments: Any) -> str:
        if self._say is None:
            return difference
        await getattr(self._client, operation)(Bucket=self._spec.name, **arguments)
        self._say(self._spec.name, done)
        return ""

    async def _ask(self, operation: str, *absent: str) -> Any:
        """Return an answer, None where S3 says by one of these codes that there is nothing of it."""
        try:
            return await getattr(self._client, operation)(Bucket=self._spec.name)
        except ClientError as error:
            if error.response["Error"]["Code"] in absent:
                return None
            raise


def _covers(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a rule for all objects does at least what is wanted."""
    scope = rule.get("Filter", {})
    if rule.get("Prefix") or (scope and scope != {"Prefix": ""}):
        return False
    return ("Expiration" in wanted and "Days" in rule.get("Expiration", {})) or (
        "AbortIncompleteMultipartUpload" in wanted and "AbortIncompleteMultipartUpload" in rule
    )
