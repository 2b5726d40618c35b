"""The HTTP kit: what a request goes through on its way to a handler, and back."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from artcafe_common import metrics
from artcafe_common.errors import ErrorCode, ServiceError, unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import Operation, create_app
from artcafe_common.http import app as http_app
from artcafe_common.log import request_id_var
from artcafe_common.tokens import TenantScope

from .http_support import OPERATIONS, TOKEN, access_of, client_of, demo_app, registry_of, sign_in


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token of the tenant's owner."""
    async with client_of(demo_app(), headers=TOKEN) as client:
        yield client


@pytest.fixture
async def stranger() -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with client_of(demo_app()) as client:
        yield client


def _problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["instance"] == response.headers["x-request-id"]
    assert set(body) >= {"type", "title", "detail"}
    return body


# --- Answers ---


async def test_reply_is_json(client: httpx.AsyncClient) -> None:
    """What a handler returns is the body, with the operation's status."""
    response = await client.post("/things", json={"name": "n", "metadata": {"a": [1, None]}})
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert (response.json()["name"], response.json()["metadata"]) == ("n", {"a": [1, None]})


async def test_no_reply_is_204(client: httpx.AsyncClient) -> None:
    """An operation without a reply answers with nothing."""
    response = await client.delete("/things/x")
    assert (response.status_code, response.content) == (204, b"")


async def test_handler_may_answer_itself(client: httpx.AsyncClient) -> None:
    """A response of the handler's own is sent as it is, and its stream still knows the request."""
    response = await client.get("/export", headers={"X-Request-Id": "abc"})
    assert response.headers["content-type"].startswith("text/csv")
    assert response.headers["cache-control"] == "private"
    assert response.text == "abc\nabc\nabc\n"


async def test_answers_are_not_stored(client: httpx.AsyncClient) -> None:
    """Nobody on the way keeps an answer that may hold a token or a private key."""
    for path in ("/things/x", "/fail/bug", "/nowhere"):
        assert (await client.get(path)).headers["cache-control"] == "no-store"


# --- Failures ---


@pytest.mark.parametrize(
    ("how", "status", "title"),
    [
        ("invalid_argument", 400, "Invalid argument"),
        ("unauthenticated", 401, "Not authenticated"),
        ("permission_denied", 403, "Permission denied"),
        ("not_found", 404, "Not found"),
        ("already_exists", 409, "Already exists"),
        ("failed_precondition", 409, "Failed precondition"),
        ("resource_exhausted", 429, "Too many requests"),
        ("internal", 500, "Internal error"),
        ("unavailable", 503, "Unavailable"),
        ("deadline_exceeded", 504, "Deadline exceeded"),
    ],
)
async def test_error_is_a_problem_document(
    client: httpx.AsyncClient, how: str, status: int, title: str
) -> None:
    """Each error code is these fields and no others."""
    response = await client.get(f"/fail/{how}", headers={"X-Request-Id": "r1"})
    _problem(response, status, how)
    assert json.loads(response.content) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": how,
        "detail": f"it is {how}",
        "instance": "r1",
    }


async def test_problem_document_is_these_bytes(client: httpx.AsyncClient) -> None:
    """The order and form of a problem's fields stay as they are."""
    response = await client.get("/fail/quota", headers={"X-Request-Id": "r1"})
    assert response.content == (
        b'{"type":"about:blank","title":"Plan limit reached","status":402,"code":"resource_exhausted",'
        b'"detail":"full","instance":"r1","resource":"agents","current":3,"limit":3,"plan":"free"}'
    )


async def test_plans_limit_is_402_and_rate_429(client: httpx.AsyncClient) -> None:
    """A plan's limit says which one, a rate says when to come back."""
    quota = await client.get("/fail/quota")
    assert _problem(quota, 402, "resource_exhausted")["resource"] == "agents"
    assert "retry-after" not in quota.headers
    rate = await client.get("/fail/rate")
    assert "resource" not in _problem(rate, 429, "resource_exhausted")
    assert rate.headers["retry-after"] == "2"


