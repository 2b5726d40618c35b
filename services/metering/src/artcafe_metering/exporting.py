"""The rows of an export and its two forms. A day is in it as what it was closed with, and each adjustment as
a row of its own with the time at which it was found; a day that is not closed yet is `open`.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, Literal

import msgspec

from artcafe_common.clock import rfc3339
from artcafe_metering import keys, periods
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.figures import Figures, total
from artcafe_metering.keys import FIGURES, Breakdown
from artcafe_metering.rolled import Entry, Rolled

Format = Literal["csv", "jsonl"]
CONTENT_TYPES: Mapping[Format, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}

Row = dict[str, Any]


class Rows:
    """Where rows come from; one day's open counters, or a part of a closed one, are in memory at a time."""

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
                if rest:
                    yield head | _of_nobody(by) | asdict(rest)
            if f"{day}" not in closed:
                figures, groups = await self._counters.snapshot(keys.day_key(tenant_id, day))
                head = _head(tenant_id, day, "open", None)
                if by is not None:
                    for row in _grouped(head, by, groups[by]):
                        yield row
                    figures -= total(groups[by].values())
                if figures:
                    yield head | _of_nobody(by) | asdict(figures)


class Writer:
    """Turns rows into bytes, and keeps count of them for the manifest."""

    def __init__(self, form: Format, by: Breakdown | None) -> None:
        self._form = form
        self._columns = columns(by)
        self._hash = hashlib.sha256()
        self.rows = 0
        self.bytes = 0
        self.totals = dict.fromkeys(FIGURES, 0)

    @property
    def sha256(self) -> str:
        """The hash of all bytes so far."""
        return self._hash.hexdigest()

    def head(self) -> bytes:
        """Return what stands before the rows."""
        return self._counted(_csv_line(self._columns) if self._form == "csv" else b"")

    def row(self, row: Row) -> bytes:
        """Return a row."""
        self.rows += 1
        for name in FIGURES:
            self.totals[name] += row[name]
        if self._form == "csv":
            return self._counted(_csv_line([row[name] for name in self._columns]))
        return self._counted(msgspec.json.encode({name: row[name] for name in self._columns}) + b"\n")

    def _counted(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.bytes += len(data)
        return data


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


def _grouped(head: Row, by: Breakdown, groups: Mapping[str, Figures]) -> list[Row]:
    return [head | {f"{by}_id": name} | asdict(groups[name]) for name in sorted(groups)]


def _of_nobody(by: Breakdown | None) -> Row:
    return {f"{by}_id": ""} if by else {}


def _csv_line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
