"""The registry's routes."""

from __future__ import annotations

from artcafe_common.health import Readiness
from artcafe_common.http import HttpApp, Operation, create_app
from artcafe_registry.handlers.agents import AgentHandlers
from artcafe_registry.handlers.channels import ChannelHandlers
from artcafe_registry.handlers.grants import GrantHandlers
from artcafe_registry.handlers.keys import KeyHandlers
from artcafe_registry.handlers.messages import MessageHandlers
from artcafe_registry.handlers.people import PeopleHandlers
from artcafe_registry.handlers.tenants import TenantHandlers
from artcafe_registry.services import Services


def operations(services: Services) -> list[Operation]:
    """Return every operation of the registry."""
    return [
        *AgentHandlers(services).operations(),
        *KeyHandlers(services).operations(),
        *ChannelHandlers(services).operations(),
        *GrantHandlers(services).operations(),
        *MessageHandlers(services).operations(),
        *TenantHandlers(services).operations(),
        *PeopleHandlers(services).operations(),
    ]


def registry_app(services: Services, readiness: Readiness) -> HttpApp:
    """Build the application."""
    return create_app(
        "registry",
        operations(services),
        readiness=readiness,
        access=services.access,
        on_call=services.limits.on_call,
    )