async def test_what_is_away_says_when_to_come_back(client: httpx.AsyncClient) -> None:
    """A store that is down is `unavailable` with a hint."""
    response = await client.get("/fail/away")
    _problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("how", ["bug", "deep"])
async def test_bug_is_logged_once_and_told_without_detail(
    client: httpx.AsyncClient, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is in the log with its stack, and leaves as `internal`."""
    body = _problem(await client.get(f"/fail/{how}"), 500, "internal")
    assert body["detail"] == "internal error"
    [record] = [r for r in caplog.records if r.name.startswith("artcafe")]
    assert record.exc_info is not None
    assert record.message == "request_failed"


async def test_failure_outside_of_an_operation_is_a_problem(client: httpx.AsyncClient) -> None:
    """Routes that are served as they are fail in the same form."""
    broken = await client.get("http://test/broken", headers={"X-Request-Id": "r1"})
    assert _problem(broken, 500, "internal")["detail"] == "internal error"
    assert broken.headers["x-request-id"] == "r1"
    _problem(await client.get("http://test/refusing"), 404, "not_found")


async def test_unknown_route_is_a_problem(client: httpx.AsyncClient) -> None:
    """What nobody serves is 404, in the same form."""
    assert _problem(await client.get("/nowhere"), 404, "not_found")["detail"] == "no such route"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/things", {"GET", "HEAD", "POST"}),
        ("POST", "/things/x", {"GET", "HEAD", "DELETE"}),
        ("OPTIONS", "/login", {"POST"}),
        ("GET", "/login", {"POST"}),
        ("HEAD", "/login", {"POST"}),
    ],
)
async def test_method_that_is_not_served_is_told_the_others(
    client: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    """405 names every method of the path."""
    response = await client.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        _problem(response, 405, "invalid_argument")


async def test_head_is_answered_like_get(client: httpx.AsyncClient) -> None:
    """HEAD of a route with GET has its status and headers."""
    response = await client.head("/things/x")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert (await client.head("/fail/not_found")).status_code == 404


async def test_slash_at_the_end_makes_no_difference(client: httpx.AsyncClient) -> None:
    """A path with a slash behind it is the path, without a redirect to an address clients cannot reach."""
    response = await client.post("/things/", json={"name": "n"})
    assert response.status_code == 201
    assert (await client.get("/things/x/")).json()["path"] == {"thing_id": "x"}
    assert (await client.get("http://test/")).text == "page"
    _problem(await client.get("/nowhere/"), 404, "not_found")


async def test_fixed_path_goes_before_one_with_a_parameter(client: httpx.AsyncClient) -> None:
    """The order in which operations are listed does not matter."""
    assert (await client.get("/things/special")).json()["name"] == "special"


async def test_client_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes away while sending its body costs no log line."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/login",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    await demo_app().asgi(scope, receive, send)
    assert sent[0]["status"] == 499
    assert not caplog.records


# --- Bodies and queries ---


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"name":"n"} x', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"name":"\xff"}', "not valid JSON"),
        (b'{"name":"\\ud800"}', "not valid JSON"),
        (b'{"name":"n","metadata":{"a":NaN}}', "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b'"name"', "Expected `object`"),
        (b"{}", "missing required field `name`"),
        (b'{"name":7}', "Expected `str`"),
        (b'{"name":null}', "Expected `str`"),
        (b'{"name":""}', "length >= 1"),
        (b'{"name":"' + b"x" * 21 + b'"}', "length <= 20"),
        (b'{"name":"n","count":-1}', ">= 0"),
        (b'{"name":"n","count":1.5}', "Expected `int`"),
        (b'{"name":"n","nmae":"typo"}', "unknown field `nmae`"),
        (b"[" * 100_000, "nested"),
        (b'{"name":"n","metadata":{"a":' + b"[" * 63 + b"]" * 63 + b"}}", "nested deeper than 64"),
    ],
)
async def test_body_that_is_not_valid_says_what_is_wrong(
    client: httpx.AsyncClient, content: bytes, says: str
) -> None:
    """A body with a fault is the client's fault, and the field is named."""
    body = _problem(await client.post("/things", content=content), 400, "invalid_argument")
    assert body["detail"].startswith("body: ")
    assert says in body["detail"]


async def test_body_at_the_limit_of_nesting_comes_back(client: httpx.AsyncClient) -> None:
    """What is accepted can be answered."""
    nested: Any = []
    for _ in range(61):
        nested = [nested]
    response = await client.post("/things", json={"name": "n", "metadata": {"a": nested}})
    assert response.json()["metadata"] == {"a": nested}


async def test_last_of_two_equal_names_counts(client: httpx.AsyncClient) -> None:
    """A name that stands twice has its last value, and is checked."""
    response = await client.post("/things", content=b'{"name":"a","name":"b"}')
    assert response.json()["name"] == "b"
    assert (await client.post("/things", content=b'{"name":"a","name":7}')).status_code == 400


async def test_body_over_the_limit_is_refused() -> None:
    """A body is read up to its limit, whether its length was announced or not."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    async with client_of(demo_app(body_limit=1_000), headers=TOKEN) as client:
        for content in (b" " * 1_001, chunks()):
            body = _problem(await client.post("/things", content=content), 400, "invalid_argument")
            assert body["detail"] == "body: larger than 1000 bytes"
        fitting = b'{"name":"n"}'.ljust(1_000)
        assert (await client.post("/things", content=fitting)).status_code == 201


async def test_body_must_come_in_time(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends its body slowly, though it never stops, is refused."""
    monkeypatch.setattr(http_app, "BODY_TIMEOUT_SECONDS", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.02)
            yield b" "

    body = _problem(await client.post("/things", content=trickle()), 400, "invalid_argument")
    assert body["detail"] == "body: not received within 0.2 s"


async def test_query_is_converted(client: httpx.AsyncClient) -> None:
    """A query's text becomes the types that were declared, with their defaults."""
    assert (await client.get("/things")).json() == {
        **{"limit": 50, "next_token": None, "status": None},
        **{"deep": False, "ratio": 1.0},
    }
    response = await client.get("/things?limit=7&next_token=1&status=null&deep=true&ratio=2")
    assert response.json() == {
        **{"limit": 7, "next_token": "1", "status": "null"},
        **{"deep": True, "ratio": 2.0},
    }


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=ten", "limit=", "limit=1e9", "limit=-1", "limit=1.5", "limit=%00"),
        *("deep=perhaps", "ratio=x", "unknown=1", "LIMIT=1", "limit=1&limit=0"),
    ],
)
async def test_query_that_is_not_valid_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """A query with a fault, or a field that is none, says so."""
    body = _problem(await client.get(f"/things?{query}"), 400, "invalid_argument")
    assert body["detail"].startswith("query: ")


