"""An append-only journal with snapshots, for state that lives in memory.

Files in the folder, `n` counting up:

- `snapshot-n`: the whole state at one moment,
- `journal-n`: the entries appended after that moment.

An entry is a header (JSON) and a body (bytes), framed by their lengths and a checksum. It is handed to
the operating system before `append` returns: that survives the end of the process by any signal, not the
loss of power, for which every write would have to wait for the disk. An entry cut short by the end of the
process was never acknowledged; it is dropped when the journal is opened again.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FRAME = struct.Struct("<III")  # length of the header, length of the body, CRC-32 of both


class Journal:
    """The journal of one folder, which must have a single owner."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        for leftover in folder.glob("*.tmp"):
            leftover.unlink()
        self._generation = max((_generation(path) for path in folder.glob("snapshot-*")), default=0)
        for path in [*folder.glob("snapshot-*"), *folder.glob("journal-*")]:
            if _generation(path) < self._generation:  # a crash came between a rotation and its tidying up
                path.unlink()
        self._fd = -1
        self.size = 0

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot, None when there is none yet."""
        path = self._path("snapshot")
        return path.read_bytes() if path.exists() else None

    def entries(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield the entries after the snapshot, then open the journal for more; a torn end is cut off."""
        path = self._path("journal")
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                while (entry := _read_entry(file.read)) is not None:
                    whole = file.tell()
                    yield entry
        self._open(whole)

    def append(self, header: dict[str, Any], body: bytes) -> None:
        """Append an entry.

        Raises:
            OSError: it could not be written whole, for example on a full disk; it is then not in the journal.
        """
        head = json.dumps(header, separators=(",", ":")).encode()
        frame = _FRAME.pack(len(head), len(body), zlib.crc32(body, zlib.crc32(head))) + head + body
        written = 0
        try:
            while written < len(frame):
                written += os.write(self._fd, memoryview(frame)[written:])
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(frame)

    def rotate(self, state: bytes) -> None:
        """Replace snapshot and entries by a snapshot of the state as it is now."""
        old = (self._path("snapshot"), self._path("journal"))
        self._generation += 1
        path = self._path("snapshot")
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)  # from here on the new generation counts
        self.close()
        self._open(0)
        for leftover in old:
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, size: int) -> None:
        self._fd = os.open(
            self._path("journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        os.ftruncate(self._fd, size)
        self.size = size

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}-{self._generation:08d}"


def _generation(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read_entry(read: Any) -> tuple[dict[str, Any], bytes] | None:
    """Read one entry, None at the end or where an entry is not whole."""
    frame = read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    head_size, body_size, checksum = _FRAME.unpack(frame)
    head, body = read(head_size), read(body_size)
    if len(head) < head_size or len(body) < body_size or zlib.crc32(body, zlib.crc32(head)) != checksum:
        return None
    return json.loads(head), body
