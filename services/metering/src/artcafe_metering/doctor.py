"""What metering looks at when somebody asks how it is: Valkey, the backlog, backups and buckets, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError

from artcafe_common.doctor import Check, Findings, Surroundings
from artcafe_common.doctor.checks import ahead_by, judge_folder, judge_skew, judge_stream
from artcafe_common.errors import ServiceError
from artcafe_common.streams import USAGE
from artcafe_metering.backup_folder import BackupFolder, backups_in, made_at
from artcafe_metering.backups import backups_in_bucket
from artcafe_metering.bucket_care import BucketCare, specs_of
from artcafe_metering.config import MeteringConfig
from artcafe_metering.objects import Bucket, refusal_of
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_metering.streams import CONSUMER, USAGE_DEAD

# Its own connections, those of the edge, and room.
FILES = 1024
VALKEY_SECONDS = 5.0
# A second's batches of a thousand processes that publish; more than that is not being worked off.
BACKLOG_WARN, BACKLOG_FAIL = 1_000, 100_000
MEMORY_WARN = 0.8
# An upload that still runs is no fault.
UPLOAD_SECONDS = 600.0
LOOK_FOR_FAILURES = "see the log of metering for backup_failed"
CONFIG_FILE = "deploy/valkey/valkey.conf says how it must be: correct it, and restart valkey"


def checks_of(config: MeteringConfig) -> Callable[[Surroundings], Mapping[str, Check]]:
    """Return the checks, by name."""

    def checks(around: Surroundings) -> Mapping[str, Check]:
        look = Look(config, around)
        common = around.common(config.http_host, config.http_port, [USAGE_METRICS], FILES)
        return common | {
            "valkey": look.valkey,
            "backlog": look.backlog,
            "backups": look.backups,
            "buckets": look.buckets,
        }

    return checks


class Look:
    """The checks that only metering has."""

    def __init__(self, config: MeteringConfig, around: Surroundings) -> None:
        self._config = config
        self._around = around

    async def valkey(self, found: Findings) -> None:
        """Look at Valkey: what it keeps through a crash, its room and its clock."""
        client: Any = Redis.from_url(
            self._config.redis_url.reveal(),
            protocol=2,
            decode_responses=True,
            socket_connect_timeout=VALKEY_SECONDS,
            socket_timeout=VALKEY_SECONDS,
        )
        try:
            info = await client.info()
            settings: dict[str, str] = {}
            for name in ("appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy", "maxmemory"):
                settings |= await client.config_get(name)
            before = time.time()
            seconds, micros = await client.time()
            told = seconds + micros / 1e6
            offset = ahead_by(before, time.time(), told, told)
        except AuthenticationError:
            found.fail("does not let us in", "Valkey and metering must have the same password: recreate both")
            return
        except (ConnectionError, TimeoutError):
            found.fail("cannot be reached", "see whether valkey runs; usage waits in NATS for up to 7 days")
            return
        except RedisError as error:
            found.fail(f"refuses: {type(error).__name__}", "see the log of valkey")
            return
        finally:
            await client.aclose()
        judge_valkey(found, info, settings, time.time())
        judge_skew(found, "Valkey", offset)

    async def backlog(self, found: Findings) -> None:
        """Look at what waits to be counted, and at what could not be."""
        if (info := await self._around.stream_info(USAGE.name or "")) is None:
            found.warn("cannot be looked at: NATS is away, or has no stream USAGE", "see to NATS first")
            return
        judge_stream(found, info, self._config.nats_stream_replicas)
        consumer = await self._around.ask_nats(f"$JS.API.CONSUMER.INFO.{USAGE.name}.{CONSUMER.durable_name}")
        if consumer is None:
            found.fail("nobody reads the stream USAGE", "start metering: it makes its consumer")
        else:
            judge_backlog(found, consumer["num_pending"] + consumer["num_ack_pending"])
        dead = await self._around.stream_info(USAGE_DEAD.name or "")
        if dead is not None and dead["state"]["messages"]:
            found.warn(
                f"{dead['state']['messages']} messages of USAGE could not be counted, in whole or in part",
                "python -m artcafe_metering requeue-dead lists them, and puts them back once they can be",
            )

    async def backups(self, found: Findings) -> None:
        """Look at the age of the last backup that is where it should be, and at the room for the next."""
        config = self._config
        if config.backup_dir is None:
            found.warn("there are none", "set METERING_BACKUP_DIR, and METERING_BACKUP_BUCKET")
            return
        folder, known, waiting = await asyncio.to_thread(_backups, Path(config.backup_dir))
        judge_folder(found, str(folder))
        where = str(folder)
        if config.backup_bucket:
            where = f"s3://{config.backup_bucket}"
            try:
                known = await self._in_bucket(config.backup_bucket)
            except ServiceError as error:
                judge_refusal(found, where, error)
                return
        last = known[-1] if known else None
        now = time.time()
        if config.backup_bucket and waiting is not None:
            judge_waiting(found, waiting, last, now)
        judge_backups(found, where, last, len(known), now, 60.0 * config.backup_interval_minutes)

    async def _in_bucket(self, name: str) -> list[float]:
        config = self._config
        async with Bucket.connect(
            name, region=config.aws_region, endpoint_url=config.aws_endpoint_url
        ) as bucket:
            return [made.timestamp() for made in await backups_in_bucket(bucket)]

    async def buckets(self, found: Findings) -> None:
        """Compare the buckets with what is asked of them."""
        specs = specs_of(self._config)
        if not specs:
            found.warn("there are none", "set METERING_EXPORT_BUCKET and METERING_BACKUP_BUCKET")
            return
        try:
            care = BucketCare(lambda *_: None)
            left = await care.see_to(specs, endpoint_url=self._config.aws_endpoint_url, create=False)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            found.warn(f"may not be looked at ({code})", "give the role deploy/aws/iam's policy")
            return
        for line in left:
            (found.fail if line.endswith("is missing") else found.warn)(line, "make tables")
        if not left:
            found.ok(f"{', '.join(spec.name for spec in specs)}: as asked")


def _backups(folder: Path) -> tuple[Path, list[float], float | None]:
    """Return the folder, of when its backups are, and of when the one is that waits for its upload.

    The folder is made with the first, in one that is there: that one is returned until then.
    """
    if not folder.exists():
        return next(path for path in folder.absolute().parents if path.exists()), [], None
    waiting = BackupFolder(folder, timedelta()).waiting()
    known = [made_at(path).timestamp() for path in backups_in(folder)]
    return folder, known, None if waiting is None else made_at(waiting).timestamp()


def judge_valkey(found: Findings, info: Mapping[str, Any], settings: Mapping[str, str], now: float) -> None:
    """Say what Valkey keeps through a crash, and whether it has room."""
    version = info.get("valkey_version") or info.get("redis_version")
    faults = len(found.listed)
    if info.get("loading"):
        found.warn("is reading its data", "wait; metering waits, too")
    if not info.get("aof_enabled"):
        found.fail("keeps no append-only file: what was counted since the last snapshot is lost", CONFIG_FILE)
    elif info.get("aof_last_write_status") != "ok":
        found.fail("cannot write its append-only file", "see its disk")
    elif info.get("aof_last_bgrewrite_status") == "err":
        found.warn("could not rewrite its append-only file", "see its disk, which may be full")
    if settings.get("appendfsync") == "no" or settings.get("no-appendfsync-on-rewrite") == "yes":
        found.fail("leaves it to chance when its file reaches the disk", CONFIG_FILE)
    if info.get("rdb_last_bgsave_status") == "err":
        found.warn("could not write its last snapshot", "see its disk, and vm.overcommit_memory")
    if settings.get("maxmemory-policy") != "noeviction":
        found.fail(
            f"forgets what was counted when it is full ({settings.get('maxmemory-policy')})", CONFIG_FILE
        )
    used, limit = int(info.get("used_memory", 0)), int(settings.get("maxmemory") or 0)
    room = f"{used / 1_048_576:.0f} MB used" + (f" of {limit / 1_048_576:.0f}" if limit else "")
    if limit and used > MEMORY_WARN * limit:
        found.warn(f"is nearly full: {room}", "raise VALKEY_MAXMEMORY and VALKEY_MEMORY")
    if len(found.listed) == faults:
        ago = max(0.0, now - float(info.get("rdb_last_save_time", now)))
        snapshot = f"last snapshot {ago / 60:.0f} min ago"
        found.ok(f"version {version}, appendfsync {settings.get('appendfsync')}, {snapshot}, {room}")


def judge_backlog(found: Findings, waiting: int) -> None:
    """Say whether what gateways have counted is being worked off."""
    cure = "see metering and Valkey; add metering replicas where both are well"
    if waiting > BACKLOG_FAIL:
        found.fail(f"{waiting} batches wait", cure)
    elif waiting > BACKLOG_WARN:
        found.warn(f"{waiting} batches wait", cure)
    else:
        found.ok(f"{waiting} batches wait")


def judge_backups(
    found: Findings, where: str, last: float | None, count: int, now: float, every: float
) -> None:
    """Say whether the last backup is as young as it should be; one of the replicas makes it."""
    if last is None:
        found.warn(
            f"there is none yet in {where}",
            "one is made soon after a start; by hand: python -m artcafe_metering backup",
            kind="shared",
        )
        return
    age = now - last
    text = f"the last of {count} in {where} is {age / 60:.0f} min old, one is made each {every / 60:.0f} min"
    if age > 2 * every:
        found.fail(text, LOOK_FOR_FAILURES, kind="shared")
    else:
        found.ok(text, kind="shared")


def judge_waiting(found: Findings, waiting: float, last: float | None, now: float) -> None:
    """Say where a replica has a backup that should be in the bucket, and none is there that is younger."""
    if now - waiting > UPLOAD_SECONDS and (last is None or last < waiting):
        found.warn(f"one of {(now - waiting) / 60:.0f} min ago is not in the bucket yet", LOOK_FOR_FAILURES)


def judge_refusal(found: Findings, where: str, error: ServiceError) -> None:
    """Say why nobody knows what is in the bucket; where there is none, backups are on this disk only."""
    code = refusal_of(error) or "it does not answer"
    if code == "NoSuchBucket":
        found.fail(f"{where} is missing: no backup is uploaded", "make tables")
    else:
        found.warn(f"{where} cannot be looked at ({code})", "give the role deploy/aws/iam's policy; see AWS")