async def test_query_of_an_operation_without_one_is_refused(client: httpx.AsyncClient) -> None:
    """A misspelt query is not ignored."""
    _problem(await client.get("/me?tenant=t2"), 400, "invalid_argument")


# --- Who calls ---


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic cGVyc29uLTE=", "person-1", "Bearer bad", "Token person-1"],
)
async def test_request_without_a_good_token_is_refused(
    stranger: httpx.AsyncClient, header: str | None
) -> None:
    """A token that is missing, of another kind or bad is 401 with the scheme that is wanted."""
    headers = {} if header is None else {"Authorization": header}
    for path in ("/things/x", "/me"):
        response = await stranger.get(path, headers=headers)
        _problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_scheme_may_be_written_in_any_case(stranger: httpx.AsyncClient) -> None:
    """RFC 9110: the scheme's case does not matter."""
    assert (await stranger.get("/me", headers={"Authorization": "bEaReR person-1"})).status_code == 200


async def test_public_operation_needs_no_token(stranger: httpx.AsyncClient) -> None:
    """Signing in is for anybody, and there is nobody there to be asked for."""
    assert (await stranger.post("/login", json={"name": "n"})).status_code == 200
    _problem(await stranger.get("/peek"), 401, "unauthenticated")


async def test_handler_knows_the_person_and_the_tenant(client: httpx.AsyncClient) -> None:
    """The call has person, tenant, path and request id."""
    response = await client.get("/things/a%20b", headers={"X-Request-Id": "r1"})
    assert response.json() == {
        **{"name": "", "metadata": {}, "remote_address": "127.0.0.1"},
        **{"tenant_id": "t1", "user_id": "person-1", "request_id": "r1", "path": {"thing_id": "a b"}},
    }


