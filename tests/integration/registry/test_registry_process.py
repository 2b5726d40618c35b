"""The registry as a process: its command line, its start and its end."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys

import httpx
import pytest

from artcafe_common.bus import Bus
from artcafe_common.config import load
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, Jwks
from artcafe_common.contracts.registry import Changed
from artcafe_common.errors import ServiceError
from artcafe_common.rpc import serve
from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import AwsEndpoint
from artcafe_registry.config import PREFIX, CommandConfig
from artcafe_registry.platform_roles import change_platform_roles

from .support import DEADLINE_SECONDS, Issuer, Stage, until


async def _command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "artcafe_registry",
        *arguments,
        env=_process_environment() | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def _process_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path)}


FIRST = ("bootstrap", "--tenant-id", "first", "--tenant-name", "First", "--plan", "pro")


async def test_bootstrap_makes_a_tenant_once(stage: Stage, aws: AwsEndpoint) -> None:
    """The command makes tenant, owner and administrator; run again it changes nothing."""
    environment = aws.environment() | {"TABLE_PREFIX": "test-", "NATS_URL": stage.nats_url}
    owner = ("--owner-user-id", "me", "--owner-email", "me@example.com")
    arguments = (*FIRST, *owner, "--platform-admin", "--auto-create-channels")
    me = stage.client("me")
    assert (await me.get("/tenants")).json()["tenants"] == []
    assert (await _command(environment, *arguments))[0] == 0
    (tenant,) = (await me.get("/tenants")).json()["tenants"]
    assert (tenant["id"], tenant["name"], tenant["plan"]) == ("first", "First", "pro")
    assert tenant["auto_create_channels"] is True
    (member,) = (await me.get("/tenants/first/members")).json()["members"]
    assert (member["user_id"], member["email"]) == ("me", "me@example.com")
    assert (await me.post("/agents", json={"name": "a"})).status_code == 201
    renamed = await me.put("/tenants/first", json={"name": "Renamed", "plan": "basic"})
    assert renamed.status_code == 200
    code, out, _ = await _command(environment, *arguments)
    assert (code, out) == (0, "tenant first: ok\n")
    again = (await me.get("/tenants/first")).json()
    assert (again["name"], again["plan"], again["agents"]) == ("Renamed", "basic", 1)

    async def told() -> bool:
        wanted = Changed(tenant_id="first", kind="tenant", id="first", action="created")
        return wanted in stage.changed

    await until(told)


async def test_bootstrap_does_not_bring_a_deleted_tenant_back(stage: Stage, aws: AwsEndpoint) -> None:
    """The command says in one line that the id of a deleted tenant is not used again."""
    tenant_id, owner = await stage.owner()
    assert (await owner.delete(f"/tenants/{tenant_id}")).status_code == 204
    arguments = ("bootstrap", "--tenant-id", tenant_id, "--tenant-name", "x", "--owner-user-id", "me")
    environment = aws.environment() | {"TABLE_PREFIX": "test-", "NATS_URL": stage.nats_url}
    code, _, err = await _command(environment, *arguments)
    assert code == 1
    assert "ids are not used again" in err


async def test_bootstrap_needs_the_store_alone(aws: AwsEndpoint) -> None:
    """Without NATS and without the service's own settings it works, creating its tables where told to."""
    environment = aws.environment() | {"CREATE_TABLES": "true"}
    code, _, err = await _command(environment, *FIRST, "--owner-user-id", "me")
    assert code == 0, err


async def test_roles_on_the_platform_are_given_and_taken(stage: Stage, aws: AwsEndpoint) -> None:
    """Whoever bills for the platform gets the role for that by a command, and needs none that may do more."""
    environment = aws.environment() | {"TABLE_PREFIX": "test-"}
    command = ("platform-roles", "--user-id", "biller", "--give", "billing")
    assert (await _command(environment, *command))[:2] == (0, "biller: billing\n")
    tenant_id = await stage.tenant()
    biller = stage.client("biller")
    (tenant,) = (await biller.get("/tenants")).json()["tenants"]
    assert (tenant["tenant_id"], tenant["role"]) == (tenant_id, "billing")
    config = load(CommandConfig, PREFIX, environment)
    both = await change_platform_roles(config, "biller", ["platform_admin", "billing"], [])
    assert both == ["billing", "platform_admin"]
    assert await change_platform_roles(config, "biller", [], ["billing", "owner"]) == ["platform_admin"]
    assert await change_platform_roles(config, "biller", [], []) == ["platform_admin"]
    assert await change_platform_roles(config, "biller", [], ["platform_admin"]) == []
    assert (await biller.get("/tenants", headers={"Cache-Control": "no-cache"})).json()["tenants"] == []
    with pytest.raises(ServiceError, match="not one of a person"):
        await change_platform_roles(config, "", ["billing"], [])


