"""Backups of a real Valkey: taken while it counts, restored into an empty one, every counter compared."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from redis.asyncio import Redis

from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import UsageRow
from artcafe_devstack.servers import AwsEndpoint, RunningServer, valkey_server
from artcafe_metering import metrics
from artcafe_metering.backups import BackupError, Backups, backups_in, restore
from artcafe_metering.ledger import Ledger
from artcafe_metering.periods import Retention
from artcafe_metering.valkey import Valkey

PASSWORD = "another-secret"
ROWS = [UsageRow("t1", f"a{n}", f"c{n % 2}", messages=n, bytes_in=7 * n) for n in range(1, 30)]


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[RunningServer]:
    """Run a second, empty Valkey."""
    with valkey_server(tmp_path / "empty", password=PASSWORD) as server:
        yield server


def backups_of(server: RunningServer, folder: Path) -> Backups:
    """Make backups of a server into a folder."""
    return Backups(server.url, folder, None, SystemClock(), kept_hours=48)


async def contents(url: str) -> dict[bytes, tuple[Any, int]]:
    """Return every key with its value and the time at which it expires."""
    client: Any = Redis.from_url(url, protocol=2)
    async with client:
        found = {}
        async for key in client.scan_iter(count=1000):
            read = {b"hash": client.hgetall, b"set": client.smembers, b"string": client.get}
            value = await read[await client.type(key)](key)
            found[key] = (value, await client.pexpiretime(key))
        return found


async def test_an_empty_valkey_gets_every_counter_and_counts_no_batch_again(
    valkey: RunningServer, empty: RunningServer, ledger_of: Any, batch_of: Any, store: Any, tmp_path: Path
) -> None:
    """Values, expiries and windows are those of the backup, after a crash too; redelivery changes nothing."""
    ledger = ledger_of()
    before = [batch_of("s1", seq, *ROWS) for seq in (1, 2, 4, 5)]
    await ledger.apply(before)
    wanted = await contents(valkey.url)
    path = await backups_of(valkey, tmp_path / "backups").make()
    await ledger.apply([batch_of("s1", 3, *ROWS)])
    said: list[str] = []
    await restore(empty.url, path, said.append)
    assert await contents(empty.url) == wanted
    assert len(wanted) == 15
    empty.kill()
    empty.start()
    assert await contents(empty.url) == wanted
    valkey.kill()
    client = Valkey(empty.url, 18)
    again = Ledger(client, Retention())
    await again.apply(before)
    redis: Any = Redis.from_url(empty.url, decode_responses=True)
    async with redis:
        (key,) = [each async for each in redis.scan_iter(match="stats:m:*:{t1}")]
        assert int(await redis.hget(key, "messages")) == 4 * sum(row.messages for row in ROWS)
        await again.apply([*before, batch_of("s1", 3, *ROWS)])
        assert int(await redis.hget(key, "messages")) == 5 * sum(row.messages for row in ROWS)
    await client.close()


async def test_a_backup_is_of_one_moment(
    valkey: RunningServer, empty: RunningServer, ledger_of: Any, batch_of: Any, tmp_path: Path
) -> None:
    """Taken under a stream of batches, it has each of them whole or not at all, in counters and windows."""
    ledger = ledger_of()
    seq, stop = 0, asyncio.Event()

    async def count() -> None:
        nonlocal seq
        while not stop.is_set():
            seq += 1
            await ledger.apply([batch_of("s1", seq, *ROWS)])

    counting = asyncio.create_task(count())
    await asyncio.sleep(0.5)
    path = await backups_of(valkey, tmp_path / "backups").make()
    await asyncio.sleep(0.2)
    stop.set()
    await counting
    await restore(empty.url, path, lambda _: None)
    redis: Any = Redis.from_url(empty.url, decode_responses=True)
    async with redis:
        one = sum(row.messages for row in ROWS)
        figures = [int(await redis.hget(key, "messages")) async for key in redis.scan_iter("stats:?:*:{t1}")]
        # What lies below the base of a window has been applied.
        base = int(await redis.getrange("applied:{t1}:s1", 0, 15))
        windows = max(base - 1, 0) + await redis.bitcount("applied:{t1}:s1", 16, -1)
    assert len(figures) == 3
    assert set(figures) == {windows * one}
    assert 0 < windows < seq


async def test_a_valkey_with_keys_is_left_alone(
    valkey: RunningServer, empty: RunningServer, store: Any, tmp_path: Path
) -> None:
    """What is there is replaced only when that is said; a damaged file is never read."""
    await store.redis.set("k", "backup", ex=100)
    path = await backups_of(valkey, tmp_path / "backups").make()
    redis: Any = Redis.from_url(empty.url, decode_responses=True)
    async with redis:
        await redis.set("k", "here")
        with pytest.raises(BackupError, match="not empty"):
            await restore(empty.url, path, lambda _: None)
        assert await redis.get("k") == "here"
        damaged = path.with_name("damaged.rdb")
        damaged.write_bytes(path.read_bytes()[:-20] + bytes(20))
        path.with_name(f"{path.name}.json").rename(damaged.with_name("damaged.rdb.json"))
        with pytest.raises(BackupError, match="damaged"):
            await restore(empty.url, damaged, lambda _: None, force=True)
        await restore(empty.url, path, lambda _: None, force=True)
        assert await redis.get("k") == "backup"
        assert (await redis.info("replication"))["role"] == "master"


async def test_a_backup_that_fails_is_counted_and_leaves_nothing(
    valkey: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With Valkey away or a wrong password there is an error and a metric, and no file."""
    before = metrics.BACKUP_FAILURES._value.get()
    wrong = Backups(
        valkey.url.replace("secret-of-valkey", "wrong"), tmp_path / "b", None, SystemClock(), kept_hours=48
    )
    with pytest.raises(BackupError, match="AUTH"):
        await wrong.make()
    valkey.kill()
    with pytest.raises(BackupError):
        await backups_of(valkey, tmp_path / "b").make()
    assert metrics.BACKUP_FAILURES._value.get() == before + 2
    assert [record.message for record in caplog.records].count("backup_failed") == 2
    assert "wrong" not in caplog.text
    assert list((tmp_path / "b").iterdir()) == []


