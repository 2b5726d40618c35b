"""The REST operations on exports: a file of figures, a signed manifest of what is in it, and their chain."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import date
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.http import Call, CursorBox, FileReply, Operation, PageQuery, TenantRates
from artcafe_common.http.rates import too_many
from artcafe_common.ids import is_token, new_ulid
from artcafe_common.roles import Permission
from artcafe_metering import periods, ranges
from artcafe_metering.counters import Counters
from artcafe_metering.exporting import CONTENT_TYPES, Format, Rows, Summary, encoded
from artcafe_metering.keeping import Keeping
from artcafe_metering.keys import Breakdown
from artcafe_metering.manifests import Link, Manifests
from artcafe_metering.objects import Bucket
from artcafe_metering.parquet import Row
from artcafe_metering.signing import Jwk, Signer
from artcafe_metering.tenants import Tenants, check_known
from artcafe_metering.wire import TenantQuery

logger = logging.getLogger(__name__)

LIST_ROUTE = "usage/exports"
# Of one tenant in this process: each holds a day's figures in memory for as long as its client takes to read.
EXPORTS_AT_ONCE = 8
RETRY_SECONDS = 5.0
EXPORT_ID_HEADER = "Artcafe-Export-Id"
_FILE = FileReply(
    # Without their parameters, which a description of an API does not name.
    tuple(content_type.partition(";")[0] for content_type in CONTENT_TYPES.values()),
    {
        EXPORT_ID_HEADER: "The id of the export, by which its manifest is found",
        "Content-Disposition": "A name for the file",
    },
)


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A range of UTC dates, both included, and the form of the file."""

    start_date: date | None = None
    end_date: date | None = None
    format: Format = "csv"
    group_by: Breakdown | None = None
    tenant_id: str | None = None


