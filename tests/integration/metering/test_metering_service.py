"""The service as a process: start, readiness, crashes under a stream of batches, REST and NATS answers."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from artcafe_common.clock import SystemClock
from artcafe_common.config import load
from artcafe_common.contracts.metering import GET_MONTHS, GetMonths, UsageRow
from artcafe_common.contracts.platform import GetHealth, health_endpoint
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_common.starting import cancel_all
from artcafe_common.usage import UsageCounter, UsageReporter
from artcafe_devstack.ports import free_port
from artcafe_metering import __main__ as service
from artcafe_metering import making, roller
from artcafe_metering.config import MeteringConfig
from artcafe_metering.objects import Bucket
from artcafe_metering.rolled import Rolled

ROUTES = ("/current", "/metrics", "/history", "/summary")
ALL_ROUTES = (*ROUTES, "/adjustments", "/reconciliation")


async def test_a_killed_process_loses_and_doubles_nothing(
    sender: Any, service_of: Any, store: Any, until: Any
) -> None:
    """Two replicas are killed in turn, again and again, under a stream of batches: totals are exact."""
    services = [await service_of(), await service_of()]
    chaos = random.Random(7)
    sent = {"s1": 0, "s2": 0, "s3": 0}

    async def publish() -> None:
        while True:
            for source in sent:
                rows = [UsageRow("t1", f"a{n}", "c1", messages=n, bytes_in=10 * n) for n in (1, 2, 3)]
                await sender.batch(source, sent[source] + 1, *rows, UsageRow("t2", api_calls=1))
                sent[source] += 1
            await asyncio.sleep(0.02)

    publishing = asyncio.create_task(publish())
    for _ in range(5):
        await asyncio.sleep(0.4 + chaos.random())
        victim = chaos.choice(services)
        victim.kill()
        await asyncio.sleep(chaos.random() * 0.3)
        victim.start()

    async def enough() -> bool:
        return sum(sent.values()) > 100

    await until(enough)
    await cancel_all([publishing])
    await until(sender.unacknowledged, 0)
    stored = await sender.stored()
    assert len(stored) > 100
    messages = sum(row.messages for batch in stored for row in batch.rows)
    day = await store.sums("stats:d:*:{t1}")
    assert day == dict.fromkeys(day, 0) | {"messages": messages, "bytes_in": 10 * messages}
    assert (await store.sums("stats:h:*:??:{t1}")) == day == (await store.sums("stats:m:*:{t1}"))
    assert (await store.sums("stats:d:*:{t2}"))["api_calls"] == len(stored)
    assert await store.keys_without_expiry() == []


async def test_a_stopped_process_ends_cleanly_and_leaves_nothing_in_hand(
    sender: Any, service_of: Any, store: Any, until: Any
) -> None:
    """On SIGTERM what was taken is finished: nothing waits for the acknowledgement that will not come."""
    service = await service_of()
    for seq in range(1, 101):
        await sender.batch("s1", seq)
    await until(lambda: store.messages("t1"), 100)
    assert await asyncio.to_thread(service.stop) == 0
    assert await sender.unacknowledged() == 0
    assert "Traceback" not in service.log()


async def test_it_is_ready_only_with_nats_and_valkey(
    nats: Any, valkey: Any, service_of: Any, until: Any
) -> None:
    """Readiness is false while Valkey or NATS is away, names it, and is true again by itself."""
    service = await service_of()
    for server, name in ((valkey, "valkey"), (nats, "nats")):
        server.kill()
        await until(service.ready, 503)
        report = (await service.client.get("/ready")).json()
        down = {dependency["name"] for dependency in report["dependencies"] if dependency["status"] == "down"}
        assert name in down
        assert (await service.client.get("/health")).status_code == 200
        server.start()
        await until(service.ready, 200)


async def test_with_a_valkey_that_forgets_it_is_not_ready(store: Any, service_of: Any, until: Any) -> None:
    """A Valkey that would forget what was acknowledged is none that the service works with."""
    service = await service_of()
    for setting, value, normal in (("appendfsync", "no", "everysec"), ("appendonly", "no", "yes")):
        await store.redis.config_set(setting, value)
        await until(service.ready, 503)
        await store.redis.config_set(setting, normal)
        await until(service.ready, 200)


async def test_it_starts_before_valkey(valkey: Any, service_of: Any, world: Any, until: Any) -> None:
    """Started without Valkey it lives, answers `unavailable`, and is ready when Valkey comes."""
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    service = await service_of()
    await asyncio.to_thread(service.stop)
    valkey.kill()
    service.start()
    await until(service.ready, 503)
    answer = await service.get("/current", headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    valkey.start()
    await until(service.ready, 200)
    assert (await service.get("/current", headers)).status_code == 200


async def test_what_a_publisher_reports_is_soon_served(
    bus: Any, world: Any, service_of: Any, until: Any
) -> None:
    """A report of the library's own publisher is in every answer, long before any period is closed."""
    world.tenant("t1", agents=3, messages_per_month=10_000)
    headers = world.person("ann", t1="owner")
    service = await service_of()
    counter = UsageCounter(SystemClock())
    reporter = UsageReporter(bus, counter)
    for number in range(10):
        counter.message(counter.now(), "t1", f"a{number % 3}", f"room.{number % 2}", 100)
    await reporter.finish(20)

    async def messages() -> int:
        found: int = (await service.get("/current", headers)).json()["usage"]["messages"]
        return found

    await until(messages, 10, seconds=20)
    current = (await service.get("/current", headers)).json()
    today = datetime.now(UTC).date()
    first = today.replace(day=1)
    assert current["tenant_id"] == "t1"
    assert current["plan"] == "free"
    assert current["limits"]["agents"] == 3
    assert current["current_period"]["start"] == f"{first}T00:00:00Z"
    wanted = {"messages": 10, "bytes": 1000, "bytes_in": 1000, "active_agents": 3, "active_channels": 2}
    assert current["usage"].items() >= wanted.items()
    assert current["today"].items() >= wanted.items()
    history = (await service.get("/history", headers, days="1")).json()
    assert history["history"][0].items() >= (wanted | {"date": str(today)}).items()
    summary = (await service.get("/summary", headers)).json()
    assert all(summary[span].items() >= wanted.items() for span in ("today", "last_7_days", "last_30_days"))
    metrics = (await service.get("/metrics", headers, granularity="hour", group_by="agent")).json()
    assert len(metrics["metrics"]) == 24
    assert sum(hour["messages"] for hour in metrics["metrics"]) == 10
    assert [(group["agent_id"], group["messages"]) for group in metrics["totals"]["groups"]] == [
        ("a0", 4),
        ("a1", 3),
        ("a2", 3),
    ]
    months = await call(bus, GET_MONTHS, GetMonths(month=f"{today:%Y-%m}", tenant_ids=["t1", "t2"]))
    assert months.messages == {"t1": 10, "t2": 0}


