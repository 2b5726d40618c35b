"""Serve an application with Hypercorn, on a socket and with limits of our own."""

from __future__ import annotations

import asyncio
import socket

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette

BACKLOG = 1024
READ_TIMEOUT_SECONDS = 30
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5


def listening_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind a TCP socket; with `shared` several processes may listen on the port (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


async def serve_http(app: Starlette, bound: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish what is in flight within `GRACE_SECONDS`."""
    config = Config()
    # Hypercorn makes a socket of its own from the number and closes that.
    config.bind = [f"fd://{bound.detach()}"]
    config.backlog = BACKLOG
    config.read_timeout = READ_TIMEOUT_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = GRACE_SECONDS
    config.shutdown_timeout = GRACE_SECONDS
    config.include_server_header = False
    config.accesslog = None
    # Hypercorn would answer 431 late and keep what it read; the edge bounds headers too.
    config.h11_max_incomplete_size = 32 * 1024

    async def stopped() -> None:
        await stop.wait()

    await serve(app, config, shutdown_trigger=stopped)  # type: ignore[arg-type]