class ManifestReply(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of an export as a JSON Web Signature in compact form."""

    export_id: str
    manifest: str


class ListQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of exports."""

    tenant_id: str | None = None


class ExportView(msgspec.Struct, frozen=True, kw_only=True):
    """An export: what its manifest says, and the manifest itself."""

    number: int
    export_id: str
    created_at: str
    start_date: date
    end_date: date
    format: Format
    group_by: Breakdown | None
    rows: int
    bytes: int
    sha256: str
    previous_sha256: str | None
    manifest: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The newest manifest of a chain: its number, and the SHA-256 of the signed manifest."""

    number: int
    sha256: str


class ExportsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The exports of an organisation, newest first, down to number 1 without a gap; `head` is of all."""

    tenant_id: str
    head: Head | None
    exports: list[ExportView]
    next_token: str | None


class KeysReply(msgspec.Struct, frozen=True, kw_only=True):
    """The public keys of manifests, as a JSON Web Key Set: first the one in use, then former ones."""

    keys: list[Jwk]


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
        keeping: Keeping,
        per_hour: int,
        cursors: CursorBox,
        retired: list[Jwk],
    ) -> None:
        self._rows = rows
        self._counters = counters
        self._manifests = manifests
        self._signer = signer
        self._bucket = bucket
        self._tenants = tenants
        self._clock = clock
        self._keeping = keeping
        self._per_hour = per_hour
        self._cursors = cursors
        self._retired = [jwk for jwk in retired if jwk["kid"] != signer.jwk["kid"]]
        self._rates = TenantRates("exports per hour", clock)
        self._running: Counter[str] = Counter()

    def operations(self) -> list[Operation]:
        """Return the routes."""
        read = Permission.USAGE_READ
        return [
            Operation(
                "GET", "/usage/export", self.export, "Usage by day as a file, with a signed manifest",
                read, query=ExportQuery, reply=_FILE, errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
                description="The header `Artcafe-Export-Id` names the export; its manifest is there when the "
                "file has ended.",
            ),
            Operation(
                "GET", "/usage/export/keys.json", self.keys, "The public keys of manifests",
                "public", reply=KeysReply, tags=("usage",),
            ),
            Operation(
                "GET", "/usage/exports", self.exports, "The exports that were made, with their manifests",
                read, query=ListQuery, reply=ExportsReply, errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
                description="Newest first. Each manifest has the hash of the one before; `head` is the last.",
            ),
            Operation(
                "GET", "/usage/exports/{export_id}", self.manifest, "The signed manifest of an export",
                read, query=TenantQuery, reply=ManifestReply, errors=(ErrorCode.NOT_FOUND,), tags=("usage",),
            ),
        ]  # fmt: skip

    async def export(self, call: Call) -> Response:
        """Answer GET /usage/export."""
        tenant_id = call.tenant_id
        if self._running[tenant_id] >= EXPORTS_AT_ONCE:
            raise too_many("exports at once", RETRY_SECONDS)
        self._running[tenant_id] += 1
        ended = partial(self._ended, tenant_id)
        try:
            return await self._export(call, ended)
        except BaseException:
            ended()
            raise

    def _ended(self, tenant_id: str) -> None:
        # A tenant without any is no longer in it.
        self._running -= Counter([tenant_id])

    async def _export(self, call: Call, ended: Callable[[], None]) -> Response:
        # Each is kept for years.
        self._rates.take(call.tenant_id, self._per_hour / 3600, self._per_hour)
        query: ExportQuery = call.query
        tenant_id, today = call.tenant_id, periods.utc(self._clock.now()).date()
        start, end = ranges.resolve(query.start_date, query.end_date, "day", today)
        retention = await self._keeping.retention(tenant_id, "day", start, today)
        ranges.divide(tenant_id, start, end, "day", today, retention)
        await check_known(self._tenants, self._counters, tenant_id, start, end)
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
        name = f"usage-{tenant_id}-{start}-{end}.{query.format}"
        return _File(
            ended,
            self._file(about, _all(first, rows)),
            media_type=CONTENT_TYPES[query.format],
            headers={
                EXPORT_ID_HEADER: export_id,
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    async def exports(self, call: Call) -> ExportsReply:
        """Answer GET /usage/exports."""
        query: ListQuery = call.query
        tenant_id = call.tenant_id
        opened = self._cursors.open(query.next_token, tenant_id, LIST_ROUTE)
        before = int(opened["before"]) if opened else None
        links = await self._manifests.before(tenant_id, before, query.limit)
        head = await self._manifests.head(tenant_id) if opened else (links[0] if links else None)
        if head is None and await self._tenants.find(tenant_id) is None:
            raise not_found("tenant")
        more = {"before": links[-1].number} if links and links[-1].number > 1 else None
        return ExportsReply(
            tenant_id=tenant_id,
            head=Head(number=head.number, sha256=head.sha256) if head else None,
            exports=[_view(link) for link in links],
            next_token=self._cursors.seal(more, tenant_id, LIST_ROUTE),
        )

    async def manifest(self, call: Call) -> ManifestReply:
        """Answer GET /usage/exports/{export_id}."""
        export_id = call.path["export_id"]
        # A key of the store has a length that an address does not.
        found = await self._manifests.find(call.tenant_id, export_id) if is_token(export_id) else None
        if found is None:
            raise not_found("export")
        return ManifestReply(export_id=export_id, manifest=found)

    async def keys(self, call: Call) -> KeysReply:
        """Answer GET /usage/export/keys.json."""
        return KeysReply(keys=[self._signer.jwk, *self._retired])

    async def _file(self, about: dict[str, Any], rows: AsyncIterator[Row]) -> AsyncIterator[bytes]:
        """Yield the file; it is broken off where anything fails, also keeping it: what has an end is kept."""
        key = f"exports/{about['tenant_id']}/{about['export_id']}.{about['format']}"
        content_type = CONTENT_TYPES[about["format"]]
        summary = Summary()
        chunks = encoded(about["format"], about["group_by"], summary.of_rows(rows))
        try:
            async with AsyncExitStack() as stack:
                upload = None
                if self._bucket is not None:
                    upload = await stack.enter_async_context(self._bucket.upload(key, content_type))
                async for chunk in summary.of_bytes(chunks):
                    if upload is not None:
                        await upload.write(chunk)
                    yield chunk
            signed = await self._manifests.append(
                about["tenant_id"],
                about["export_id"],
                about
                | {
                    "created_at": rfc3339(self._clock.now()),
                    "rows": summary.rows,
                    "bytes": summary.bytes,
                    "totals": summary.totals,
                    "sha256": summary.sha256,
                    "object": f"s3://{self._bucket.name}/{key}" if self._bucket else None,
                },
            )
            if self._bucket is not None:
                await self._bucket.put(f"{key}.jws", signed.encode(), "application/jose")
        except ServiceError as error:
            logger.error("export_broken_off", extra={"export_id": about["export_id"], "error": str(error)})
            raise


class _File(StreamingResponse):
    """A file on its way; `ended` is called when it is there or was broken off."""

    def __init__(self, ended: Callable[[], None], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _view(link: Link) -> ExportView:
    return msgspec.convert(link.about() | {"manifest": link.signed}, ExportView)


async def _all(first: Row | None, rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
    if first is not None:
        yield first
        async for row in rows:
            yield row
