"""The gateway's HTTP side: health of the whole suite, and the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec
from nats.errors import Error as NatsError
from starlette.responses import Response

from artcafe_common.bus import Bus
from artcafe_common.contracts.platform import Dependency, GetHealth, Health, health_endpoint
from artcafe_common.errors import ServiceError
from artcafe_common.health import Readiness
from artcafe_common.http import Call, HttpApp, Operation, create_app
from artcafe_common.rpc import call
from artcafe_gateway.pages import SignInOrigins, load_pages, page_routes

SERVICES = ("auth", "registry", "metering")
BUS_TIMEOUT_SECONDS = 2
# Anyone may ask for health, as often as they like. An answer costs a question to every service and by them to
# what they depend on, so all who ask within this time get the same one.
HEALTH_SECONDS = 1.0


class SuiteHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the whole platform is: `up`, or `down` where a service that matters is."""

    status: Literal["up", "down"]
    services: dict[str, ServiceHealth]


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one service is, and what it depends on; `unknown` where the message bus does not answer."""

    status: str
    dependencies: list[Dependency]


class Looks:
    """The suite's health as it was seen last, looked at again where that is `HEALTH_SECONDS` ago."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, SuiteHealth]]) -> None:
        self._look = look
        self._looking: asyncio.Task[SuiteHealth] | None = None
        self._since = 0.0

    async def health(self) -> SuiteHealth:
        """Return how the platform is; all who ask meanwhile wait for the same look."""
        now = asyncio.get_running_loop().time()
        looking = self._looking
        if looking is None or (looking.done() and now - self._since >= HEALTH_SECONDS):
            looking = self._looking = asyncio.create_task(self._look())
            self._since = now
        # Who gives up does not end it for the others.
        return await asyncio.shield(looking)


def create_gateway_app(bus: Bus, readiness: Readiness) -> HttpApp:
    """Build the gateway's application."""

    async def look() -> SuiteHealth:
        asking = asyncio.gather(*(_ask(bus, name) for name in SERVICES))
        own, answers, others = await asyncio.gather(readiness.report(), _answers(bus), asking)
        services = {"gateway": _shown(own)}
        for name, report in zip(SERVICES, others, strict=True):
            services[name] = report
            if report.status == "down" and not answers:
                # It is not the service that is known to be down: nobody can ask it.
                services[name] = msgspec.structs.replace(report, status="unknown")
        up = answers and all(service.status != "down" for service in services.values())
        return SuiteHealth(status="up" if up else "down", services=services)

    looks = Looks(look)

    async def suite_health(_: Call) -> Response:
        health = await looks.health()
        status = 200 if health.status == "up" else 503
        return Response(msgspec.json.encode(health), status, media_type="application/json")

    operations = [
        Operation(
            "GET",
            "/health",
            suite_health,
            "Health of every service",
            "public",
            reply=SuiteHealth,
            tags=("health",),
        )
    ]
    return create_app(
        "gateway", operations, readiness=readiness, extra_routes=page_routes(load_pages(), SignInOrigins(bus))
    )


async def _answers(bus: Bus) -> bool:
    """Tell whether NATS answers: one that has frozen looks connected for half a minute."""
    if not bus.is_connected:
        return False
    try:
        await bus.flush(BUS_TIMEOUT_SECONDS)
    except (NatsError, OSError):
        return False
    return True


async def _ask(bus: Bus, name: str) -> ServiceHealth:
    try:
        return _shown(await call(bus, health_endpoint(name), GetHealth()))
    except ServiceError as error:
        missing = Dependency(name=name, status="down", detail=error.code)
        return ServiceHealth(status="down", dependencies=[missing])


def _shown(report: Health) -> ServiceHealth:
    return ServiceHealth(status=report.status, dependencies=report.dependencies)
