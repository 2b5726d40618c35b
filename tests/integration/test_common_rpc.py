"""Requests, replies and events between services, on a real nats-server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg

from artcafe_common import rpc
from artcafe_common.bus import Bus
from artcafe_common.contracts import Endpoint, Event
from artcafe_common.errors import ErrorBody, ErrorCode, Quota, ServiceError
from artcafe_common.log import request_id_var
from artcafe_common.rpc import announce, call, listen, serve
from artcafe_devstack.servers import nats_server

from .common_support import PATIENCE_SECONDS, opened, recorded, subject, until


class Ask(msgspec.Struct, frozen=True):
    """A request of these tests."""

    number: int
    wait: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """A reply of these tests."""

    number: int
    text: str = ""


class Told(msgspec.Struct, frozen=True):
    """An event of these tests."""

    number: int


@pytest.fixture
def endpoint() -> Endpoint[Ask, Answer]:
    """An endpoint that no other test uses."""
    return Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)


@pytest.fixture
def event() -> Event[Told]:
    """An event that no other test uses."""
    return Event(subject() + ".{tenant_id}.{id}", Told)


@pytest.fixture
async def server(nats_url: str) -> AsyncIterator[Bus]:
    """The bus of the service that answers."""
    async with opened(nats_url) as bus:
        yield bus


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Bus]:
    """The bus of the service that asks."""
    async with opened(nats_url) as bus:
        yield bus


async def _echo(request: Ask) -> Answer:
    await asyncio.sleep(request.wait)
    return Answer(request.number)


async def test_first_call_right_after_serving_is_answered(nats_url: str) -> None:
    """Once `serve` is entered a request from anywhere finds it: no first call is lost."""
    async with opened(nats_url) as server, opened(nats_url) as client:
        for number in range(100):
            endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
            async with serve(server, endpoint, _echo, queue="test"):
                assert await call(client, endpoint, Ask(number)) == Answer(number)


async def test_nobody_serving_is_unavailable_at_once(client: Bus, endpoint: Endpoint[Ask, Answer]) -> None:
    """A call that nobody serves fails right away and not after its timeout."""
    started = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        await call(client, endpoint, Ask(1), timeout=2 * PATIENCE_SECONDS)
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert caught.value.retry_after is not None
    assert time.monotonic() - started < 10


async def test_call_while_the_bus_is_away_is_unavailable_at_once(
    tmp_path: Path, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A call without a connection is refused and not kept until there is one."""
    with nats_server(tmp_path) as nats:
        async with opened(nats.url) as bus:
            nats.kill()
            await until(lambda: not bus.is_connected)
            started = time.monotonic()
            with pytest.raises(ServiceError) as caught:
                await call(bus, endpoint, Ask(1), timeout=2 * PATIENCE_SECONDS)
            assert caught.value.code == ErrorCode.UNAVAILABLE
            assert time.monotonic() - started < 10


async def test_requests_are_worked_on_side_by_side(client: Bus, server: Bus) -> None:
    """Fifty requests of 0.4 s each take 0.4 s and not 20 s."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    async with serve(server, endpoint, _echo, queue="test"):
        started = time.monotonic()
        answers = await asyncio.gather(*(call(client, endpoint, Ask(n, 0.4)) for n in range(50)))
        assert time.monotonic() - started < 12
    assert [answer.number for answer in answers] == list(range(50))


async def test_concurrency_is_bounded(client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]) -> None:
    """No more requests are worked on at once than the service allows; the others wait their turn."""
    running = most = 0

    async def count(request: Ask) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return Answer(request.number)

    async with serve(server, endpoint, count, queue="test", concurrency=3):
        await asyncio.gather(*(call(client, endpoint, Ask(n)) for n in range(20)))
    assert most == 3


async def test_handler_that_raises_does_not_stop_the_next(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a handler is logged once, told as `internal` without detail, and costs no other request."""

    async def fail_once(request: Ask) -> Answer:
        if request.number == 1:
            raise ValueError("the secret is 42")
        return Answer(request.number)

    async with serve(server, endpoint, fail_once, queue="test"):
        with pytest.raises(ServiceError) as caught:
            await call(client, endpoint, Ask(1))
        assert caught.value.code == ErrorCode.INTERNAL
        assert "42" not in str(caught.value)
        assert await call(client, endpoint, Ask(2)) == Answer(2)
    assert [r.message for r in caplog.records if r.exc_info] == ["request_failed"]


