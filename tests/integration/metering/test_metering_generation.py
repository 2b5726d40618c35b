"""Counters that are lost are noticed, counted again and read from below; new ones are no loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.js import JetStreamContext

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import GET_MONTHS, GetMonths, UsageRow
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ServiceError
from artcafe_common.rpc import call
from artcafe_devstack.servers import AwsEndpoint, RunningServer
from artcafe_metering import keys, metrics
from artcafe_metering.figures import Figures
from artcafe_metering.generation import Generation, settle_restored
from artcafe_metering.rolled import USAGE_METRICS, Rolled
from artcafe_metering.valkey import Valkey

DAY = timedelta(days=1)


@dataclass
class Bench:
    """Generations as one replica each would have, and where they look."""

    make: Callable[[], Generation]
    rolled: Rolled
    valkey: Valkey


@pytest.fixture
async def bench(bus: Bus, valkey: RunningServer, aws_environment: AwsEndpoint) -> AsyncIterator[Bench]:
    """Make a bench with an empty table."""
    url, region = aws_environment.url, aws_environment.region
    async with Dynamo.connect(region=region, endpoint_url=url, prefix="artcafe-") as dynamo:
        await dynamo.create_tables([USAGE_METRICS])
        client, rolled = Valkey(valkey.url, 4), Rolled(dynamo)
        yield Bench(lambda: Generation(client, bus.jetstream(), rolled, SystemClock()), rolled, client)
        await client.close()


async def counted(bench: Bench, sender: Any, replica_of: Any, ledger_of: Any, until: Any) -> None:
    """Count a batch, as a new installation does, and stop."""
    replica = await replica_of(ledger_of(generation=bench.make()))
    await sender.batch("s1", 1)
    await until(sender.unacknowledged, 0)
    await replica.stop()


async def no_consumer(sender: Any) -> bool:
    """Tell whether the stream would be read from its beginning."""
    return not [each async for each in _names(sender)]


async def _names(sender: Any) -> AsyncIterator[str]:
    for info in await sender.bus.jetstream().consumers_info("USAGE"):
        yield info.name


async def test_a_new_installation_has_lost_nothing(
    bench: Bench, bus: Bus, store: Any, sender: Any, replica_of: Any, ledger_of: Any, until: Any, caplog: Any
) -> None:
    """Without a stream, with one that has nothing yet, and with batches that came before metering did."""
    generation = bench.make()
    for name in ("empty", "first batches"):
        await generation.begin()
        assert await store.redis.get(keys.SINCE) == "0", name
        assert await store.redis.ttl(keys.SINCE) > 0
        assert await generation.since() == 0
        await store.redis.delete(keys.SINCE)
        await sender.batch("s1", 1)
        generation = bench.make()
    await counted(bench, sender, replica_of, ledger_of, until)
    assert await store.redis.get(keys.SINCE) == "0"
    await generation.look()
    assert metrics.COUNTERS_SINCE._value.get() == 0
    assert "counters_lost" not in caplog.text


async def test_counters_of_an_older_version_are_no_loss(
    bench: Bench, store: Any, sender: Any, replica_of: Any, until: Any
) -> None:
    """They have no key, and all that they ever counted."""
    await replica_of()
    await sender.batch("s1", 1)
    await until(sender.unacknowledged, 0)
    assert not await store.redis.exists(keys.SINCE)
    await bench.make().begin()
    assert await store.redis.get(keys.SINCE) == "0"
    assert not await no_consumer(sender)


async def test_lost_counters_are_noticed_by_one_that_did_not_know_them(
    bench: Bench, store: Any, sender: Any, replica_of: Any, ledger_of: Any, until: Any, caplog: Any
) -> None:
    """By what the stream's consumer has acknowledged: the stream is read anew, and since when is kept."""
    await counted(bench, sender, replica_of, ledger_of, until)
    await store.redis.flushall()
    before = time.time()
    several = [bench.make() for _ in range(5)]
    await asyncio.gather(*(each.look() for each in several))
    since = float(await store.redis.get(keys.SINCE))
    assert before <= since <= time.time()
    assert {await each.since() for each in several} == {since}
    assert metrics.COUNTERS_SINCE._value.get() == since
    assert await no_consumer(sender)
    assert "counters_lost" in caplog.text
    await bench.make().begin()
    assert float(await store.redis.get(keys.SINCE)) == since


