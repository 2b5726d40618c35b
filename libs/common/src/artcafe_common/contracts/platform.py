"""What every service answers about itself."""

from __future__ import annotations

from typing import Literal

import msgspec

from artcafe_common.contracts.endpoint import Endpoint

HEALTH_TIMEOUT_SECONDS = 2.0


class GetHealth(msgspec.Struct, frozen=True):
    """Ask one replica of a service how it is."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing a service depends on; ``required`` ones make it not ready when they are away."""

    name: str
    status: Literal["up", "down"]
    required: bool = True
    detail: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's own report."""

    service: str
    server_id: str
    version: str
    status: Literal["up", "down", "draining"]
    dependencies: list[Dependency]


def health_endpoint(service: str) -> Endpoint[GetHealth, Health]:
    """Return the health endpoint of a service (``auth``, ``registry``, ``gateway``, ``metering``)."""
    return Endpoint(f"platform.v1.health.{service}", GetHealth, Health, HEALTH_TIMEOUT_SECONDS)
