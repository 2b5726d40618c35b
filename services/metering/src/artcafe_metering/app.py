"""Build the REST application."""

from __future__ import annotations

from artcafe_common.health import Readiness
from artcafe_common.http import HttpApp, create_app
from artcafe_common.tokens import Access, TenantScope
from artcafe_common.usage import UsageCounter
from artcafe_metering.handlers import UsageApi


def create_usage_app(api: UsageApi, readiness: Readiness, access: Access, counter: UsageCounter) -> HttpApp:
    """Return the application; every authenticated call is counted as its tenant's."""

    async def count(scope: TenantScope) -> None:
        counter.api_call(scope.tenant_id)

    return create_app("usage", api.operations(), readiness=readiness, access=access, on_call=count)
