"""Objects in S3: written once, encrypted by the server, in parts where they are large."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from artcafe_common.errors import ServiceError, unavailable

logger = logging.getLogger(__name__)

# S3 takes at most 10 000 parts: objects of up to 80 GB.
PART_BYTES = 8 * 1024 * 1024
_ENCRYPTION = "AES256"

T = TypeVar("T")


class Bucket:
    """One bucket; every method raises ServiceError ``unavailable`` where S3 is away or refuses."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    @classmethod
    @asynccontextmanager
    async def connect(cls, name: str, *, region: str, endpoint_url: str | None) -> AsyncIterator[Bucket]:
        """Open a client; AWS's libraries find the credentials, in the environment or by the role."""
        config = AioConfig(
            connect_timeout=3,
            read_timeout=30,
            retries={"max_attempts": 3, "mode": "standard"},
            signature_version="s3v4",
            # An emulator has no host name for each bucket.
            s3={"addressing_style": "path"} if endpoint_url else None,
        )
        async with aioboto3.Session().client(
            "s3", region_name=region, endpoint_url=endpoint_url, config=config
        ) as client:
            yield cls(client, name)

    async def put(self, key: str, body: bytes, content_type: str) -> None:
        """Write a small object."""
        await _asked(
            self.client.put_object(
                Bucket=self.name,
                Key=key,
                Body=body,
                ContentType=content_type,
                ServerSideEncryption=_ENCRYPTION,
            )
        )

    async def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects that begin so, in their order."""
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = await _asked(self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, **more))
            found += [each["Key"] for each in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @asynccontextmanager
    async def upload(self, key: str, content_type: str) -> AsyncIterator[Upload]:
        """Write an object piece by piece; it is there when the block has ended well, else never."""
        made = await _asked(
            self.client.create_multipart_upload(
                Bucket=self.name, Key=key, ContentType=content_type, ServerSideEncryption=_ENCRYPTION
            )
        )
        upload = Upload(self, key, made["UploadId"])
        try:
            yield upload
            await upload.finish()
        except BaseException:
            try:
                await _asked(upload.abort())
            except Exception as error:
                logger.warning("upload_not_aborted", extra={"key": key, "error": type(error).__name__})
            raise


class Upload:
    """An object that is being written."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._client = bucket.client
        self._place = {"Bucket": bucket.name, "Key": key, "UploadId": upload_id}
        self._waiting = bytearray()
        self._parts: list[dict[str, Any]] = []

    async def write(self, data: bytes) -> None:
        """Add bytes; a part at a time leaves for S3."""
        self._waiting += data
        while len(self._waiting) >= PART_BYTES:
            part = bytes(self._waiting[:PART_BYTES])
            del self._waiting[:PART_BYTES]
            await self._send(part)

    async def finish(self) -> None:
        """Send the rest and put the parts together."""
        if self._waiting or not self._parts:
            await self._send(bytes(self._waiting))
        await _asked(
            self._client.complete_multipart_upload(**self._place, MultipartUpload={"Parts": self._parts})
        )

    def abort(self) -> Awaitable[Any]:
        """Let S3 forget the parts."""
        aborted: Awaitable[Any] = self._client.abort_multipart_upload(**self._place)
        return aborted

    async def _send(self, part: bytes) -> None:
        number = len(self._parts) + 1
        answer = await _asked(self._client.upload_part(**self._place, PartNumber=number, Body=part))
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})


def reason_of(error: ServiceError) -> str:
    """Return what is wrong for who runs the service: with AWS's own code, which clients are not told."""
    if code := refusal_of(error):
        return f"{error} ({code})"
    cause = error.__cause__
    return f"{error} ({type(cause).__name__})" if cause is not None else str(error)


def refusal_of(error: ServiceError) -> str | None:
    """Return the code with which S3 has refused, e.g. ``NoSuchBucket``; None where it was not asked."""
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, ClientError) else None


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except ClientError as error:
        logger.warning("object_store_refused", extra={"code": error.response["Error"]["Code"]})
        raise unavailable("the object store") from error
    except (BotoCoreError, OSError, TimeoutError) as error:
        logger.warning("object_store_unreachable", extra={"error": type(error).__name__})
        raise unavailable("the object store") from error
