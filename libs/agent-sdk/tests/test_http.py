"""HTTP calls: what comes back, and what every failure is called."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sdk_rest import RestPeer

from artcafe_agent import ApiError, UnexpectedAnswer, Unreachable
from artcafe_agent.http import in_thread, request, request_json


def test_json_goes_both_ways(rest: RestPeer) -> None:
    """The body is JSON, null included; the answer is decoded; who we are is told."""
    rest.on("POST /x", {"n": 1})
    assert request_json("POST", f"{rest.url}/api/v1/x", body={"é": None}, headers={"X-Tenant-Id": "t"}) == {
        "n": 1
    }
    request_json("POST", f"{rest.url}/api/v1/x", body=None)
    with_body, with_null = rest.seen
    assert with_body.body == {"é": None}
    assert with_body.headers["x-tenant-id"] == "t"
    assert with_body.headers["content-type"] == "application/json"
    assert with_body.headers["user-agent"].startswith("artcafe-agent/")
    assert with_null.headers["content-length"] == "4"


def test_call_without_body_sends_none(rest: RestPeer) -> None:
    """A DELETE has no body, and neither has the answer to it."""
    rest.on("DELETE /x", status=204)
    assert request_json("DELETE", f"{rest.url}/api/v1/x") is None
    assert "content-type" not in rest.seen[0].headers


def test_problem_details_become_an_error(rest: RestPeer) -> None:
    """Code, detail, request id, the time to wait, and the plan's limit."""
    problem = {"type": "about:blank", "title": "Limit", "status": 402, "code": "resource_exhausted"}
    problem |= {"detail": "too many agents", "instance": "r7"}
    problem |= {"resource": "agents", "current": 3, "limit": 3, "plan": "free"}
    rest.on("POST /agents", problem, 402, Retry_After="2")
    with pytest.raises(ApiError) as caught:
        request_json("POST", f"{rest.url}/api/v1/agents", body={})
    error = caught.value
    assert (error.status, error.code, error.detail) == (402, "resource_exhausted", "too many agents")
    assert (error.request_id, error.retry_after, error.temporary) == ("r7", 2.0, False)
    assert error.extra == {"resource": "agents", "current": 3, "limit": 3, "plan": "free"}
    assert str(error) == (
        "resource_exhausted: too many agents (resource agents, current 3, limit 3, plan free); "
        "try again in 2 s [request r7]"
    )


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (502, b"<html>bad gateway</html>", "http_502"),
        (503, b"", "unavailable"),
        (404, b"[]", "not_found"),
        (401, b'{"detail":5}', "unauthenticated"),
    ],
)
def test_refusals_of_others_are_errors_too(rest: RestPeer, status: int, body: bytes, code: str) -> None:
    """Proxies in between answer as they like."""
    rest.on("GET /x", body, status)
    with pytest.raises(ApiError) as caught:
        request_json("GET", f"{rest.url}/api/v1/x")
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "<html>" not in str(caught.value)


def test_answer_that_is_no_json(rest: RestPeer) -> None:
    """A captive portal answers 200 to everything."""
    rest.on("GET /x", b"<html>welcome</html>")
    with pytest.raises(UnexpectedAnswer, match="is this an ArtCafe server"):
        request_json("GET", f"{rest.url}/api/v1/x")


def test_redirects_are_not_followed(rest: RestPeer) -> None:
    """They would carry the token to another host."""
    rest.on("GET /x", None, 307, Location="http://elsewhere.example/")
    with pytest.raises(ApiError, match=r"elsewhere\.example"):
        request_json("GET", f"{rest.url}/api/v1/x", headers={"Authorization": "Bearer secret"})
    assert len(rest.seen) == 1


def test_no_server(closed_port: int) -> None:
    """The error names the address, without its query."""
    with pytest.raises(Unreachable, match="/x cannot be reached: connection refused") as caught:
        request("GET", f"http://127.0.0.1:{closed_port}/x?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(Unreachable):
        request("GET", "http://name.invalid/x")


@pytest.fixture
def dripping() -> Iterator[str]:
    """Run a server that answers one byte at a time, for five seconds."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(65536)
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(1000):  # not for ever: a client without a deadline must fail the test, not hang it
                if done.wait(0.02):
                    return
                accepted.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    done.set()
    thread.join()
    listener.close()


def test_timeout_is_for_the_whole_call(dripping: str) -> None:
    """A server that sends a byte now and then does not stretch it."""
    started = time.monotonic()
    with pytest.raises(Unreachable, match="no answer in time"):
        request("GET", dripping, timeout=0.3)
    assert time.monotonic() - started < 10


def test_what_is_no_http() -> None:
    """Another protocol on the port is unreachable, not a crash."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(Unreachable):
            request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


async def test_thread_beside_the_loop_returns_and_raises() -> None:
    """Results and errors come back; the loop goes on meanwhile."""
    assert await in_thread(lambda: 42) == 42
    with pytest.raises(ValueError, match="from the thread"):
        await in_thread(lambda: int("from the thread"))


def test_loop_ends_without_waiting_for_the_thread() -> None:
    """Ctrl-C while a server is silent ends at once; the late result disturbs nothing."""
    release = threading.Event()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await in_thread(lambda: release.wait(20))

    started = time.monotonic()
    asyncio.run(give_up())
    assert time.monotonic() - started < 15
    thread = next(each for each in threading.enumerate() if each.name == "artcafe-http")
    assert thread.daemon  # nor does the interpreter wait for it
    release.set()
    thread.join(20)
    assert not thread.is_alive()
