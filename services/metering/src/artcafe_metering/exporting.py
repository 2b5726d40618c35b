"""The rows of an export and their forms. A day is in it as what it was closed with, and each adjustment as
a row of its own with the time at which it was found; a day that is not closed yet is `open`.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import date
from typing import Any, Literal

import msgspec

from artcafe_common.clock import rfc3339
from artcafe_metering import keys, periods
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures, counts, total
from artcafe_metering.groups import Part
from artcafe_metering.keys import FIGURES, Breakdown
from artcafe_metering.parquet import Row, parquet_file
from artcafe_metering.rolled import Entry, Rolled

Format = Literal["csv", "jsonl", "parquet"]
CONTENT_TYPES: Mapping[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
CHUNK_BYTES = 64 * 1024


class Rows:
    """Where rows come from.

    One open day's packed figures, or a part of a closed one, are in memory at a time, and whatever else the
    process does gets its turn between two parts.
    """

    def __init__(self, counters: ValkeyCounters, rolled: Rolled) -> None:
        self._counters = counters
        self._rolled = rolled

    async def of(self, tenant_id: str, start: date, end: date, by: Breakdown | None) -> AsyncIterator[Row]:
        """Yield the rows of a range of days; days without usage have none."""
        closed: dict[str, list[Entry]] = {}
        for entry in await self._rolled.entries(tenant_id, "day", f"{start}", f"{end}"):
            closed.setdefault(entry.period, []).append(entry)
        for day in periods.days_of(start, end):
            for entry in closed.get(f"{day}", []):
                head = _head(tenant_id, day, "adjustment" if entry.number else "closed", entry)
                rest = entry.figures
                if by is not None:
                    async for _, part in self._rolled.breakdown(tenant_id, "day", by, [entry]):
                        for row in _grouped(head, by, part):
                            yield row
                        rest -= total(part.values())
                        await asyncio.sleep(0)
                if rest:
                    yield head | _of_nobody(by) | _columns(rest)
            if f"{day}" not in closed:
                async for row in self._open(tenant_id, day, by):
                    yield row

    async def _open(self, tenant_id: str, day: date, by: Breakdown | None) -> AsyncIterator[Row]:
        """Yield the rows of a day that is not closed."""
        head = _head(tenant_id, day, "open", None)
        held = await self._counters.snapshot(keys.day_key(tenant_id, day), [by] if by else [])
        rest = held.figures
        if by is not None:
            for part in held.groups[by].parts():
                for row in _grouped(head, by, part):
                    yield row
                rest -= total(part.values())
                await asyncio.sleep(0)
            # Counters that were lost in part may come to less than their groups; less than nothing is wrong.
            rest = rest.at_least_zero()
        if rest:
            yield head | _of_nobody(by) | _columns(rest)


class Summary:
    """What a manifest says about a file: counted as its rows and bytes go by."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0
        self.bytes = 0
        self.totals = dict.fromkeys(FIGURES, 0)

    @property
    def sha256(self) -> str:
        """The hash of all bytes so far."""
        return self._hash.hexdigest()

    async def of_rows(self, rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        """Yield the rows as they are."""
        async for row in rows:
            self.rows += 1
            for name in FIGURES:
                self.totals[name] += row[name]
            yield row

    async def of_bytes(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the bytes as they are."""
        async for chunk in chunks:
            self._hash.update(chunk)
            self.bytes += len(chunk)
            yield chunk


async def encoded(form: Format, by: Breakdown | None, rows: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    """Yield the file in chunks of some size."""
    chunk = bytearray()
    async with aclosing(_pieces(form, by, rows)) as pieces:
        async for piece in pieces:
            chunk += piece
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    if chunk:
        yield bytes(chunk)


def columns(by: Breakdown | None) -> list[str]:
    """Return the columns of an export, in their order."""
    names = ["tenant_id", "date", "record", "number", "recorded_at"]
    return [*names, *([f"{by}_id"] if by else []), *FIGURES]


def _head(tenant_id: str, day: date, record: str, entry: Entry | None) -> Row:
    return {
        "tenant_id": tenant_id,
        "date": f"{day}",
        "record": record,
        "number": entry.number if entry else 0,
        "recorded_at": rfc3339(entry.recorded_at) if entry else "",
    }


def _grouped(head: Row, by: Breakdown, part: Part) -> list[Row]:
    return [head | {f"{by}_id": name} | _columns(figures) for name, figures in part.items()]


def _columns(figures: Figures) -> Row:
    return dict(zip(FIGURES, counts(figures), strict=True))


def _of_nobody(by: Breakdown | None) -> Row:
    return {f"{by}_id": ""} if by else {}


async def _pieces(form: Format, by: Breakdown | None, rows: AsyncIterator[Row]) -> AsyncGenerator[bytes]:
    names = columns(by)
    if form == "parquet":
        async with aclosing(parquet_file(names, rows)) as pieces:
            async for piece in pieces:
                yield piece
    elif form == "csv":
        yield _csv_line(names)
        async for row in rows:
            yield _csv_line([row[name] for name in names])
    else:
        async for row in rows:
            yield msgspec.json.encode({name: row[name] for name in names}) + b"\n"


def _csv_line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
