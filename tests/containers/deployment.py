"""The platform in containers, from the repository's own compose.yaml, for the length of a test run."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from artcafe_devstack.ports import free_port

from .engine import ROOT

SERVICES = ("auth", "registry", "gateway-ws", "metering")
BUILD_SECONDS = 600
UP_SECONDS = 300
COMMAND_SECONDS = 180
EDGE_SECONDS = 60
# One route of each service.
EDGE_PATHS = (
    "/api/v1/auth/openapi.json",
    "/api/v1/registry/openapi.json",
    "/api/v1/usage/openapi.json",
    "/api/v1/gateway/openapi.json",
)

Report = Callable[[str], None]


class Deployment:
    """A project of its own: its ports, secrets, images and volumes are nobody else's."""

    def __init__(self, engine: Mapping[str, str], folder: Path, report: Report) -> None:
        self.project = f"artcafe-test-{secrets.token_hex(3)}"
        self.http_port, self.https_port = free_port(), free_port()
        self.secrets = folder / "secrets"
        self.report = report
        self._images: set[str] = set()
        self.environment = {
            # Whatever a person has set for a deployment of their own is not for this one.
            **{name: engine[name] for name in engine if not name.startswith(("EDGE_", "AWS_", "COMPOSE_"))},
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROGRESS": "quiet",
            # A person's own .env is not read, by scripts neither.
            "COMPOSE_ENV_FILES": "/dev/null",
            "SECRETS_DIR": str(self.secrets),
            "IMAGE_PREFIX": f"{self.project}/",
            "IMAGE_TAG": "test",
            "IMAGE_REVISION": "first",
            "EDGE_HTTP_PORT": str(self.http_port),
            "EDGE_HTTPS_PORT": str(self.https_port),
            "PUBLIC_URL": self.http,
            # As on one machine: the end-to-end suite has somebody make an organisation of their own.
            "REGISTRY_SELF_SERVICE_TENANTS": "true",
        }

    @property
    def http(self) -> str:
        """The address without TLS."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def https(self) -> str:
        """The address with TLS."""
        return f"https://127.0.0.1:{self.https_port}"

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the deployment's own certificate and nothing else."""
        return ssl.create_default_context(cafile=self.secrets / "tls_certificate.pem")

    def start(self) -> None:
        """Make secrets and images, and start everything as an operator would."""
        self.report("making secrets")
        self.script("make-secrets.sh")
        self.build()
        self.report("starting everything")
        self.up()

    def build(self, *services: str, revision: str = "first") -> None:
        """Build the images of services, or of all."""
        self.report(f"building {', '.join(services) or 'the images'} (revision {revision})")
        self.compose("build", *services, env={"IMAGE_REVISION": revision}, seconds=BUILD_SECONDS)
        names = [f"{self.project}/{name}:test" for name in SERVICES]
        self._images.update(self.docker("image", "inspect", "--format", "{{.Id}}", *names).split())

    def up(self, *arguments: str) -> None:
        """Bring what is named (default: all) to its declared state and wait until it is healthy."""
        try:
            self.compose(
                "up", "--detach", "--wait", "--pull", "never", "--no-build", *arguments, seconds=UP_SECONDS
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def wait_until_healthy(self, services: Sequence[str]) -> None:
        """Wait until every container of some services is healthy, however it was before."""
        deadline = time.monotonic() + UP_SECONDS
        while waiting := [
            each["Name"]
            for each in self.containers(*services)
            if each["State"]["Health"]["Status"] != "healthy"
        ]:
            assert time.monotonic() < deadline, f"not healthy: {waiting}\n{self.logs()}"
            time.sleep(0.5)

    def wait_for_edge(self) -> None:
        """Wait until the edge has found each service where it is now; it looks names up every second."""
        deadline = time.monotonic() + EDGE_SECONDS
        for path in EDGE_PATHS:
            while not self._answers(path):
                assert time.monotonic() < deadline, f"the edge has no answer for {path}"
                time.sleep(0.1)

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.http}{path}", timeout=5).status_code == 200
        return False

    def close(self) -> None:
        """Remove containers, networks, volumes and images."""
        self.report("removing everything")
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20", seconds=UP_SECONDS)
        if self._images:
            self.docker("image", "rm", "--force", *self._images)

    def compose(
        self,
        *arguments: str,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        """Run `docker compose` on the repository's file and return what it printed."""
        return self._run(["docker", "compose", *arguments], text=text, env=env, seconds=seconds)

    def script(
        self,
        name: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        """Run one of the shell scripts in `deploy`, as `make` does, and return what it printed."""
        return self._run(["sh", f"deploy/{name}", *arguments], env=env, seconds=seconds)

    def docker(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker` and return what it printed."""
        return self._run(["docker", *arguments], seconds=seconds)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what the engine tells of the running containers, of all services or of some."""
        ids = self.compose("ps", "--quiet", "--status", "running", *services).split()
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *ids)) if ids else []
        return found

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine tells of a service's only container."""
        (found,) = self.containers(service)
        return found

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        """Run a command in a container; return its status and what it printed."""
        done = subprocess.run(
            ["docker", "exec", container, *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def crash(self, container: str) -> None:
        """Kill what runs in a service's container (SIGKILL), as if it had crashed."""
        # A container that is killed through the engine counts as stopped on purpose: it would stay away.
        script = "import os; [os.kill(int(p), 9) for p in open('/proc/1/task/1/children').read().split()]"
        self.execute(container, "python", "-c", script)

    def logs(self) -> str:
        """Return the end of every log."""
        return self.compose("logs", "--no-color", "--tail", "40")

    def _run(
        self,
        command: list[str],
        *,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **(env or {})},
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        words = " ".join(command[:6])
        assert done.returncode == 0, f"`{words} ...`: {(done.stderr or done.stdout).strip()[-3000:]}"
        return done.stdout


def reporter() -> Report:
    """Return a function that prints what is being done, with the seconds since now."""
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"\n[containers {time.monotonic() - began:5.1f} s] {line}", end=" ", flush=True)

    return report
