"""The counters of one process as a mapped file: what a killed process had counted is still in it.

What a process stores into the mapping is the kernel's at once, so SIGKILL takes nothing of it. The file is a
header and slots of one size; a slot holds one row (tenant, agent, channel and its counts) of one span:

    header   magic, version, source, size, and the *floor*: every batch below it was acknowledged
    slot     first seq of its span, start of its span, counts, check sum, lengths and text of the three ids

A slot whose first seq is below the floor is free. Each step is one store of the processor, or does not matter
before one that follows (`struct.pack_into` would not do: it clears the place first, and SIGKILL may come
between; a slice of up to sixteen bytes is copied into the mapping at once):

- *A row begins*: its slot is free, is written, and becomes the span's with the store of the first seq.
- *A message is counted*: messages and bytes are stored together.
- *A span ends*: nothing is written. The next one has another first seq, so that the slots say by themselves
  which batches they make up. These are sent only now that no count of the span changes any more.
- *A span is acknowledged*: the floor rises, and all its slots are free at once.

So whenever the process is killed, its successor finds the spans that were not acknowledged, and makes the
same batches of them under the same numbers. Those that had been sent are recognised by metering, the others
count now; the open span had never been sent. Deliveries and times are stored as often as it is sent.

The file is locked by whoever writes or recovers it, for as long as that process lives. Its blocks are taken
before they are mapped: a page for which the disk has no room would kill the process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import UsageRow
from artcafe_common.ids import is_token, new_ulid
from artcafe_common.log import Repeats
from artcafe_common.service import StartError

logger = logging.getLogger(__name__)

FOLDER = "usage"
SUFFIX = ".counters"
NEW_SUFFIX = ".new"
HEADER_BYTES = 4096
ROW_BYTES = 328
FIRST_ROWS = 64
GROWTH_ROWS_MAX = 8_192
RETRY_SECONDS = 10.0
COUNT_MAX = 2**40

_MAGIC = b"artcafe counters"
# In the byte order of the machine: another one reads another number.
_VERSION = 1
_HEADER = Struct("@16sq64sI")
_FLOOR_AT = 256
_SIZE_AT = 264
# The parts of a row, and where they are.
_SEQ = Struct("@q")
_pack_pair = Struct("@qq").pack
_ACCEPTED_AT = 16
_API_CALLS_AT = 32
_SENT_AT = 40
_CONNECTED = Struct("@d")
_CONNECTED_AT = 56
_BEGIN = Struct("@dqqqqqdI3B")
_BEGIN_AT = 8
_NAME = Struct("@qd")
_KEY_AT = 72
_KEY_BYTES = ROW_BYTES - _KEY_AT

# The disk's trouble, which may pass, rather than a wrong setting.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

Key = tuple[str, str, str]


class UnreadableError(Exception):
    """A file whose header is no use; the text says why."""


class CounterFile:
    """The file of one source. Without room on the disk it has no slots to give, and tries again later."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.source = new_ulid(clock.now())
        self.path = folder / f"{self.source}{SUFFIX}"
        self._clock = clock
        self._fd = -1
        # Without a file a page of memory that nobody reads.
        self._map = mmap.mmap(-1, HEADER_BYTES)
        self._size = HEADER_BYTES
        self._free: list[int] = []
        self._retry_at = 0.0
        self._repeats = Repeats(clock=clock)

    def create(self) -> None:
        """Make the file, locked before anybody can see it. Raises: OSError."""
        hidden = self.path.with_suffix(NEW_SUFFIX)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, _header(self.source), 0)
            hidden.rename(self.path)
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        self._fd = fd

    @property
    def folder(self) -> Path:
        """Where the files of all processes on this disk are."""
        return self.path.parent

    def add(self, first_seq: int, start: float, key: Key) -> int:
        """Begin a row and return its slot; 0 where there is no room."""
        if not self._free and not self._grow():
            return 0
        ids = [part.encode() for part in key]
        text = b"".join(ids)
        if len(text) > _KEY_BYTES or max(map(len, ids)) > 255:
            return 0
        slot = self._free.pop()
        to = self._map
        _SEQ.pack_into(to, slot, 0)
        lengths = bytes(map(len, ids))
        check = _checksum(first_seq, start, lengths, text)
        _BEGIN.pack_into(to, slot + _BEGIN_AT, start, 0, 0, 0, 0, 0, 0.0, check, *lengths)
        to[slot + _KEY_AT : slot + _KEY_AT + len(text)] = text
        self._store(slot, _SEQ.pack(first_seq))
        return slot

    def save_accepted(self, slot: int, messages: int, bytes_in: int) -> None:
        """Store which messages of a row were accepted."""
        # As in `_store`, for each message.
        self._map[slot + _ACCEPTED_AT : slot + _API_CALLS_AT] = _pack_pair(messages, bytes_in)

    def save_api_calls(self, slot: int, api_calls: int) -> None:
        """Store how many requests of a row were accepted."""
        self._store(slot + _API_CALLS_AT, _SEQ.pack(api_calls))

    def save_rest(self, slot: int, deliveries: int, bytes_out: int, connection_seconds: float) -> None:
        """Store the other counts of a row."""
        self._store(slot + _SENT_AT, _pack_pair(deliveries, bytes_out))
        self._store(slot + _CONNECTED_AT, _CONNECTED.pack(connection_seconds))

    def release(self, slots: list[int], floor: int) -> None:
        """Free the slots of a span whose batches, up to `floor`, were all acknowledged."""
        self._store(_FLOOR_AT, _SEQ.pack(floor))
        self._free.extend(slots)

    def sync(self) -> None:
        """Bring the file to the disk itself; blocks. Raises: OSError."""
        if self._fd >= 0:
            os.fsync(self._fd)

    def close(self, *, remove: bool) -> None:
        """Give the file up; others may have it from now on, unless it is removed."""
        self._map.close()
        self._map = mmap.mmap(-1, HEADER_BYTES)
        self._free.clear()
        # Nothing is added any more.
        self._retry_at = math.inf
        if self._fd >= 0:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _store(self, at: int, content: bytes) -> None:
        """Store 8 or 16 bytes so that a process killed at any moment has stored all of them or none."""
        self._map[at : at + len(content)] = content

    def _grow(self) -> bool:
        now = self._clock.monotonic()
        if now < self._retry_at:
            return False
        rows = (self._size - HEADER_BYTES) // ROW_BYTES
        more = max(FIRST_ROWS, min(rows, GROWTH_ROWS_MAX))
        try:
            if self._fd < 0:
                self.create()
            wanted = self._size + more * ROW_BYTES
            _write_zeros(self._fd, self._size, wanted)
            grown = mmap.mmap(self._fd, wanted)
        except OSError as error:
            self._retry_at = now + RETRY_SECONDS
            if (held_back := self._repeats.due("grow")) is not None:
                details = {"file": self.path.name, "reason": error.strerror, "held_back": held_back}
                logger.error("usage_not_on_disk", extra=details)
            return False
        self._map.close()
        self._map = grown
        self._store(_SIZE_AT, _SEQ.pack(wanted))
        # The first slots first.
        self._free.extend(range(wanted - ROW_BYTES, self._size - ROW_BYTES, -ROW_BYTES))
        self._size = wanted
        return True


