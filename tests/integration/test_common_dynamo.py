"""Tables on the emulator of DynamoDB, and what happens when it is not there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from artcafe_common import dynamo
from artcafe_common.dynamo import (
    ConditionFailed,
    Dynamo,
    Index,
    Item,
    Table,
    TableSpec,
    TransactionFailed,
)
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import AwsEndpoint

THINGS = TableSpec(
    "things",
    "tenant_id",
    "thing_id",
    indexes=(Index("by-status", "status_key", "changed_at", "N"), Index("by-owner", "owner")),
    ttl="expires_at",
)
COUNTERS = TableSpec("counters", "id")


@asynccontextmanager
async def _connected(url: str, prefix: str = "test-") -> AsyncIterator[Dynamo]:
    async with Dynamo.connect(region="us-east-1", endpoint_url=url, prefix=prefix) as connected:
        yield connected


@pytest.fixture
async def store(aws_environment: AwsEndpoint) -> AsyncIterator[Dynamo]:
    """A connection with both tables, empty."""
    async with _connected(aws_environment.url) as connected:
        await connected.create_tables([THINGS, COUNTERS])
        yield connected


@pytest.fixture
def things(store: Dynamo) -> Table:
    """A table with a range key and indexes."""
    return store.table(THINGS)


@pytest.fixture
def counters(store: Dynamo) -> Table:
    """A table with a hash key alone."""
    return store.table(COUNTERS)


def _key(number: int | str, tenant_id: str = "t1") -> dict[str, str]:
    return {"tenant_id": tenant_id, "thing_id": str(number)}


async def _all(found: AsyncIterator[Item]) -> list[Item]:
    return [item async for item in found]


# --- Items ---


AWKWARD: Item = {
    **{"yes": True, "no": False, "zero": 0, "empty": "", "blank": " ", "bytes": b"\x00\xff", "no_bytes": b""},
    **{"tenth": 0.1, "tiny": 1e-100, "great": 12345678901234567890, "negative": -1.5, "whole": 7},
    **{"words": {"a", "b"}, "numbers": {1, 2.5}, "blobs": {b"a", b"b"}, "list": [], "map": {}},
    **{
        "nested": {"a": [1, None, {"b": [True, "", {"c"}]}], "": ""},
        "text": "\u65e5\u672c \U0001f600 \x00 \"'\\\n",
    },
    # Words that DynamoDB reserves.
    **{
        "status": "online",
        "owner": "me",
        "name": "n",
        "type": "t",
        "data": "d",
        "role": "r",
        "ttl": 5,
        "count": 6,
    },
}


async def test_awkward_values_come_back_as_they_were(things: Table) -> None:
    """Booleans, empty strings, sets, floats, bytes and reserved words survive the store, types included."""
    await things.put(_key(1) | AWKWARD)
    found = await things.get(_key(1))
    assert found == _key(1) | AWKWARD
    assert found["yes"] is True
    assert isinstance(found["whole"], int)
    assert isinstance(found["bytes"], bytes)


async def test_nothing_is_left_out(things: Table) -> None:
    """Attributes that are None or an empty set are not stored."""
    await things.put(_key(1) | {"none": None, "set": set(), "kept": 1})
    assert await things.get(_key(1)) == _key(1) | {"kept": 1}


async def test_missing_item_is_none(things: Table) -> None:
    """What is not there is None, and removing it is no error."""
    assert await things.get(_key(1)) is None
    assert await things.delete(_key(1)) is None


async def test_removed_item_is_returned(things: Table) -> None:
    """Removing gives what was there."""
    await things.put(_key(1) | {"a": 1})
    assert await things.delete(_key(1)) == _key(1) | {"a": 1}
    assert await things.get(_key(1)) is None


async def test_update_changes_and_returns(things: Table) -> None:
    """An update makes what is not there, with any attribute name, and returns what was asked for."""
    after = await things.update(
        _key(1), "SET #status = :new, #name = :n ADD #count :one", {"new": "up", "n": "", "one": 1}
    )
    assert after == _key(1) | {"status": "up", "name": "", "count": 1}
    before = await things.update(
        _key(1), "SET #status = :new REMOVE #name", {"new": "down"}, returns="ALL_OLD"
    )
    assert before["status"] == "up"
    assert await things.update(_key(1), "ADD #count :one", {"one": 1}, returns="NONE") == {}
    assert await things.get(_key(1)) == _key(1) | {"status": "down", "count": 2}


# --- Conditions ---


async def test_condition_that_fails_says_what_stood_there(things: Table) -> None:
    """A write that is not carried out changes nothing and tells what is there."""
    await things.put(_key(1) | {"owner": "first"})
    with pytest.raises(ConditionFailed) as caught:
        await things.put(_key(1) | {"owner": "second"}, "attribute_not_exists(#tenant_id)")
    assert caught.value.item == _key(1) | {"owner": "first"}
    with pytest.raises(ConditionFailed) as caught:
        await things.update(_key(1), "SET #owner = :new", {"new": "x", "old": "other"}, "#owner = :old")
    assert caught.value.item == _key(1) | {"owner": "first"}
    with pytest.raises(ConditionFailed):
        await things.delete(_key(1), "#owner = :other", {"other": "other"})
    assert await things.get(_key(1)) == _key(1) | {"owner": "first"}


async def test_of_fifty_who_create_one_wins(things: Table) -> None:
    """Fifty racing creations make one item, and the others are told whose it is."""

    async def create(number: int) -> int | None:
        try:
            await things.put(_key("x") | {"owner": str(number)}, "attribute_not_exists(#tenant_id)")
            return number
        except ConditionFailed as error:
            assert error.item is not None
            return None

    for _ in range(3):
        winners = [n for n in await asyncio.gather(*map(create, range(50))) if n is not None]
        found = await things.delete(_key("x"))
        assert found is not None
        assert [found["owner"]] == [str(n) for n in winners]


async def test_of_fifty_who_take_one_gets_it(things: Table) -> None:
    """An item is removed once, however many want it."""
    for number in range(3):
        await things.put(_key(number))

        async def take(number: int = number) -> bool:
            try:
                await things.delete(_key(number), "attribute_exists(#tenant_id)")
            except ConditionFailed:
                return False
            return True

        assert sum(await asyncio.gather(*(take() for _ in range(50)))) == 1


async def test_limit_holds_under_concurrent_use(counters: Table) -> None:
    """A counter with a limit never goes past it."""

    async def use() -> bool:
        try:
            await counters.update(
                {"id": "agents"},
                "ADD #used :one",
                {"one": 1, "limit": 10},
                "attribute_not_exists(#used) OR #used < :limit",
            )
        except ConditionFailed:
            return False
        return True

    assert sum(await asyncio.gather(*(use() for _ in range(50)))) == 10
    assert await counters.get({"id": "agents"}) == {"id": "agents", "used": 10}


# --- Transactions ---


async def test_transaction_is_all_or_nothing(store: Dynamo, things: Table, counters: Table) -> None:
    """Writes to several tables happen together."""
    await counters.put({"id": "n", "used": 1})
    await things.put(_key("old"))
    await store.transact(
        [
            things.put_op(_key("new") | {"owner": "me"}, "attribute_not_exists(#tenant_id)"),
            counters.update_op({"id": "n"}, "ADD #used :one", {"one": 1, "limit": 5}, "#used < :limit"),
            things.delete_op(_key("old"), "attribute_exists(#tenant_id)"),
            counters.check_op({"id": "suspended"}, "attribute_not_exists(#id)"),
        ]
    )
    assert await things.get(_key("new")) == _key("new") | {"owner": "me"}
    assert await things.get(_key("old")) is None
    assert await counters.get({"id": "n"}) == {"id": "n", "used": 2}


async def test_transaction_that_fails_changes_nothing(store: Dynamo, things: Table, counters: Table) -> None:
    """The conditions that failed are named by their places, and nothing was written."""
    await counters.put({"id": "n", "used": 5})
    with pytest.raises(TransactionFailed) as caught:
        await store.transact(
            [
                things.put_op(_key("new")),
                counters.update_op({"id": "n"}, "ADD #used :one", {"one": 1, "limit": 5}, "#used < :limit"),
                counters.check_op({"id": "gone"}, "attribute_exists(#id)"),
            ]
        )
    assert caught.value.failed == [1, 2]
    assert await things.get(_key("new")) is None
    assert await counters.get({"id": "n"}) == {"id": "n", "used": 5}


async def test_racing_transactions_keep_the_limit(store: Dynamo, things: Table, counters: Table) -> None:
    """Creations that count themselves in one transaction never exceed the limit; none is half done."""

    async def create(number: int) -> bool:
        while True:
            try:
                await store.transact(
                    [
                        things.put_op(_key(number), "attribute_not_exists(#tenant_id)"),
                        counters.update_op(
                            {"id": "n"},
                            "ADD #used :one",
                            {"one": 1, "limit": 7},
                            "attribute_not_exists(#used) OR #used < :limit",
                        ),
                    ]
                )
                return True
            except TransactionFailed as error:
                if error.failed:
                    return False

    assert sum(await asyncio.gather(*map(create, range(30)))) == 7
    assert len(await _all(things.query_all("#tenant_id = :t", {"t": "t1"}))) == 7
    assert await counters.get({"id": "n"}) == {"id": "n", "used": 7}


# --- Queries ---


async def test_query_follows_pages_to_the_end(things: Table) -> None:
    """A query over more than a page's worth of data yields everything, in order, once."""
    padding = "x" * 30_000
    await things.put_many(_key(f"{n:04}") | {"padding": padding} for n in range(120))
    await things.put_many(_key(n, "t10") for n in range(30))
    first = await things.query("#tenant_id = :t", {"t": "t1"})
    assert 0 < len(first.items) < 120
    assert first.position is not None
    found = await _all(things.query_all("#tenant_id = :t", {"t": "t1"}))
    assert [item["thing_id"] for item in found] == [f"{n:04}" for n in range(120)]


