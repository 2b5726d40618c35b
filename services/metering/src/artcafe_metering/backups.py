"""Back Valkey up into a folder and a bucket, again and again, and restore it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artcafe_common.clock import Clock
from artcafe_common.errors import ServiceError
from artcafe_common.ids import new_ulid
from artcafe_metering import metrics, periods
from artcafe_metering.objects import Bucket
from artcafe_metering.replication import CHUNK_BYTES, ReplicationError, giving_snapshot, receive_snapshot
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
RESTORE_SECONDS = 3600.0
_NAME = "valkey-%Y%m%dT%H%M%SZ.rdb"
_NAME_RE = re.compile(r"valkey-\d{8}T\d{6}Z\.rdb")
_LEASE = "lease:backup"

Say = Callable[[str], None]


class BackupError(Exception):
    """A backup or a restoration did not come about; the text says why."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a backup, in a file of its name and ``.json``."""

    bytes: int
    sha256: str


class Backups:
    """Makes backups and removes old ones."""

    def __init__(
        self, url: str, folder: Path, bucket: Bucket | None, clock: Clock, *, kept_hours: int
    ) -> None:
        self._url = url
        self._folder = folder
        self._bucket = bucket
        self._clock = clock
        self._kept = timedelta(hours=kept_hours)

    async def run(self, valkey: Valkey, every_seconds: float) -> None:
        """Make one each time that it is due, on one of the replicas, until cancelled."""
        if known := backups_in(self._folder):
            metrics.BACKUP_LAST.set(_made_at(known[-1]).timestamp())
        while True:
            pause = min(every_seconds, RETRY_SECONDS)
            token = new_ulid()
            try:
                # A little less than the pause between two, or each second one would be left out.
                milliseconds = int(every_seconds * 950)
                await valkey.read([("SET", _LEASE, token, "NX", "PX", milliseconds)])
                (holder,) = await valkey.read([("GET", _LEASE)])
                if holder == token.encode():
                    try:
                        await self.make()
                    except BackupError:
                        await valkey.read([("DEL", _LEASE)])
            except ServiceError as error:
                logger.warning("backup_put_off", extra={"error": str(error)})
            await asyncio.sleep(pause)

    async def make(self) -> Path:
        """Make a backup and remove those that are too old. Raises: BackupError; it was logged and counted."""
        try:
            path = await self._make()
        except (ReplicationError, OSError, ServiceError) as error:
            metrics.BACKUP_FAILURES.inc()
            logger.error("backup_failed", extra={"error": str(error) or type(error).__name__})
            raise BackupError(str(error) or type(error).__name__) from error
        metrics.BACKUP_LAST.set(self._clock.now())
        logger.info("backup_made", extra={"file": path.name, "bytes": path.stat().st_size})
        return path

    async def _make(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = periods.utc(self._clock.now())
        path = self._folder / now.strftime(_NAME)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                size = await receive_snapshot(self._url, file)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            about = About(bytes=size, sha256=await asyncio.to_thread(_sha256, draft))
            _beside(path).write_bytes(msgspec.json.encode(about))
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        if self._bucket is not None:
            await self._upload(self._bucket, path)
        self._remove_old(now)
        return path

    async def _upload(self, bucket: Bucket, path: Path) -> None:
        async with bucket.upload(path.name, "application/octet-stream") as upload:
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await upload.write(chunk)
        await bucket.put(_beside(path).name, _beside(path).read_bytes(), "application/json")

    def _remove_old(self, now: datetime) -> None:
        for path in backups_in(self._folder)[:-1]:
            if _made_at(path) < now - self._kept:
                path.unlink(missing_ok=True)
                _beside(path).unlink(missing_ok=True)


def backups_in(folder: Path) -> list[Path]:
    """Return the backups in a folder, oldest first."""
    return sorted(path for path in folder.glob("valkey-*.rdb") if _NAME_RE.fullmatch(path.name))


async def restore(url: str, path: Path, say: Say, *, host: str | None = None, force: bool = False) -> None:
    """Replace what is in Valkey by a backup.

    Raises: BackupError, also where there is something in Valkey and `force` was not given.
    """
    size = await asyncio.to_thread(_check, path)
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
            finally:
                await client.replicaof("NO", "ONE")
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
    tries, told = 0, -1
    while True:
        info = await client.info("replication")
        if info.get("master_link_status") == "up":
            return
        if info.get("master_sync_in_progress"):
            percent = 100 * max(0, int(info.get("master_sync_read_bytes", 0))) // max(size, 1)
            if percent // 10 > told:
                told = percent // 10
                say(f"  {min(percent, 100)} %")
        else:
            tries += 1
            if tries > 300:
                raise BackupError("Valkey cannot reach this process: name it with --host")
        await asyncio.sleep(0.1)


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


def _check(path: Path) -> int:
    """Return the size of a backup. Raises: BackupError where it is none."""
    try:
        with path.open("rb") as file:
            if file.read(5) not in (b"REDIS", b"VALKE"):
                raise BackupError(f"{path} is not a backup")
        if _beside(path).exists():
            about = msgspec.json.decode(_beside(path).read_bytes(), type=About)
            if about.bytes != path.stat().st_size or about.sha256 != _sha256(path):
                raise BackupError(f"{path} is damaged: it is not what its checksum was made of")
        return path.stat().st_size
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise BackupError(f"{_beside(path)} is damaged") from None


def _made_at(path: Path) -> datetime:
    return datetime.strptime(path.name, _NAME).replace(tzinfo=UTC)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
