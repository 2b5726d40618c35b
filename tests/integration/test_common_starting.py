"""Services that come up before what they need: alive, not ready, and ready by themselves later."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from artcafe_devstack.ports import free_port
from artcafe_devstack.process import inherited_environment
from artcafe_devstack.servers import AwsEndpoint, nats_server

from .aws_support import TABLES, aws_client

SERVICES = ("auth", "registry", "gateway", "metering")
PATIENCE_SECONDS = 90.0


def _environment(service: str, aws: AwsEndpoint, nats_port: int, redis: str, folder: Path) -> dict[str, str]:
    prefix = service.upper()
    settings = {
        "ENVIRONMENT": "development",
        "NATS_URL": f"nats://127.0.0.1:{nats_port}",
        "CREATE_TABLES": "true",
        f"{prefix}_HTTP_PORT": str(free_port()),
        **aws.environment(),
    }
    own = {
        "auth": {
            "AUTH_LOCAL_ISSUER": "true",
            "AUTH_LOCAL_ISSUER_URL": "http://127.0.0.1/api/v1/auth",
            "AUTH_LOCAL_ISSUER_KEY_FILE": str(folder / "issuer.pem"),
        },
        "registry": {"REGISTRY_CURSOR_KEY": base64.b64encode(bytes(32)).decode()},
        "gateway": {"GATEWAY_WS_PORT": str(free_port())},
        "metering": {"REDIS_URL": redis},
    }
    return inherited_environment() | settings | own[service]


@asynccontextmanager
async def _running(
    service: str, settings: dict[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"artcafe_{service}", env=settings, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until(check: Callable[[], object], what: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not check():
        assert time.monotonic() < deadline, f"{what}\n{log.read_text()}"
        await asyncio.sleep(0.1)


class _Asked:
    """One service's HTTP side."""

    def __init__(self, url: str) -> None:
        self._url = url

    def status(self, path: str) -> int | None:
        """Return the status of an answer, None where nobody answers."""
        try:
            return httpx.get(f"{self._url}{path}", timeout=30.0).status_code
        except httpx.HTTPError:
            return None

    def missing(self) -> list[str]:
        """Return the names of the dependencies that are away; none where nobody answers."""
        try:
            dependencies = self.get("/ready").json()["dependencies"]
        except httpx.HTTPError:
            return []
        return [each["name"] for each in dependencies if each["status"] == "down"]

    def get(self, path: str) -> httpx.Response:
        """Return an answer."""
        return httpx.get(f"{self._url}{path}", timeout=30.0)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_waits_for_nats_is_alive_and_not_ready(
    service: str, aws: AwsEndpoint, valkey_url: str, tmp_path: Path
) -> None:
    """Before NATS is there HTTP answers and says for want of what; then the service is ready by itself."""
    port, log = free_port(), tmp_path / "log"
    settings = _environment(service, aws, port, valkey_url, tmp_path)
    asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
    async with _running(service, settings, log) as process:
        await _until(lambda: asked.status("/health") == 200, "it does not say that it is alive", log)
        # Where it makes its tables first, it waits for these at first.
        await _until(lambda: asked.missing() == ["nats"], "it does not say what it waits for", log)
        answer = asked.get("/ready")
        assert answer.status_code == 503
        assert (answer.json()["service"], answer.json()["status"]) == (service, "down")
        refused = asked.get("/api/v1/agents")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert asked.status("/metrics") == 200
        with nats_server(tmp_path / "nats", port=port):
            await _until(lambda: asked.status("/ready") == 200, "it does not get ready", log)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
    assert "service_waiting" in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_waits_can_be_stopped(
    service: str, aws: AwsEndpoint, valkey_url: str, tmp_path: Path
) -> None:
    """SIGTERM ends a service that still waits, with status 0."""
    log = tmp_path / "log"
    settings = _environment(service, aws, free_port(), valkey_url, tmp_path)
    asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
    async with _running(service, settings, log) as process:
        await _until(lambda: asked.status("/health") == 200, "it does not say that it is alive", log)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("service", ["registry", "gateway"])