async def test_old_backups_are_removed_but_never_the_last(valkey: RunningServer, tmp_path: Path) -> None:
    """After two days a backup goes; other files in the folder stay."""
    folder = tmp_path / "b"
    folder.mkdir()
    for name in ("valkey-20200101T000000Z.rdb", "valkey-20200101T000000Z.rdb.json", "notes.rdb"):
        (folder / name).touch()
    path = await backups_of(valkey, folder).make()
    assert backups_in(folder) == [path]
    assert (folder / "notes.rdb").exists()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_after_a_lost_valkey_the_totals_are_those_of_the_stream(
    nats: RunningServer,
    valkey: RunningServer,
    service_of: Any,
    sender: Any,
    store: Any,
    until: Any,
    tmp_path: Path,
    aws: AwsEndpoint,
) -> None:
    """The running service makes backups; restored from one, it counts from the stream what is missing."""
    bucket, folder = f"backups-{aws.access_key_id}", tmp_path / "backups"
    settings = {"METERING_BACKUP_DIR": str(folder), "METERING_BACKUP_BUCKET": bucket}
    service = await service_of(**settings)
    for seq in range(1, 41):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 40)
    await until(sender.unacknowledged, 0)
    environment = os.environ | settings | aws.environment()
    environment |= {"NATS_URL": nats.url, "REDIS_URL": valkey.url}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "artcafe_metering", *arguments]
        path = os.pathsep.join(each for each in sys.path if each)
        given = environment | {"PYTHONPATH": path}
        return subprocess.run(argv, env=given, capture_output=True, text=True, timeout=60)

    async def uploaded() -> bool:
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "s3", endpoint_url=aws.url, region_name=aws.region
        ) as s3:
            return bucket in [each["Name"] for each in (await s3.list_buckets())["Buckets"]]

    await until(uploaded)
    made = await asyncio.to_thread(run, "backup")
    assert made.returncode == 0, made.stderr
    for seq in range(41, 61):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 60)
    await until(sender.unacknowledged, 0)
    await store.redis.flushall()
    done = await asyncio.to_thread(run, "restore", "--force")
    assert done.returncode == 0, done.stderr
    await until(lambda: store.messages("t1"), 60)
    await until(sender.unacknowledged, 0)
    await until(service.ready, 200)
    assert await store.messages("t1") == 60
    assert await store.keys_without_expiry() == []
    async with aioboto3.Session(aws.access_key_id, "test").client(
        "s3", endpoint_url=aws.url, region_name=aws.region
    ) as s3:
        listed = {each["Key"] for each in (await s3.list_objects_v2(Bucket=bucket))["Contents"]}
        last = backups_in(folder)[-1]
        assert {last.name, f"{last.name}.json"} <= listed
        rules = await s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert [rule["Expiration"]["Days"] for rule in rules["Rules"]] == [2]
    assert json.loads(last.with_name(f"{last.name}.json").read_text())["bytes"] == last.stat().st_size
