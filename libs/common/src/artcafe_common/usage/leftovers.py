"""What processes that were killed have left behind in their counter files, for the next one to send.

Any process on the disk may do so, one at a time for each file: it holds the file's lock, which the kernel
takes from a process that ends. A file goes only when all its batches were acknowledged. So whoever is killed
over it leaves it to the next, and metering recognises what comes again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from artcafe_common import metrics
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.usage.counter_file import NEW_SUFFIX, SUFFIX, UnreadableError, read_header, read_rows
from artcafe_common.usage.span import Span, cut

logger = logging.getLogger(__name__)

# Metering remembers for 15 days which batches of a source it has applied: what is older might count twice.
AGE_SECONDS_MAX = 14 * 86_400
UNFINISHED_SECONDS = 3600


@dataclass(slots=True)
class Leftover:
    """A file that nobody else has now, with what is to be sent of it."""

    path: Path
    spans: list[Span]
    # Why it is kept for a person to look at after its spans were sent; empty where it is removed.
    damage: str
    _fd: int

    def finish(self) -> None:
        """Remove the file, or put it aside where something is wrong with it."""
        batches, messages = sum(len(s.chunks) for s in self.spans), sum(s.messages for s in self.spans)
        details = {"file": self.path.name, "batches": batches, "messages": messages}
        try:
            if self.damage:
                aside = self.path.with_suffix(f".{self.damage}")
                self.path.rename(aside)
                logger.error("usage_file_set_aside", extra={**details, "aside": aside.name})
            else:
                self.path.unlink(missing_ok=True)
                logger.info("usage_recovered", extra=details)
        finally:
            self.give_back()
        metrics.USAGE_LEFTOVERS.labels(self.damage or "recovered").inc()

    def give_back(self) -> None:
        """Leave the file as it is, for whoever comes next."""
        os.close(self._fd)


def claim(folder: Path, useless: set[Path]) -> Leftover | None:
    """Lock and read one file whose process has ended; None where there is none.

    What cannot be opened is told, and noted in `useless` so that it is passed over from then on.
    Raises: OSError where the folder is no use.
    """
    for path in sorted(set(folder.glob(f"*{SUFFIX}")) - useless):
        try:
            leftover = _claim(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            useless.add(path)
            logger.error("usage_file_unreadable", extra={"file": path.name, "reason": error.strerror})
            continue
        if leftover is not None:
            return leftover
    _remove_unfinished(folder)
    return None


def _claim(path: Path) -> Leftover | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another one may have finished it in between.
        if os.fstat(fd).st_nlink:
            return _read(path, fd)
    except BlockingIOError:
        # Its process lives.
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _read(path: Path, fd: int) -> Leftover:
    content = path.read_bytes()
    try:
        source, floor, size = read_header(content)
    except UnreadableError as error:
        logger.error("usage_file_unreadable", extra={"file": path.name, "reason": str(error)})
        return Leftover(path, [], "damaged", fd)
    rows: defaultdict[int, list[UsageRow]] = defaultdict(list)
    starts: dict[int, float] = {}
    damaged = 0
    for found in read_rows(content, floor):
        if found is None:
            damaged += 1
            continue
        first_seq, start, row = found
        rows[first_seq].append(row)
        starts[first_seq] = start
    if starts and max(starts.values()) < time.time() - AGE_SECONDS_MAX:
        return Leftover(path, [], "expired", fd)
    spans = [Span(source, seq, starts[seq], starts[seq], cut(rows[seq])) for seq in sorted(rows)]
    if damaged or len(content) < size:
        details = {"file": path.name, "rows": damaged, "bytes_missing": max(0, size - len(content))}
        logger.error("usage_file_damaged", extra=details)
        return Leftover(path, spans, "damaged", fd)
    return Leftover(path, spans, "", fd)


def _remove_unfinished(folder: Path) -> None:
    """Remove files that a process was killed over before they had a name."""
    for path in folder.glob(f"*{NEW_SUFFIX}"):
        try:
            if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue
