"""What Valkey keeps on its disk: the same wherever the platform runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from artcafe_common.errors import ServiceError
from artcafe_metering.valkey import READ_TIMEOUT_SECONDS, Valkey

DEPLOYED = Path(__file__).parents[3] / "deploy" / "valkey" / "valkey.conf"
DURABLE = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory-policy")


async def test_the_embedded_valkey_keeps_what_the_deployed_one_keeps(store: Any) -> None:
    """Append-only file, fsync, snapshots and eviction are those of the containers."""
    lines = [line.partition(" ") for line in DEPLOYED.read_text().splitlines()]
    deployed = {name: value for name, _, value in lines if name in DURABLE}
    assert deployed == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "no-appendfsync-on-rewrite": "no",
        "save": "30 1000",
        "maxmemory-policy": "noeviction",
    }
    assert {name: (await store.redis.config_get(name))[name] for name in DURABLE} == deployed


async def test_a_write_that_is_cancelled_ends_whenever_that_comes(
    valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of a write the task that is told to end does, and its connection is not used again."""
    monkeypatch.setattr("artcafe_metering.valkey.ANSWER_TIMEOUT_SECONDS", 120.0)
    client = Valkey(valkey.url, 1)

    async def write() -> None:
        async with client.writing() as session:
            # Valkey waits for a second replica that there is not.
            await session.send([("SET", "key", "1"), ("WAIT", 1, 120_000)])

    try:
        for steps in range(100):
            task = asyncio.create_task(write())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(20):
                await asyncio.wait([task])
            assert task.cancelled(), f"after {steps} steps"
        async with client.writing() as session:
            assert await session.send([("PING",)]) == [b"PONG"]
    finally:
        await client.close()


# What the `artcafe` command and most clients wait for an answer.
CLIENT_SECONDS = 10.0


async def test_a_frozen_valkey_is_told_before_clients_give_up(
    valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers, more of them than there are connections, get their error; later answers are their own."""
    assert READ_TIMEOUT_SECONDS <= CLIENT_SECONDS - 2
    # That it is the only clock shows where the others would be long past it.
    monkeypatch.setattr("artcafe_metering.valkey.READ_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("artcafe_metering.valkey.ANSWER_TIMEOUT_SECONDS", 60.0)
    client = Valkey(valkey.url, 1)
    try:
        await client.read([("SET", "a", "1"), ("SET", "b", "2")])
        valkey.freeze()
        began = time.monotonic()
        readers = [client.read([("GET", "a")]) for _ in range(40)]
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
        took = time.monotonic() - began
        assert {type(each) for each in outcomes} == {ServiceError}
        assert took < 20
        valkey.thaw()
        monkeypatch.undo()
        assert await client.read([("GET", "b")]) == [b"2"]
    finally:
        valkey.thaw()
        await client.close()


async def test_a_connection_that_a_restarted_server_has_forgotten_is_no_error(valkey: Any) -> None:
    """What is read is asked for once more, over a new connection."""
    client = Valkey(valkey.url, 1)
    try:
        await client.read([("SET", "a", "1")])
        valkey.kill()
        valkey.start()
        assert await client.read([("ECHO", "again")]) == [b"again"]
    finally:
        await client.close()