async def test_pages_continue_where_the_last_one_ended(things: Table) -> None:
    """Pages of a given size, in either direction, give everything once."""
    await things.put_many(_key(f"{n:02}") for n in range(25))
    for forward in (True, False):
        seen: list[str] = []
        position: Item | None = None
        while True:
            page = await things.query(
                "#tenant_id = :t", {"t": "t1"}, limit=10, position=position, forward=forward, consistent=True
            )
            assert len(page.items) <= 10
            seen += [item["thing_id"] for item in page.items]
            position = page.position
            if position is None:
                break
        assert seen == sorted((f"{n:02}" for n in range(25)), reverse=not forward)


async def test_filter_may_leave_pages_short(things: Table) -> None:
    """What a filter leaves out does not end the query."""
    await things.put_many(_key(f"{n:03}") | {"status": "on" if n % 50 == 0 else "off"} for n in range(200))
    page = await things.query(
        "#tenant_id = :t", {"t": "t1", "s": "on"}, filter="#status = :s", limit=10, position=_key("000")
    )
    assert (page.items, page.position is not None) == ([], True)
    found = await _all(things.query_all("#tenant_id = :t", {"t": "t1", "s": "on"}, filter="#status = :s"))
    assert [item["thing_id"] for item in found] == ["000", "050", "100", "150"]


