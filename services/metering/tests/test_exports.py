"""What becomes of an export where its last step fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import ClientDisconnect

from artcafe_common.clock import SystemClock
from artcafe_common.contracts.registry import TenantInfo
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.http import CursorBox
from artcafe_metering.exports import EXPORTS_AT_ONCE, ExportQuery, ExportsApi
from artcafe_metering.keys import FIGURES, Kind
from artcafe_metering.parquet import Row
from artcafe_metering.periods import Retention
from artcafe_metering.signing import Signer


class Platform:
    """Everything around an export: one row, a chain in a list, a bucket that may refuse, a tenant."""

    def __init__(self) -> None:
        self.name = "bucket"
        self.chain: list[dict[str, Any]] = []
        self.objects: list[str] = []
        self.refused = ""

    async def of(self, *_: object) -> AsyncIterator[Row]:
        """Yield the row."""
        names = ("tenant_id", "date", "record", "number", "recorded_at")
        yield dict.fromkeys(names, "") | dict.fromkeys(FIGURES, 1)

    async def append(self, tenant_id: str, export_id: str, about: dict[str, Any]) -> str:
        """Keep a manifest."""
        self.chain.append(about)
        return "signed"

    @asynccontextmanager
    async def upload(self, key: str, content_type: str) -> AsyncIterator[Any]:
        """Take a file."""

        async def write(data: bytes) -> None:
            """Take bytes."""

        yield SimpleNamespace(write=write)
        await self.put(key, b"", content_type)

    async def put(self, key: str, body: bytes, content_type: str) -> None:
        """Take an object, unless its kind is refused."""
        if key.endswith(self.refused or "/"):
            raise unavailable("the object store")
        self.objects.append(key.rpartition(".")[2])

    async def find(self, tenant_id: str) -> TenantInfo | None:
        """Return a tenant."""
        return cast(TenantInfo, SimpleNamespace())

    async def retention(self, tenant_id: str, kind: Kind, start: date, today: date) -> Retention:
        """Return the defaults."""
        return Retention()


def api_of(platform: Any) -> ExportsApi:
    """Return the operations around a platform."""
    signer = Signer(Ed25519PrivateKey.generate())
    box = CursorBox(bytes(32))
    return ExportsApi(
        platform, platform, platform, signer, platform, platform, SystemClock(), platform, 60, box, []
    )


def call_of(tenant_id: str) -> Any:
    """Return a request for an export."""
    return SimpleNamespace(query=ExportQuery(), tenant_id=tenant_id)


@pytest.mark.parametrize(
    ("refused", "chained", "objects"),
    [("", 1, ["csv", "jws"]), (".csv", 0, []), (".jws", 1, ["csv"])],
)
async def test_an_export_that_is_not_kept_whole_breaks_off(
    refused: str, chained: int, objects: list[str]
) -> None:
    """No object, no manifest; where only the copy of the manifest is missing, the chain has it still."""
    platform: Any = Platform()
    platform.refused = refused
    answer: Any = await api_of(platform).export(call_of("t1"))
    broken_off = False
    try:
        data = b"".join([chunk async for chunk in answer.body_iterator])
        assert data.count(b"\n") == 2
    except ServiceError:
        broken_off = True
    assert (broken_off, len(platform.chain), platform.objects) == (bool(refused), chained, objects)


async def test_a_tenant_has_only_so_many_exports_at_once() -> None:
    """Each holds figures until its client has read it: one more waits for the end of one."""
    platform: Any = Platform()
    api = api_of(platform)
    files = [await api.export(call_of("t1")) for _ in range(EXPORTS_AT_ONCE)]
    with pytest.raises(ServiceError, match="exports at once") as refused:
        await api.export(call_of("t1"))
    assert (refused.value.http_status, refused.value.retry_after) == (429, 5.0)
    await api.export(call_of("t2"))

    async def hangs_up(message: Any) -> None:
        raise OSError

    async def takes(message: Any) -> None:
        """Take what is sent."""

    async def never() -> Any:
        await asyncio.Event().wait()

    scope: Any = {"type": "http", "asgi": {"spec_version": "2.4"}}
    for file, send in zip(files, (takes, hangs_up), strict=False):
        with suppress(ClientDisconnect):
            await file(scope, never, send)
        await api.export(call_of("t1"))
        with pytest.raises(ServiceError, match="exports at once"):
            await api.export(call_of("t1"))

    async def away(*_: object) -> Retention:
        raise unavailable("registry")

    await files[2](scope, never, takes)
    platform.retention = away
    for _ in range(EXPORTS_AT_ONCE):
        # What never began does not count.
        with pytest.raises(ServiceError, match="registry"):
            await api.export(call_of("t1"))
