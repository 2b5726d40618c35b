"""The time between the start of a service and its serving: it waits for what it needs, and says so.

A service that comes up before NATS or its store waits for them. Meanwhile its HTTP port answers: it is alive
(`/health`), it is not ready and for want of what (`/ready`), and everything else is `unavailable`. So nobody
who watches it takes a process that waits for one that is dead.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from artcafe_common import __version__
from artcafe_common.bus import Bus
from artcafe_common.config import SharedConfig
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import create_app, serve_http
from artcafe_common.http.middleware import request_id_of
from artcafe_common.http.problem import problem
from artcafe_common.listening import listening_socket
from artcafe_common.service import StartError
from artcafe_common.tables import TableSpec, care_of

logger = logging.getLogger(__name__)

# What is there at once is not announced: most starts are over by then.
SILENT_SECONDS = 0.3
RETRY_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 0.2
RETRY_AFTER_SECONDS = 5.0

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

T = TypeVar("T")
BusT = TypeVar("BusT", bound=Bus)


class Starting:
    """Waits for what a service needs, on the socket from which it will serve."""

    def __init__(self, service: str, config: SharedConfig, bound: socket.socket, stop: asyncio.Event) -> None:
        self._service = service
        self._config = config
        self._bound = bound
        self._stop = stop

    async def open_bus(self) -> Bus | None:
        """Return the connection to NATS; None where the service is told to stop before it is there."""
        return await self.open_bus_of(Bus)

    async def open_bus_of(self, kind: type[BusT], purpose: str = "") -> BusT | None:
        """Return a connection of some kind, at NATS told from the service's others by its purpose."""
        config = self._config
        opening = kind.open(
            config.nats_url,
            name=f"{self._service} {config.server_id} {purpose}".rstrip(),
            user=config.nats_user,
            password=config.nats_password.reveal() if config.nats_password else None,
        )
        return await self.wait("nats", opening)

    async def make_tables(self, dynamo: Dynamo, specs: Sequence[TableSpec]) -> bool:
        """Make the tables, where the service is to do so; False where it is told to stop before they are."""
        if not self._config.create_tables:
            return True
        return await self.wait("dynamodb", self.tables_made(dynamo, specs)) is not None

    async def keep_tables(self, dynamo: Dynamo, specs: Sequence[TableSpec]) -> None:
        """Make tables again that get lost, where the service is to make them; runs until it is cancelled."""
        if self._config.create_tables:
            await dynamo.mend(lambda: self.tables_made(dynamo, specs))

    async def tables_made(self, dynamo: Dynamo, specs: Sequence[TableSpec]) -> bool:
        """Make the tables as soon as the store is there, and return True."""
        while True:
            try:
                await dynamo.create_tables(specs, care_of(self._config, self._service))
                return True
            except Exception as error:
                # The store may come up after us.
                logger.warning("create_tables_failed", extra={"error": type(error).__name__})
                await asyncio.sleep(RETRY_SECONDS)

    async def wait(self, name: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what the work returns, or None where the service is told to stop meanwhile.

        `name` is the dependency for whose want the service is not ready.
        """
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait(
                (working, stopping), timeout=SILENT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not working.done() and not stopping.done():
                await self._answer_until((working, stopping), name)
            return working.result() if working.done() else None
        finally:
            await cancel_all((working, stopping))

    async def _answer_until(self, ends: Iterable[asyncio.Future[Any]], name: str) -> None:
        logger.info("service_waiting", extra={"dependency": name})
        over = asyncio.Event()
        # Of its own number, for the server closes it. What connects between two servers waits in the queue
        # that both share.
        serving = asyncio.create_task(serve_http(self._app(name), self._bound.dup(), over))
        try:
            await asyncio.wait((*ends, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            await serving

    def _app(self, name: str) -> Any:
        readiness = Readiness(self._service, self._config.server_id, __version__)

        async def awaited() -> None:
            raise unavailable(name)

        async def not_yet(request: Request) -> Response:
            error = unavailable(f"this service (it waits for {name})", RETRY_AFTER_SECONDS)
            return problem(error, request_id_of(request.scope))

        readiness.add(name, awaited)
        route = Route("/{path:path}", not_yet, methods=_METHODS)
        return create_app(self._service, [], readiness=readiness, extra_routes=[route]).asgi


def bind(prefix: str, kind: str, host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind the port of a listener (``HTTP``, ``WS``). Raises: StartError, which names the settings."""
    try:
        return listening_socket(host, port, shared=shared)
    except OSError as error:
        names = f"{prefix}{kind}_HOST, {prefix}{kind}_PORT"
        raise StartError(f"{names}: {host}:{port}: {error.strerror}") from None


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """End tasks; asks again, since `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
