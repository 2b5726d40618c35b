"""Serve an application with Hypercorn, on a socket and with limits of our own."""

from __future__ import annotations

import asyncio
import logging
import socket

import hypercorn.protocol
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from artcafe_common.listening import take_in_no_more

BACKLOG = 1024
# How long a connection may be idle, or take to send a request's head; longer than the edge keeps one that it
# does not use, so that the edge never sends a request into a connection that is being closed.
KEEP_ALIVE_SECONDS = 75
# How long nothing may be read while a request is worked on: Hypercorn cuts long answers, too. Bodies have
# their own, shorter limit (see `artcafe_common.http.app`).
READ_TIMEOUT_SECONDS = 600
GRACE_SECONDS = 5


async def serve_http(app: Starlette, bound: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish what is in flight within `GRACE_SECONDS`.

    What is not finished by then is ended; a client that does not read holds the end up as long again at most.
    """
    config = Config()
    # Hypercorn makes a socket of its own from the number and closes that.
    descriptor = bound.detach()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = BACKLOG
    config.read_timeout = READ_TIMEOUT_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = GRACE_SECONDS
    config.shutdown_timeout = GRACE_SECONDS
    config.include_server_header = False
    config.accesslog = None
    # A logger, else Hypercorn writes lines of its own form to standard error.
    config.errorlog = logging.getLogger("hypercorn.error")
    # Hypercorn would answer 431 late and keep what it read; the edge bounds headers too.
    config.h11_max_incomplete_size = 32 * 1024

    async def stopped() -> None:
        await stop.wait()
        await take_in_no_more(descriptor)

    guarded = _Guarded(app)
    serving = asyncio.create_task(serve(guarded, config, shutdown_trigger=stopped))  # type: ignore[arg-type]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        # From Python 3.12.1 on Hypercorn waits for its connections before it looks at its own time limit.
        for end in (guarded.end_requests, serving.cancel):
            if not serving.done():
                await asyncio.wait({serving}, timeout=GRACE_SECONDS)
                end()
    finally:
        stopping.cancel()
        serving.cancel()
        await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()


class _Http1(H11Protocol):
    """Hypercorn's HTTP/1, which no client can make change to HTTP/2.

    Hypercorn has no setting for that, and takes ``Upgrade: h2c`` from anybody. Behind an edge that passes the
    change on, that client would talk to this process directly, past all that the edge refuses or overwrites.
    """

    async def _check_protocol(self, event: object) -> None:
        """Leave the wish to change unanswered, as a server may; what begins as HTTP/2 is refused below."""


# By this name Hypercorn makes one for each connection.
hypercorn.protocol.H11Protocol = _Http1  # type: ignore[attr-defined]


class _Guarded:
    """An application that answers HTTP/1 only, and whose requests can be ended."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._running: set[asyncio.Task[None]] = set()

    def end_requests(self) -> None:
        """Cancel what is being worked on."""
        for task in self._running:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["http_version"] not in ("1.0", "1.1"):
            await send({"type": "http.response.start", "status": 505, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._running.discard(task)