class LastWords:
    """A JetStream that deletes a consumer and is heard of no more."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jetstream, name)

    async def delete_consumer(self, stream: str, consumer: str) -> bool:
        """Delete it; raise what an answer that does not come raises."""
        await self._jetstream.delete_consumer(stream, consumer)
        raise TimeoutError


async def test_a_replica_that_ends_in_the_middle_leaves_word_of_what_it_found(
    bench: Bench, bus: Bus, store: Any, sender: Any, replica_of: Any, ledger_of: Any, until: Any
) -> None:
    """The consumer, which told of the loss, is gone by then; another one does the rest."""
    await counted(bench, sender, replica_of, ledger_of, until)
    await store.redis.flushall()
    jetstream: Any = LastWords(bus.jetstream())
    before = time.time()
    with pytest.raises(ServiceError):
        await Generation(bench.valkey, jetstream, bench.rolled, SystemClock()).look()
    after = time.time()
    assert await no_consumer(sender)
    assert await store.redis.get(keys.SINCE) is None
    assert await store.redis.ttl(keys.LOST) > 0
    await bench.make().look()
    assert before <= float(await store.redis.get(keys.SINCE)) <= after
    assert not await store.redis.exists(keys.LOST)


async def test_lost_counters_are_noticed_by_what_was_rolled_up(bench: Bench, store: Any, sender: Any) -> None:
    """Where the consumer is gone, too: something was closed once."""
    await sender.batch("s1", 1)
    await bench.rolled.add(
        "t1", "day", "2026-01-01", 0, Figures(1), {"agent": {}, "channel": {}},
        {"agent": 0, "channel": 0}, 1.0, 2**33,
    )  # fmt: skip
    await bench.make().begin()
    assert float(await store.redis.get(keys.SINCE)) > 0


async def test_what_cannot_be_known_is_read_carefully_and_no_alert(
    bus: Bus, valkey: RunningServer, store: Any, sender: Any
) -> None:
    """Without DynamoDB it is taken for lost where it is read; counting goes on, and nobody is called."""
    await sender.batch("s1", 1)
    client = Valkey(valkey.url, 4)
    async with Dynamo.connect(region="us-east-1", endpoint_url="http://127.0.0.1:9", prefix="x-") as dynamo:
        generation = Generation(client, bus.jetstream(), Rolled(dynamo), SystemClock())
        await generation.look()
        assert await generation.since() > 0
        assert metrics.COUNTERS_SINCE._value.get() == 0
    await client.close()


async def test_a_restore_is_no_loss_where_the_stream_has_the_rest(bench: Bench, store: Any) -> None:
    """Of a backup without the key, with it, with one that a service has set meanwhile, and of an old one."""
    now = time.time()
    for made, there, wanted in (
        (now - 3600, None, "0"),
        (now - 3600, "0", "0"),
        (now - 3600, f"{now - 7200}", f"{now - 7200}"),
        (now - 3600, f"{now - 50}", "0"),
        (now - 8 * 86_400, "0", f"{now}"),
    ):
        await store.redis.delete(keys.SINCE)
        if there is not None:
            await store.redis.set(keys.SINCE, there)
        await settle_restored(bench.valkey, made, now - 60, now)
        assert await store.redis.get(keys.SINCE) == wanted


async def test_an_emptied_valkey_is_counted_again_by_all_replicas_and_what_was_closed_is_shown(
    bench: Bench, bus: Bus, world: Any, service_of: Any, sender: Any, store: Any, ledger_of: Any,
    batch_of: Any, until: Any,
) -> None:  # fmt: skip
    """What the stream has is counted once, the rest is what was closed, also where nothing new comes."""
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    services = [await service_of(), await service_of()]
    await until(lambda: store.redis.get(keys.SINCE), "0")
    for seq in range(1, 21):
        await sender.batch("s1", seq)
    await until(sender.unacknowledged, 0)
    # A day that the stream has no more.
    yesterday = datetime.now(UTC) - DAY
    await ledger_of().apply([batch_of("old", 1, UsageRow("t1", messages=7), at=yesterday.timestamp())])
    await bench.rolled.add(
        "t1", "day", f"{yesterday:%Y-%m-%d}", 0, Figures(7), {"agent": {}, "channel": {}},
        {"agent": 0, "channel": 0}, 1.0, 2**33,
    )  # fmt: skip

    async def history() -> list[int]:
        answer = (await services[0].get("/history", headers, days="2")).json()
        return [day["messages"] for day in answer["history"]]

    async def month() -> int:
        asked = GetMonths(month=f"{yesterday:%Y-%m}", tenant_ids=["t1"])
        months: dict[str, int] = (await call(bus, GET_MONTHS, asked)).messages
        return months["t1"]

    assert await history() == [7, 20]
    billed = await month()
    await store.redis.flushall()
    await until(lambda: store.messages("t1"), 20)
    assert await history() == [7, 20]
    assert await month() == billed
    await until(sender.unacknowledged, 0)
    since = float(await store.redis.get(keys.SINCE))

    async def told() -> bool:
        texts = [(await each.client.get("/metrics")).text for each in services]
        values = [
            float(line.split()[1])
            for text in texts
            for line in text.splitlines()
            if line.startswith("artcafe_metering_counters_since_timestamp_seconds ")
        ]
        return values == [since, since]

    await until(told)
    assert any('"counters_lost"' in each.log() for each in services)
    assert await store.messages("t1") == 20
