"""Backups of a real Valkey: taken while it counts, restored into an empty one, every counter compared."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aioboto3
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from artcafe_common.clock import SystemClock
from artcafe_common.config import Secret
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.doctor import Findings, Surroundings
from artcafe_common.errors import ServiceError
from artcafe_devstack.servers import AwsEndpoint, RunningServer, valkey_server
from artcafe_metering import metrics
from artcafe_metering.backup_folder import About, BackupFolder, backups_in
from artcafe_metering.backups import BackupError, Backups, Steps, restore
from artcafe_metering.config import MeteringConfig
from artcafe_metering.doctor import checks_of
from artcafe_metering.ledger import Ledger
from artcafe_metering.objects import Bucket
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
    # All in one hour, whatever the time is.
    ledger, at = ledger_of(), time.time()
    before = [batch_of("s1", seq, *ROWS, at=at) for seq in (1, 2, 4, 5)]
    await ledger.apply(before)
    wanted = await contents(valkey.url)
    path = await backups_of(valkey, tmp_path / "backups").make()
    await ledger.apply([batch_of("s1", 3, *ROWS, at=at)])
    said: list[str] = []
    await restore(empty.url, path, said.append)
    assert await contents(empty.url) == wanted
    assert len(wanted) == 16
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
        await again.apply([*before, batch_of("s1", 3, *ROWS, at=at)])
        assert int(await redis.hget(key, "messages")) == 5 * sum(row.messages for row in ROWS)
    await client.close()


class Held(Ledger):
    """A ledger whose round stands still once it knows which batches of a source are applied."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def _apply_all(self, *arguments: Any) -> Any:
        self.reached.set()
        await self.go_on.wait()
        return await super()._apply_all(*arguments)


async def test_a_round_that_a_restore_overtakes_shuts_no_batch_out(
    valkey: RunningServer, ledger_of: Any, batch_of: Any, store: Any, tmp_path: Path
) -> None:
    """It began before and would go on after it, with what it knew of a source that the backup has not."""
    ledger, at = ledger_of(), time.time()
    await ledger.apply([batch_of("s1", 1, at=at)])
    path = await backups_of(valkey, tmp_path / "backups").make()
    batches = [batch_of("s2", seq, at=at) for seq in range(1, 41)]
    await ledger.apply(batches[:30])
    held = ledger_of(Held)
    overtaken = asyncio.create_task(held.apply(batches[30:31]))
    await held.reached.wait()
    await restore(valkey.url, path, lambda _: None, force=True)
    held.go_on.set()
    with pytest.raises(ServiceError):
        await overtaken
    # As the stream has them all read again.
    await ledger.apply(batches)
    assert await store.messages("t1") == 41


async def test_a_backup_is_of_one_moment(
    valkey: RunningServer, empty: RunningServer, ledger_of: Any, batch_of: Any, until: Any, tmp_path: Path
) -> None:
    """Taken under a stream of batches, it has each of them whole or not at all, in counters and windows."""
    ledger = ledger_of()
    # All in one hour, whatever the time is.
    seq, stop, at = 0, asyncio.Event(), time.time()

    async def count() -> None:
        nonlocal seq
        while not stop.is_set():
            seq += 1
            await ledger.apply([batch_of("s1", seq, *ROWS, at=at)])

    async def goes_on(since: int) -> bool:
        # What was begun after the one that was under way then.
        return seq > since + 2

    counting = asyncio.create_task(count())
    await asyncio.sleep(0.5)
    await until(lambda: goes_on(0))
    path = await backups_of(valkey, tmp_path / "backups").make()
    made = seq
    await until(lambda: goes_on(made))
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
    # A restore ends the connections of others.
    redis: Any = Redis.from_url(empty.url, decode_responses=True, retry=Retry(NoBackoff(), 1))
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


