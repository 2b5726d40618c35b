"""The lease by which a gateway process is known to live, and the sweep of processes that do not.

A process renews its lease in the store; when a lease runs out, another process takes over what was left.
Each orphan is released by a conditional write, so that one sweeper announces it and none that has come back
is touched. Nobody is declared dead before a full timeout has passed in which this process itself was up and
renewed its own lease in time: while the store was away, or this process stood still, the others may not have
been able to either. A process that could not renew its own lease for as long looks afterwards which of its
connections others have given up.
"""

from __future__ import annotations

import asyncio
import logging

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_gateway.presence import Presences
from artcafe_gateway.store import ConnectionStore

logger = logging.getLogger(__name__)

RENEWALS = 4
# A renewal that is later than this part of the timeout was held up. What is left is more than others need for
# theirs: a lease is a quarter old at most when everything stands still.
LATE = 0.5


class Lease:
    """The lease of this process; `timeout` and `sweep_interval` in seconds."""

    def __init__(
        self,
        bus: Bus,
        store: ConnectionStore,
        clock: Clock,
        presences: Presences,
        process_id: str,
        *,
        timeout: float,
        sweep_interval: float,
    ) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._presences = presences
        self._process_id = process_id
        self._timeout = timeout
        self._sweep_interval = sweep_interval
        # Monotonic seconds: since when every renewal succeeded, and in time.
        self._renewing_since: float | None = None
        # The last one that did, in monotonic and in epoch seconds.
        self._renewed_at: tuple[float, float] | None = None

    async def keep(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            try:
                await self.renew()
                await self._presences.release_late()
            except ServiceError as error:
                logger.warning("lease_not_renewed", extra={"code": error.code})
            except Exception:
                logger.exception("lease_not_renewed")
            await asyncio.sleep(self._timeout / RENEWALS)

    async def renew(self) -> None:
        """Renew the lease once. Raises: ServiceError."""
        now, silence = self._clock.monotonic(), self._silence()
        renewed_at = (now, self._clock.now())
        try:
            await self._store.renew_lease()
        except BaseException:
            # While the store is away nobody's lease is renewed: no lease says anything then.
            self._renewing_since = None
            raise
        if self._renewing_since is None or silence > self._timeout * LATE:
            self._renewing_since = now
        if silence > self._timeout:
            logger.warning("lease_was_late", extra={"seconds": round(silence, 1)})
            self._presences.reclaim()
        self._renewed_at = renewed_at

    async def sweep_forever(self) -> None:
        """Look for dead processes until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_interval)
            try:
                await self.sweep()
            except ServiceError as error:
                logger.warning("sweep_failed", extra={"code": error.code})
            except Exception:
                logger.exception("sweep_failed")

    async def sweep(self) -> None:
        """Take over what dead processes left, once."""
        since = self._renewing_since
        if since is None or self._clock.monotonic() - since < self._timeout or not self._bus.is_connected:
            return
        if self._silence() > self._timeout * LATE:
            # It has just woken up, and does not know yet whether the others have, too.
            return
        now = self._clock.now()
        for server, renewed_at in (await self._store.leases()).items():
            if server == self._process_id or now - renewed_at < self._timeout:
                continue
            async for orphan in self._store.orphans_of(server):
                await self._presences.bury(orphan, renewed_at)
            await self._store.drop_lease(server)
            logger.info("dead_gateway_swept", extra={"process_id": server})

    def _silence(self) -> float:
        """Return how long ago the last renewal was, by the clock that says more.

        One of a machine that was suspended stood still with it.
        """
        if self._renewed_at is None:
            return 0.0
        monotonic, epoch = self._renewed_at
        return max(self._clock.monotonic() - monotonic, self._clock.now() - epoch)
