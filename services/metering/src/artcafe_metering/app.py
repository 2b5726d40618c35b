"""Build the REST application."""

from __future__ import annotations

from collections.abc import Iterable

from artcafe_common.health import Readiness
from artcafe_common.http import CallLimits, HttpApp, Operation, create_app
from artcafe_common.tokens import Access


def create_usage_app(
    operations: Iterable[Operation], readiness: Readiness, access: Access, limits: CallLimits
) -> HttpApp:
    """Return the application; every authenticated call is counted as its tenant's, and held to its rate."""
    return create_app("usage", operations, readiness=readiness, access=access, on_call=limits.on_call)
