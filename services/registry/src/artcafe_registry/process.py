"""The registry's process: clients, collaborators, what runs beside each other, and the order of its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from nats.errors import Error as NatsError

from artcafe_common import __version__
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, SystemClock
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import serve_http
from artcafe_common.http.server import listening_socket
from artcafe_common.remote import remote_key_ring
from artcafe_common.tokens import Access
from artcafe_common.usage import UsageCounter, UsageReporter, ensure_usage_stream
from artcafe_registry.allowance import MonthlyAllowance
from artcafe_registry.app import registry_app
from artcafe_registry.changes import Changes
from artcafe_registry.config import CommandConfig, RegistryConfig
from artcafe_registry.directory import Directory
from artcafe_registry.domain.cursor import CursorBox
from artcafe_registry.endpoints import Endpoints
from artcafe_registry.presence import PresenceWriter
from artcafe_registry.publishing import Publisher
from artcafe_registry.rates import CallLimits
from artcafe_registry.removal import Removal
from artcafe_registry.services import Services
from artcafe_registry.store import TABLES, Store
from artcafe_registry.verifying import RememberingVerifier

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 0.2
USAGE_FINISH_SECONDS = 3.0

T = TypeVar("T")


async def run(config: RegistryConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with AsyncExitStack() as stack:
        bound = listening_socket(config.http_host, config.http_port)
        stack.callback(bound.close)
        dynamo = await stack.enter_async_context(connect_store(config))
        if config.create_tables:
            await _unless_stopped(_create_tables(dynamo), stop)
        bus = await _unless_stopped(_open_bus(config), stop)
        if bus is None:
            return
        stack.push_async_callback(bus.close_gracefully)
        clock = SystemClock()
        usage = UsageCounter(clock)
        services = make_services(config, Store(dynamo), bus, usage, clock)
        readiness = Readiness("registry", config.server_id, __version__)
        readiness.add("nats", lambda: _check_bus(bus))
        readiness.add("dynamodb", services.store.ping)
        bus.on_lost(services.directory.clear)
        bus.on_back(services.directory.clear)
        bus.on_back(services.removal.wake)
        reporter = UsageReporter(bus, usage)
        # Closed in the reverse order: no new requests, then what was counted, then the connection.
        stack.push_async_callback(reporter.finish, USAGE_FINISH_SECONDS)
        await stack.enter_async_context(Endpoints(services, readiness).serve(bus))
        background = [
            asyncio.create_task(_ensure_usage_stream(bus)),
            asyncio.create_task(reporter.run()),
            asyncio.create_task(PresenceWriter(bus, services.store).run()),
            asyncio.create_task(services.removal.run()),
        ]
        stack.push_async_callback(_cancel, background)
        app = registry_app(services, readiness)
        logger.info("service_ready", extra={"port": config.http_port})
        serving = asyncio.create_task(serve_http(app.asgi, bound, stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        readiness.drain()
        await serving


def make_services(
    config: RegistryConfig, store: Store, bus: Bus, usage: UsageCounter, clock: Clock
) -> Services:
    """Put the collaborators together."""
    directory = Directory(store, clock, lambda: bus.is_connected)
    changes = Changes(bus, directory)
    return Services(
        store=store,
        directory=directory,
        changes=changes,
        removal=Removal(store, changes, clock),
        publisher=Publisher(bus, store.replays, usage, MonthlyAllowance(bus, clock), clock),
        limits=CallLimits(directory, usage, clock),
        access=Access(RememberingVerifier(remote_key_ring(bus, clock), clock), directory),
        cursors=CursorBox(config.cursor_key_bytes()),
        clock=clock,
        self_service_tenants=config.self_service_tenants,
        auto_create_channels=config.auto_create_channels,
    )


def connect_store(config: CommandConfig) -> Any:
    """Open the connection to DynamoDB: an asynchronous context manager of a `Dynamo`."""
    return Dynamo.connect(
        region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
    )


async def _open_bus(config: RegistryConfig) -> Bus:
    password = config.nats_password.reveal() if config.nats_password else None
    return await Bus.open(config.nats_url, name="registry", user=config.nats_user, password=password)


async def _create_tables(dynamo: Dynamo) -> None:
    while True:
        try:
            await dynamo.create_tables(TABLES)
            return
        except Exception as error:
            # The store may come up after us.
            logger.warning("create_tables_failed", extra={"error": type(error).__name__})
            await asyncio.sleep(RETRY_SECONDS)


async def _ensure_usage_stream(bus: Bus) -> None:
    while True:
        try:
            await ensure_usage_stream(bus)
            return
        except (NatsError, TimeoutError) as error:
            logger.warning("usage_stream_not_ensured", extra={"error": type(error).__name__})
            await asyncio.sleep(RETRY_SECONDS)


async def _check_bus(bus: Bus) -> None:
    if not bus.is_connected:
        raise unavailable("message bus")


async def _unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Return what the work returns, or None where the process is told to end meanwhile."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    await _cancel([working])
    return None


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """End tasks; asks again, since `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
