"""Settings in .env hold for Compose, for the scripts beside it and for every start after the first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .deployment import SERVICES, Deployment
from .engine import ROOT

SCRIPT_SECONDS = 300


def _in_file(deployment: Deployment, folder: Path, secrets: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing but a file as `.env` tells the folder of the secrets."""
    file = folder / "env"
    file.write_text(f"SECRETS_DIR={secrets}\n")
    environment = {name: value for name, value in deployment.environment.items() if name != "SECRETS_DIR"}
    return environment | {"COMPOSE_ENV_FILES": str(file)} | more


def _script(environment: dict[str, str], name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", f"deploy/{name}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )


def test_secrets_are_made_where_compose_takes_them(deployment: Deployment, tmp_path: Path) -> None:
    """`make secrets` takes the folder from .env, as Compose does: every file that is mounted is there."""
    environment = _in_file(deployment, tmp_path, tmp_path / "o'ther: place")
    done = _script(environment, "make-secrets.sh")
    assert done.returncode == 0, done.stderr
    config = ["docker", "compose", "config", "--format", "json"]
    told = subprocess.run(config, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    mounted = [Path(each["file"]) for each in json.loads(told.stdout)["secrets"].values()]
    assert len(mounted) == 9 and all(file.is_file() for file in mounted)
    assert {file.parent for file in mounted} == {tmp_path / "o'ther: place"}


def test_the_mounted_secret_is_rotated(deployment: Deployment, tmp_path: Path) -> None:
    """With the folder in .env the file that Compose mounts is replaced, and the new container has that."""
    deployment.report("rotating by .env")
    before = (deployment.secrets / "registry_cursor_key").read_text()
    done = _script(_in_file(deployment, tmp_path, deployment.secrets), "rotate.sh", "cursor-key")
    assert done.returncode == 0, done.stderr
    after = (deployment.secrets / "registry_cursor_key").read_text()
    container = deployment.container("registry")["Id"]
    assert after != before
    assert deployment.execute(container, "cat", "/run/secrets/registry_cursor_key")[1] == after.strip()


def test_a_secret_that_is_mounted_from_elsewhere_is_left_alone(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Where the file that Compose mounts is not the one that would be made, both scripts say so and end."""
    elsewhere = tmp_path / "own_key"
    elsewhere.write_text("x")
    override = tmp_path / "override.yaml"
    override.write_text(f"secrets: {{ registry_cursor_key: {{ file: {elsewhere} }} }}\n")
    environment = _in_file(
        deployment, tmp_path, tmp_path / "secrets", COMPOSE_FILE=f"compose.yaml:{override}"
    )
    for name, arguments in (("make-secrets.sh", ()), ("rotate.sh", ("cursor-key",))):
        done = _script(environment, name, *arguments)
        assert done.returncode == 1 and f"mounts {elsewhere}" in done.stderr, done.stderr
        assert "rotated" not in done.stdout
    assert not (tmp_path / "secrets").exists() and elsewhere.read_text() == "x"


def _running(deployment: Deployment) -> Counter[str]:
    return Counter(
        each["Config"]["Labels"]["com.docker.compose.service"] for each in deployment.containers(*SERVICES)
    )


def _doctor(deployment: Deployment, **settings: str) -> dict[str, tuple[str, str]]:
    """Return what the doctor says of how many replicas run: status and cure by service."""
    done = subprocess.run(
        [sys.executable, "-m", "doctor", "--compose", "--json"],
        cwd=ROOT,
        env={**deployment.environment, "PYTHONPATH": "tools", **settings},
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    found = json.loads(done.stdout)["findings"]
    return {each["where"]: (each["status"], each["cure"]) for each in found if each["check"] == "replicas"}


@pytest.fixture
def two_of_three(deployment: Deployment) -> Iterator[dict[str, str]]:
    """Have three services run twice by settings; afterwards once, again."""
    deployment.report("two of three services")
    settings = {f"{name}_REPLICAS": "2" for name in ("AUTH", "GATEWAY", "METERING")}
    up = ("up", "--detach", "--wait", "--pull", "never", "--no-build")
    try:
        deployment.compose(*up, env=settings, seconds=SCRIPT_SECONDS)
        yield settings
    finally:
        deployment.up()
        deployment.wait_for_edge()


def test_what_was_scaled_stays_so(deployment: Deployment, two_of_three: dict[str, str]) -> None:
    """A plain start keeps each container; rotations keep the number, even one that no setting tells."""
    found = {each["Id"] for each in deployment.containers()}
    up = ("up", "--detach", "--wait", "--pull", "never", "--no-build")
    deployment.compose(*up, env=two_of_three, seconds=SCRIPT_SECONDS)
    assert {each["Id"] for each in deployment.containers()} == found
    assert _doctor(deployment, **two_of_three) == {}
    assert _doctor(deployment, **two_of_three | {"AUTH_REPLICAS": "3", "METERING_REPLICAS": "1"}) == {
        "auth": ("fail", "docker compose up --detach --wait auth; docker compose logs --tail 50 auth"),
        "metering": ("warn", "set METERING_REPLICAS in .env to 2"),
    }
    # The edge waits for all but the gateways, so it is these that Compose would take back to one.
    for name in ("certificate", "nats-gateway"):
        deployment.report(f"rotating {name}")
        done = _script(deployment.environment, "rotate.sh", name)
        assert done.returncode == 0, done.stderr
        assert _running(deployment) == {"auth": 2, "registry": 1, "gateway-ws": 2, "metering": 2}, name
