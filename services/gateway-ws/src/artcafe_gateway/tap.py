"""Subscriptions at NATS that are there when they are said to be, or refused with ``unavailable``."""

from __future__ import annotations

import contextlib

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from artcafe_common.bus import Bus
from artcafe_common.bus_wire import DirectHandler
from artcafe_common.errors import unavailable

FLUSH_TIMEOUT_SECONDS = 5


async def open_tap(bus: Bus, subject: str, handler: DirectHandler) -> Subscription:
    """Subscribe, and return when messages from now on will arrive.

    To be awaited by a task of its own where the caller may be cancelled.

    Raises: ServiceError ``unavailable``.
    """
    if not bus.is_connected:
        # The library would keep the request for later: a client is better told.
        raise unavailable("message bus")
    try:
        subscription = await bus.subscribe_direct(subject, handler)
    except NatsError:
        raise unavailable("message bus") from None
    try:
        await bus.flush(FLUSH_TIMEOUT_SECONDS)
    except (NatsError, OSError):
        await close_tap(bus, subscription)
        raise unavailable("message bus") from None
    return subscription


async def close_tap(bus: Bus, subscription: Subscription) -> None:
    """End a subscription; where the connection is closed it has ended already."""
    with contextlib.suppress(NatsError):
        await bus.unsubscribe_direct(subscription)
