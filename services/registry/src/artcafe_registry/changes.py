"""Telling others: that something changed, and that sessions must end."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable

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
# What NATS did not take is told again that often, and so much of it is kept.
RETRY_SECONDS = 1.0
UNTOLD_MAX = 10_000


class Changes:
    """Announces changes on the bus and forgets what this process had cached of them."""

    def __init__(self, bus: Bus | None, directory: Directory | None = None) -> None:
        self._bus = bus
        self._directory = directory
        self._untold: deque[Changed] = deque()
        self._due = asyncio.Event()

    async def tell(self, tenant_id: str, kind: str, id: str, action: str) -> None:
        """Announce one change.

        When this returns the event is at the NATS server, and other replicas know of it as soon as they have
        read it; a client that cannot wait for these milliseconds asks with ``Cache-Control: no-cache``. What
        NATS does not take is told by `run` once it does: it may be away for this process alone, and nobody
        else has a reason then to read everything anew.
        """
        changed = Changed(tenant_id=tenant_id, kind=kind, id=id, action=action)
        if self._directory is not None:
            self._directory.forget(changed)
        if self._bus is None:
            return
        try:
            await self._announce(self._bus, [changed])
        except (ServiceError, NatsError, TimeoutError) as error:
            metrics.CHANGES_NOT_TOLD.inc()
            logger.warning("change_not_told", extra={"kind": kind, "error": type(error).__name__})
            if len(self._untold) < UNTOLD_MAX:
                self._untold.append(changed)
                self._due.set()

    async def run(self) -> None:
        """Tell again what NATS did not take, in its order, until cancelled."""
        assert self._bus is not None
        while True:
            await self._due.wait()
            untold = list(self._untold)
            try:
                await self._announce(self._bus, untold)
            except (ServiceError, NatsError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for _ in untold:
                self._untold.popleft()
            if not self._untold:
                self._due.clear()

    async def _announce(self, bus: Bus, changes: Iterable[Changed]) -> None:
        for changed in changes:
            # A person's id may hold what a subject cannot; the payload has it as it is.
            named = "-" if changed.kind == "member" else changed.id
            announce(bus, CHANGED, changed, tenant_id=changed.tenant_id, kind=changed.kind, id=named)
        await bus.flush(FLUSH_TIMEOUT_SECONDS)

    async def revoke(self, revoked: Revoked) -> None:
        """Have sessions closed. Raises: ServiceError ``unavailable`` where NATS did not take the event."""
        if self._bus is None:
            raise unavailable("message bus")
        announce(self._bus, REVOKED, revoked)
        try:
            await self._bus.flush(FLUSH_TIMEOUT_SECONDS)
        except (NatsError, TimeoutError):
            raise unavailable("message bus") from None
