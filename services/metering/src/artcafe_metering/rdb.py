"""Whether a snapshot is whole, by the checksum that Valkey writes at its end (CRC-64 of Jones).

A server that is given one which is not whole ends while it reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Reversed: the lowest bit of a byte comes first.
_POLYNOMIAL = 0x95AC9329AC4BC9B5
_MAGICS = (b"REDIS", b"VALKE")
_HEAD_BYTES = 9
# The code for the end of the data, then the checksum.
_END = 0xFF
_TAIL_BYTES = 9
_CHUNK_BYTES = 1024 * 1024


class SnapshotError(Exception):
    """A file is no whole snapshot; the text says in what."""


def check_snapshot(path: Path, step: Callable[[int, int], None]) -> None:
    """Read a snapshot through; `step` hears how many bytes of how many are done.

    Raises: SnapshotError, OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < _HEAD_BYTES + _TAIL_BYTES or not file.read(_HEAD_BYTES).startswith(_MAGICS):
            raise SnapshotError("is not a snapshot of Valkey")
        file.seek(size - _TAIL_BYTES)
        tail = file.read()
        if tail[0] != _END:
            raise SnapshotError("is damaged: it does not end as a snapshot does, a part is missing")
        told = int.from_bytes(tail[1:], "little")
        if told == 0:
            raise SnapshotError("has no checksum in it")
        file.seek(0)
        crc, done, covered = 0, 0, size - len(tail) + 1
        while chunk := file.read(min(_CHUNK_BYTES, covered - done)):
            crc = crc64(chunk, crc)
            done += len(chunk)
            step(done, covered)
    if crc != told:
        raise SnapshotError("is damaged: it is not what its checksum was made of")


def crc64(data: bytes, crc: int = 0) -> int:
    """Return the checksum of bytes that come after those of which `crc` is the checksum."""
    by_byte, (first, second, third, fourth) = _tables()
    words = len(data) // 8
    for word in struct.unpack_from(f"<{words}Q", data):
        x = crc ^ word
        crc = fourth[x & 0xFFFF] ^ third[x >> 16 & 0xFFFF] ^ second[x >> 32 & 0xFFFF] ^ first[x >> 48]
    for byte in data[words * 8 :]:
        crc = by_byte[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


@cache
def _tables() -> tuple[list[int], list[list[int]]]:
    """Return what becomes of a byte, and of two bytes that are followed by none, two, four or six more.

    Eight bytes at once are ten times as fast as one by one; a backup may have gigabytes.
    """
    by_byte = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        by_byte.append(crc)

    def further(crc: int) -> int:
        crc = by_byte[crc & 0xFF] ^ crc >> 8
        return by_byte[crc & 0xFF] ^ crc >> 8

    by_two = [[further(crc) for crc in range(0x10000)]]
    while len(by_two) < 4:
        by_two.append([further(crc) for crc in by_two[-1]])
    return by_byte, by_two