async def test_a_service_that_waits_for_its_store_says_so(
    service: str, aws: AwsEndpoint, nats_url: str, tmp_path: Path
) -> None:
    """Where the tables are to be made and AWS is away, that is what `/ready` names."""
    log = tmp_path / "log"
    settings = _environment(service, aws, 0, "", tmp_path)
    settings |= {"NATS_URL": nats_url, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
    async with _running(service, settings, log):
        await _until(lambda: asked.status("/health") == 200, "it does not say that it is alive", log)
        await _until(lambda: asked.missing() == ["dynamodb"], "it does not say what it waits for", log)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_port_that_is_taken_is_one_line(
    service: str, aws: AwsEndpoint, valkey_url: str, tmp_path: Path
) -> None:
    """Whoever starts a service twice is told by the names of the settings."""
    log = tmp_path / "log"
    settings = _environment(service, aws, free_port(), valkey_url, tmp_path)
    async with _running(service, settings, log):
        asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
        await _until(lambda: asked.status("/health") == 200, "it does not say that it is alive", log)
        second = tmp_path / "second"
        if service == "gateway":
            settings["GATEWAY_WS_PORT"] = str(free_port())
        async with _running(service, settings, second) as process:
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 1
    (line,) = (line for line in second.read_text().splitlines() if not line.startswith("{"))
    port = settings[f"{service.upper()}_HTTP_PORT"]
    assert line.startswith("cannot start: ") and f"{service.upper()}_HTTP_PORT" in line and port in line
    assert os.strerror(98) in line


def _settings_of_its_own(
    service: str, aws: AwsEndpoint, redis: str, nats_url: str, folder: Path
) -> tuple[dict[str, str], str]:
    """Return settings under which no tables and buckets are shared with anybody, and their prefix."""
    prefix = f"lost-{uuid.uuid4().hex[:8]}-"
    settings = _environment(service, aws, 0, redis, folder) | {"NATS_URL": nats_url, "TABLE_PREFIX": prefix}
    if service == "metering":
        settings |= {"METERING_BACKUP_BUCKET": f"{prefix}backups"}
    return settings, prefix


def _tables_of(service: str, prefix: str) -> list[str]:
    container = "gateway-ws" if service == "gateway" else service
    return sorted(prefix + spec.name for spec in TABLES[container])


@pytest.mark.parametrize("service", SERVICES)
async def test_tables_that_get_lost_are_made_again(
    service: str, aws: AwsEndpoint, valkey_url: str, nats_url: str, tmp_path: Path
) -> None:
    """Where a service makes its tables, it makes again those that the store has forgotten, and buckets."""
    log = tmp_path / "log"
    settings, prefix = _settings_of_its_own(service, aws, valkey_url, nats_url, tmp_path)
    asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
    buckets = [settings["METERING_BACKUP_BUCKET"]] if service == "metering" else []
    wanted = [*_tables_of(service, prefix), *buckets]
    async with aws_client("dynamodb", aws) as dynamodb, aws_client("s3", aws) as s3:

        async def there() -> list[str]:
            # To look is how a service notices.
            ready = await asyncio.to_thread(asked.status, "/ready") == 200 and not asked.missing()
            tables = [
                name
                async for page in dynamodb.get_paginator("list_tables").paginate()
                for name in page["TableNames"]
            ]
            found = [*tables, *(each["Name"] for each in (await s3.list_buckets())["Buckets"])]
            return sorted(name for name in found if name.startswith(prefix)) if ready else []

        async def until_all_are_there() -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while await there() != sorted(wanted):
                assert time.monotonic() < deadline, log.read_text()
                await asyncio.sleep(0.1)

        async with _running(service, settings, log) as process:
            await until_all_are_there()
            for name in _tables_of(service, prefix):
                await dynamodb.delete_table(TableName=name)
            for name in buckets:
                await s3.delete_bucket(Bucket=name)
            await until_all_are_there()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
    assert "tables_missing" in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.parametrize("service", SERVICES)
async def test_tables_are_not_made_by_who_is_not_to(
    service: str, aws: AwsEndpoint, valkey_url: str, nats_url: str, tmp_path: Path
) -> None:
    """Without CREATE_TABLES a service says that its tables are not there, however often, and makes none."""
    log = tmp_path / "log"
    settings, prefix = _settings_of_its_own(service, aws, valkey_url, nats_url, tmp_path)
    settings["CREATE_TABLES"] = "false"
    asked = _Asked(f"http://127.0.0.1:{settings[f'{service.upper()}_HTTP_PORT']}")
    async with _running(service, settings, log):
        for _ in range(5):
            await _until(lambda: asked.missing() == ["dynamodb"], "it does not say what is missing", log)
        # Metering counts without it.
        status = 200 if service == "metering" else 503
        await _until(lambda: asked.status("/ready") == status, f"it does not answer {status}", log)
    async with aws_client("dynamodb", aws) as dynamodb:
        pages = dynamodb.get_paginator("list_tables").paginate()
        assert not [name async for page in pages for name in page["TableNames"] if name.startswith(prefix)]
