"""The emulator of AWS on one machine: what it forgets when it is killed, the services make again."""

from __future__ import annotations

import time
from pathlib import Path

from doctor.ways import MODULES

from .deployment import Deployment

PATIENCE_SECONDS = 300


def _wait_until_all_is_well(deployment: Deployment) -> None:
    """Wait for tables as declared, which is noticed at the next look at readiness, and then for health."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while differing := _differing(deployment) or _unhealthy(deployment):
        assert time.monotonic() < deadline, f"{differing}\n{deployment.logs()}"
        time.sleep(0.5)


def _differing(deployment: Deployment) -> str:
    for service, module in MODULES.items():
        check = ("python", "-m", module, "check-tables")
        status, output = deployment.execute(deployment.container(service)["Id"], *check)
        if status:
            return output
    return ""


def _unhealthy(deployment: Deployment) -> str:
    health = {each["Name"]: each["State"]["Health"]["Status"] for each in deployment.containers()}
    return "" if set(health.values()) == {"healthy"} else str(health)


def test_a_killed_emulator_leaves_nothing_down(deployment: Deployment, operator: str, tmp_path: Path) -> None:
    """One that comes back empty gets its tables and buckets again, and everything is healthy by itself."""
    deployment.report("an emulator that forgets")
    volume = f"{deployment.project}_ministack-data:/volume"
    run = ("run", "--rm", "--network", "none", "-v", volume, "-v", f"{tmp_path}:/backups", "nats:2.15-alpine")
    # What it has written until now the other tests need again.
    deployment.compose("stop", "ministack")
    deployment.docker(*run, "tar", "-czf", "/backups/data.tgz", "-C", "/volume", ".")
    deployment.docker(*run, "sh", "-c", "rm -rf /volume/*")
    try:
        deployment.up("ministack")
        _wait_until_all_is_well(deployment)
        deployment.report("the emulator is killed")
        deployment.compose("kill", "ministack")
        deployment.up("ministack")
        _wait_until_all_is_well(deployment)
        deployment.up()
    finally:
        deployment.compose("stop", "ministack")
        deployment.docker(*run, "sh", "-c", "rm -rf /volume/* && tar -xzf /backups/data.tgz -C /volume")
        deployment.up("ministack")
        _wait_until_all_is_well(deployment)