async def test_role_that_does_not_allow_it_is_refused() -> None:
    """A viewer reads and does not write."""
    async with client_of(demo_app(registry_of(t1="viewer")), headers=TOKEN) as client:
        assert (await client.get("/things/x")).status_code == 200
        _problem(await client.delete("/things/x"), 403, "permission_denied")
        # Refused before its body is looked at.
        _problem(await client.post("/things", content=b"garbage"), 403, "permission_denied")


async def test_tenant_is_chosen_by_header_among_the_persons_own() -> None:
    """The header names the tenant; it opens nothing that the person does not belong to."""
    app = demo_app(registry_of(t1="owner", t2="viewer"))
    async with client_of(app, headers=TOKEN) as client:
        _problem(await client.get("/things/x"), 400, "invalid_argument")
        for tenant_id in ("t1", "t2"):
            response = await client.get("/things/x", headers={"X-Tenant-Id": tenant_id})
            assert response.json()["tenant_id"] == tenant_id
        for tenant_id in ("t3", "t10", "T1"):
            response = await client.get("/things/x", headers={"X-Tenant-Id": tenant_id})
            _problem(response, 403, "permission_denied")


@pytest.mark.parametrize("tenant_id", ["*", ">", "t1.t2", "t1 t2", "../t1", "x" * 65, "t1,t2", "%74"])
async def test_tenant_that_is_no_id_is_refused(client: httpx.AsyncClient, tenant_id: str) -> None:
    """What is no id is not looked up."""
    _problem(await client.get("/things/x", headers={"X-Tenant-Id": tenant_id}), 400, "invalid_argument")


async def test_tenant_of_the_path_decides() -> None:
    """Where the path names the tenant no header changes it, and membership is needed in that one."""
    app = demo_app(registry_of(t1="owner", t2="viewer"))
    async with client_of(app, headers={**TOKEN, "X-Tenant-Id": "t2"}) as client:
        assert (await client.get("/tenants/t1")).json()["tenant_id"] == "t1"
        _problem(await client.get("/tenants/t3"), 403, "permission_denied")
        _problem(await client.get("/tenants/t*"), 400, "invalid_argument")


async def test_tenant_of_the_query_must_be_that_of_the_header() -> None:
    """A query that names the tenant counts like the header, and does not contradict it."""
    app = demo_app(registry_of(t1="owner", t2="viewer"))
    async with client_of(app, headers=TOKEN) as client:
        assert (await client.get("/usage?tenant_id=t2")).json()["tenant_id"] == "t2"
        both = await client.get("/usage?tenant_id=t2", headers={"X-Tenant-Id": "t2"})
        assert both.json()["tenant_id"] == "t2"
        _problem(await client.get("/usage?tenant_id=t3"), 403, "permission_denied")
        contradicting = await client.get("/usage?tenant_id=t2", headers={"X-Tenant-Id": "t1"})
        _problem(contradicting, 400, "invalid_argument")


async def test_address_is_what_the_edge_saw(client: httpx.AsyncClient) -> None:
    """The edge's header counts, else the connection."""
    response = await client.get("/things/x", headers={"X-Real-IP": "203.0.113.7"})
    assert response.json()["remote_address"] == "203.0.113.7"


async def test_authenticated_calls_are_counted_and_may_be_refused() -> None:
    """Each call in a tenant is counted once, also one that is then refused; others are not."""
    counted: list[str] = []

    async def on_call(scope: TenantScope) -> None:
        counted.append(scope.tenant_id)
        if len(counted) > 3:
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "too many calls", retry_after=5)

    app = demo_app(registry_of(t1="viewer"), on_call)
    async with client_of(app, headers=TOKEN) as client:
        await client.get("/things/x")
        assert (await client.delete("/things/x")).status_code == 403
        assert (await client.get("/things?limit=x")).status_code == 400
        for path in ("/me", "/fail/bug", "/nowhere"):
            await client.get(path)
        await client.get("/things/x", headers={"Authorization": "Bearer bad"})
        assert counted == ["t1"] * 2
        await client.get("/things/x")
        response = await client.delete("/things/x")
        _problem(response, 429, "resource_exhausted")
        assert response.headers["retry-after"] == "5"


