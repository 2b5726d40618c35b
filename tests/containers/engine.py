"""The container engine: the one that is there, or one that the machine's kit starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A folder beside the repository with an engine for machines that have none, and its local images.
KIT = ROOT.parent / "shared" / "containers" / "kit.sh"
KIT_SECONDS = 600
ANSWER_SECONDS = 60

NO_ENGINE = (
    "The tests of the containers need a Docker engine (25 or newer) with Compose (2.24 or newer), and neither"
    " `docker version` nor `docker compose version` may fail. Set DOCKER_HOST if it is not the local one."
)


class NoEngine(Exception):
    """There is no engine; the text says what to do."""


def engine_environment(report: Callable[[str], None]) -> dict[str, str]:
    """Return the environment in which `docker` reaches an engine. Raises: NoEngine."""
    environment = dict(os.environ)
    if KIT.exists():
        # It takes an engine that answers as it is, and brings the images that cannot be pulled.
        report("starting an engine, with its images")
        return _from_kit(environment)
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoEngine(f"{NO_ENGINE} `{' '.join(command)}`: {error}") from None
        if done.returncode:
            raise NoEngine(f"{NO_ENGINE} `{' '.join(command)}`: {done.stderr.strip()}")
    return environment


def _from_kit(environment: dict[str, str]) -> dict[str, str]:
    script = '"$0" images >&2 && eval "$("$0" env)" && env -0'
    done = subprocess.run(
        ["bash", "-c", script, str(KIT)],
        env=environment,
        capture_output=True,
        timeout=KIT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise NoEngine(f"{KIT} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    pairs = (pair.split("=", 1) for pair in done.stdout.decode().split("\0") if "=" in pair)
    return {name: value for name, value in pairs}
