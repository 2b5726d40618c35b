"""The REST operations under /usage/export: a file of figures, and a signed manifest of what is in it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import date
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.http import Call, Operation
from artcafe_common.ids import new_ulid
from artcafe_common.roles import Permission
from artcafe_metering import keys, periods, ranges
from artcafe_metering.counters import Counters
from artcafe_metering.exporting import CONTENT_TYPES, Format, Rows, Writer
from artcafe_metering.keys import Breakdown
from artcafe_metering.manifests import Manifests
from artcafe_metering.objects import Bucket
from artcafe_metering.periods import Retention
from artcafe_metering.signing import Signer
from artcafe_metering.tenants import Tenants

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
EXPORT_ID_HEADER = "Artcafe-Export-Id"


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of UTC dates, both included, and the form of the file."""

    start_date: date | None = None
    end_date: date | None = None
    format: Format = "csv"
    group_by: Breakdown | None = None
    tenant_id: str | None = None


class TenantQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which organisation is meant, for those who may see several."""

    tenant_id: str | None = None


class ManifestReply(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of an export as a JSON Web Signature in compact form."""

    export_id: str
    manifest: str


class KeysReply(msgspec.Struct, frozen=True, kw_only=True):
    """The public keys of manifests, as a JSON Web Key Set."""

    keys: list[dict[str, str]]


class ExportsApi:
    """What the billing team keeps."""

    def __init__(
        self,
        rows: Rows,
        counters: Counters,
        manifests: Manifests,
        signer: Signer,
        bucket: Bucket | None,
        tenants: Tenants,
        clock: Clock,
        retention: Retention,
    ) -> None:
        self._rows = rows
        self._counters = counters
        self._manifests = manifests
        self._signer = signer
        self._bucket = bucket
        self._tenants = tenants
        self._clock = clock
        self._retention = retention

    def operations(self) -> list[Operation]:
        """Return the routes."""
        read = Permission.USAGE_READ
        return [
            Operation(
                "GET", "/usage/export", self.export, "Usage by day as a file, with a signed manifest",
                read, query=ExportQuery, errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
                description="The header `Artcafe-Export-Id` names the export; its manifest is there when the "
                "file has ended.",
            ),
            Operation(
                "GET", "/usage/export/keys.json", self.keys, "The public keys of manifests",
                "public", reply=KeysReply, tags=("usage",),
            ),
            Operation(
                "GET", "/usage/exports/{export_id}", self.manifest, "The signed manifest of an export",
                read, query=TenantQuery, reply=ManifestReply, errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
            ),
        ]  # fmt: skip

    async def export(self, call: Call) -> Response:
        """Answer GET /usage/export."""
        query: ExportQuery = call.query
        tenant_id, today = call.tenant_id, periods.utc(self._clock.now()).date()
        start, end = ranges.resolve(query.start_date, query.end_date, "day", today)
        ranges.divide(tenant_id, start, end, "day", today, self._retention)
        if await self._tenants.find(tenant_id) is None:
            names = [keys.day_key(tenant_id, day) for day in periods.days_of(start, end)]
            if not any(await self._counters.figures(names)):
                raise not_found("tenant")
        export_id = new_ulid()
        about = {
            "version": 1,
            "export_id": export_id,
            "tenant_id": tenant_id,
            "start_date": f"{start}",
            "end_date": f"{end}",
            "format": query.format,
            "group_by": query.group_by,
        }
        rows = self._rows.of(tenant_id, start, end, query.group_by)
        # The first row is had before the answer begins: a store that is away is an error and not half a file.
        first = await anext(rows, None)
        writer = Writer(query.format, query.group_by)
        name = f"usage-{tenant_id}-{start}-{end}.{query.format}"
        return StreamingResponse(
            self._file(about, writer, first, rows),
            media_type=CONTENT_TYPES[query.format],
            headers={
                EXPORT_ID_HEADER: export_id,
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    async def manifest(self, call: Call) -> ManifestReply:
        """Answer GET /usage/exports/{export_id}."""
        export_id = call.path["export_id"]
        found = await self._manifests.find(call.tenant_id, export_id)
        if found is None:
            raise not_found("export")
        return ManifestReply(export_id=export_id, manifest=found)

    async def keys(self, call: Call) -> KeysReply:
        """Answer GET /usage/export/keys.json."""
        return KeysReply(keys=[self._signer.jwk])

    async def _file(
        self,
        about: dict[str, Any],
        writer: Writer,
        first: dict[str, Any] | None,
        rows: AsyncIterator[dict[str, Any]],
    ) -> AsyncIterator[bytes]:
        """Yield the file; it is broken off where anything fails, also keeping it: what has an end is kept."""
        key = f"exports/{about['tenant_id']}/{about['export_id']}.{about['format']}"
        content_type = CONTENT_TYPES[about["format"]]
        try:
            async with AsyncExitStack() as stack:
                upload = None
                if self._bucket is not None:
                    upload = await stack.enter_async_context(self._bucket.upload(key, content_type))
                async for chunk in _chunks(writer, first, rows):
                    if upload is not None:
                        await upload.write(chunk)
                    yield chunk
            signed = await self._manifests.append(
                about["tenant_id"],
                about["export_id"],
                about
                | {
                    "created_at": rfc3339(self._clock.now()),
                    "rows": writer.rows,
                    "bytes": writer.bytes,
                    "totals": writer.totals,
                    "sha256": writer.sha256,
                    "object": f"s3://{self._bucket.name}/{key}" if self._bucket else None,
                },
            )
            if self._bucket is not None:
                await self._bucket.put(f"{key}.jws", signed.encode(), "application/jose")
        except ServiceError as error:
            logger.error("export_broken_off", extra={"export_id": about["export_id"], "error": str(error)})
            raise


async def _chunks(
    writer: Writer, first: dict[str, Any] | None, rows: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    chunk = bytearray(writer.head())
    if first is not None:
        chunk += writer.row(first)
        async for row in rows:
            chunk += writer.row(row)
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    if chunk:
        yield bytes(chunk)
