"""Telling others: that something changed, and that sessions must end."""

from __future__ import annotations

import logging

from nats.errors import Error as NatsError

from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import REVOKED, Revoked
from artcafe_common.contracts.registry import CHANGED, Changed
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.rpc import announce
from artcafe_registry import metrics
from artcafe_registry.directory import Directory

logger = logging.getLogger(__name__)

# As a call has: a server that stands still for a moment is not away.
FLUSH_TIMEOUT_SECONDS = 5


class Changes:
    """Announces changes on the bus and forgets what this process had cached of them."""

    def __init__(self, bus: Bus | None, directory: Directory | None = None) -> None:
        self._bus = bus
        self._directory = directory

    async def tell(self, tenant_id: str, kind: str, id: str, action: str) -> None:
        """Announce one change.

        When this returns the event is at the NATS server, and other replicas know of it as soon as they have
        read it; a client that cannot wait for these milliseconds asks with ``Cache-Control: no-cache``. While
        NATS is away nothing is told: whoever caches reads everything anew afterwards.
        """
        changed = Changed(tenant_id=tenant_id, kind=kind, id=id, action=action)
        if self._directory is not None:
            self._directory.forget(changed)
        if self._bus is None:
            return
        # A person's id may hold what a subject cannot; the payload has it as it is.
        named = "-" if kind == "member" else id
        try:
            announce(self._bus, CHANGED, changed, tenant_id=tenant_id, kind=kind, id=named)
            await self._bus.flush(FLUSH_TIMEOUT_SECONDS)
        except (ServiceError, NatsError, TimeoutError) as error:
            metrics.CHANGES_NOT_TOLD.inc()
            logger.warning("change_not_told", extra={"kind": kind, "error": type(error).__name__})

    async def revoke(self, revoked: Revoked) -> None:
        """Have sessions closed. Raises: ServiceError ``unavailable`` where NATS did not take the event."""
        if self._bus is None:
            raise unavailable("message bus")
        announce(self._bus, REVOKED, revoked)
        try:
            await self._bus.flush(FLUSH_TIMEOUT_SECONDS)
        except (NatsError, TimeoutError):
            raise unavailable("message bus") from None
