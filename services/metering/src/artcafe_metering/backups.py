"""Back Valkey up into a folder and a bucket, again and again, and restore it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_common.ids import new_ulid
from artcafe_metering import metrics, periods
from artcafe_metering.backup_folder import About, BackupFolder, beside, is_backup, made_at
from artcafe_metering.objects import Bucket, reason_of
from artcafe_metering.rdb import SnapshotError, check_snapshot
from artcafe_metering.replication import CHUNK_BYTES, ReplicationError, giving_snapshot, receive_snapshot
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
RESTORE_SECONDS = 3600.0
_LEASE = "lease:backup"

Say = Callable[[str], None]


class BackupError(Exception):
    """A backup or a restoration did not come about; the text says why."""


class Steps:
    """Says how far something has come: each tenth, or each 100 MB where its end is not known."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told = 0

    def __call__(self, done: int, size: int | None) -> None:
        """Note how many bytes are done."""
        step = 100_000_000 if size is None else max(1, size // 10)
        if done // step > self._told:
            self._told = done // step
            self._say(f"  {done // 1_000_000} MB" if size is None else f"  {100 * done // size} %")


class Backups:
    """Makes backups, uploads them where there is a bucket, and removes old ones."""

    def __init__(
        self, url: str, folder: Path, bucket: Bucket | None, clock: Clock, *, kept_hours: int
    ) -> None:
        self._url = url
        self._folder = BackupFolder(folder, timedelta(hours=kept_hours))
        self._bucket = bucket
        self._clock = clock

    async def run(self, valkey: Valkey, every_seconds: float) -> None:
        """Make one each time that it is due, on one of the replicas, until cancelled."""
        pause = min(every_seconds, RETRY_SECONDS)
        known = False
        while True:
            known = known or await self._look_for_last()
            token = new_ulid()
            try:
                # A little less than the pause between two, or each second one would be left out.
                milliseconds = int(every_seconds * 950)
                await valkey.read([("SET", _LEASE, token, "NX", "PX", milliseconds)])
                (holder,) = await valkey.read([("GET", _LEASE)])
                if holder == token.encode():
                    try:
                        await self.make_or_upload(every_seconds)
                    except BackupError:
                        await valkey.read([("DEL", _LEASE)])
            except ServiceError as error:
                logger.warning("backup_put_off", extra={"error": str(error)})
            await asyncio.sleep(pause)

    async def make_or_upload(self, every_seconds: float) -> Path:
        """Upload the last backup where that has failed and the next is not due yet, else make one.

        A bucket that takes nothing would have the folder filled otherwise, by a backup for each try.

        Raises: BackupError; it was logged and counted.
        """
        waiting = self._folder.waiting()
        if self._bucket is None or waiting is None or self._age(waiting) >= every_seconds:
            return await self.make()
        return await self._told(self._upload(self._bucket, waiting))

    async def make(self, say: Say = lambda _: None) -> Path:
        """Make a backup and remove those that are too old. Raises: BackupError; it was logged and counted."""
        return await self._told(self._make(say))

    async def _told(self, work: Awaitable[Path]) -> Path:
        try:
            path = await work
        except (ReplicationError, OSError, ServiceError) as error:
            reason = reason_of(error) if isinstance(error, ServiceError) else str(error)
            metrics.BACKUP_FAILURES.inc()
            logger.error("backup_failed", extra={"error": reason or type(error).__name__})
            raise BackupError(reason or type(error).__name__) from error
        # By its name, which may be of an hour ago: that is how old the figures are that can be had back.
        metrics.BACKUP_LAST.set(made_at(path).timestamp())
        logger.info("backup_made", extra={"file": path.name, "bytes": path.stat().st_size})
        return path

    async def _make(self, say: Say) -> Path:
        now = periods.utc(self._clock.now())
        draft, path = self._folder.draft(now)
        self._folder.make_room()
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                say("Valkey makes a snapshot")
                size = await receive_snapshot(self._url, file, Steps(say))
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            about = About(bytes=size, sha256=await asyncio.to_thread(_sha256, draft))
            self._folder.take_in(draft, path, about, waits=self._bucket is not None)
            if self._bucket is not None:
                say(f"uploading to s3://{self._bucket.name}")
                await self._upload(self._bucket, path)
        finally:
            draft.unlink(missing_ok=True)
            self._folder.remove_old(now)
        return path

    async def _upload(self, bucket: Bucket, path: Path) -> Path:
        async with bucket.upload(path.name, "application/octet-stream") as upload:
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await upload.write(chunk)
        await bucket.put(beside(path).name, beside(path).read_bytes(), "application/json")
        self._folder.uploaded(path)
        return path

    def _age(self, path: Path) -> float:
        return self._clock.now() - made_at(path).timestamp()

    async def _look_for_last(self) -> bool:
        """Set the metric to what there is, and tell whether that could be looked at."""
        if self._bucket is None:
            last = self._folder.last()
            known = [] if last is None else [made_at(last)]
        else:
            try:
                known = await backups_in_bucket(self._bucket)
            except ServiceError:
                # Logged where it is refused; a backup that comes about says the same.
                return False
        if known:
            metrics.BACKUP_LAST.set(known[-1].timestamp())
        return True


async def backups_in_bucket(bucket: Bucket) -> list[datetime]:
    """Return when the backups in a bucket were made, oldest first. Raises: ServiceError."""
    return sorted(made_at(Path(key)) for key in await bucket.keys("valkey-") if is_backup(key))


async def restore(url: str, path: Path, say: Say, *, host: str | None = None, force: bool = False) -> None:
    """Replace what is in Valkey by a backup.

    Raises: BackupError, also where there is something in Valkey and `force` was not given.
    """
    size = await asyncio.to_thread(_check, path, say)
    client = Redis.from_url(url, protocol=2, decode_responses=True)
    try:
        there = await client.dbsize()
        if there and not force:
            raise BackupError(f"Valkey is not empty ({there} keys): all of it would be replaced (--force)")
        async with giving_snapshot(path, url, host) as (name, port), asyncio.timeout(RESTORE_SECONDS):
            say(f"Valkey reads {path.name} from {name}:{port}")
            await client.replicaof(name, port)
            try:
                await _until_read(client, size, say)
                await _take_writes_again(client)
            except RedisConnectionError as error:
                # It replaces its append-only file when it has read everything, and not before.
                raise BackupError(
                    f"Valkey went away while it read {path.name} ({error}): nothing is replaced, when it runs"
                    " again it has what it had. Its log has the reason; take another backup if it cannot read"
                    " this one"
                ) from None
            except BaseException:
                await _take_writes_again(client)
                raise
        await _until_on_disk(client, say)
        say(f"restored: {await client.dbsize()} keys")
    except TimeoutError:
        raise BackupError("Valkey did not read the backup in time: can it reach this process?") from None
    except (RedisError, OSError) as error:
        raise BackupError(f"Valkey: {error}") from None
    finally:
        await client.aclose()


async def _until_read(client: Redis, size: int, say: Say) -> None:
    """Wait until the server has read it all; a server that cannot reach us tries for half a minute."""
    tries, steps = 0, Steps(say)
    while True:
        info = await client.info("replication")
        if info.get("master_link_status") == "up":
            # It may have read the rest, or all of it, since it was last looked at.
            steps(size, size)
            return
        if info.get("master_sync_in_progress"):
            steps(min(size, max(0, int(info.get("master_sync_read_bytes", 0)))), size)
        else:
            tries += 1
            if tries > 300:
                raise BackupError("Valkey cannot reach this process: name it with --host")
        await asyncio.sleep(0.1)


async def _take_writes_again(client: Redis) -> None:
    # A round that began before must not end after: what it knows of its batches is of the counters that were
    # replaced, and would shut out what came after the backup. Until here it was refused what it wrote.
    try:
        await client.client_kill_filter(_type="normal", skipme=True)
    finally:
        await client.replicaof("NO", "ONE")


async def _until_on_disk(client: Redis, say: Say) -> None:
    told = False
    while True:
        info = await client.info("persistence")
        running = info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled")
        if not info.get("aof_enabled") or (not running and info.get("aof_last_bgrewrite_status") == "ok"):
            return
        if not told:
            told = True
            say("  Valkey writes it to its disk")
        await asyncio.sleep(0.1)


def _check(path: Path, say: Say) -> int:
    """Return the size of a backup. Raises: BackupError where it is none, or not a whole one."""
    refused = "Nothing is replaced: take another backup"
    try:
        size = path.stat().st_size
        if beside(path).exists():
            about = msgspec.json.decode(beside(path).read_bytes(), type=About)
            if about.bytes != size or about.sha256 != _sha256(path):
                raise BackupError(f"{path} is damaged: it is not what its checksum was made of. {refused}")
        else:
            say(f"there is no {beside(path).name}: reading {path.name} through for its own checksum")
            check_snapshot(path, Steps(say))
        return size
    except SnapshotError as error:
        raise BackupError(f"{path} {error}. {refused}, or one with its .json") from None
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise BackupError(f"{beside(path)} is damaged") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
