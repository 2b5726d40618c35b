"""The forms of an export: the same rows in each, streamed, and what their summary says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import pytest
from arro3.io import read_parquet

from artcafe_common.errors import ServiceError, unavailable
from artcafe_metering import parquet
from artcafe_metering.exporting import Format, Summary, encoded
from artcafe_metering.keys import FIGURES, Breakdown
from artcafe_metering.parquet import Row


def row(number: int, **changes: Any) -> Row:
    """Return a row of an export by agent."""
    return {
        "tenant_id": "t1",
        "date": "2028-02-29",
        "record": "closed",
        "number": 0,
        "recorded_at": "2028-03-01T02:00:00.250Z",
        "agent_id": f"agent-{number}",
        **{name: number * (place + 1) for place, name in enumerate(FIGURES)},
        **changes,
    }


async def some(number: int, taken: list[int] | None = None) -> AsyncIterator[Row]:
    """Yield so many rows; note each that is taken."""
    for each in range(number):
        if taken is not None:
            taken.append(each)
        yield row(each)
        await asyncio.sleep(0)


def read(data: bytes) -> list[Row]:
    """Return the rows of a Parquet file."""
    found: list[Row] = []
    for batch in read_parquet(BytesIO(data)):
        names = batch.schema.names
        columns = [batch.column(name).to_pylist() for name in names]
        found += [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return found


async def whole(form: Format, rows: AsyncIterator[Row], by: Breakdown | None = "agent") -> bytes:
    """Return a file in one piece."""
    return b"".join([chunk async for chunk in encoded(form, by, rows)])


async def test_every_form_has_the_same_rows() -> None:
    """CSV, JSON lines and Parquet hold the same columns with the same values."""
    rows = [json.loads(line) for line in (await whole("jsonl", some(50))).splitlines()]
    assert rows == [row(number) for number in range(50)]
    head, *lines = (await whole("csv", some(50))).decode().splitlines()
    assert head.split(",") == list(rows[0])
    assert [line.split(",") for line in lines] == [[str(value) for value in each.values()] for each in rows]
    found = read(await whole("parquet", some(50)))
    assert [list(each) for each in found] == [list(each) for each in rows]
    moment = datetime(2028, 3, 1, 2, 0, 0, 250_000, tzinfo=UTC)
    assert found == [each | {"date": date(2028, 2, 29), "recorded_at": moment} for each in rows]


async def test_a_day_that_is_open_was_recorded_at_no_time() -> None:
    """In Parquet that is null; without a group there is no column of one."""

    async def rows() -> AsyncIterator[Row]:
        yield row(1, record="open", recorded_at="")

    (found,) = read(await whole("parquet", rows(), None))
    assert (found["recorded_at"], found["record"]) == (None, "open")
    assert "agent_id" not in found


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
async def test_nothing_used_is_a_file_without_rows(form: Format) -> None:
    """A tenant without usage gets a file that can be read."""
    data = await whole(form, some(0), None)
    if form == "parquet":
        assert read(data) == []
    else:
        assert data.count(b"\n") == (form == "csv")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
async def test_a_file_is_streamed(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bytes are there long before the last rows are read; a slow client holds the reading up."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1_000)
    taken: list[int] = []
    chunks = encoded(form, "agent", some(20_000, taken))
    first = await anext(chunks)
    assert first
    await asyncio.sleep(0.1)
    assert len(taken) < 10_000
    rest = [chunk async for chunk in chunks]
    assert len(taken) == 20_000
    assert len(rest) > 3
    assert max(map(len, [first, *rest])) < 1_000_000


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
async def test_the_summary_is_of_what_was_sent(form: Format) -> None:
    """Rows, totals, bytes and hash are those of the file."""
    summary = Summary()
    data = b""
    async for chunk in summary.of_bytes(encoded(form, "agent", summary.of_rows(some(1000)))):
        data += chunk
    assert (summary.rows, summary.bytes) == (1000, len(data))
    assert summary.sha256 == hashlib.sha256(data).hexdigest()
    assert summary.totals == {name: 499_500 * (place + 1) for place, name in enumerate(FIGURES)}


async def test_a_store_that_goes_away_breaks_a_parquet_file_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rows raise is raised, and no footer makes a file of the half that there is."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 10)

    async def rows() -> AsyncIterator[Row]:
        async for each in some(25):
            yield each
        raise unavailable("the store")

    data = b""
    with pytest.raises(ServiceError, match="unavailable"):
        async for chunk in parquet.parquet_file(list(row(0)), rows()):
            data += chunk
    assert data.startswith(b"PAR1")
    assert not data.endswith(b"PAR1")


@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_a_client_that_leaves_ends_the_thread(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far it has read: nothing waits for it for ever."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    before = threading.active_count()
    file = parquet.parquet_file(list(row(0)), some(100_000))
    for _ in range(pieces):
        await anext(file)
    async with asyncio.timeout(30):
        await file.aclose()
        while threading.active_count() > before:
            await asyncio.sleep(0.01)


async def test_a_task_that_is_cancelled_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is given up, while it waits for rows or for its client, leaves nothing behind."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    before = threading.active_count()
    task = asyncio.create_task(whole("parquet", some(1_000_000)))
    await asyncio.sleep(0.3)
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([task])
        while threading.active_count() > before:
            await asyncio.sleep(0.01)
    assert task.cancelled()
