"""Recounting a day from the stream, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.errors import ServiceError
from artcafe_devstack.servers import RunningServer
from artcafe_metering import keys, metrics
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures
from artcafe_metering.periods import midnight
from artcafe_metering.reconcile import Difference, Reconciler
from artcafe_metering.valkey import Valkey

DAY = timedelta(days=1)


@dataclass
class Noon(SystemClock):
    """A clock that goes, and by which it is always noon."""

    def now(self) -> float:
        """Return today's noon."""
        return (midnight(datetime.now(UTC).date()) + DAY / 2).timestamp()


async def test_a_day_is_recounted_and_a_difference_is_told(
    bus: Bus, valkey: RunningServer, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Repeated batches and other days do not disturb; a changed counter is found, up or down."""
    yesterday = datetime.now(UTC).date() - DAY
    at = midnight(yesterday).timestamp() + 3600
    rows = [UsageRow("t1", "a1", "c1", messages=2, bytes_in=5), UsageRow("t2", api_calls=1)]
    for seq in range(1, 701):
        await sender.batch("s1", seq, *rows, at=at)
    await sender.batch("s1", 3, *rows, at=at, named=False)
    await sender.batch("s1", 701, *rows, at=at - 2 * 86_400)
    await sender.raw("s1", b"nothing")
    await replica_of()
    await until(sender.unacknowledged, 0)
    client = Valkey(valkey.url, 1)
    reconciler = Reconciler(bus, client, ValkeyCounters(client), Noon())
    outcome = await reconciler.compare(yesterday)
    assert (outcome.batches, outcome.tenants, outcome.differences) == (700, 2, [])
    await store.redis.hincrby(keys.day_key("t1", yesterday), "messages", 3)
    await store.redis.delete(keys.day_key("t2", yesterday))
    await store.redis.hset(keys.day_key("t3", yesterday), "messages", 1)
    assert (await reconciler.compare(yesterday)).differences == [
        Difference("t1", Figures(1403, bytes_in=3500), Figures(1400, bytes_in=3500)),
        Difference("t2", Figures(), Figures(api_calls=700)),
        Difference("t3", Figures(1), Figures()),
    ]
    assert metrics.RECONCILE_DIFFERENCE.labels("messages")._value.get() == 4
    assert metrics.RECONCILE_DIFFERENCE.labels("api_calls")._value.get() == 700
    with pytest.raises(ServiceError, match="not closed"):
        await reconciler.compare(yesterday + DAY)
    await client.close()