async def test_its_own_calls_are_counted(
    world: Any, service_of: Any, store: Any, sender: Any, until: Any
) -> None:
    """Every authenticated call is an API call of its tenant, without permission too; without a token none."""
    world.tenant("t1")
    headers, other = world.person("ann", t1="owner"), world.person("bob", t1="viewer")
    service = await service_of()
    for path in ROUTES:
        assert (await service.get(path, headers)).status_code == 200
        assert (await service.get(path, other)).status_code == 403
        assert (await service.get(path)).status_code == 401

    async def counted() -> int:
        calls: int = (await store.sums("stats:d:*:{t1}"))["api_calls"]
        return calls

    await until(counted, 2 * len(ROUTES))


async def test_days_without_usage_are_zeros_and_a_late_day_is_its_own(
    sender: Any, world: Any, service_of: Any, store: Any, until: Any
) -> None:
    """A range of days has a row for each, zeros where nothing was, and a late batch on its own day."""
    world.tenant("t1")
    headers = world.person("ann", t1="billing")
    service = await service_of()
    now = datetime.now(UTC)
    late = now - timedelta(days=5)
    await sender.batch("s1", 1, UsageRow("t1", "a1", "c1", messages=3))
    await sender.batch("s1", 2, UsageRow("t1", "a1", "c2", messages=4), at=late.timestamp())
    await until(lambda: store.messages("t1"), 7)
    start, end = now.date() - timedelta(days=6), now.date()
    answer = await service.get(
        "/metrics", headers, start_date=str(start), end_date=str(end), granularity="day", group_by="channel"
    )
    body = answer.json()
    assert [row["messages"] for row in body["metrics"]] == [0, 4, 0, 0, 0, 0, 3]
    assert [row["active_agents"] for row in body["metrics"]] == [0, 1, 0, 0, 0, 0, 1]
    assert [row["start"][:10] for row in body["metrics"]] == [
        str(start + timedelta(days=n)) for n in range(7)
    ]
    assert body["totals"]["messages"] == 7
    assert (body["totals"]["active_agents"], body["totals"]["active_channels"]) == (1, 2)
    assert [(group["channel_id"], group["messages"]) for group in body["totals"]["groups"]] == [
        ("c2", 4),
        ("c1", 3),
    ]
    hours = (
        await service.get(
            "/metrics", headers, start_date=str(late.date()), end_date=str(late.date()), granularity="hour"
        )
    ).json()["metrics"]
    assert [row["messages"] for row in hours] == [4 if hour == late.hour else 0 for hour in range(24)]