def open_counter_file(state_dir: str, clock: Clock) -> CounterFile:
    """Return the file of this process, made in the folder `usage` of its state.

    A disk that is full is no reason not to serve: counts are in memory until it has room. Raises: StartError.
    """
    folder = Path(state_dir) / FOLDER
    file = CounterFile(folder, clock)
    try:
        folder.mkdir(exist_ok=True)
        file.create()
    except OSError as error:
        if error.errno not in _PASSING:
            raise StartError(f"ARTCAFE_STATE_DIR: {folder}: {error.strerror}") from None
        logger.error("usage_not_on_disk", extra={"file": file.path.name, "reason": error.strerror})
    return file


def read_header(content: bytes) -> tuple[str, int, int]:
    """Return source, floor, and how long the file ought to be. Raises: UnreadableError."""
    if len(content) < HEADER_BYTES:
        raise UnreadableError("too short")
    magic, version, name, checksum = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise UnreadableError("no counter file")
    if version != _VERSION:
        raise UnreadableError("of another version or machine")
    if checksum != zlib.crc32(name):
        raise UnreadableError("damaged")
    source = name.rstrip(b"\0").decode("ascii", "replace")
    (floor,) = _SEQ.unpack_from(content, _FLOOR_AT)
    (size,) = _SEQ.unpack_from(content, _SIZE_AT)
    if not is_token(source) or floor < 1:
        raise UnreadableError("damaged")
    return source, floor, size


def read_rows(content: bytes, floor: int) -> Iterator[tuple[int, float, UsageRow] | None]:
    """Yield (first seq, start, row) of each slot in use, in order; None for one that is damaged."""
    for slot in range(HEADER_BYTES, len(content) - ROW_BYTES + 1, ROW_BYTES):
        (first_seq,) = _SEQ.unpack_from(content, slot)
        if not 0 <= first_seq < floor:
            yield _row(content, slot, first_seq)


def _row(content: bytes, slot: int, first_seq: int) -> tuple[int, float, UsageRow] | None:
    start, *counts, seconds, check, tenant, agent, channel = _BEGIN.unpack_from(content, slot + _BEGIN_AT)
    text = content[slot + _KEY_AT : slot + _KEY_AT + tenant + agent + channel]
    if first_seq < 0 or check != _checksum(first_seq, start, bytes((tenant, agent, channel)), text):
        return None
    if not all(0 <= count <= COUNT_MAX for count in counts) or not 0 <= seconds <= COUNT_MAX:
        return None
    messages, bytes_in, api_calls, deliveries, bytes_out = counts
    row = UsageRow(
        text[:tenant].decode(),
        text[tenant : tenant + agent].decode(),
        text[tenant + agent :].decode(),
        messages=messages,
        deliveries=deliveries,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        api_calls=api_calls,
        connection_seconds=round(seconds, 3),
    )
    return first_seq, start, row


def _header(source: str) -> bytes:
    name = source.encode().ljust(64, b"\0")
    header = bytearray(HEADER_BYTES)
    _HEADER.pack_into(header, 0, _MAGIC, _VERSION, name, zlib.crc32(name))
    _SEQ.pack_into(header, _FLOOR_AT, 1)
    _SEQ.pack_into(header, _SIZE_AT, HEADER_BYTES)
    return bytes(header)


def _checksum(first_seq: int, start: float, lengths: bytes, text: bytes) -> int:
    return zlib.crc32(_NAME.pack(first_seq, start) + lengths + text)


def _write_zeros(fd: int, first: int, end: int) -> None:
    while first < end:
        first += os.pwrite(fd, bytes(min(end - first, 1024 * 1024)), first)
