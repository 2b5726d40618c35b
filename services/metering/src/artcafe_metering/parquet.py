"""Rows as an Apache Parquet file, written while they come.

The library pulls rows and pushes bytes, and waits for both; so it works in a thread, which asks the event
loop for the next rows and hands it each piece. One group of rows is in memory at a time, and nobody reads
further than the client takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from io import RawIOBase
from typing import Any, TypeVar, cast

from artcafe_common.errors import ServiceError
from artcafe_metering.keys import FIGURES

Row = dict[str, Any]

GROUP_ROWS = 10_000
COMPRESSION = "zstd(3)"
_EPOCH = date(1970, 1, 1)

T = TypeVar("T")


class _BrokenOffError(Exception):
    """Nobody takes the file any more."""


async def parquet_file(columns: Sequence[str], rows: AsyncIterator[Row]) -> AsyncGenerator[bytes]:
    """Yield the file: `date` as a date, `recorded_at` as a time or null, figures and numbers as int64.

    Raises: ServiceError: what `rows` raises.
    """
    loop = asyncio.get_running_loop()
    # Its own, since it waits as long as its client does.
    thread = ThreadPoolExecutor(1, "parquet")
    # None is its end.
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
    failures: list[ServiceError] = []
    broken_off = False

    def on_loop(work: Coroutine[Any, Any, T]) -> T:
        if broken_off:
            work.close()
            raise _BrokenOffError
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def group() -> list[Row]:
        taken: list[Row] = []
        try:
            async for row in rows:
                taken.append(row)
                if len(taken) == GROUP_ROWS:
                    break
        except ServiceError as error:
            # What goes through the library comes out as an error of its own.
            failures.append(error)
            raise
        return taken

    def groups() -> Iterator[list[Row]]:
        while taken := on_loop(group()):
            yield taken

    class Sink(RawIOBase):
        """What the library writes to."""

        def writable(self) -> bool:
            """It is for writing."""
            return True

        def write(self, data: Any) -> int:
            """Hand a piece over, and wait until it can be."""
            piece = bytes(data)
            on_loop(pieces.put(piece))
            return len(piece)

    async def write() -> None:
        try:
            await loop.run_in_executor(thread, _write, columns, groups(), Sink())
        finally:
            await pieces.put(None)

    writing = asyncio.create_task(write())
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        try:
            await writing
        except Exception:
            if failures:
                raise failures[0] from None
            raise
    finally:
        broken_off = True
        while not writing.done():
            # Where the thread waits for room it gets some, and finds out.
            await pieces.get()
            await asyncio.sleep(0)
        thread.shutdown(wait=False)
        if not writing.cancelled():
            writing.exception()


def _write(columns: Sequence[str], groups: Iterator[list[Row]], sink: RawIOBase) -> None:
    # Only who exports in this form pays for the library's memory.
    from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema
    from arro3.io import write_parquet

    kinds = {"date": DataType.date32(), "recorded_at": DataType.timestamp("ms", tz="UTC")}
    numbers = dict.fromkeys((*FIGURES, "number"), DataType.int64())
    text = DataType.utf8()
    types = [(kinds | numbers).get(name, text) for name in columns]
    schema = Schema(
        [Field(name, kind, nullable=name == "recorded_at") for name, kind in zip(columns, types, strict=True)]
    )

    def array(name: str, kind: DataType, rows: list[Row]) -> Array:
        if name == "date":
            days = [(date.fromisoformat(row[name]) - _EPOCH).days for row in rows]
            return Array(days, DataType.int32()).cast(kind)
        if name == "recorded_at":
            return Array([_milliseconds(row[name]) for row in rows], DataType.int64()).cast(kind)
        return Array([row[name] for row in rows], kind)

    def batches() -> Iterator[RecordBatch]:
        for rows in groups:
            arrays = [array(name, kind, rows) for name, kind in zip(columns, types, strict=True)]
            yield RecordBatch.from_arrays(arrays, schema=schema)

    reader = RecordBatchReader.from_batches(schema, batches())
    write_parquet(reader, cast(Any, sink), compression=COMPRESSION, max_row_group_size=GROUP_ROWS)


def _milliseconds(moment: str) -> int | None:
    if not moment:
        return None
    return round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)