async def test_index_is_queried(things: Table) -> None:
    """Items are found by an index, in the order of its numbers, and those without its key are not in it."""
    for number, at in enumerate([5, 30, 200.5, 1000]):
        await things.put(_key(number) | {"status_key": "t1#on", "changed_at": at, "owner": "me"})
    await things.put(_key("out"))
    found = await _all(
        things.query_all(
            "#status_key = :s AND #changed_at > :at", {"s": "t1#on", "at": 20}, index="by-status"
        )
    )
    assert [item["changed_at"] for item in found] == [30, 200.5, 1000]
    assert len(await _all(things.query_all("#owner = :o", {"o": "me"}, index="by-owner"))) == 4
    page = await things.query("#status_key = :s", {"s": "t1#on"}, index="by-status", limit=2)
    assert page.position is not None
    rest = await things.query("#status_key = :s", {"s": "t1#on"}, index="by-status", position=page.position)
    assert [item["changed_at"] for item in page.items + rest.items] == [5, 30, 200.5, 1000]


async def test_key_condition_on_the_range(things: Table) -> None:
    """A range of keys is queried by its beginning."""
    await things.put_many(_key(name) for name in ("a#1", "a#2", "b#1"))
    found = await _all(
        things.query_all("#tenant_id = :t AND begins_with(#thing_id, :p)", {"t": "t1", "p": "a#"})
    )
    assert [item["thing_id"] for item in found] == ["a#1", "a#2"]


