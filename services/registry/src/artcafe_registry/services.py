"""What handlers work with: made once at start, handed to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.http import CallLimits, CursorBox
from artcafe_common.tokens import Access
from artcafe_registry.changes import Changes
from artcafe_registry.directory import Directory
from artcafe_registry.publishing import Publisher
from artcafe_registry.removal import Removal
from artcafe_registry.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The collaborators of the handlers, and the settings they ask."""

    store: Store
    directory: Directory
    changes: Changes
    removal: Removal
    publisher: Publisher
    limits: CallLimits
    access: Access
    cursors: CursorBox
    clock: Clock
    self_service_tenants: bool
    auto_create_channels: bool

    def now(self) -> str:
        """Return the time as records hold it."""
        return rfc3339(self.clock.now())

    def position(self, token: str | None, tenant_id: str, route: str) -> str | None:
        """Return the id after which a page of a tenant's list starts. Raises: ServiceError."""
        opened = self.cursors.open(token, tenant_id, route)
        return None if opened is None else str(opened["after"])

    def next_token(self, last_id: str, more: bool, tenant_id: str, route: str) -> str | None:
        """Return the token of the page after an id, or None where there is no more."""
        position: dict[str, Any] | None = {"after": last_id} if more else None
        return self.cursors.seal(position, tenant_id, route)
