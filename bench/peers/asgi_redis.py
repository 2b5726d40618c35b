"""Starlette with Redis pub/sub between two processes, served by uvicorn where installed, else Hypercorn."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import valkey_server
from bench.generator import BenchError
from bench.loadgen.wire import SocketPlan, client_frame, message_data, upgrade
from bench.subprocesses import running

_APP = "bench.peers.asgi_app:app"


@dataclass
class AsgiRedis:
    """Two running servers and Valkey; publishers use the first server, receivers the second."""

    title: str
    serving: dict[str, int]
    beside: dict[str, int]
    ports: tuple[int, int]
    name: str = "asgi"

    def publisher(self, channel: str) -> SocketPlan:
        """Return a socket that publishes."""
        return self._plan(self.ports[0], f"/publish/{channel}", client_frame(message_data()))

    def receivers(self, channel: str, count: int) -> list[SocketPlan]:
        """Return sockets that receive."""
        return [self._plan(self.ports[1], f"/receive/{channel}", b"")] * count

    def _plan(self, port: int, target: str, publish: bytes) -> SocketPlan:
        return SocketPlan(
            host="127.0.0.1",
            port=port,
            opening=upgrade("127.0.0.1", port, target),
            # The first text may come together with the answer to the upgrade.
            ready=b"ready",
            publish=publish,
        )


@contextmanager
def asgi_redis(folder: Path) -> Iterator[AsgiRedis]:
    """Run Valkey and two servers."""
    with ExitStack() as stack:
        valkey = stack.enter_context(valkey_server(folder / "valkey", append_only=False))
        if valkey.pid is None:
            raise BenchError("Valkey has ended")
        serving, ports = {"valkey": valkey.pid}, (free_port(), free_port())
        for number, port in enumerate(ports, 1):
            name = f"asgi-{number}"
            environment = {**os.environ, "REDIS_URL": valkey.url}
            serving[name] = stack.enter_context(
                running(name, _argv(port), folder / f"{name}.log", port=port, env=environment)
            )
        yield AsgiRedis(f"Starlette + {_server()} + Redis", serving, {}, ports)


def _server() -> str:
    return "uvicorn" if importlib.util.find_spec("uvicorn") else "Hypercorn"


def _argv(port: int) -> list[str]:
    if _server() == "uvicorn":
        # The generator decodes nothing, so pings would go unanswered.
        quiet = ("--ws-ping-interval", "3600", "--log-level", "warning")
        return [sys.executable, "-m", "uvicorn", _APP, "--port", str(port), *quiet]
    return [sys.executable, "-m", "hypercorn", _APP, "--bind", f"127.0.0.1:{port}", "--workers", "0"]
