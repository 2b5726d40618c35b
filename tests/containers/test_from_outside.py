"""The platform in containers seen from outside: the end-to-end suite, and the operator's tools."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import OPERATOR
from .deployment import BUILD_SECONDS, SERVICES, Deployment
from .engine import ROOT

SUITE_SECONDS = 900
TOOL_SECONDS = 300


def _run(deployment: Deployment, *command: str, seconds: float = TOOL_SECONDS, **env: str) -> tuple[int, str]:
    """Run what an operator runs beside compose.yaml; return its status and what it printed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=deployment.environment | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _doctor(deployment: Deployment) -> tuple[int, list[dict[str, str]]]:
    code, printed = _run(
        deployment,
        sys.executable,
        "-m",
        "doctor",
        "--compose",
        "--json",
        PYTHONPATH=str(ROOT / "tools"),
    )
    return code, json.loads(printed)["findings"]


async def test_the_end_to_end_suite_passes(deployment: Deployment, operator: str, tmp_path: Path) -> None:
    """All tests of tests/e2e that need no process of their own pass against two gateways behind the edge."""
    deployment.report("two gateways")
    await asyncio.to_thread(deployment.up, "--no-recreate", "--scale", "gateway-ws=2")
    containers = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container["Name"].lstrip("/")
        for container in deployment.containers()
    }
    target = tmp_path / "target.json"
    target.write_text(
        json.dumps(
            {
                "base_url": deployment.http,
                "email": OPERATOR,
                "password": operator,
                "containers": containers,
            }
        )
    )
    deployment.report("the end-to-end suite")
    suite = ("-m", "pytest", "-q", "-m", "not embedded", "-p", "no:cacheprovider", "tests/e2e")
    try:
        code, printed = await asyncio.to_thread(
            _run, deployment, sys.executable, *suite, seconds=SUITE_SECONDS, ARTCAFE_E2E_TARGET=str(target)
        )
    finally:
        await asyncio.to_thread(deployment.up, "--no-recreate", "--scale", "gateway-ws=1")
    print(printed.splitlines()[-1], end=" ")
    assert code == 0, printed[-6000:]


def test_the_doctor_finds_nothing_wrong_and_then_what_is(deployment: Deployment) -> None:
    """It looks into every container; a service that is stopped and a Valkey without its file are told."""
    deployment.report("the doctor")
    deadline = time.monotonic() + TOOL_SECONDS
    code, findings = _doctor(deployment)
    # A gateway that has just gone is asked by the edge until it looks the names up again.
    while code and time.monotonic() < deadline:
        code, findings = _doctor(deployment)
    assert (code, [f for f in findings if f["status"] == "fail"]) == (0, [])
    looked = {(f["where"], f["check"]) for f in findings}
    assert {(service, "service") for service in SERVICES} <= looked
    assert {("nats", "sync"), ("edge", "certificate"), ("metering", "valkey"), ("all", "versions")} <= looked
    ask = 'export REDISCLI_AUTH="$(cat /run/secrets/valkey_password)" VALKEYCLI_AUTH="$REDISCLI_AUTH";'
    valkey = deployment.container("valkey")["Id"]
    assert deployment.execute(valkey, "sh", "-c", f"{ask} valkey-cli config set appendonly no")[0] == 0
    deployment.compose("stop", "auth")
    try:
        deployment.report("the doctor, with two faults")
        code, findings = _doctor(deployment)
    finally:
        deployment.execute(valkey, "sh", "-c", f"{ask} valkey-cli config set appendonly yes")
        # Not of everything: Compose gives up at once where one is not healthy, as these may not be yet.
        deployment.up("auth")
        deployment.wait_until_healthy(SERVICES)
    faults = {(f["where"], f["check"]): f for f in findings if f["status"] == "fail"}
    assert code == 1
    assert "keeps no append-only file" in faults["metering", "valkey"]["detail"]
    assert faults["auth", "replicas"]["detail"].startswith("none runs")
    assert "docker compose up" in faults["auth", "replicas"]["cure"]


def test_tables_are_made_and_checked_by_one_command(deployment: Deployment) -> None:
    """The operator's script goes through all four services; there is nothing to be done for what runs."""
    deployment.report("tables")
    for command in ("create-tables", "check-tables"):
        code, printed = _run(deployment, "sh", "deploy/tables.sh", command)
        assert code == 0, printed
        for line in ("auth: 2 tables", "registry: 7 tables", "gateway: 1 table", "metering: 1 table"):
            assert f"{line} as declared" in printed
    code, printed = _run(deployment, "sh", "deploy/tables.sh", "check-tables", TABLE_PREFIX="other-")
    assert code == 3 and "other-agents: is missing" in printed


# Prints a digest of every file below a folder. Bytecode is left out: the compiler is not exact to the byte.
DIGESTS = """
import hashlib, json, os, sys
found = {}
for folder, _, files in os.walk(sys.argv[1]):
    for name in files:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            found[path] = os.readlink(path)
        elif not name.endswith(".pyc"):
            found[path] = hashlib.sha256(open(path, "rb").read()).hexdigest() + oct(os.stat(path).st_mode)
        else:
            found[path] = ""
print(json.dumps(found))
"""


@pytest.mark.parametrize("service", ["auth"])
def test_an_image_that_is_built_again_is_the_same(deployment: Deployment, service: str) -> None:
    """Built anew from the same source, without a cache, an image holds the same files."""
    again = f"{deployment.project}/again-"
    deployment.report(f"building {service} again, without a cache")
    arguments = ("build", "--no-cache", service)
    deployment.compose(
        *arguments, env={"IMAGE_PREFIX": again, "IMAGE_REVISION": "first"}, seconds=BUILD_SECONDS
    )
    images: list[Any] = []
    try:
        for image in (f"{deployment.project}/{service}:test", f"{again}{service}:test"):
            run = ("run", "--rm", "--network", "none", "--entrypoint", "python", image)
            images.append(json.loads(deployment.docker(*run, "-c", DIGESTS, "/opt/artcafe")))
    finally:
        deployment.docker("image", "rm", "--force", f"{again}{service}:test")
    first, second = images
    assert len(first) > 500
    differing = sorted(path for path in {*first, *second} if first.get(path) != second.get(path))
    assert differing == []
