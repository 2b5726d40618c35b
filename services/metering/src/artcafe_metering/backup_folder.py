"""The folder of backups: what is in it, what of it is not in the bucket yet, and what has to go.

Beside a backup stand its size and checksum (its name and ``.json``) and, until it is in the bucket, a mark
(``.waiting``). The mark is written before the backup has its name: whenever the process is killed, what was
not uploaded is known as such.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

# A draft that nobody has written to for so long is of a process that was killed.
DRAFT_SECONDS = 3600.0
# Of the size of the last backup: the next one may be larger, and others write to the disk, too.
ROOM = 2
_NAME = "valkey-%Y%m%dT%H%M%SZ.rdb"
_NAME_RE = re.compile(r"valkey-\d{8}T\d{6}Z\.rdb")
_BESIDE_RE = re.compile(r"(valkey-\d{8}T\d{6}Z\.rdb)\.(json|waiting)")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a backup, in a file of its name and ``.json``."""

    bytes: int
    sha256: str


class BackupFolder:
    """The folder of one replica; backups are kept for so long, and the last one for ever."""

    def __init__(self, path: Path, kept: timedelta) -> None:
        self._path = path
        self._kept = kept

    def last(self) -> Path | None:
        """Return the last backup, None where there is none."""
        return next(reversed(backups_in(self._path)), None)

    def waiting(self) -> Path | None:
        """Return the last backup where it is not in the bucket yet."""
        last = self.last()
        return last if last is not None and _mark(last).exists() else None

    def draft(self, now: datetime) -> tuple[Path, Path]:
        """Return where a backup of now is written, and what it is called when it is whole."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path / now.strftime(_NAME)
        return path.with_name(f"{path.name}.{os.getpid()}.part"), path

    def take_in(self, draft: Path, path: Path, about: About, *, waits: bool) -> None:
        """Give a draft that is whole its name; `waits` marks it as not uploaded yet."""
        beside(path).write_bytes(msgspec.json.encode(about))
        if waits:
            _mark(path).touch(mode=0o600)
        draft.rename(path)

    def uploaded(self, path: Path) -> None:
        """Note that a backup is in the bucket."""
        _mark(path).unlink(missing_ok=True)

    def remove_old(self, now: datetime) -> None:
        """Remove backups that are too old, but never the last, and what killed processes have left."""
        oldest = now - self._kept
        last = self.last()
        for path in backups_in(self._path):
            if path != last and made_at(path) < oldest:
                _remove(path)
        for path in self._path.glob("valkey-*"):
            found = _BESIDE_RE.fullmatch(path.name)
            if found and found[1] != (last and last.name) and made_at(path.with_name(found[1])) < oldest:
                path.unlink(missing_ok=True)
        for path in self._path.glob("valkey-*.part"):
            if time.time() - path.stat().st_mtime > DRAFT_SECONDS:
                path.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Remove the oldest backups, but never the last, until the disk has room for the next one."""
        known = backups_in(self._path)
        wanted = ROOM * known[-1].stat().st_size if known else 0
        for path in known[:-1]:
            if shutil.disk_usage(self._path).free >= wanted:
                break
            logger.warning("backup_removed_for_room", extra={"file": path.name})
            _remove(path)


def backups_in(folder: Path) -> list[Path]:
    """Return the backups in a folder, oldest first."""
    return sorted(path for path in folder.glob("valkey-*.rdb") if is_backup(path.name))


def is_backup(name: str) -> bool:
    """Tell whether a file or an object of this name is a backup."""
    return _NAME_RE.fullmatch(name) is not None


def made_at(path: Path) -> datetime:
    """Return when a backup was made, by its name."""
    return datetime.strptime(path.name, _NAME).replace(tzinfo=UTC)


def beside(path: Path) -> Path:
    """Return where size and checksum of a backup are."""
    return path.with_name(f"{path.name}.json")


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.waiting")


def _remove(path: Path) -> None:
    for each in (path, beside(path), _mark(path)):
        each.unlink(missing_ok=True)