# --- Ids of requests, metrics, health ---


async def test_request_id_is_made_and_told(client: httpx.AsyncClient) -> None:
    """Each answer, of whatever kind, says by which id its log lines are found."""
    for path in ("/things/x", "/fail/bug", "/nowhere", "http://test/health", "http://test/broken"):
        ids = {(await client.get(path)).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2
        assert all(re.fullmatch(r"[0-9A-Z]{26}", made) for made in ids)
    assert request_id_var.get() == ""


@pytest.mark.parametrize("given", ["abc", "A-b_9", "x" * 64])
async def test_request_id_of_the_caller_is_kept(client: httpx.AsyncClient, given: str) -> None:
    """An id that came with the request goes on."""
    response = await client.get("/things/x", headers={"X-Request-Id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a.b", "<script>", '"', "a,b", "a%0d%0ab"])
async def test_request_id_that_could_do_harm_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    """What would stand in logs and headers must be harmless."""
    response = await client.get("/things/x", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9A-Z]{26}", response.headers["x-request-id"])


async def test_request_id_does_not_leak_between_requests(client: httpx.AsyncClient) -> None:
    """Requests that run side by side each know their own id."""
    answers = await asyncio.gather(
        *(client.get("/things/x", headers={"X-Request-Id": f"r{n}"}) for n in range(20))
    )
    assert [answer.json()["request_id"] for answer in answers] == [f"r{n}" for n in range(20)]


async def test_metrics_have_no_ids(client: httpx.AsyncClient) -> None:
    """Requests are counted by route, not by path, so that labels are bounded."""
    for number in range(5):
        await client.get(f"/things/label-{number}")
        await client.get(f"/label-{number}")
    text = metrics.render()[0].decode()
    assert 'artcafe_http_seconds_count{method="GET",route="/things/{thing_id}",status="200"}' in text
    assert "label-" not in text
    response = await client.get("http://test/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "artcafe_http_seconds_bucket" in response.text


async def test_readiness_follows_its_dependencies() -> None:
    """Ready is 503 while something that is needed is away, and 200 by itself when it is back."""
    away = [True]

    async def check() -> None:
        if away[0]:
            raise unavailable("the store")

    readiness = Readiness("demo", "s1", "1")
    readiness.add("store", check)
    async with client_of(demo_app(readiness=readiness)) as client:
        down = await client.get("http://test/ready")
        assert (down.status_code, down.json()["status"]) == (503, "down")
        # Life is not readiness: restarting this process would not bring the store back.
        assert (await client.get("http://test/health")).json() == {"status": "up"}
        away[0] = False
        assert (await client.get("http://test/ready")).status_code == 200
        readiness.drain()
        assert (await client.get("http://test/ready")).status_code == 503


# --- Mistakes of whoever builds an application ---


def test_operation_that_needs_a_caller_needs_an_access_check() -> None:
    """An application cannot forget who may call."""
    with pytest.raises(TypeError, match="needs an Access"):
        create_app("demo", OPERATIONS, readiness=Readiness("demo", "s1", "1"))


def test_operation_in_a_tenant_needs_somebody_who_counts_it() -> None:
    """An application cannot forget to count the calls of a tenant."""
    access = access_of(registry_of(t1="owner"))
    with pytest.raises(TypeError, match="needs an `on_call`"):
        create_app("demo", OPERATIONS, readiness=Readiness("demo", "s1", "1"), access=access)


def test_operations_need_names_of_their_own() -> None:
    """Two operations with the same handler's name would be one in the OpenAPI document."""
    twice = [Operation("GET", path, sign_in, "x", "public") for path in ("/a", "/b")]
    with pytest.raises(TypeError, match="same name"):
        create_app("demo", twice, readiness=Readiness("demo", "s1", "1"))
