"""The consuming side on real NATS and Valkey: redelivery, replicas, servers that go and come back, poison."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from artcafe_common.config import Secret
from artcafe_common.contracts.metering import UsageRow
from artcafe_metering import durability, intake, keys
from artcafe_metering.batches import Batch
from artcafe_metering.config import MeteringConfig
from artcafe_metering.ledger import Ledger
from artcafe_metering.metrics import BATCHES
from artcafe_metering.streams import CONSUMER

# For a consumer that misses no batch while a test has it held.
MISSED_SECONDS = 120.0
PATIENT = CONSUMER.evolve(ack_wait=MISSED_SECONDS)


async def test_batches_are_applied_and_acknowledged(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any
) -> None:
    """What is published is counted and then done with, with the disk waited for."""
    await replica_of(ledger_of(wait_for_disk=True))
    for seq in range(1, 11):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 10)
    await until(sender.unacknowledged, 0)
    assert await store.keys_without_expiry() == []


async def test_a_batch_is_not_acknowledged_before_it_is_confirmed(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any
) -> None:
    """A batch that is counted but not yet on disk is still the stream's."""
    go_on = asyncio.Event()

    class Held(Ledger):
        async def _confirm(self, *arguments: Any) -> None:
            await go_on.wait()
            await super()._confirm(*arguments)

    await replica_of(ledger_of(Held))
    await sender.batch("s1", 1)
    await until(lambda: store.messages("t1"), 1)
    assert await sender.unacknowledged() == 1
    go_on.set()
    await until(sender.unacknowledged, 0)


