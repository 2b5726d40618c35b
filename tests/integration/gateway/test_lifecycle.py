"""A gateway's end, its limits, and that nothing stays behind of those who have gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import time
import weakref
from collections import Counter
from inspect import isawaitable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.contracts.registry import Grant
from artcafe_common.rpc import serve
from artcafe_gateway import connection
from artcafe_gateway import gateway as gateway_module
from artcafe_gateway.app import HEALTH_SECONDS
from artcafe_gateway.connection import Connection
from artcafe_gateway.session import Session

PATIENCE_SECONDS = 60.0


@pytest.fixture
def nats_url(own_nats: Any) -> str:
    """Give these tests a NATS server that they can look into."""
    url: str = own_nats.server.url
    return url


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late a client reads that it is closed, it is not cut off."""
    monkeypatch.setattr(connection, "CLOSE_GRACE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(gateway_module, "GOODBYE_SECONDS", PATIENCE_SECONDS)


async def until(condition: Any, timeout: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout):
        while not (await held if isawaitable(held := condition()) else held):
            await asyncio.sleep(0.02)


async def is_ready(http: httpx.AsyncClient, gateway: Any) -> bool:
    """Tell whether a gateway says that it is ready."""
    return (await http.get(f"{gateway.http_url}/ready")).status_code == 200


async def test_a_stop_tells_everyone_to_come_back_over_some_time(start_gateway: Any) -> None:
    """Each socket is closed with 1012, agents and dashboards, not all at the same moment."""
    gateway = await start_gateway(drain_seconds=1.0)
    clients = [await gateway.agent(f"a{number}") for number in range(20)]
    clients.append(await gateway.dashboard("ann"))
    loop = asyncio.get_running_loop()

    async def closed_at(client: Any) -> tuple[int, float]:
        code, _ = await client.closed()
        return code, loop.time()

    waiting = [asyncio.create_task(closed_at(client)) for client in clients]
    await gateway.drain()
    outcomes = await asyncio.gather(*waiting)
    times = sorted(at for _, at in outcomes)
    assert {code for code, _ in outcomes} == {1012}
    assert 0.5 < times[-1] - times[0] < 20.0
    assert times[10] - times[0] > 0.2


async def test_a_stop_waits_between_sockets_only(start_gateway: Any) -> None:
    """With one socket there is nothing to spread, however much time there is for it."""
    gateway = await start_gateway(drain_seconds=10 * PATIENCE_SECONDS)
    client = await gateway.agent("a")
    await gateway.drain()
    assert (await client.closed())[0] == 1012


@pytest.mark.parametrize("rounds", range(4))
async def test_who_comes_in_at_a_stop_gets_an_end(start_gateway: Any, rounds: int) -> None:
    """Whoever has connected some rounds of the loop before the port is closed is not left to wait."""
    gateway = await start_gateway(drain_seconds=0.0)
    url = urlsplit(gateway.ws_url)
    gc.disable()  # which ends, at some time, what nobody holds
    try:
        with socket.create_connection((url.hostname, url.port), timeout=30) as client:
            client.sendall(b"GET /ws/agent/a HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(rounds):
                await asyncio.sleep(0)
            await gateway.drain()
            with contextlib.suppress(ConnectionError):
                while await asyncio.to_thread(client.recv, 65_536):
                    pass
    finally:
        gc.enable()


async def test_what_is_on_its_way_at_a_stop_arrives(start_gateway: Any, patient: None) -> None:
    """Messages sent until the close is read reach a subscriber elsewhere, in order, each once."""
    leaving, staying = await start_gateway("gateway-1", drain_seconds=0.5), await start_gateway("gateway-2")
    reader = await staying.agent("reader")
    await reader.subscribe("room")
    writers = [await leaving.agent(f"w{number}") for number in range(5)]
    sent: Counter[str] = Counter()

    async def write(client: Any, name: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.send(type="publish", channel="room", data=[name, sent[name]])
                sent[name] += 1
                await asyncio.sleep(0.002)

    writing = [asyncio.create_task(write(client, f"w{n}")) for n, client in enumerate(writers)]
    await until(lambda: sum(sent.values()) > 200)
    await leaving.drain()
    await asyncio.gather(*writing)
    last = await staying.agent("last")
    await last.send(type="publish", channel="room", data=["end", 0])
    got: dict[str, list[int]] = {}
    while True:
        name, number = (await reader.expect("message"))["data"]
        if name == "end":
            break
        got.setdefault(name, []).append(number)
    for name, numbers in got.items():
        assert numbers == list(range(len(numbers)))
        # One frame may have been written into a connection that was being closed.
        assert sent[name] - len(numbers) <= 1, (name, sent[name], len(numbers))


async def test_what_is_sent_before_the_close_is_read_is_published(start_gateway: Any, patient: None) -> None:
    """A client that has not seen the goodbye yet loses nothing, and nothing is done that it will repeat."""
    leaving, staying = await start_gateway("gateway-1", drain_seconds=0.0), await start_gateway("gateway-2")
    reader = await staying.agent("reader")
    await reader.subscribe("room", "new")
    slow, quick = await leaving.agent("slow"), await leaving.agent("quick")
    await slow.send(type="publish", channel="room", data="first")
    await reader.expect("message", data="first")
    slow.socket.transport.pause_reading()
    leaving.stop.set()
    await quick.closed()
    for number in range(100):
        await slow.send(type="publish", channel="room", data=number)
    await slow.send(type="publish", channel="new", data="new")
    await slow.send(type="publish", channel="room", data="will be repeated", id=1)
    slow.socket.transport.resume_reading()
    assert (await slow.closed())[0] == 1012
    for number in range(100):
        await reader.expect("message", data=number)
    await reader.expect("message", data="new")
    await reader.nothing()


async def test_a_stop_ends_in_time_although_nobody_reads(start_gateway: Any) -> None:
    """Peers that neither read nor answer do not hold up the end."""
    gateway = await start_gateway(drain_seconds=0.2)
    writer = await gateway.agent("writer")
    stuck = [await gateway.agent(f"s{number}") for number in range(3)]
    for client in stuck:
        await client.subscribe("room")
        client.socket.transport.pause_reading()
    for _ in range(100):
        await writer.send(type="publish", channel="room", data="x" * 30_000)
    await writer.nothing()
    _, half_open = await asyncio.open_connection("127.0.0.1", gateway.ws_port)
    started = asyncio.get_running_loop().time()
    await gateway.drain()
    assert asyncio.get_running_loop().time() - started < 20.0
    half_open.close()
    for client in stuck:
        client.socket.transport.abort()


async def test_a_stopped_gateway_takes_nobody_in(start_gateway: Any, patient: None) -> None:
    """While it waits for its sockets to close, new ones are refused and it says that it is leaving."""
    gateway = await start_gateway()
    held, slow = [await gateway.agent(f"a{number}") for number in range(5)], await gateway.agent("slow")
    # As long as this one does not read the goodbye.
    slow.socket.transport.pause_reading()
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        await until(lambda: is_ready(http, gateway))
        gateway.stop.set()
        for client in held:
            assert (await client.closed())[0] == 1012
        answer = await http.get(f"{gateway.http_url}/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    with pytest.raises((OSError, InvalidStatus)):
        await gateway.open("/ws/agent/late?challenge=t1&signature=good")
    slow.socket.transport.resume_reading()
    assert (await slow.closed())[0] == 1012


async def test_a_full_gateway_refuses_the_upgrade(start_gateway: Any) -> None:
    """Beyond its limit an upgrade is answered with 503 and a time to wait; a place given up is free again."""
    gateway = await start_gateway(max_connections=3)
    clients = [await gateway.agent(f"a{number}") for number in range(3)]
    with pytest.raises(InvalidStatus) as caught:
        await gateway.agent("late")
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["Retry-After"] == "2"
    await clients[0].socket.close()
    late = await gateway.agent("late")
    await late.nothing()


async def test_a_wrong_path_is_not_found(gateway: Any) -> None:
    """Only the documented paths are sockets."""
    for path in ("/", "/ws/", "/ws/agent/a.b", "/metrics"):
        with pytest.raises(InvalidStatus) as caught:
            await gateway.open(path)
        assert caught.value.response.status_code == 404


async def test_a_reader_that_stops_slows_nobody_and_is_closed(start_gateway: Any, patient: None) -> None:
    """With the default policy the slow one is closed with 4002, the others get everything promptly."""
    gateway = await start_gateway(outbox_bytes=262_144)
    writer, fast, slow = [await gateway.agent(name) for name in ("writer", "fast", "slow")]
    for reader in (fast, slow):
        await reader.subscribe("room")
    slow.socket.transport.pause_reading()
    delays = []
    loop = asyncio.get_running_loop()
    for number in range(300):
        sent_at = loop.time()
        await writer.send(type="publish", channel="room", data={"n": number, "x": "x" * 30_000})
        assert (await fast.expect("message"))["data"]["n"] == number
        delays.append(loop.time() - sent_at)
    assert sorted(delays)[len(delays) * 9 // 10] < 1.0
    slow.socket.transport.resume_reading()
    got = []
    with pytest.raises(ConnectionClosed):
        while True:
            got.append((await slow.receive())["data"]["n"])
    assert (await slow.closed())[0] == 4002
    # What it did get has no gap.
    assert got == list(range(len(got)))


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_a_reader_that_may_lose_messages_is_told_how_many(start_gateway: Any, policy: str) -> None:
    """What arrived and what was said to be dropped is everything, in order, and then it is live again."""
    gateway = await start_gateway(outbox_bytes=262_144)
    writer, slow = await gateway.agent("writer"), await gateway.agent("slow")
    await slow.subscribe("room", policy=policy)
    slow.socket.transport.pause_reading()
    count = 400
    for number in range(count):
        await writer.send(type="publish", channel="room", data={"n": number, "x": "x" * 30_000})
    await writer.nothing()
    await writer.send(type="subscribe", channel="done")
    await writer.expect("subscribed")
    slow.socket.transport.resume_reading()
    got: list[int] = []
    dropped = 0
    while len(got) + dropped < count:
        event = await slow.receive()
        if event["type"] == "message":
            got.append(event["data"]["n"])
        else:
            assert (event["type"], event["channel"]) == ("dropped", "room")
            dropped += event["count"]
    assert len(got) + dropped == count and dropped > 0
    assert got == sorted(set(got))
    assert got[0] == 0
    assert (got[-1] == count - 1) == (policy == "drop_oldest")
    await writer.send(type="publish", channel="room", data={"n": "live"})
    await slow.expect("message", data={"n": "live"})


async def test_a_slow_reader_takes_no_more_memory_than_its_outbox(start_gateway: Any) -> None:
    """Whatever is published, what waits for one socket is bounded."""
    gateway = await start_gateway(outbox_bytes=131_072)
    writer, fast, slow = [await gateway.agent(name) for name in ("writer", "fast", "slow")]
    await fast.subscribe("room")
    await slow.subscribe("room", policy="drop_newest")
    slow.socket.transport.pause_reading()
    for number in range(1000):
        await writer.send(type="publish", channel="room", data={"n": number, "x": "x" * 20_000})
        await fast.expect("message")
    [connection] = [each for each in _alive(Connection) if each.agent_id == "slow" and not each.gone]
    assert connection.blocked
    waiting = connection._transport._raw.get_write_buffer_size() + connection._outbox.size
    # The transport keeps the messages of one write at most, the rest waits where it is counted.
    assert waiting <= 131_072 + 65_536
    slow.socket.transport.abort()


async def test_a_message_sent_right_before_leaving_arrives(gateway: Any) -> None:
    """A program that connects, publishes and ends has published, on a channel nobody used before, too."""
    reader = await gateway.agent("reader")
    await reader.subscribe("new.*", "abrupt")
    for number in range(5):
        writer = await gateway.agent("writer")
        await writer.send(type="publish", channel=f"new.{number}", data=number)
        await writer.socket.close()
        await reader.expect("message", channel=f"new.{number}", data=number)
    writer = await gateway.agent("writer")
    await writer.send(type="publish", channel="abrupt", data="last")
    writer.socket.transport.write_eof()
    await reader.expect("message", channel="abrupt", data="last")


async def test_nothing_stays_of_a_thousand_connections(start_gateway: Any, own_nats: Any) -> None:
    """Tasks, sessions, connections and subscriptions at NATS are after it what they were before."""
    # A short time to come back: those that vanished are kept for it.
    gateway = await start_gateway(heartbeat_timeout=1.5, ping_interval=0.3)
    gateway.world.channel("t1", "auto")
    gateway.world.grants["t1", "a7"] = [Grant(channel_id="auto", role="both", auto_subscribe=True)]
    keeper, desk = await gateway.agent("keeper"), await gateway.dashboard("ann")
    await keeper.subscribe("keep", "keep.*")
    token = gateway.world.token("ann")

    async def visit(number: int) -> None:
        """Come, do something, and go in one of several ways."""
        try:
            if number % 5 == 4:
                client = await gateway.open(f"/ws/dashboard?token={token}&tenant_id=t1")
                await client.expect("connected")
                await client.send(type="subscribe_topic_preview")
                await client.send(type="subscribe_agents")
                await client.send(type="subscribe_changes")
                await client.send(type="subscribe_channel", channel_id="auto")
            elif number % 5 == 3:
                client = await gateway.open(f"/ws/agent/a{number}?challenge=t1&signature=bad")
            else:
                client = await gateway.open(f"/ws/agent/a{number % 50}?challenge=t1&signature=good")
                names = [f"c{number}", "keep", "keep.*", f"w{number}.>"]
                await client.send(type="subscribe", channels=names)
                await client.send(type="publish", channel=f"c{number}", data=number)
            match number % 7:
                case 0:
                    client.socket.transport.abort()
                case 1:
                    await client.nothing()
                    await client.socket.close()
                case _:
                    await client.socket.close()
        except (ConnectionClosed, AssertionError):
            # It was replaced by another visitor of the same name.
            client.socket.transport.abort()

    async def visits(first: int, count: int) -> None:
        for start in range(first, first + count, 20):
            await asyncio.gather(*(visit(number) for number in range(start, start + 20)))

    async def quiet() -> bool:
        gc.collect()
        sessions = [s for s in _alive(Session) if not s.ended]
        return len(sessions) == 2 and await own_nats.data_subjects() == kept

    kept = ["tenant.t1.channel.keep", "tenant.t1.channel.keep.*"]
    await visits(0, 100)
    await until(quiet)
    before = _census()
    await visits(100, 1000)
    await until(quiet)
    with contextlib.suppress(TimeoutError):
        await until(lambda: _census() <= before, 30)
    assert _census() - before == Counter()
    await keeper.nothing()
    await desk.send(type="ping")
    await desk.until("pong")
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{gateway.http_url}/metrics")).text
    assert "artcafe_gateway_subscriptions 2.0" in text


async def test_a_session_is_freed_when_its_socket_ends(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cycle keeps what belonged to a connection until the collector comes, nor whoever looks after it."""
    monkeypatch.setattr(gateway_module, "WATCH_SECONDS", 0.05)
    gateway = await start_gateway()
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("ann")
    await alice.subscribe("room", "room.*")
    await alice.send(type="publish", channel="room", data=1)
    await alice.expect("message")
    await desk.send(type="subscribe_topic_preview")
    await desk.send(type="subscribe_changes")
    await desk.send(type="subscribe_agents")
    await desk.until("agents_snapshot_complete")
    # It has been looked at.
    await asyncio.sleep(0.2)
    left = [weakref.ref(each) for each in _alive(Session)]
    assert len(left) == 2
    gc.disable()
    try:
        await alice.socket.close()
        await desk.socket.close()
        await until(lambda: not [each for each in left if each() is not None])
    finally:
        gc.enable()


def _alive(kind: type[Any]) -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, kind)]


def _census() -> Counter[str]:
    """Count what could pile up: tasks by their work, timers, and objects of the gateway."""
    gc.collect()
    # Clients of this process that are on their way out are not the gateway's.
    tasks = [
        task.get_coro().__qualname__  # type: ignore[union-attr]
        for task in asyncio.all_tasks()
    ]
    counts = Counter(name for name in tasks if not name.startswith(("ClientConnection", "connect")))
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    # Those of the clients that just left and of whoever counts come and go.
    counts["timers"] = max(40, len([timer for timer in timers if not timer.cancelled()]))
    counts["connections"] = len(_alive(Connection))
    counts["sessions"] = len(_alive(Session))
    return counts


async def test_the_health_of_the_suite_names_every_service(gateway: Any) -> None:
    """Services that do not answer are down, and with them the suite."""
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:

        async def told() -> bool:
            # What a busy machine did not answer in time is not known, or down, for a moment.
            answer = await http.get(f"{gateway.http_url}/api/v1/health")
            report = json.loads(answer.text)
            assert answer.status_code == 503 and report["status"] == "down"
            services = {name: service["status"] for name, service in report["services"].items()}
            return services == {"gateway": "up"} | dict.fromkeys(("auth", "registry", "metering"), "down")

        await until(told)


async def test_many_who_ask_for_health_cost_one_look(gateway: Any) -> None:
    """Strangers may ask as often as they like: the services are asked once a second at most."""
    questions = 0

    async def health(_: GetHealth) -> Health:
        nonlocal questions
        questions += 1
        return Health(service="registry", server_id="r", version="1", status="up", dependencies=[])

    async with (
        serve(gateway.world.bus, health_endpoint("registry"), health, queue="registry"),
        httpx.AsyncClient(base_url=gateway.http_url, timeout=30) as http,
    ):
        began = time.monotonic()
        answers = await asyncio.gather(*(http.get("/api/v1/health") for _ in range(100)))
        took = time.monotonic() - began
        # The others are not there.
        assert {answer.status_code for answer in answers} == {503}
        assert 1 <= questions <= 1 + took / HEALTH_SECONDS

        # What is told is never older than that.
        seen = questions
        async with asyncio.timeout(PATIENCE_SECONDS):
            while questions == seen:
                await http.get("/api/v1/health")
