"""Put the service together, run it, and take it down in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from artcafe_auth.agents import AgentProofs
from artcafe_auth.app import SERVICE, create_auth_app, serve_bus
from artcafe_auth.config import PREFIX, AuthConfig
from artcafe_auth.fetcher import HttpFetcher
from artcafe_auth.handlers import Handlers
from artcafe_auth.limits import RateLimits
from artcafe_auth.local_issuer import KeyFileError, LocalIssuer, load_or_create_key
from artcafe_auth.passwords import Passwords
from artcafe_auth.people import LocalPeople
from artcafe_auth.providers import Provider, Providers
from artcafe_auth.store import CHALLENGES, TABLES, DynamoOneTimeStore, DynamoUserStore
from artcafe_common import __version__, rpc
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock, SystemClock
from artcafe_common.contracts.registry import GET_AGENT, AgentInfo, GetAgent
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http.server import serve_http
from artcafe_common.service import StartError
from artcafe_common.starting import Starting, bind, cancel_all

logger = logging.getLogger(__name__)

# Less than what gateways wait for auth, so that they learn who did not answer.
REGISTRY_TIMEOUT_SECONDS = 3.0


async def run(config: AuthConfig, stop: asyncio.Event, clock: Clock | None = None) -> None:
    """Serve until `stop` is set. Raises: StartError."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(bind(PREFIX, "HTTP", config.http_host, config.http_port))
        starting = Starting(SERVICE, config, bound, stop)
        dynamo = await stack.enter_async_context(connect_store(config))
        bus = await starting.open_bus()
        if bus is None:
            return
        stack.push_async_callback(bus.close_gracefully)
        fetcher = await stack.enter_async_context(HttpFetcher.connect())
        limits = RateLimits(
            address_rate=config.address_rate,
            agent_rate=config.agent_rate,
            login_rate=config.login_rate,
            clock=clock,
        )
        people = _local_people(config, dynamo, limits, clock, stack)
        providers = Providers(
            [Provider(issuer, fetcher, clock, allow_http=config.development) for issuer in config.issuers()],
            people.issuer.rules() if people else None,
            config.issuers_refresh_seconds,
        )

        async def ask_registry(request: GetAgent) -> AgentInfo:
            return await rpc.call(bus, GET_AGENT, request, timeout=REGISTRY_TIMEOUT_SECONDS)

        handlers = Handlers(
            AgentProofs(DynamoOneTimeStore(dynamo), ask_registry, limits, clock), providers, people
        )
        readiness = _readiness(config, dynamo, bus, providers)
        app = create_auth_app(handlers, readiness)
        await stack.enter_async_context(serve_bus(bus, handlers, readiness))
        async with asyncio.TaskGroup() as group:
            background: list[asyncio.Task[Any]] = [
                group.create_task(providers.run()),
                group.create_task(_drain_on(stop, readiness)),
            ]
            if config.create_tables:
                # Readiness is false until they are there.
                background.append(group.create_task(_make_tables(starting, dynamo)))
            logger.info("service_ready", extra={"http_port": bound.getsockname()[1]})
            await serve_http(app.asgi, bound, stop)
            await cancel_all(background)


async def _make_tables(starting: Starting, dynamo: Dynamo) -> None:
    await starting.tables_made(dynamo, TABLES)
    await starting.keep_tables(dynamo, TABLES)


def connect_store(config: AuthConfig) -> AbstractAsyncContextManager[Dynamo]:
    """Open the client of the tables."""
    return Dynamo.connect(
        region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
    )


def _local_people(
    config: AuthConfig, dynamo: Dynamo, limits: RateLimits, clock: Clock, stack: AsyncExitStack
) -> LocalPeople | None:
    if not config.local_issuer:
        return None
    # The configuration has checked that both are there.
    assert config.local_issuer_url is not None and config.local_issuer_key_file is not None
    try:
        key = load_or_create_key(Path(config.local_issuer_key_file))
    except KeyFileError as error:
        raise StartError(f"AUTH_LOCAL_ISSUER_KEY_FILE: {error}") from None
    issuer = LocalIssuer(
        key,
        url=config.local_issuer_url,
        audience=config.local_audience,
        token_seconds=config.local_token_seconds,
    )
    passwords = Passwords()
    stack.callback(passwords.close)
    return LocalPeople(DynamoUserStore(dynamo), passwords, issuer, limits, clock)


def _readiness(config: AuthConfig, dynamo: Dynamo, bus: Bus, providers: Providers) -> Readiness:
    async def nats() -> None:
        if not bus.is_connected:
            raise unavailable("message bus")

    async def store() -> None:
        await dynamo.ping(CHALLENGES)

    readiness = Readiness(SERVICE, config.server_id, __version__)
    readiness.add("nats", nats)
    readiness.add("dynamodb", store)
    # Agents come in without it, and people with tokens that others have checked by keys they still know.
    readiness.add("identity-providers", providers.check, required=False)
    return readiness


async def _drain_on(stop: asyncio.Event, readiness: Readiness) -> None:
    await stop.wait()
    readiness.drain()
