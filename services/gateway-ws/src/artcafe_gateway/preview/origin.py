"""From which gateway a message came: message ids hold a tag of the process that accepted the publish.

Which process has which tag is told by the leases that all of them keep (`lease`).
"""

from __future__ import annotations

import asyncio
import logging

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_common.ids import REST, process_tag, tag_of
from artcafe_gateway.background import Background
from artcafe_gateway.store import ConnectionStore

logger = logging.getLogger(__name__)

# A gateway that started a moment ago is not known yet.
UNKNOWN = "unknown"
REFRESH_SECONDS = 5.0
PATIENCE_SECONDS = 1.0
_ULID_LENGTH = 26
_REST_TAG = process_tag(REST)


class Origins:
    """The names of the gateways by their processes' tags."""

    def __init__(self, store: ConnectionStore, clock: Clock, process_id: str) -> None:
        self._store = store
        self._clock = clock
        self._background = Background()
        self._own = {process_tag(process_id): _server_of(process_id)}
        self._names = self._own
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    def gateway_of(self, message_id: str) -> str | None:
        """Return the gateway that accepted a message, None where it came by REST, else `UNKNOWN`."""
        tag = tag_of(message_id)
        name = self._names.get(tag)
        if name is not None or tag == _REST_TAG:
            return name
        self.refresh()
        return UNKNOWN

    def refresh(self) -> None:
        """Ask for the gateways there are, unless that was just done."""
        now = self._clock.monotonic()
        if self._asked_at is None or now - self._asked_at >= REFRESH_SECONDS:
            self._asked_at = now
            self._asking = self._background.spawn(self._ask())

    async def ready(self) -> None:
        """Wait a moment for the gateways there are, so that the first messages say where they came from."""
        self.refresh()
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=PATIENCE_SECONDS)

    async def close(self) -> None:
        """Wait for what was asked."""
        await self._background.wait()

    async def _ask(self) -> None:
        try:
            processes = await self._store.leases()
        except ServiceError as error:
            # A path without the publisher's gateway is still a path.
            logger.warning("gateways_not_known", extra={"code": error.code})
            return
        self._names = {process_tag(process): _server_of(process) for process in processes} | self._own


def _server_of(process_id: str) -> str:
    # ``{server_id}-{ulid}``, see `worker`.
    return process_id[: -_ULID_LENGTH - 1]
