"""A platform that runs in containers, for those tests of this folder that look at it from outside only.

``ARTCAFE_E2E_TARGET`` names a JSON file: ``base_url``, ``email`` and ``password`` of the administrator, and
``containers``, the names of containers by service. `tests/containers` writes it and runs
``pytest tests/e2e -m "not embedded"``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "ARTCAFE_E2E_TARGET"
COMMAND_SECONDS = 60


class Outside:
    """What `DevStack` is to these tests, without its processes."""

    def __init__(self, target: dict[str, Any], folder: Path) -> None:
        self.base_url: str = target["base_url"]
        self.demo: dict[str, Any] = target
        self._containers: dict[str, str] = target["containers"]
        self._folder = folder

    @property
    def names(self) -> list[str]:
        """The names of what has a log."""
        return list(self._containers)

    def log(self, name: str) -> Path:
        """Return a file with what a container has written; the edge writes its requests among the rest."""
        container = self._containers["edge" if name == "edge-access" else name]
        path = self._folder / f"{name}.log"
        with path.open("wb") as file:
            command = ["docker", "logs", container]
            subprocess.run(command, stdout=file, stderr=file, timeout=COMMAND_SECONDS, check=True)
        return path

    def socket_url(self, gateway: str | None) -> str:
        """Return where sockets are opened: at the edge, which spreads them over the gateways."""
        return self.base_url.replace("http", "ws", 1)

    def add_user(self, email: str, password: str) -> None:
        """Add somebody to the local issuer."""
        command = ["docker", "exec", "-i", self._containers["auth"], "python", "-m", "artcafe_auth"]
        subprocess.run(
            [*command, "add-user", "--email", email, "--password-stdin"],
            input=f"{password}\n",
            text=True,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=True,
        )


def outside_target() -> Iterator[Outside]:
    """Yield the platform that the environment names, if it names one."""
    if path := os.environ.get(VARIABLE):
        with tempfile.TemporaryDirectory() as folder:
            yield Outside(json.loads(Path(path).read_text()), Path(folder))
