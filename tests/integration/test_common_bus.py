"""The connection to NATS, on a real nats-server that is killed, frozen and restarted."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import StaleConnectionError

from artcafe_common import metrics
from artcafe_common.bus import OUTBOUND_BYTES_MAX, Bus
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.servers import RunningServer, nats_server

from .common_support import PATIENCE_SECONDS, opened, recorded, subject, until


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A bus on the shared server."""
    async with opened(nats_url) as connected:
        yield connected


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may treat badly."""
    with nats_server(tmp_path) as server:
        yield server


def test_private_names_of_the_client_are_there() -> None:
    """The names of nats-py that the bus builds on exist, and what it overrides takes what it did."""
    client = Client()
    for name in (
        *("_sid", "_subs", "_pending", "_pending_data_size", "_flush_queue", "_flusher_task"),
        *("_flush_timeout", "_pongs", "_pings_outstanding", "_pongs_received", "_max_payload", "_err"),
        *("_process_op_err", "_transport", "_ps", "stats"),
    ):
        assert hasattr(client, name), name
    for name in (
        *("_connect_to_server", "_flush_pending", "_send_ping", "_read_loop"),
        *("_process_pong", "_process_err"),
    ):
        ours = inspect.signature(getattr(Bus, name)).parameters
        theirs = inspect.signature(getattr(Client, name)).parameters
        assert list(ours) == list(theirs), name
        assert inspect.iscoroutinefunction(getattr(Client, name)), name


async def test_subscription_reaches_the_server_before_the_ping_of_a_flush(nats_url: str) -> None:
    """What was subscribed before a flush stands before its PING on the wire."""
    async with recorded(nats_url) as recorder, opened(recorder.url) as bus:
        for _ in range(3):
            await bus.subscribe(subject())
            await bus.flush()
        assert [command.split()[0] for command in recorder.commands()] == ["SUB", "PING"] * 3


async def test_end_of_a_subscription_reaches_the_server_before_the_ping_of_its_drain(nats_url: str) -> None:
    """A drained subscription is ended at the server before the PING that waits for what is on its way."""
    async with recorded(nats_url) as recorder, opened(recorder.url) as bus:
        subscription = await bus.subscribe(subject(), cb=_ignore)
        await bus.flush()
        await subscription.drain()  # type: ignore[no-untyped-call]
        kinds = [command.split()[0] for command in recorder.commands()]
        assert kinds == ["SUB", "PING", "UNSUB", "PING"]


async def test_direct_messages_arrive_in_order_and_complete(bus: Bus, nats_url: str) -> None:
    """A direct handler gets every message of a publisher once and in order."""
    name, got = subject(), []
    await bus.subscribe_direct(name, lambda subject, data: got.append((subject, int(data))))
    await bus.flush()
    async with opened(nats_url) as publisher:
        for number in range(5_000):
            publisher.publish_nowait(name, b"%d" % number)
        await publisher.flush()
        await until(lambda: len(got) >= 5_000)
    assert got == [(name.encode(), number) for number in range(5_000)]


async def test_direct_messages_of_one_read_come_in_one_turn() -> None:
    """What one read of the socket brought is handed over before anything else runs."""
    turns: list[int] = []
    turn = 0

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(next_turn)

    def answer(number: bytes) -> bytes:
        return b"".join(b"MSG a.b %b 2\r\nhi\r\n" % number for _ in range(200))

    server = await _fake_server(answer)
    try:
        async with opened(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}") as bus:
            await bus.subscribe_direct("a.b", lambda subject, data: turns.append(turn))
            next_turn()
            await until(lambda: len(turns) == 200)
            turn_before_stop = turn
            assert turn_before_stop > 0
    finally:
        server.close()
    assert len(set(turns)) == 1


async def test_messages_published_in_one_turn_are_written_together(nats_url: str) -> None:
    """What is published without waiting reaches the server in order, behind what was asked for before it."""
    async with recorded(nats_url) as recorder, opened(recorder.url) as bus:
        await bus.subscribe("test.before")
        for number in range(3):
            bus.publish_nowait("test.many", b"%d" % number)
        await bus.flush()
        kinds = [command.split()[0] for command in recorder.commands()]
        assert kinds == ["SUB", "PUB", "PUB", "PUB", "PING"]


async def test_direct_handler_that_raises_loses_nothing_but_its_message(bus: Bus) -> None:
    """A fault in a direct handler ends neither the subscription nor the connection."""
    name, got = subject(), []

    def handler(subject: bytes, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("a bug")
        got.append(data)

    await bus.subscribe_direct(name, handler)
    for payload in (b"1", b"bad", b"2"):
        bus.publish_nowait(name, payload)
    await until(lambda: len(got) == 2)
    assert got == [b"1", b"2"]


async def test_ended_direct_subscription_gets_nothing_more(bus: Bus) -> None:
    """After the end of a direct subscription nothing of it is left."""
    name, got = subject(), []
    subscription = await bus.subscribe_direct(name, lambda subject, data: got.append(data))
    bus.publish_nowait(name, b"1")
    await until(lambda: got == [b"1"])
    await bus.unsubscribe_direct(subscription)
    bus.publish_nowait(name, b"2")
    await bus.flush()
    assert got == [b"1"]
    assert not bus._direct
    assert subscription._id not in bus._subs


async def test_refused_direct_subscription_leaves_nothing(bus: Bus) -> None:
    """A subject that cannot be subscribed to leaves no handler behind, and the next one gets its messages."""
    with pytest.raises(Exception, match="subject"):
        await bus.subscribe_direct("not a subject", lambda subject, data: None)
    assert not bus._direct
    name, got = subject(), []
    await bus.subscribe_direct(name, lambda subject, data: got.append(data))
    bus.publish_nowait(name, b"1")
    await until(lambda: got == [b"1"])


async def test_subscriptions_work_again_after_a_restart(own_nats: RunningServer) -> None:
    """Direct subscriptions, those with a callback and queue groups are all there when NATS is back."""
    name, direct, called, queued, told = subject(), [], [], [], []

    async def call_back(message: Msg) -> None:
        called.append(message.data)

    async def take(message: Msg) -> None:
        queued.append(message.data)

    async with opened(own_nats.url) as bus:
        bus.on_lost(lambda: told.append("lost"))
        bus.on_back(lambda: told.append("back"))
        await bus.subscribe_direct(name, lambda subject, data: direct.append(data))
        await bus.subscribe(name, cb=call_back)
        await bus.subscribe(name, queue="workers", cb=take)
        await bus.flush()
        assert metrics.BUS_UP._value.get() == 1
        own_nats.kill()
        await until(lambda: told == ["lost"])
        assert metrics.BUS_UP._value.get() == 0
        own_nats.start()
        await until(lambda: told == ["lost", "back"])
        assert metrics.BUS_UP._value.get() == 1
        bus.publish_nowait(name, b"again")
        await until(lambda: bool(direct and called and queued))
        assert (direct, called, queued) == ([b"again"], [b"again"], [b"again"])


async def test_listener_that_raises_does_not_stop_the_reconnecting(own_nats: RunningServer) -> None:
    """A fault in what is called when NATS goes or comes costs neither the connection nor other listeners."""
    told: list[str] = []

    def fail() -> None:
        raise ValueError("a bug")

    async with opened(own_nats.url) as bus:
        bus.on_lost(fail)
        bus.on_lost(lambda: told.append("lost"))
        bus.on_back(fail)
        bus.on_back(lambda: told.append("back"))
        own_nats.kill()
        own_nats.start()
        await until(lambda: told == ["lost", "back"])
        await bus.flush()


async def test_nothing_is_published_while_the_server_is_away(own_nats: RunningServer) -> None:
    """A message that cannot be sent now is refused at once, not kept."""
    async with opened(own_nats.url) as bus:
        own_nats.kill()
        await until(lambda: not bus.is_connected)
        with pytest.raises(ServiceError) as caught:
            bus.publish_nowait("test.away", b"lost")
        assert caught.value.code == ErrorCode.UNAVAILABLE
        own_nats.start()
        await until(lambda: bus.is_connected)
        bus.publish_nowait("test.away", b"sent")


async def test_what_waits_for_a_server_that_does_not_read_is_bounded(own_nats: RunningServer) -> None:
    """Publishing to a frozen server is refused once too much waits, and closing still ends in time."""
    payload = bytes(512 * 1024)
    bus = await Bus.open(own_nats.url, name="test")
    own_nats.freeze()
    try:
        with pytest.raises(ServiceError) as caught:
            # Some of it lies in the sockets' own buffers.
            for _ in range(10 * OUTBOUND_BYTES_MAX // len(payload)):
                bus.publish_nowait("test.frozen", payload)
                await asyncio.sleep(0)
        assert caught.value.code == ErrorCode.UNAVAILABLE
        started = time.monotonic()
        await bus.close_gracefully(0.5)
        assert time.monotonic() - started < 8
    finally:
        own_nats.thaw()


async def test_message_over_the_servers_limit_is_refused(bus: Bus) -> None:
    """A message that the server would cut the connection for is never sent."""
    with pytest.raises(ServiceError) as caught:
        bus.publish_nowait(subject(), bytes(bus.max_payload + 1))
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
    await bus.flush()


async def test_error_of_the_server_is_followed_by_a_new_connection(bus: Bus) -> None:
    """Where the server cuts the connection because of a message, the bus connects again."""
    name, got, told = subject(), [], []
    await bus.subscribe_direct(name, lambda subject, data: got.append(data))
    bus.on_back(lambda: told.append("back"))
    limit = bus.max_payload
    bus._max_payload = 10 * limit
    bus.publish_nowait(name, bytes(limit + 1))
    await until(lambda: told == ["back"])
    assert bus.max_payload == limit
    bus.publish_nowait(name, b"again")
    await until(lambda: got == [b"again"])


async def test_credentials_that_come_back_are_used_again(tmp_path: Path) -> None:
    """A bus whose password is refused for a while connects when it holds again."""
    config = tmp_path / "nats.conf"

    def allow(password: str) -> None:
        config.write_text(f'authorization {{ user: "test", password: "{password}" }}\n')

    allow("first")
    with nats_server(tmp_path / "data", config=config) as server:
        bus = await Bus.open(server.url, name="test", user="test", password="first")
        told: list[str] = []
        bus.on_back(lambda: told.append("back"))
        server.kill()
        allow("second")
        server.start()
        await asyncio.sleep(1)
        assert not bus.is_connected
        server.kill()
        allow("first")
        server.start()
        await until(lambda: told == ["back"])
        await bus.close_gracefully()


async def test_flush_that_was_given_up_does_no_harm(own_nats: RunningServer) -> None:
    """The late answer to a flush that nobody waits for any more does not end the reading."""
    async with opened(own_nats.url) as bus:
        name, got = subject(), []
        await bus.subscribe_direct(name, lambda subject, data: got.append(data))
        await bus.flush()
        own_nats.freeze()
        try:
            # It answers until the signal has reached it.
            with pytest.raises(TimeoutError):
                while True:
                    async with asyncio.timeout(0.2):
                        await bus.flush()
        finally:
            own_nats.thaw()
        bus.publish_nowait(name, b"1")
        await until(lambda: got == [b"1"])


async def test_flush_fails_at_once_when_the_connection_is_lost(own_nats: RunningServer) -> None:
    """Whoever waits for an answer of a server that dies is not left waiting for the time limit."""
    async with opened(own_nats.url) as bus:
        own_nats.freeze()
        with pytest.raises(TimeoutError):
            while True:
                async with asyncio.timeout(0.2):
                    await bus.flush()
        flushing = asyncio.create_task(bus.flush())
        await asyncio.sleep(0.1)
        started = time.monotonic()
        own_nats.kill()
        with pytest.raises(StaleConnectionError):
            await flushing
        assert time.monotonic() - started < 8


async def test_closing_while_the_server_is_away_ends_the_reconnecting(tmp_path: Path) -> None:
    """Whenever the bus is closed, an attempt to connect that is under way is its last."""
    tasks = asyncio.all_tasks()
    with nats_server(tmp_path) as server:
        buses = [await Bus.open(server.url, name="test") for _ in range(60)]
        server.kill()
        await until(lambda: not any(bus.is_connected for bus in buses))
        for bus in buses:
            await bus.close()
            await asyncio.sleep(0.002)
        await until(lambda: asyncio.all_tasks() == tasks)
        server.start()
        assert not any(bus.is_connected for bus in buses)


async def test_connection_that_breaks_while_it_is_closed_is_closed(nats_url: str) -> None:
    """Bytes that cannot be sent any more are no reason to fail, or to leave anything running."""
    tasks = asyncio.all_tasks()
    bus = await Bus.open(nats_url, name="test")
    await bus.subscribe(subject(), cb=_ignore)
    bus.publish_nowait(subject(), b"lost")
    bus._transport._io_writer.transport.abort()  # type: ignore[union-attr]
    await bus.close()
    assert bus.is_closed
    await until(lambda: asyncio.all_tasks() == tasks)


async def test_task_can_be_cancelled_while_it_waits_for_room(own_nats: RunningServer) -> None:
    """A task that waits to publish to a frozen server ends when it is cancelled."""
    bus = await Bus.open(own_nats.url, name="test")
    own_nats.freeze()
    try:

        async def publish() -> None:
            while True:
                await bus.publish("test.frozen", bytes(512 * 1024))

        task = asyncio.create_task(publish())
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        assert task.cancelled()
    finally:
        own_nats.thaw()
        await bus.close_gracefully()


async def test_server_that_is_away_does_not_flood_the_log(
    own_nats: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of failure to connect is logged once in a while, not at every attempt."""
    async with opened(own_nats.url) as bus:
        own_nats.kill()
        await until(lambda: not bus.is_connected)
        with caplog.at_level(logging.INFO, "artcafe_common.bus"):
            await asyncio.sleep(2)
        assert len([r for r in caplog.records if r.name == "artcafe_common.bus"]) <= 4
        own_nats.start()
        await until(lambda: bus.is_connected)


async def test_subscription_that_does_not_keep_up_is_counted(bus: Bus) -> None:
    """Messages that a full subscription drops are counted, and the connection goes on."""
    name = subject()
    waiting = asyncio.Event()

    async def wait(message: Msg) -> None:
        await waiting.wait()

    dropped = metrics.BUS_DROPPED._value.get()
    await bus.subscribe(name, cb=wait, pending_msgs_limit=5)
    for _ in range(20):
        bus.publish_nowait(name, b"")
    await bus.flush()
    waiting.set()
    assert metrics.BUS_DROPPED._value.get() - dropped >= 14


async def _fake_server(answer: Callable[[bytes], bytes]) -> asyncio.Server:
    """A server that shakes hands, and answers each subscription as told."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            elif line.startswith(b"SUB"):
                writer.write(answer(line.split()[-1]))
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _ignore(message: Msg) -> None:
    return None
