"""What docs/operations.md tells an operator to do with docker compose, done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from artcafe_agent import Client
from artcafe_agent.errors import ArtcafeError

from .conftest import OPERATOR
from .deployment import Deployment

SCRIPT_SECONDS = 300


def _rotate(deployment: Deployment, name: str) -> str:
    """Rotate a secret as the runbook says."""
    deployment.report(f"rotating {name}")
    printed = deployment.script("rotate.sh", name, seconds=SCRIPT_SECONDS)
    assert f"rotated {name}" in printed
    deployment.wait_for_edge()
    return printed


async def _works(client: Client, reader: Any) -> bool:
    try:
        await client.publish("room", "x", timeout=3)
        return bool((await reader.get(timeout=3)).data == "x")
    except (ArtcafeError, TimeoutError):
        return False


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nats-auth", "nats_auth_password"),
        ("nats-registry", "nats_registry_password"),
        ("nats-gateway", "nats_gateway_password"),
        ("nats-metering", "nats_metering_password"),
        ("valkey", "redis_url"),
        ("cursor-key", "registry_cursor_key"),
    ],
)
async def test_a_secret_is_rotated_and_all_goes_on(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any], name: str, file: str
) -> None:
    """There is another value, agents talk again by themselves, new ones come in, and usage is exact."""
    alice = await tenant.agent("alice")
    heard = await alice.subscribe("room")
    for number in range(5):
        await alice.publish("room", number)
        assert (await heard.get(timeout=30)).data == number

    async def counted(number: int) -> bool:
        return bool(await tenant.messages() == number)

    await eventually(lambda: counted(5))
    before = (deployment.secrets / file).read_text()
    await asyncio.to_thread(_rotate, deployment, name)
    assert (deployment.secrets / file).read_text() != before
    await eventually(lambda: _works(alice, heard))
    bob = await tenant.agent("bob")
    at = await tenant.messages()
    await bob.publish("room", "from bob")

    async def still_counted() -> bool:
        return bool((await tenant.messages() or 0) > (at or 5))

    await eventually(still_counted)


async def test_the_certificate_is_rotated(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """The edge has the new certificate, which the old one does not vouch for."""
    old = deployment.tls()
    await asyncio.to_thread(_rotate, deployment, "certificate")
    async with httpx.AsyncClient(verify=deployment.tls(), timeout=30) as new:

        async def is_well() -> bool:
            return (await new.get(f"{deployment.https}/health")).status_code == 200

        await eventually(is_well)
    async with httpx.AsyncClient(verify=old, timeout=30) as former:
        with pytest.raises(httpx.ConnectError):
            await former.get(f"{deployment.https}/health")


async def test_the_local_issuer_s_key_is_rotated(
    deployment: Deployment, operator: str, tenant: Any, eventually: Callable[..., Any]
) -> None:
    """Everybody can sign in anew; once somebody has, tokens of the old key are no good any more."""
    assert (await tenant.call("GET", "/agents")).status_code == 200
    old = tenant.api.headers["Authorization"]
    await asyncio.to_thread(_rotate, deployment, "issuer-key")
    answer = await tenant.api.post("/api/v1/auth/login", json={"email": OPERATOR, "password": operator})
    new = f"Bearer {answer.json()['access_token']}"

    async def answered(token: str, status: int) -> bool:
        tenant.api.headers["Authorization"] = token
        return bool((await tenant.call("GET", "/agents")).status_code == status)

    # A token by a key that is not known makes the services ask for the keys again.
    await eventually(lambda: answered(new, 200))
    await eventually(lambda: answered(old, 401))


async def test_the_key_of_exports_is_rotated_and_the_old_half_kept(
    deployment: Deployment, tenant: Any
) -> None:
    """Another key signs; the public half of the old one is where the script says, and still told."""
    before = (await tenant.api.get("/api/v1/usage/export/keys.json")).json()
    await asyncio.to_thread(_rotate, deployment, "export-key")
    after = (await tenant.api.get("/api/v1/usage/export/keys.json")).json()
    (kept,) = deployment.secrets.glob("export-keys-*.json")
    assert json.loads(kept.read_text()) == before
    assert after["keys"][0] != before["keys"][0]
    assert after["keys"][1:] == before["keys"]


async def test_a_release_is_rolled_back_by_its_tag(deployment: Deployment) -> None:
    """With the former tag a service runs the former image, and comes forward again in the same way."""
    deployment.report("rolling back by tag")
    image = f"{deployment.project}/auth"
    deployment.docker("tag", f"{image}:test", f"{image}:former")
    up = ("up", "--detach", "--wait", "--pull", "never", "--no-build", "auth")
    try:
        await asyncio.to_thread(deployment.compose, *up, env={"IMAGE_TAG": "former"}, seconds=SCRIPT_SECONDS)
        assert deployment.container("auth")["Config"]["Image"] == f"{image}:former"
    finally:
        await asyncio.to_thread(deployment.compose, *up, seconds=SCRIPT_SECONDS)
        deployment.docker("image", "rm", f"{image}:former")
    assert deployment.container("auth")["Config"]["Image"] == f"{image}:test"
    await asyncio.to_thread(deployment.wait_for_edge)


async def test_a_backup_comes_back_from_a_copy(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """With the runbook's commands one that metering's volume has lost is brought in and restored."""
    alice = await tenant.agent("alice")
    for number in range(3):
        await alice.publish("room", number)

    async def counted(number: int) -> bool:
        return bool(await tenant.messages() == number)

    await eventually(lambda: counted(3))
    deployment.report("a backup from a copy")

    async def compose(*arguments: str) -> str:
        return await asyncio.to_thread(deployment.compose, *arguments)

    inside = ("exec", "--no-TTY", "metering")
    printed = await compose(*inside, "python", "-m", "artcafe_metering", "backup")
    path = Path(printed.splitlines()[-1].partition(":")[0])
    copies = tmp_path / "backups"
    await compose("cp", f"metering:{path.parent}", str(copies))
    names = [file.name for file in sorted(copies.glob(f"{path.name}*"))]
    assert names == [path.name, f"{path.name}.json"]
    await compose(*inside, "rm", *(f"{path.parent}/{name}" for name in names))
    await alice.publish("room", "after the backup")
    await eventually(lambda: counted(4))
    for name in names:
        (copies / name).chmod(0o644)
        await compose("cp", str(copies / name), f"metering:{path.parent}/")
    await compose(*inside, "python", "-m", "artcafe_metering", "restore", "--force", str(path))
    await eventually(lambda: counted(4))


async def test_the_volume_of_nats_is_saved_and_put_back(
    deployment: Deployment, tenant: Any, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """With the runbook's commands what waits in NATS is saved and restored, and usage goes on exactly."""
    alice = await tenant.agent("alice")
    heard = await alice.subscribe("room")
    await eventually(lambda: _works(alice, heard))
    deployment.report("saving and restoring the volume of nats")
    volume = f"{deployment.project}_nats-data"
    save = ("tar", "-czf", "/backups/nats-data.tgz", "-C", "/volume", ".")
    restore = ("sh", "-c", "rm -rf /volume/* && tar -xzf /backups/nats-data.tgz -C /volume")
    run = ("run", "--rm", "--network", "none", "-v", f"{tmp_path}:/backups")
    await asyncio.to_thread(deployment.compose, "stop", "nats")
    deployment.docker(*run, "-v", f"{volume}:/volume:ro", "nats:2.15-alpine", *save)
    deployment.docker(*run, "-v", f"{volume}:/volume", "nats:2.15-alpine", *restore)
    await asyncio.to_thread(deployment.up)
    await eventually(lambda: _works(alice, heard))

    async def counted() -> bool:
        return bool((await tenant.messages() or 0) >= 2)

    await eventually(counted)
