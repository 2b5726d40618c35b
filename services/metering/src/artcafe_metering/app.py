"""Build the REST application."""

from __future__ import annotations

from collections.abc import Iterable

from artcafe_common.health import Readiness
from artcafe_common.http import HttpApp, Operation, create_app
from artcafe_common.tokens import Access, TenantScope
from artcafe_common.usage import UsageCounter


def create_usage_app(
    operations: Iterable[Operation], readiness: Readiness, access: Access, counter: UsageCounter
) -> HttpApp:
    """Return the application; every authenticated call is counted as its tenant's."""

    async def count(scope: TenantScope) -> None:
        counter.api_call(scope.tenant_id)

    return create_app("usage", operations, readiness=readiness, access=access, on_call=count)
