"""One gateway process from start to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from artcafe_common import __version__
from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.auth import REVOKED
from artcafe_common.contracts.gateway import REPLACED, sessions_endpoint
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.contracts.registry import CHANGED
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http.server import serve_http
from artcafe_common.ids import new_ulid
from artcafe_common.remote import RemoteMemberships, remote_key_ring
from artcafe_common.rpc import listen, serve
from artcafe_common.starting import Starting, bind, cancel_all
from artcafe_common.tokens import Access, TokenVerifier
from artcafe_common.usage import UsageReporter, open_usage_counter
from artcafe_gateway.app import create_gateway_app
from artcafe_gateway.config import PREFIX, GatewayConfig
from artcafe_gateway.gateway import Gateway
from artcafe_gateway.preview.tap_bus import TapBus
from artcafe_gateway.store import CONNECTIONS, ConnectionStore

logger = logging.getLogger(__name__)

USAGE_FLUSH_SECONDS = 3.0
FINISH_SECONDS = 5.0
# Files of a process beside its sockets.
OTHER_FILES = 256


async def run_worker(config: GatewayConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain."""
    clock = SystemClock()
    _allow_files(config.max_connections + OTHER_FILES)
    # New at every start: what an earlier process of the same name left behind is not this one's.
    process_id = f"{config.server_id}-{new_ulid()}"
    shared = config.workers > 1
    async with AsyncExitStack() as stack:
        http_socket = stack.enter_context(
            bind(PREFIX, "HTTP", config.http_host, config.http_port, shared=shared)
        )
        ws_socket = stack.enter_context(bind(PREFIX, "WS", config.ws_host, config.ws_port, shared=shared))
        starting = Starting("gateway", config, http_socket, stop)
        bus = await starting.open_bus()
        if bus is None:
            return
        stack.push_async_callback(bus.close_gracefully)
        tap_bus = await starting.open_bus_of(TapBus, "preview")
        if tap_bus is None:
            return
        stack.push_async_callback(tap_bus.close_gracefully)
        dynamo = await stack.enter_async_context(
            Dynamo.connect(
                region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
            )
        )
        if not await starting.make_tables(dynamo, [CONNECTIONS]):
            return
        counter = open_usage_counter(config, clock)
        reporter = UsageReporter(bus, counter)
        access = Access(TokenVerifier(remote_key_ring(bus, clock), clock), RemoteMemberships(bus))
        store = ConnectionStore(dynamo, process_id, clock)
        gateway = Gateway(config, process_id, bus, tap_bus, store, access, counter, clock)
        readiness = _readiness(config, bus, dynamo)
        tables = starting.keep_tables(dynamo, [CONNECTIONS])
        await _serve(
            config, process_id, http_socket, ws_socket, bus, gateway, readiness, reporter, tables, stop
        )


def _readiness(config: GatewayConfig, bus: Bus, dynamo: Dynamo) -> Readiness:
    readiness = Readiness("gateway", config.server_id, __version__)

    async def nats() -> None:
        if not bus.is_connected:
            raise unavailable("message bus")

    async def store() -> None:
        await dynamo.ping(CONNECTIONS)

    readiness.add("nats", nats)
    readiness.add("dynamodb", store)
    return readiness


async def _serve(
    config: GatewayConfig,
    process_id: str,
    http_socket: socket.socket,
    ws_socket: socket.socket,
    bus: Bus,
    gateway: Gateway,
    readiness: Readiness,
    reporter: UsageReporter,
    tables: Coroutine[Any, Any, None],
    stop: asyncio.Event,
) -> None:
    async def health(_: GetHealth) -> Health:
        return await readiness.report()

    http_stop = asyncio.Event()
    app = create_gateway_app(bus, readiness)
    async with (
        serve(bus, health_endpoint("gateway"), health, queue="gateway"),
        serve(bus, sessions_endpoint(process_id), gateway.sessions_view.here, queue="gateway"),
        listen(bus, REVOKED, gateway.upkeep.on_revoked),
        listen(bus, CHANGED, gateway.upkeep.on_changed),
        listen(bus, REPLACED, gateway.on_replaced, subject=REPLACED.subject(server_id=process_id)),
    ):
        work = [
            serve_http(app.asgi, http_socket, http_stop),
            reporter.run(),
            tables,
            gateway.presences.run(),
            gateway.lease.keep(),
            gateway.lease.sweep_forever(),
            gateway.previews.run(),
            gateway.directory.months.run(),
            gateway.watch_dashboards(),
            gateway.upkeep.recheck_dashboards(),
            _gauges(gateway),
        ]
        async with _running(work, stop) as (http, reporting, *_):
            _tune_garbage_collection()
            await gateway.listener.start(ws_socket)
            logger.info("gateway_ready", extra={"process_id": process_id})
            await stop.wait()
            readiness.drain()
            await gateway.drain()
            try:
                async with asyncio.timeout(FINISH_SECONDS):
                    await gateway.close()
            except TimeoutError:
                logger.warning("gateway_closed_unfinished")
            # What was counted goes first: who stops this process may not wait for ever.
            await cancel_all([reporting])
            await reporter.finish(USAGE_FLUSH_SECONDS)
            http_stop.set()
            await asyncio.wait([http])


@asynccontextmanager
async def _running(
    work: list[Coroutine[Any, Any, None]], stop: asyncio.Event
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run what a process does all the time; it stops if one of these fails rather than go on without it."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("gateway_failed", exc_info=error)
            stop.set()

    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield tasks
    finally:
        await cancel_all(tasks)


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as this process may: each socket is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            logger.warning("few_open_files", extra={"limit": soft, "wanted": wanted})


def _tune_garbage_collection() -> None:
    """Look for cycles less often, and never among what lives as long as the process.

    Sessions and frames are freed by their reference counts; with thousands of sessions a full collection
    would hold up every delivery for the time it takes to visit them all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _gauges(gateway: Gateway) -> None:
    while True:
        gateway.update_gauges()
        await asyncio.sleep(5.0)