async def test_replicas_count_every_batch_once_even_if_the_stream_has_it_twice(
    sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """Two replicas share the stream; a third of the batches was stored twice, which no consumer can see."""
    await replica_of()
    await replica_of()
    rng = random.Random(5)
    for seq in range(1, 301):
        for source in ("s1", "s2"):
            await sender.batch(source, seq, named=False)
            if rng.random() < 0.3:
                await sender.batch(source, rng.randint(1, seq), named=False)
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 600


class Failing(Ledger):
    """A ledger whose first rounds fail after they were applied, so that all of their batches come again."""

    failures = 0

    async def _confirm(self, session: Any, mode: Any, batches: Sequence[Batch], refused: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("a bug or a lost answer")
        await super()._confirm(session, mode, batches, refused)


async def test_rounds_that_fail_after_they_were_applied_count_once(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any
) -> None:
    """Batches of failed rounds are delivered again, to another replica too, and not counted again."""
    failing = ledger_of(Failing)
    failing.failures = 5
    await replica_of(failing)
    await replica_of()
    for seq in range(1, 101):
        await sender.batch("s1", seq)
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 100


async def test_a_consumer_made_anew_counts_nothing_twice(
    sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """With its consumer deleted the service makes a new one, reads the whole stream again, and goes on."""
    replica = await replica_of()
    for seq in range(1, 51):
        await sender.batch("s1", seq)
    await until(sender.unacknowledged, 0)
    await sender.bus.jetstream().delete_consumer("USAGE", "metering")
    for seq in range(51, 61):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 60)
    await until(sender.unacknowledged, 0)
    assert await replica.healthy()
    assert await store.messages("t1") == 60


async def test_a_stream_made_anew_is_found(sender: Any, replica_of: Any, store: Any, until: Any) -> None:
    """With the stream itself deleted the service makes it again and counts what comes then."""
    await replica_of()
    await sender.batch("s1", 1)
    await until(lambda: store.messages("t1"), 1)
    await sender.bus.jetstream().delete_stream("USAGE")

    async def consumer_is_back() -> bool:
        try:
            return bool(await sender.unacknowledged() == 0)
        except Exception:
            return False

    await until(consumer_is_back)
    await sender.batch("s1", 2)
    await until(lambda: store.messages("t1"), 2)


async def test_nats_restarted_loses_nothing(
    nats: Any, sender: Any, replica_of: Any, store: Any, until: Any
) -> None:
    """NATS is killed under load and comes back: unhealthy meanwhile, everything accepted is counted once."""
    replica = await replica_of()
    for seq in range(1, 101):
        await sender.batch("s1", seq)
    nats.kill()
    await until(replica.healthy, False)
    nats.start()
    await until(replica.healthy, True)
    # What was not yet on NATS's own disk is published again by its sender, as the library does.
    for seq in range(1, 201):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 200)
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 200


async def test_nats_frozen_is_noticed(nats: Any, sender: Any, replica_of: Any, until: Any) -> None:
    """A NATS that answers nothing makes the service unhealthy within seconds, until it thaws."""
    replica = await replica_of()
    nats.freeze()
    try:
        # By the heartbeats that are missing: a request would have its time until 20 s, a connection longer.
        await until(replica.healthy, False, seconds=15)
    finally:
        nats.thaw()
    await until(replica.healthy, True)
    await sender.batch("s1", 1)
    await until(sender.unacknowledged, 0)


async def test_valkey_killed_under_load_counts_once(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any
) -> None:
    """Valkey is killed three times while batches come in; every one counts once."""
    await replica_of(ledger_of(wait_for_disk=True))
    for part in range(4):
        for seq in range(part * 50 + 1, part * 50 + 51):
            await sender.batch("s1", seq)
        if part < 3:
            await asyncio.sleep(random.Random(part).random())
            store.server.kill()
            await asyncio.sleep(0.3)
            store.server.start()
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 200


async def test_power_lost_under_load_counts_once(
    sender: Any,
    replica_of: Any,
    ledger_of: Any,
    store: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Valkey loses what it had not synced: whatever had been acknowledged is there, the rest comes again."""
    monkeypatch.setattr(intake, "CONSUMER", PATIENT)
    await replica_of(ledger_of(wait_for_disk=True))
    for seq in range(1, 51):
        await sender.batch("s1", seq)
    await until(sender.unacknowledged, 0)
    kept = store.keep_log()
    on_disk, look = durability.on_disk, asyncio.Event()

    async def later(*arguments: Any) -> None:
        # So that power is lost before what was counted is taken for synced.
        await look.wait()
        await on_disk(*arguments)

    monkeypatch.setattr(durability, "on_disk", later)
    for seq in range(51, 101):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 100)
    assert await sender.unacknowledged() == 50
    store.lose_power(kept)
    assert await store.messages("t1") == 50
    look.set()
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 100


async def test_poison_is_put_aside_and_holds_up_nothing(
    sender: Any, replica_of: Any, store: Any, until: Any, caplog: Any
) -> None:
    """What is no batch goes to the dead letters as it came, is told, and holds up nothing."""
    dead = BATCHES.labels("dead")
    before = dead._value.get()
    await replica_of()
    row = UsageRow("t1", "a1", "c1", messages=1)
    good = {"source": "s1", "seq": 1, "start": 0.0, "end": 1.0, "rows": []}
    poison = [
        b"",
        b"\xff\x00",
        b"[" * 100_000,
        b'{"source": "s1"}',
        msgspec.json.encode(good | {"rows": [["../t1"]]}),
        msgspec.json.encode(good | {"source": "s2"}),
        msgspec.json.encode(good | {"seq": -1}),
    ]
    for payload in poison:
        await sender.raw("s1", payload)
        await sender.batch("s1", poison.index(payload) + 1, row)
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == len(poison)
    assert dead._value.get() - before == len(poison)
    jetstream = sender.bus.jetstream()
    assert (await jetstream.stream_info("USAGE_DEAD")).state.messages == len(poison)
    stored = [await jetstream.get_msg("USAGE_DEAD", seq) for seq in range(1, len(poison) + 1)]
    assert sorted(message.data or b"" for message in stored) == sorted(poison)
    assert {message.subject for message in stored} == {"usage.v1.dead.s1"}
    assert all((message.headers or {}).get("Artcafe-Reason") for message in stored)
    logged = [record for record in caplog.records if record.getMessage() == "usage_batch_dead"]
    assert [record.levelname for record in logged] == ["ERROR"] * len(poison)


async def test_one_spoilt_tenant_does_not_hold_up_the_others(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, batch_of: Any, until: Any
) -> None:
    """A batch that cannot be applied stays in the stream; all others are counted."""
    spoilt = keys.month_key("bad", batch_of("s1", 1).hour.date())
    await store.redis.set(spoilt, "no hash")
    await replica_of()
    await sender.batch("s1", 1, UsageRow("bad", messages=1))
    for seq in range(2, 22):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 20)
    await until(sender.unacknowledged, 1)


async def test_batches_of_a_stopped_replica_go_to_another_at_once(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a replica has taken and not begun is given back when it stops, not left until it is missed."""
    monkeypatch.setattr(intake, "CONSUMER", PATIENT)
    monkeypatch.setattr(intake, "FINISH_SECONDS", MISSED_SECONDS)
    gate = asyncio.Event()
    begun: list[int] = []

    class Stuck(Ledger):
        async def apply(self, batches: Sequence[Batch]) -> list[bool]:
            begun.append(len(batches))
            await gate.wait()
            return await super().apply(batches)

    async def rounds_begun() -> int:
        return len(begun)

    stuck = await replica_of(ledger_of(Stuck))
    for seq in range(1, 17):
        await sender.batch("s1", seq)
        await until(rounds_begun, seq)
    for seq in range(17, 37):
        await sender.batch("s1", seq)
    await until(sender.undelivered, 0)
    await replica_of()
    assert await store.messages("t1") == 0
    stopping = asyncio.create_task(stuck.stop())
    await until(lambda: store.messages("t1"), 20, seconds=MISSED_SECONDS / 4)
    gate.set()
    await stopping
    await until(sender.unacknowledged, 0)
    assert await store.messages("t1") == 36


async def test_figures_do_not_wait_for_the_disk(
    sender: Any, replica_of: Any, ledger_of: Any, store: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a steady stream every batch is counted, while those before it still wait to be on disk."""
    # So long a round may wait before there is none left for what comes.
    rounds = MeteringConfig(nats_url="", redis_url=Secret("")).rounds
    assert rounds * intake.GATHER_SECONDS > durability.LOOK_AGAIN_SECONDS + intake.GATHER_SECONDS
    monkeypatch.setattr(intake, "CONSUMER", PATIENT)
    on_disk, synced = durability.on_disk, asyncio.Event()

    async def later(*arguments: Any) -> None:
        await synced.wait()
        await on_disk(*arguments)

    monkeypatch.setattr(durability, "on_disk", later)
    await replica_of(ledger_of(wait_for_disk=True))
    for seq in range(1, rounds + 1):
        await sender.batch("s1", seq)
        await until(lambda: store.messages("t1"), seq)
    assert await sender.unacknowledged() == rounds
    synced.set()
    await until(sender.unacknowledged, 0)