async def test_many_are_written_and_removed(things: Table) -> None:
    """More items than fit one request are all written, and all removed."""
    await things.put_many(_key(n) | {"n": n} for n in range(130))
    assert len(await _all(things.query_all("#tenant_id = :t", {"t": "t1"}))) == 130
    await things.delete_many(_key(n) for n in range(130))
    assert await _all(things.query_all("#tenant_id = :t", {"t": "t1"})) == []
    await things.delete_many([])


# --- Tables ---


async def test_tables_are_created_once_by_however_many(aws_environment: AwsEndpoint) -> None:
    """Processes that start together may all create the tables; expiry and indexes are set up."""
    async with _connected(aws_environment.url, "once-") as store:
        await asyncio.gather(*(store.create_tables([THINGS, COUNTERS]) for _ in range(4)))
        await store.create_tables([THINGS])
        described = (await store.client.describe_table(TableName="once-things"))["Table"]
        assert {index["IndexName"] for index in described["GlobalSecondaryIndexes"]} == {
            "by-status",
            "by-owner",
        }
        assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        ttl = await store.client.describe_time_to_live(TableName="once-things")
        assert ttl["TimeToLiveDescription"]["AttributeName"] == "expires_at"
        assert ttl["TimeToLiveDescription"]["TimeToLiveStatus"] in ("ENABLED", "ENABLING")
        await store.ping(THINGS)


async def test_table_that_is_not_there_is_unavailable(aws_environment: AwsEndpoint) -> None:
    """A missing table is not taken for an empty one."""
    async with _connected(aws_environment.url, "nowhere-") as store:
        for work in (store.ping(THINGS), store.table(THINGS).get(_key(1))):
            with pytest.raises(ServiceError) as caught:
                await work
            assert caught.value.code == ErrorCode.UNAVAILABLE


# --- A store that is away ---


@contextmanager
def _black_hole() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_closed_port_is_unavailable_soon(aws_environment: AwsEndpoint) -> None:
    """A store that refuses connections is `unavailable` after a few quick attempts."""
    async with _connected(f"http://127.0.0.1:{free_port()}") as store:
        started = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            await store.table(THINGS).get(_key(1))
        assert caught.value.code == ErrorCode.UNAVAILABLE
        assert caught.value.retry_after is not None
        assert time.monotonic() - started < 9


async def test_silent_store_is_unavailable_in_bounded_time_and_blocks_nobody(
    aws_environment: AwsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many calls wait for a store that never answers, everything else goes on, and all end in time."""
    monkeypatch.setattr(dynamo, "CALL_TIMEOUT_SECONDS", 1.0)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    with _black_hole() as url:
        async with _connected(url) as store:
            ticking = asyncio.create_task(tick())
            started = time.monotonic()
            results = await asyncio.gather(
                *(store.table(THINGS).get(_key(n)) for n in range(80)), return_exceptions=True
            )
            took = time.monotonic() - started
            ticking.cancel()
    assert {type(result) for result in results} == {ServiceError}
    assert 0.9 < took < 10
    assert ticks > 20


async def test_throttled_table_is_unavailable(aws_environment: AwsEndpoint) -> None:
    """A table at its limit is tried again a few times, then it is `unavailable`."""
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        body = b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'
        writer.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        async with _connected(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as store:
            with pytest.raises(ServiceError) as caught:
                await store.table(THINGS).get(_key(1))
    finally:
        server.close()
        await server.wait_closed()
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert asked == dynamo.ATTEMPTS_MAX


async def test_call_that_is_cancelled_gives_its_connection_back(things: Table) -> None:
    """Callers that give up do not use up the connections to the store."""
    for _ in range(3):
        tasks = [asyncio.create_task(things.get(_key(n))) for n in range(dynamo.POOL_CONNECTIONS)]
        await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await things.put(_key(1))
    async with asyncio.timeout(30):
        found: list[Any] = await asyncio.gather(
            *(things.get(_key(1)) for _ in range(2 * dynamo.POOL_CONNECTIONS))
        )
    assert all(item == _key(1) for item in found)