async def test_handler_that_hangs_gives_its_place_back(client: Bus, server: Bus) -> None:
    """Requests that hang are ended after the endpoint's timeout, so that they cannot use up all places."""
    endpoint = Endpoint(subject(), Ask, Answer, 0.3)

    async def hang(request: Ask) -> Answer:
        if request.number == 0:
            await asyncio.Event().wait()
        return Answer(request.number)

    async with serve(server, endpoint, hang, queue="test", concurrency=2):
        hanging = [
            asyncio.create_task(call(client, endpoint, Ask(0), timeout=PATIENCE_SECONDS)) for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        assert await call(client, endpoint, Ask(5), timeout=PATIENCE_SECONDS) == Answer(5)
        for task in hanging:
            with pytest.raises(ServiceError) as caught:
                await task
            assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED


async def test_caller_waits_no_longer_than_the_endpoint_says(client: Bus, server: Bus) -> None:
    """A call gives up at its deadline and says so in a way that may be tried again."""
    endpoint = Endpoint(subject(), Ask, Answer, 0.2)

    async def silent(message: Msg) -> None:
        return None

    await server.subscribe(endpoint.subject, cb=silent)
    await server.flush()
    started = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        await call(client, endpoint, Ask(1))
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert 0.15 < time.monotonic() - started < 10


async def test_request_in_flight_is_answered_when_the_service_stops(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """Requests that a stopping service has taken are answered before it is gone."""
    async with serve(server, endpoint, _echo, queue="test", concurrency=4):
        asked = [asyncio.create_task(call(client, endpoint, Ask(n, 0.2))) for n in range(12)]
        await asyncio.sleep(0.1)
        # They are at the server; what it sends of them stands before the answer to the end of serving.
        await client.flush()
    await server.close_gracefully()
    assert [answer.number for answer in await asyncio.gather(*asked)] == list(range(12))


async def test_replica_that_leaves_under_load_loses_no_request(nats_url: str) -> None:
    """While a replica leaves and comes back, every request is answered by one of the two."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    async with (
        opened(nats_url) as client,
        opened(nats_url) as stays,
        serve(stays, endpoint, _echo, queue="q"),
    ):
        stop = asyncio.Event()

        async def leave_and_come() -> None:
            async with opened(nats_url) as leaves:
                while not stop.is_set():
                    async with serve(leaves, endpoint, _echo, queue="q"):
                        await asyncio.sleep(0.005)

        leaving = asyncio.create_task(leave_and_come())
        for _ in range(40):
            answers = await asyncio.gather(*(call(client, endpoint, Ask(n)) for n in range(50)))
            assert len(answers) == 50
        stop.set()
        await leaving


async def test_request_that_outlasts_the_drain_is_told(
    client: Bus, server: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stopping service cannot finish in time is answered `unavailable`, not left to time out."""
    monkeypatch.setattr(rpc, "DRAIN_TIMEOUT_SECONDS", 0.3)
    endpoint = Endpoint(subject(), Ask, Answer, 40.0)
    taken = asyncio.Event()

    async def long(request: Ask) -> Answer:
        taken.set()
        return await _echo(request)

    async with serve(server, endpoint, long, queue="test"):
        asked = asyncio.create_task(call(client, endpoint, Ask(1, 30.0)))
        await taken.wait()
        started = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        await asked
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert time.monotonic() - started < 20


async def test_nothing_is_served_after_the_end_while_the_bus_was_away(tmp_path: Path) -> None:
    """A service that stopped serving while NATS was away does not serve again when NATS is back."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    with nats_server(tmp_path) as nats:
        async with opened(nats.url) as server:
            async with serve(server, endpoint, _echo, queue="test"):
                nats.kill()
                await until(lambda: not server.is_connected)
            nats.start()
            await until(lambda: server.is_connected)
            async with opened(nats.url) as client:
                with pytest.raises(ServiceError) as caught:
                    await call(client, endpoint, Ask(1))
                assert caught.value.code == ErrorCode.UNAVAILABLE


async def test_service_answers_again_after_nats_was_restarted(tmp_path: Path) -> None:
    """An endpoint is served again when NATS is back, without anybody doing anything."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    with nats_server(tmp_path) as nats:
        async with (
            opened(nats.url) as server,
            opened(nats.url) as client,
            serve(server, endpoint, _echo, queue="test"),
        ):
            back: list[Bus] = []
            server.on_back(lambda: back.append(server))
            client.on_back(lambda: back.append(client))
            assert await call(client, endpoint, Ask(1)) == Answer(1)
            nats.kill()
            nats.start()
            await until(lambda: len(back) == 2)
            assert await call(client, endpoint, Ask(2)) == Answer(2)


async def test_error_keeps_all_that_it_says(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """Code, detail, retry hint and quota of an error arrive as they were raised."""

    async def refuse(request: Ask) -> Answer:
        raise ServiceError(
            ErrorCode.RESOURCE_EXHAUSTED, "too many", retry_after=2.5, quota=Quota("agents", 3, 3, "free")
        )

    async with serve(server, endpoint, refuse, queue="test"):
        with pytest.raises(ServiceError) as caught:
            await call(client, endpoint, Ask(1))
    error = caught.value
    assert (error.code, error.detail, error.retry_after) == (ErrorCode.RESOURCE_EXHAUSTED, "too many", 2.5)
    assert error.quota == Quota("agents", 3, 3, "free")


async def test_error_has_the_headers_of_nats_services(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """Tools that speak to NATS services see an error as one."""

    async def refuse(request: Ask) -> Answer:
        raise ServiceError(ErrorCode.NOT_FOUND, "no such thing")

    async with serve(server, endpoint, refuse, queue="test"):
        message = await client.request(endpoint.subject, b'{"number":1}', timeout=PATIENCE_SECONDS)
    assert message.headers == {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "not_found"}
    assert msgspec.json.decode(message.data, type=ErrorBody) == ErrorBody("not_found", "no such thing")


async def test_error_code_of_a_newer_service_is_internal(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A code that this version does not know is taken for `internal`, its detail kept."""

    async def newer(message: Msg) -> None:
        headers = {"Nats-Service-Error-Code": "418", "Nats-Service-Error": "teapot"}
        await server.publish(message.reply, b'{"code":"teapot","detail":"short and stout"}', headers=headers)

    await server.subscribe(endpoint.subject, cb=newer)
    await server.flush()
    with pytest.raises(ServiceError) as caught:
        await call(client, endpoint, Ask(1))
    assert (caught.value.code, caught.value.detail) == (ErrorCode.INTERNAL, "short and stout")


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"[]", b'{"number":"one"}', b"\xff", b"[" * 50_000])
async def test_request_that_is_not_valid_is_refused(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer], payload: bytes
) -> None:
    """Bytes that are no request of this subject are the asker's fault."""
    async with serve(server, endpoint, _echo, queue="test"):
        message = await client.request(endpoint.subject, payload, timeout=PATIENCE_SECONDS)
    assert msgspec.json.decode(message.data, type=ErrorBody).code == "invalid_argument"


async def test_fields_of_a_newer_caller_are_ignored(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A request with fields that this version does not know is served."""
    async with serve(server, endpoint, _echo, queue="test"):
        message = await client.request(
            endpoint.subject, b'{"number":7,"newer":{"a":[1]}}', timeout=PATIENCE_SECONDS
        )
    assert msgspec.json.decode(message.data, type=Answer) == Answer(7)


async def test_request_id_travels(client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]) -> None:
    """The id of the request that caused a call is known where the call is handled, and nowhere after it."""
    seen: list[str] = []

    async def note(request: Ask) -> Answer:
        seen.append(request_id_var.get())
        return Answer(request.number)

    async with serve(server, endpoint, note, queue="test"):
        token = request_id_var.set("request-1")
        await call(client, endpoint, Ask(1))
        request_id_var.reset(token)
        await call(client, endpoint, Ask(2))
    assert seen == ["request-1", ""]


async def test_headers_of_a_request_are_not_echoed(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """What a caller put into headers does not come back in the reply, where others may see it."""
    async with serve(server, endpoint, _echo, queue="test"):
        message = await client.request(
            endpoint.subject,
            b'{"number":1}',
            timeout=PATIENCE_SECONDS,
            headers={"Authorization": "Bearer secret"},
        )
    assert not message.headers


async def test_reply_over_the_limit_of_nats_is_an_error(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A reply that cannot be sent is answered as `internal` and not by silence."""

    async def long(request: Ask) -> Answer:
        return Answer(1, "x" * (server.max_payload + 1))

    async with serve(server, endpoint, long, queue="test"):
        with pytest.raises(ServiceError) as caught:
            await call(client, endpoint, Ask(1))
    assert caught.value.code == ErrorCode.INTERNAL


async def test_request_over_the_limit_of_nats_is_refused(
    client: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A request that cannot be sent says so."""
    big = Endpoint(endpoint.subject, Answer, Answer)
    with pytest.raises(ServiceError) as caught:
        await call(client, big, Answer(1, "x" * (client.max_payload + 1)))
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT


async def test_call_that_was_cancelled_leaves_nothing(
    client: Bus, server: Bus, endpoint: Endpoint[Ask, Answer]
) -> None:
    """A caller that gives up leaves no waiting reply behind, and a late reply does no harm."""
    async with serve(server, endpoint, _echo, queue="test"):
        await call(client, endpoint, Ask(0))
        asking = asyncio.create_task(call(client, endpoint, Ask(1, 0.2)))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        assert not client._resp_map
        await asyncio.sleep(0.3)
        assert await call(client, endpoint, Ask(2)) == Answer(2)


async def test_one_replica_of_a_queue_answers(nats_url: str, client: Bus) -> None:
    """Of several replicas in one queue group each request reaches exactly one."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    counts = [0, 0, 0]
    async with AsyncExitStack() as stack:
        for replica in range(3):

            async def count(request: Ask, replica: int = replica) -> Answer:
                counts[replica] += 1
                return Answer(request.number)

            bus = await stack.enter_async_context(opened(nats_url))
            await stack.enter_async_context(serve(bus, endpoint, count, queue="test"))
        await asyncio.gather(*(call(client, endpoint, Ask(n)) for n in range(60)))
    assert sum(counts) == 60
    assert min(counts) > 0


async def test_events_are_handled_in_order(client: Bus, server: Bus, event: Event[Told]) -> None:
    """Events are handled one after the other, in the order of their publisher."""
    got: list[int] = []

    async def handle(told: Told) -> None:
        await asyncio.sleep(0)
        got.append(told.number)

    async with listen(server, event, handle):
        for number in range(200):
            announce(client, event, Told(number), tenant_id="t", id=str(number))
        await until(lambda: len(got) == 200)
    assert got == list(range(200))


async def test_event_handler_that_raises_does_not_stop_the_next(
    client: Bus, server: Bus, event: Event[Told], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug, a refusal and bytes that are no event cost that event only."""
    got: list[int] = []

    async def handle(told: Told) -> None:
        if told.number == 1:
            raise ValueError("a bug")
        if told.number == 2:
            raise ServiceError(ErrorCode.UNAVAILABLE, "not now")
        got.append(told.number)

    async with listen(server, event, handle):
        client.publish_nowait(event.subject(tenant_id="t", id="x"), b"nonsense")
        for number in (1, 2, 3):
            announce(client, event, Told(number), tenant_id="t", id="x")
        await until(lambda: bool(got))
    assert got == [3]
    events = [r.message for r in caplog.records if r.name == "artcafe_common.rpc"]
    assert events == ["event_not_valid", "event_failed", "event_refused"]


async def test_event_handler_that_hangs_does_not_stop_the_next(
    client: Bus, server: Bus, event: Event[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that hangs is ended, and the next event is handled."""
    monkeypatch.setattr(rpc, "EVENT_TIMEOUT_SECONDS", 0.2)
    got: list[int] = []

    async def handle(told: Told) -> None:
        if told.number == 1:
            await asyncio.Event().wait()
        got.append(told.number)

    async with listen(server, event, handle):
        for number in (1, 2):
            announce(client, event, Told(number), tenant_id="t", id="x")
        await until(lambda: got == [2])


async def test_events_of_one_place_only(client: Bus, server: Bus, event: Event[Told]) -> None:
    """Whoever listens on a narrower subject gets no other events."""
    got: list[int] = []

    async def handle(told: Told) -> None:
        got.append(told.number)

    async with listen(server, event, handle, subject=event.subject(tenant_id="t1", id="*")):
        announce(client, event, Told(1), tenant_id="t10", id="x")
        announce(client, event, Told(2), tenant_id="t1", id="x")
        announce(client, event, Told(3), tenant_id="t1", id="team.updates")
        await until(lambda: bool(got))
        await client.flush()
    assert got == [2]


@pytest.mark.parametrize(
    "name", ["", "*", "a.>", "a b", "a\r\nPUB x 0", "a..b", ".a", "a.", "\u2003", "a\x00"]
)
def test_event_cannot_be_announced_to_a_name_that_is_none(event: Event[Told], name: str) -> None:
    """What would be a wildcard, or end the command, never becomes part of a subject."""
    with pytest.raises(ValueError, match="cannot stand"):
        announce(Bus(), event, Told(1), tenant_id="t", id=name)


async def test_end_of_serving_stands_before_its_ping_on_the_wire(nats_url: str) -> None:
    """A stopping service ends its subscription before the PING that waits for requests on their way."""
    endpoint = Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS)
    async with recorded(nats_url) as recorder, opened(recorder.url) as bus:
        async with serve(bus, endpoint, _echo, queue="test"):
            pass
        kinds = [command.split()[0] for command in recorder.commands()]
        assert kinds[:4] == ["SUB", "PING", "UNSUB", "PING"]


async def test_serving_many_times_leaves_nothing(nats_url: str) -> None:
    """Subscriptions and tasks of endpoints that ended are gone."""
    async with opened(nats_url) as bus:
        tasks = len(asyncio.all_tasks())
        for _ in range(200):
            async with serve(bus, Endpoint(subject(), Ask, Answer, PATIENCE_SECONDS), _echo, queue="test"):
                pass
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not bus._subs
