"""The gateway's HTTP side: health of the whole suite, and the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from starlette.responses import Response

from artcafe_common.bus import Bus
from artcafe_common.contracts.platform import Dependency, GetHealth, Health, health_endpoint
from artcafe_common.errors import ServiceError
from artcafe_common.health import Readiness
from artcafe_common.http import Call, HttpApp, Operation, create_app
from artcafe_common.rpc import call
from artcafe_gateway.pages import SignInOrigins, load_pages, page_routes

SERVICES = ("auth", "registry", "metering")

Ask = Callable[[str], Awaitable[Health]]


class SuiteHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the whole platform is: `up`, or `down` where a service that matters is."""

    status: Literal["up", "down"]
    services: dict[str, ServiceHealth]


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How one service is, and what it depends on."""

    status: str
    dependencies: list[Dependency]


def create_gateway_app(bus: Bus, readiness: Readiness) -> HttpApp:
    """Build the gateway's application."""

    async def suite_health(_: Call) -> Response:
        own, *others = await asyncio.gather(readiness.report(), *(_ask(bus, name) for name in SERVICES))
        reports = {"gateway": own, **dict(zip(SERVICES, others, strict=True))}
        services = {
            name: ServiceHealth(status=report.status, dependencies=report.dependencies)
            for name, report in reports.items()
        }
        up = all(service.status != "down" for service in services.values())
        body = SuiteHealth(status="up" if up else "down", services=services)
        return Response(msgspec.json.encode(body), 200 if up else 503, media_type="application/json")

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


async def _ask(bus: Bus, name: str) -> Health:
    try:
        return await call(bus, health_endpoint(name), GetHealth())
    except ServiceError as error:
        missing = Dependency(name=name, status="down", detail=error.code)
        return Health(service=name, server_id="", version="", status="down", dependencies=[missing])