async def test_a_tenant_sees_its_own_and_nothing_else(
    sender: Any, world: Any, service_of: Any, store: Any, until: Any
) -> None:
    """A member of one tenant gets nothing of another, by header or query; names that are alike stay apart."""
    for tenant_id in ("t1", "t10"):
        world.tenant(tenant_id)
    ann, bob = world.person("ann", t1="owner"), world.person("bob", t10="owner")
    service = await service_of()
    await sender.batch("s1", 1, UsageRow("t10", "a1", "c1", messages=5))
    await until(lambda: store.messages("t10"), 5)
    for path in ROUTES:
        assert (await service.get(path, ann | {"X-Tenant-Id": "t10"})).status_code == 403
        assert (await service.get(path, ann, tenant_id="t10")).status_code == 403
        assert (await service.get(path, ann | {"X-Tenant-Id": "t1"}, tenant_id="t10")).status_code == 400
        assert (await service.get(path, ann, tenant_id="t1")).status_code == 200
    assert (await service.get("/current", ann)).json()["usage"]["messages"] == 0
    assert (await service.get("/current", bob)).json()["usage"]["messages"] == 5
    for spelling in ("t1*", "t1}:agent", "../t10", "t1 ", ""):
        assert (await service.get("/current", bob, tenant_id=spelling)).status_code in (400, 403)


@pytest.mark.parametrize(
    ("role", "status"), [("owner", 200), ("admin", 200), ("billing", 200), ("member", 403), ("viewer", 403)]
)
async def test_roles_of_a_tenant(world: Any, service_of: Any, role: str, status: int) -> None:
    """Owners, admins and billing read usage; members and viewers do not."""
    world.tenant("t1")
    headers = world.person("ann", t1=role)
    service = await service_of()
    answers = [(await service.get(path, headers)).status_code for path in ALL_ROUTES]
    assert answers == [status] * len(ALL_ROUTES)