async def test_a_file_without_its_json_is_read_only_where_it_is_whole(
    valkey: RunningServer, empty: RunningServer, store: Any, tmp_path: Path
) -> None:
    """Cut off, changed or something else, it is refused before Valkey, which would end, hears of it."""
    await store.redis.set("k", "backup" * 1000, ex=100)
    path = await backups_of(valkey, tmp_path / "backups").make()
    whole, alone = path.read_bytes(), tmp_path / "alone.rdb"
    # A restore ends the connections of others.
    redis: Any = Redis.from_url(empty.url, decode_responses=True, retry=Retry(NoBackoff(), 1))
    async with redis:
        await redis.set("k", "here")
        for content, words in (
            (whole[: len(whole) // 2], "a part is missing"),
            (whole[:30] + bytes([whole[30] ^ 1]) + whole[31:], "not what its checksum was made of"),
            (whole[:-8] + bytes(8), "has no checksum in it"),
            (b"REDIS", "is not a snapshot"),
            (b"x" * 5000, "is not a snapshot"),
        ):
            alone.write_bytes(content)
            with pytest.raises(BackupError, match=f"{words}.*Nothing is replaced"):
                await restore(empty.url, alone, lambda _: None, force=True)
            assert await redis.get("k") == "here"
        alone.write_bytes(whole)
        await restore(empty.url, alone, lambda _: None, force=True)
        assert await redis.get("k") == "backup" * 1000


async def test_a_valkey_that_ends_while_it_reads_a_backup_has_what_it_had(
    valkey: RunningServer, empty: RunningServer, store: Any, tmp_path: Path
) -> None:
    """That is said, and it is true: the append-only file is replaced at the end of a restoration only."""
    await store.redis.set("k", "backup", ex=100)
    path = await backups_of(valkey, tmp_path / "backups").make()
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    about = {"bytes": len(cut), "sha256": hashlib.sha256(cut).hexdigest()}
    path.with_name(f"{path.name}.json").write_text(json.dumps(about))
    redis: Any = Redis.from_url(empty.url, decode_responses=True)
    async with redis:
        await redis.set("k", "here")
        with pytest.raises(BackupError, match=r"went away while it read.*nothing is replaced"):
            await restore(empty.url, path, lambda _: None, force=True)
        await redis.connection_pool.disconnect()
        empty.kill()
        empty.start()
        assert await redis.get("k") == "here"
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


class Later(SystemClock):
    """A clock that a test puts forward."""

    ahead = 0.0

    def now(self) -> float:
        """Return the time, with what was added."""
        return super().now() + self.ahead


HOUR = 3600.0


@pytest.fixture
async def bucket(aws_environment: AwsEndpoint) -> AsyncIterator[Bucket]:
    """Name a bucket that nobody has made yet."""
    aws = aws_environment
    name = f"backups-{aws.access_key_id}"
    async with Bucket.connect(name, region=aws.region, endpoint_url=aws.url) as bucket:
        yield bucket


def _failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["error"] for record in caplog.records if record.message == "backup_failed"]


def _last() -> float:
    return float(metrics.BACKUP_LAST._value.get())


async def test_a_bucket_that_takes_nothing_costs_one_backup_an_interval(
    valkey: RunningServer, bucket: Bucket, store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same snapshot is uploaded again until the next is due, and what is old goes all the same."""
    metrics.BACKUP_LAST.set(0)
    folder, clock = tmp_path / "b", Later()
    backups = Backups(valkey.url, folder, bucket, clock, kept_hours=48)
    await store.redis.set("k", "v", ex=100)
    for _ in range(3):
        with pytest.raises(BackupError, match="NoSuchBucket"):
            await backups.make_or_upload(HOUR)
    (first,) = backups_in(folder)
    assert len(_failures(caplog)) == 3 and all("(NoSuchBucket)" in each for each in _failures(caplog))
    clock.ahead = HOUR
    with pytest.raises(BackupError):
        await backups.make_or_upload(HOUR)
    with pytest.raises(BackupError):
        await backups.make_or_upload(HOUR)
    old, second = backups_in(folder)
    assert old == first and _last() == 0, "what is on this disk only is no backup that can be relied on"

    await bucket.client.create_bucket(Bucket=bucket.name)
    assert await backups.make_or_upload(HOUR) == second
    assert second.name in await bucket.keys("") and f"{second.name}.json" in await bucket.keys("")
    assert _last() == pytest.approx(clock.now(), abs=600) and _last() > time.time() + HOUR / 2
    assert backups_in(folder) == [first, second]
    # It is done: the next one is a new one.
    clock.ahead += 1
    third = await backups.make_or_upload(HOUR)
    assert third not in (first, second) and third.name in await bucket.keys("")

    clock.ahead = 48.5 * HOUR
    broken = Backups(valkey.url, folder, Bucket(bucket.client, "no-such-bucket"), clock, kept_hours=48)
    with pytest.raises(BackupError):
        await broken.make_or_upload(HOUR)
    assert backups_in(folder)[:-1] == [second, third], "the first is two days old"
    left = {path.name.partition(".rdb")[0] for path in folder.iterdir()}
    assert left == {path.stem for path in backups_in(folder)}


def _left(folder: Path, ago: timedelta) -> tuple[Path, float]:
    """Leave a backup that was not uploaded, as a process that has ended; return of when it is, too."""
    files, made = BackupFolder(folder, timedelta(days=2)), (datetime.now(UTC) - ago).replace(microsecond=0)
    draft, path = files.draft(made)
    draft.write_bytes(b"x")
    files.take_in(draft, path, About(bytes=1, sha256=""), waits=True)
    return path, made.timestamp()


async def test_after_a_start_the_last_backup_is_that_of_the_bucket(
    service_of: Any, bucket: Bucket, store: Any, until: Any, tmp_path: Path
) -> None:
    """A file on this disk that was never uploaded is not taken for one."""
    _left(tmp_path / "b", timedelta(minutes=5))
    uploaded, made = _left(tmp_path / "other", timedelta(hours=3))
    await bucket.client.create_bucket(Bucket=bucket.name)
    await bucket.put(uploaded.name, b"x", "application/octet-stream")
    # Another replica makes the backups.
    await store.redis.set("lease:backup", "other")
    service = await service_of(METERING_BACKUP_DIR=str(tmp_path / "b"), METERING_BACKUP_BUCKET=bucket.name)

    async def told() -> list[float]:
        lines = (await service.client.get("/metrics")).text.splitlines()
        name = "artcafe_metering_backup_last_timestamp_seconds "
        return [float(line.removeprefix(name)) for line in lines if line.startswith(name)]

    await until(told, [made])


async def test_the_doctor_looks_where_backups_should_be(
    bucket: Bucket, aws_environment: AwsEndpoint, tmp_path: Path
) -> None:
    """By the bucket where there is one, whoever made them; else by the folder, which is of one replica."""

    async def seen(name: str | None = bucket.name, folder: str = "b") -> list[tuple[str, str | None, str]]:
        config = MeteringConfig(
            nats_url="",
            redis_url=Secret(""),
            aws_region=aws_environment.region,
            aws_endpoint_url=aws_environment.url,
            backup_dir=str(tmp_path / folder),
            backup_bucket=name,
        )
        found = Findings("backups")
        async with Surroundings("metering", config) as around:
            await checks_of(config)(around)["backups"](found)
        # The first is the folder, and its room.
        return [(each.status, each.kind, each.detail) for each in found.listed[1:]]

    ((status, kind, text),) = await seen()
    assert (status, kind) == ("fail", None) and "is missing" in text
    _left(tmp_path / "b", timedelta(minutes=5))
    ((status, _, text),) = await seen()
    assert status == "fail" and "is missing" in text, "a young file on this disk changes nothing"
    await bucket.client.create_bucket(Bucket=bucket.name)
    assert [(status, kind) for status, kind, _ in await seen()] == [("warn", "shared")]
    shutil.rmtree(tmp_path / "b")
    _left(tmp_path / "b", timedelta(minutes=50))
    waits, none = await seen()
    assert waits[:2] == ("warn", None) and "50 min ago is not in the bucket" in waits[2]
    assert none[:2] == ("warn", "shared")
    await bucket.put(_left(tmp_path / "c", timedelta(minutes=5))[0].name, b"x", "application/octet-stream")
    # Another replica has made a younger one.
    ((status, kind, text),) = await seen()
    assert (status, kind) == ("ok", "shared") and f"1 in s3://{bucket.name} is 5 min old" in text

    assert [each[:2] for each in await seen(None)] == [("ok", "shared")]
    assert [each[:2] for each in await seen(None, "empty")] == [("warn", "shared")]
    _left(tmp_path / "old", timedelta(hours=3))
    assert [each[:2] for each in await seen(None, "old")] == [("fail", "shared")]


def test_what_killed_processes_leave_goes(tmp_path: Path) -> None:
    """Drafts that nobody writes to, and what stands beside backups that are gone; what is in use stays."""
    path, _ = _left(tmp_path, timedelta(minutes=5))
    dead, written = tmp_path / f"{path.name}.1.part", tmp_path / f"{path.name}.2.part"
    for each in (dead, written, tmp_path / "valkey-20200101T000000Z.rdb.waiting"):
        each.touch()
    os.utime(dead, (0, 0))
    BackupFolder(tmp_path, timedelta(hours=48)).remove_old(datetime.now(UTC))
    assert {each.name for each in tmp_path.iterdir()} == {
        path.name,
        f"{path.name}.json",
        f"{path.name}.waiting",
        written.name,
    }


def test_the_next_backup_finds_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, before their time; the last one never does."""
    paths = [_left(tmp_path, timedelta(minutes=m))[0] for m in (30, 20, 10)]
    free = iter([0, 1, 2])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    folder = BackupFolder(tmp_path, timedelta(hours=48))
    folder.make_room()
    assert backups_in(tmp_path) == paths[2:] and len(list(tmp_path.iterdir())) == 3
    folder.make_room()
    assert backups_in(tmp_path) == paths[2:]


def test_progress_is_told_in_tenths() -> None:
    """Ten lines say how far it is, however many pieces there are; without a known end one each 100 MB."""
    said: list[str] = []
    steps = Steps(said.append)
    for done in range(1, 1001):
        steps(done, 1000)
    assert said == [f"  {percent} %" for percent in range(10, 101, 10)]
    said.clear()
    steps = Steps(said.append)
    for done in range(0, 250_000_001, 1_000_000):
        steps(done, None)
    assert said == ["  100 MB", "  200 MB"]


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
        return subprocess.run(argv, env=given, capture_output=True, text=True, timeout=120)

    async def uploaded() -> bool:
        async with aioboto3.Session(aws.access_key_id, "test").client(
            "s3", endpoint_url=aws.url, region_name=aws.region
        ) as s3:
            return bucket in [each["Name"] for each in (await s3.list_buckets())["Buckets"]]

    await until(uploaded)
    made = await asyncio.to_thread(run, "backup")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[0] == "Valkey makes a snapshot"
    assert f"uploading to s3://{bucket}" in made.stdout
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
    # What was lost is back.
    assert await store.redis.get("counters:since") == "0"
    async with aioboto3.Session(aws.access_key_id, "test").client(
        "s3", endpoint_url=aws.url, region_name=aws.region
    ) as s3:
        listed = {each["Key"] for each in (await s3.list_objects_v2(Bucket=bucket))["Contents"]}
        last = backups_in(folder)[-1]
        assert {last.name, f"{last.name}.json"} <= listed
        rules = (await s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
        head = await s3.head_object(Bucket=bucket, Key=last.name)
    assert [rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule] == [2]
    assert head["ServerSideEncryption"] == "AES256"
    assert json.loads(last.with_name(f"{last.name}.json").read_text())["bytes"] == last.stat().st_size
