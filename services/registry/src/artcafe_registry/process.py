"""The registry's process: clients, collaborators, what runs beside each other, and the order of its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from artcafe_common import __version__
from artcafe_common.allowance import Allowances
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, SystemClock
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import CallLimits, CursorBox, serve_http
from artcafe_common.remote import remote_key_ring
from artcafe_common.starting import Starting, bind, cancel_all
from artcafe_common.tokens import Access
from artcafe_common.usage import UsageCounter, UsageReporter, open_usage_counter
from artcafe_registry.app import registry_app
from artcafe_registry.changes import Changes
from artcafe_registry.config import PREFIX, CommandConfig, RegistryConfig
from artcafe_registry.directory import Directory
from artcafe_registry.endpoints import Endpoints
from artcafe_registry.presence import PresenceWriter
from artcafe_registry.publishing import Publisher
from artcafe_registry.removal import Removal
from artcafe_registry.services import Services
from artcafe_registry.store import TABLES, Store
from artcafe_registry.verifying import RememberingVerifier

logger = logging.getLogger(__name__)

USAGE_FINISH_SECONDS = 3.0


async def run(config: RegistryConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(bind(PREFIX, "HTTP", config.http_host, config.http_port))
        starting = Starting("registry", config, bound, stop)
        dynamo = await stack.enter_async_context(connect_store(config))
        await starting.make_tables(dynamo, TABLES)
        bus = await starting.open_bus()
        if bus is None:
            return
        stack.push_async_callback(bus.close_gracefully)
        clock = SystemClock()
        usage = open_usage_counter(config, clock)
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
            asyncio.create_task(reporter.run()),
            asyncio.create_task(starting.keep_tables(dynamo, TABLES)),
            asyncio.create_task(PresenceWriter(bus, services.store, config.nats_stream_replicas).run()),
            asyncio.create_task(services.removal.run()),
            asyncio.create_task(services.changes.run()),
            asyncio.create_task(services.publisher.allowances.run()),
        ]
        stack.push_async_callback(cancel_all, background)
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
        publisher=Publisher(bus, store.replays, usage, Allowances(bus, clock), clock),
        limits=CallLimits(directory.limits, usage, clock),
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


async def _check_bus(bus: Bus) -> None:
    if not bus.is_connected:
        raise unavailable("message bus")