async def test_roles_of_the_platform_see_every_tenant(
    sender: Any, world: Any, service_of: Any, store: Any, until: Any
) -> None:
    """The platform's admins and billing read any tenant they name, a deleted one too, but no invented one."""
    world.tenant("t1")
    service = await service_of()
    await sender.batch("s1", 1, UsageRow("t1", messages=1), UsageRow("gone", messages=2))
    await until(lambda: store.messages("gone"), 2)
    for role in ("platform_admin", "billing"):
        headers = world.person("root", role)
        assert (await service.get("/current", headers, tenant_id="t1")).json()["usage"]["messages"] == 1
        named = headers | {"X-Tenant-Id": "gone"}
        gone = (await service.get("/current", named)).json()
        assert (gone["usage"]["messages"], gone["plan"]) == (2, None)
        for path in ALL_ROUTES:
            assert (await service.get(path, headers, tenant_id="never")).status_code == 404, path
        assert (await service.get("/current", headers)).status_code == 403
    await service.get("/current", headers, tenant_id="t1")

    async def calls(tenant_id: str) -> int:
        found: int = (await store.sums(f"stats:d:*:{{{tenant_id}}}"))["api_calls"]
        return found

    # That one was counted last: what came before it is nobody's usage, or would be seen by now.
    await until(lambda: calls("t1"), 3)
    assert (await calls("gone"), await calls("never")) == (0, 0)
    assert (await service.get("/current", headers, tenant_id="never")).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        {"granularity": "minute"},
        {"group_by": "tenant"},
        {"start_date": "2026-02-30"},
        {"start_date": "yesterday"},
        {"start_date": "2026-01-01T00:00:00Z"},
        {"start_date": "+1"},
        {"end_date": "+40"},
        {"start_date": "-402", "end_date": "-400"},
        {"start_date": "-31", "granularity": "hour"},
        {"start_date": "1970-01-01", "granularity": "month"},
        {"start_date": "0001-01-01", "end_date": "0001-01-02"},
        {"end_date": "9999-12-31"},
        {"unknown": "1"},
    ],
)
async def test_questions_that_are_refused(world: Any, service_of: Any, query: dict[str, str]) -> None:
    """A question that cannot be answered truly is an `invalid_argument`, never zeros and never a bug."""
    world.tenant("t1")
    service = await service_of()
    # Days are counted from the one on which it is asked.
    today = datetime.now(UTC).date()
    query = {
        name: str(today + timedelta(days=int(value))) if value[0] in "+-" else value
        for name, value in query.items()
    }
    answer = await service.get("/metrics", world.person("ann", t1="owner"), **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_days_of_history_are_bounded(world: Any, service_of: Any) -> None:
    """From 1 to 90 days are answered, others refused."""
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    service = await service_of()
    for days in ("0", "91", "-1", "x", "1.5"):
        assert (await service.get("/history", headers, days=days)).status_code == 400
    for number in (1, 90):
        answer = (await service.get("/history", headers, days=str(number))).json()
        assert len(answer["history"]) == answer["days"] == number


async def test_with_registry_or_valkey_away_it_says_so(
    valkey: Any, bus: Any, world: Any, service_of: Any, until: Any
) -> None:
    """An answer that cannot be had is `unavailable`, over HTTP and over NATS, never zeros."""
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    service = await service_of()
    valkey.kill()
    for path in ROUTES:
        assert (await service.get(path, headers)).status_code == 503
    with pytest.raises(ServiceError) as caught:
        await call(bus, GET_MONTHS, GetMonths(month="2026-01", tenant_ids=["t1"]))
    assert caught.value.code is ErrorCode.UNAVAILABLE
    health = await call(bus, health_endpoint("metering"), GetHealth(), timeout=20)
    assert health.status == "down"


async def test_ids_in_requests_of_other_services_are_checked(bus: Any, service_of: Any) -> None:
    """A tenant id that is none is refused before it becomes a key."""
    await service_of()
    with pytest.raises(ServiceError) as caught:
        await call(bus, GET_MONTHS, GetMonths(month="2026-01", tenant_ids=["t1}:x"]))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_groups_are_read_page_by_page(
    service_of: Any, world: Any, sender: Any, store: Any, until: Any, tmp_path: Path
) -> None:
    """Over replicas too: a token that one gave out works at another one which signs with the same key."""
    key = {"METERING_SIGNING_KEY_FILE": str(tmp_path / "signing.pem")}
    services = [await service_of(**key), await service_of(**key)]
    world.tenant("t1")
    headers = world.person("ann", t1="owner")
    rows = [UsageRow("t1", f"a{number}", messages=1) for number in (3, 1, 2)]
    await sender.batch("s1", 1, *rows)
    await until(lambda: store.messages("t1"), 3)
    found: list[str] = []
    query = {"group_by": "agent", "limit": "1"}
    for turn in range(3):
        page = (await services[turn % 2].get("/metrics", headers, **query)).json()
        found += [each["agent_id"] for each in page["totals"]["groups"]]
        assert page["totals"]["messages"] == 3
        query["next_token"] = page["next_token"]
    assert (found, page["next_token"]) == (["a1", "a2", "a3"], None)
    assert "next_token" not in (await services[0].get("/metrics", headers, group_by="agent")).json()


async def test_metrics_and_document_are_served(service_of: Any, sender: Any, store: Any, until: Any) -> None:
    """Prometheus sees what was accounted, and the OpenAPI document has the routes."""
    service = await service_of()
    await sender.batch("s1", 1, UsageRow("t1", messages=7))
    await until(lambda: store.messages("t1"), 7)
    text = (await service.client.get("/metrics")).text
    assert "artcafe_metering_messages_total 7.0" in text
    assert 'artcafe_metering_batches_total{outcome="applied"} 1.0' in text
    document = (await service.get("/openapi.json")).json()
    assert set(document["paths"]) == {f"/api/v1/usage{path}" for path in ALL_ROUTES}


async def test_what_has_no_metrics_of_its_own_is_looked_at(
    valkey: Any, store: Any, service_of: Any, until: Any
) -> None:
    """Prometheus sees how full Valkey is, and that no copy of the stream is missing."""
    await store.redis.config_set("maxmemory", "64mb")
    service = await service_of()

    async def seen() -> dict[str, float]:
        lines = (await service.client.get("/metrics")).text.splitlines()
        named = ("artcafe_metering_valkey_memory", "artcafe_metering_stream_copies_missing ")
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(named)}

    async def bound() -> float:
        return (await seen())["artcafe_metering_valkey_memory_max_bytes"]

    await until(bound, 64 * 1024 * 1024)
    figures = await seen()
    assert 100_000 < figures["artcafe_metering_valkey_memory_bytes"] < 64 * 1024 * 1024
    assert figures["artcafe_metering_stream_copies_missing"] == 0


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("METERING_ROUND", "3", "METERING_ROUND is not a setting; did you mean METERING_ROUNDS?"),
        ("REDIS_URL", "valkey://:hidden@v", "REDIS_URL is not valid: no address of Valkey"),
    ],
)
async def test_a_wrong_setting_stops_the_start(service_of: Any, name: str, value: str, line: str) -> None:
    """A setting that does not exist or cannot be used ends the process with one line that names it."""
    service = await service_of()
    await asyncio.to_thread(service.stop)
    assert await asyncio.to_thread(service.fails, name, value) == 2
    assert f"configuration: {line}" in service.log()
    assert "Traceback" not in service.log()
    assert "hidden" not in service.log()