async def test_bootstrap_refuses_what_is_no_id(aws: AwsEndpoint) -> None:
    """A tenant id that the grammar does not allow is refused with one line."""
    environment = aws.environment() | {"CREATE_TABLES": "true"}
    arguments = ("bootstrap", "--tenant-id", "a.b", "--tenant-name", "x", "--owner-user-id", "me")
    code, _, err = await _command(environment, *arguments)
    assert code == 1
    assert "tenant_id is not a valid id" in err


async def test_configuration_is_checked_before_anything_starts() -> None:
    """Missing, misspelt and malformed settings stop the start with a line naming each; a good one passes."""
    key = base64.b64encode(bytes(32)).decode()
    good = {"NATS_URL": "nats://127.0.0.1:1", "REGISTRY_CURSOR_KEY": key}
    assert (await _command(good, "--check-config"))[:2] == (0, "configuration: ok\n")
    for bad, named in (
        ({"NATS_URL": "nats://x"}, "REGISTRY_CURSOR_KEY is not set"),
        (good | {"REGISTRY_CURSOR_KEY": "c2hvcnQ="}, "REGISTRY_CURSOR_KEY is not valid"),
        (good | {"REGISTRY_CURSOR_KEY": "%%%"}, "REGISTRY_CURSOR_KEY is not valid"),
        (good | {"REGISTRY_CURSER_KEY": key}, "did you mean REGISTRY_CURSOR_KEY?"),
        (good | {"REGISTRY_HTTP_PORT": "0"}, "REGISTRY_HTTP_PORT is not valid"),
    ):
        code, _, err = await _command(bad, "--check-config")
        assert code == 2, named
        assert named in err
        assert "Traceback" not in err
        assert key not in err


async def test_process_serves_and_ends_when_told(nats_url: str, aws: AwsEndpoint) -> None:
    """The real process answers over HTTP, ends with 0 on SIGTERM, and logs no token."""
    issuer = Issuer()

    async def jwks(_: GetJwks) -> Jwks:
        return issuer.jwks()

    port = free_port()
    environment = aws.environment() | {
        "NATS_URL": nats_url,
        "CREATE_TABLES": "true",
        "REGISTRY_HTTP_PORT": str(port),
        "REGISTRY_CURSOR_KEY": base64.b64encode(bytes(32)).decode(),
        "REGISTRY_SELF_SERVICE_TENANTS": "true",
    }
    bus = await Bus.open(nats_url, name="test")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "artcafe_registry",
        env=_process_environment() | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        token = issuer.token("me")
        async with (
            serve(bus, GET_JWKS, jwks, queue="auth"),
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}, timeout=20
            ) as client,
        ):

            async def ready() -> bool:
                try:
                    return (await client.get("/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(ready)
            assert (await client.post("/api/v1/tenants", json={"name": "x"})).status_code == 201
            assert (await client.get("/health")).json() == {"status": "up"}
            shown = (await client.get("/metrics")).text
            assert "artcafe_registry_messages_total" in shown
            assert "artcafe_http_seconds" in shown
            document = (await client.get("/api/v1/registry/openapi.json")).json()
            assert "/api/v1/agents/{agent_id}/keys/{fingerprint}" in document["paths"]
            process.send_signal(signal.SIGTERM)
            _, err = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
        assert process.returncode == 0
        assert token not in err.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await bus.close_gracefully()


async def test_process_that_waits_for_nats_ends_when_told(aws: AwsEndpoint) -> None:
    """Told to end before NATS was ever there, at once or later, the process ends."""
    environment = aws.environment() | {
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "REGISTRY_HTTP_PORT": str(free_port()),
        "REGISTRY_CURSOR_KEY": base64.b64encode(bytes(32)).decode(),
    }
    for event in (b"service_starting", b"nats_error"):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "artcafe_registry",
            env=_process_environment() | environment,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            while event not in (line := await asyncio.wait_for(process.stderr.readline(), DEADLINE_SECONDS)):
                assert line
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