async def test_calls_over_the_plans_rate_are_refused(world: Any, service_of: Any) -> None:
    """Reading usage is held to the plan's calls per minute, each tenant by itself."""
    world.tenant("t1", api_calls_per_minute=5)
    world.tenant("t2", api_calls_per_minute=5)
    headers = world.person("ann", t1="owner")
    service = await service_of()
    answers = [await service.get(path, headers) for path in ROUTES * 4]
    assert [answer.status_code for answer in answers[:5]] == [200] * 5
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].json()["code"] == "resource_exhausted"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert (await service.get("/current", world.person("bob", t2="owner"))).status_code == 200


async def test_a_bucket_that_cannot_be_made_holds_up_no_rollup(
    nats: Any,
    valkey: Any,
    aws: Any,
    sender: Any,
    world: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Closed periods are rolled up, the other bucket is made, and the log says which one is wrong and why."""
    monkeypatch.setattr(roller, "PASS_SECONDS", 0.2)
    monkeypatch.setattr(making, "TABLES_RETRY_SECONDS", 0.2)
    environment = {"NATS_URL": nats.url, "REDIS_URL": valkey.url, "CREATE_TABLES": "true"}
    environment |= {"METERING_EXPORT_BUCKET": "No_Bucket", "METERING_BACKUP_BUCKET": "a-bucket"}
    environment |= {"METERING_HTTP_PORT": str(free_port())} | aws.environment()
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    world.tenant("t1")
    day = datetime.now(UTC) - timedelta(days=3)
    await sender.batch("s1", 1, UsageRow("t1", messages=3), at=day.timestamp())
    stop = asyncio.Event()
    serving = asyncio.create_task(service.serve(load(MeteringConfig, "METERING_", environment), stop))
    url, region = aws.url, aws.region
    async with Dynamo.connect(region=region, endpoint_url=url, prefix="artcafe-") as dynamo:

        async def closed() -> int:
            try:
                entries = await Rolled(dynamo).entries("t1", "day", f"{day:%Y-%m-%d}", f"{day:%Y-%m-%d}")
            except ServiceError:
                return 0
            # Where the rollup was there before the batch, the day was closed with nothing.
            return sum(entry.figures.messages for entry in entries)

        await until(closed, 3)

    stop.set()
    await serving
    failures = [vars(each) for each in caplog.records if each.getMessage() == "create_tables_failed"]
    assert {each["what"] for each in failures} == {"No_Bucket"}
    assert "InvalidBucketName" in failures[0]["reason"]
    async with Bucket.connect("a-bucket", region=region, endpoint_url=url) as bucket:
        await bucket.client.head_bucket(Bucket="a-bucket")
