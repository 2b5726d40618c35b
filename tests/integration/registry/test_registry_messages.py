"""Messages over REST: the frame agents get, once per key, within the plan, and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from nats.aio.msg import Msg

from artcafe_common.contracts.metering import GET_MONTHS, GetMonths, Months, UsageBatch, UsageRow
from artcafe_common.envelope import LiveMessage, decode_frame
from artcafe_common.ids import new_ulid
from artcafe_common.rpc import serve
from artcafe_common.streams import USAGE, ensure_stream
from artcafe_registry import publishing
from artcafe_registry.store.replays import Replay

from .support import Stage, until


@asynccontextmanager
async def heard(stage: Stage, tenant_id: str) -> AsyncIterator[list[tuple[str, LiveMessage, bytes]]]:
    """Collect what is published in a tenant: subject, message, frame."""
    frames: list[tuple[str, LiveMessage, bytes]] = []

    async def take(message: Msg) -> None:
        frames.append((message.subject, decode_frame(message.data), message.data))

    subscription = await stage.bus.subscribe(f"tenant.{tenant_id}.>", cb=take)
    await stage.bus.flush()
    yield frames
    await subscription.unsubscribe()


async def _channel(stage: Stage, **fields: object) -> tuple[str, httpx.AsyncClient]:
    tenant_id, owner = await stage.owner(**fields)  # type: ignore[arg-type]
    await owner.post("/channels", json={"name": "c", "channel_id": "team.updates"})
    return tenant_id, owner


async def test_message_reaches_the_bus_as_agents_get_it(stage: Stage) -> None:
    """The body is `data` byte for byte, the sender the person; the answer has the message's id and time."""
    tenant_id, owner = await _channel(stage)
    body = '{ "text": "héllo", "n": 1.0, "big": 123456789012345678901234567890, "data": {"x":[]} }'
    async with heard(stage, tenant_id) as frames:
        answer = await owner.post("/channels/team.updates/messages", content=body)
        assert answer.status_code == 200

        async def arrived() -> bool:
            return bool(frames)

        await until(arrived)
    subject, message, frame = frames[0]
    assert subject == f"tenant.{tenant_id}.channel.team.updates"
    assert message.sender == f"user:{tenant_id}"
    assert (message.channel, message.subject) == ("team.updates", "team.updates")
    assert bytes(message.data).decode() == body
    assert answer.json() == {
        "message_id": message.message_id,
        "timestamp": message.timestamp,
        "success": True,
    }
    assert frame.startswith(b'{"type":"message","message_id":"')


async def test_what_is_no_json_object_is_refused(stage: Stage) -> None:
    """Arrays, numbers, broken JSON, broken UTF-8 and nothing at all are refused and not published."""
    tenant_id, owner = await _channel(stage)
    bodies = [b"", b"[]", b"1", b'"x"', b"null", b"{", b'{"a":1}x', b'{"a":"\xff"}', b'{"a":"\\ud800"}']
    bodies += [b"{'a':1}", b'{"a":' * 20_000, b"[" * 50_000]
    async with heard(stage, tenant_id) as frames:
        for body in bodies:
            refused = await owner.post("/channels/team.updates/messages", content=body)
            assert refused.status_code == 400, body[:20]
        missing = await owner.post("/channels/ghost/messages", json={})
        assert missing.status_code == 404
        await stage.bus.flush()
    assert frames == []


async def test_repeated_key_publishes_once(stage: Stage) -> None:
    """A request that is made again, also at the same moment and on another replica, is published once."""
    tenant_id, owner = await _channel(stage)
    other = stage.client(tenant_id, replica=await stage.start_replica())
    path, key = (
        "/channels/team.updates/messages",
        {"Idempotency-Key": "order-1 #/1"},
    )
    async with heard(stage, tenant_id) as frames:
        first = await owner.post(path, json={"n": 1}, headers=key)
        again = [await client.post(path, json={"n": 1}, headers=key) for client in (owner, other)]
        assert [answer.json() for answer in again] == [first.json()] * 2
        different = await owner.post(path, json={"n": 2}, headers=key)
        assert (different.status_code, different.json()["code"]) == (409, "failed_precondition")
        racing = await asyncio.gather(
            *(
                client.post(path, json={"n": 3}, headers={"Idempotency-Key": "race"})
                for client in (owner, other) * 10
            )
        )
        accepted = [answer.json() for answer in racing if answer.status_code == 200]
        assert accepted
        assert all(answer == accepted[0] for answer in accepted)
        assert {answer.status_code for answer in racing} <= {200, 503}
        unkeyed = [await owner.post(path, json={"n": 4}) for _ in range(2)]
        assert unkeyed[0].json()["message_id"] != unkeyed[1].json()["message_id"]

        async def arrived() -> bool:
            return len(frames) >= 4

        await until(arrived)
        await stage.bus.flush()
    assert sorted(bytes(message.data) for _, message, _ in frames) == [
        b'{"n":1}',
        b'{"n":3}',
        b'{"n":4}',
        b'{"n":4}',
    ]


async def test_key_is_a_channels_and_a_tenants_own(stage: Stage) -> None:
    """The same key in another channel or another tenant is another message."""
    _, owner = await _channel(stage)
    await owner.post("/channels", json={"name": "second"})
    _, other = await _channel(stage)
    key = {"Idempotency-Key": "k"}
    answers = [
        await owner.post("/channels/team.updates/messages", json={}, headers=key),
        await owner.post("/channels/second/messages", json={}, headers=key),
        await other.post("/channels/team.updates/messages", json={}, headers=key),
    ]
    assert len({answer.json()["message_id"] for answer in answers}) == 3


async def test_key_is_forgotten_after_a_day(stage: Stage) -> None:
    """A key older than 24 hours is free again, although the table has not removed its row yet."""
    tenant_id, owner = await _channel(stage)
    old = Replay(
        tenant_id=tenant_id,
        request="messages/team.updates#k",
        digest="of another body",
        message_id=new_ulid(),
        accepted_at=1_000.0,
        state="done",
        tried_at=1_000.0,
    )
    assert await stage.store.replays.claim(old) is None
    answer = await owner.post("/channels/team.updates/messages", json={}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    assert answer.json()["message_id"] != old.message_id


async def test_request_whose_process_died_is_finished_by_its_repetition(stage: Stage) -> None:
    """Where a key was claimed and nothing sent, the repetition sends it under the id that was claimed."""
    tenant_id, owner = await _channel(stage)
    key = {"Idempotency-Key": "k"}
    path = "/channels/team.updates/messages"
    await owner.post(path, json={"n": 1}, headers=key)
    (row,) = await stage.rows_with("#k'")
    table = stage.store.replays._table
    await table.put(row | {"state": "started", "tried_at": row["tried_at"] - 60})
    async with heard(stage, tenant_id) as frames:
        answers = await asyncio.gather(*(owner.post(path, json={"n": 1}, headers=key) for _ in range(5)))
        assert {answer.status_code for answer in answers} <= {200, 503}

        async def arrived() -> bool:
            return bool(frames)

        await until(arrived)
        await stage.bus.flush()
    assert [message.message_id for _, message, _ in frames] == [row["message_id"]]


async def test_malformed_key_is_refused(stage: Stage) -> None:
    """A key is 1 to 255 printable characters."""
    _, owner = await _channel(stage)
    for key in ("", "x" * 256):
        answer = await owner.post(
            "/channels/team.updates/messages", json={}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code == 400


async def test_message_over_the_plans_size_is_refused(stage: Stage) -> None:
    """One byte too many is 402 with the numbers; the largest allowed passes."""
    _, owner = await _channel(stage, plan="free", overrides={"bytes_per_message": 100})
    fits = b'{"x":"' + b"y" * 92 + b'"}'
    assert len(fits) == 100
    assert (await owner.post("/channels/team.updates/messages", content=fits)).status_code == 200
    refused = await owner.post("/channels/team.updates/messages", content=fits + b" " + b"\n" * 3)
    # White space around the object is not data.
    assert refused.status_code == 200
    refused = await owner.post("/channels/team.updates/messages", content=fits.replace(b"y", b"yy", 1))
    assert refused.status_code == 402
    assert {name: refused.json()[name] for name in ("resource", "current", "limit", "plan")} == {
        "resource": "bytes_per_message",
        "current": 101,
        "limit": 100,
        "plan": "free",
    }


async def test_messages_over_the_plans_rate_are_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More messages in a second than the plan has get 429 with a hint; a refused key is not used up."""
    # So that a key which passes later was given back: no request that was begun is taken over meanwhile.
    monkeypatch.setattr(publishing, "UNFINISHED_SECONDS", 600.0)
    # So few that any machine asks faster.
    _, owner = await _channel(stage, plan="pro", overrides={"messages_per_second": 1})
    path = "/channels/team.updates/messages"
    answers = await asyncio.gather(*(owner.post(path, json={}) for _ in range(15)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) >= 1
    assert codes.count(429) >= 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    number = 0

    async def refused_key() -> dict[str, str] | None:
        nonlocal number
        number += 1
        key = {"Idempotency-Key": f"k{number}"}
        return key if (await owner.post(path, json={}, headers=key)).status_code == 429 else None

    key = await until(refused_key)

    async def passes() -> bool:
        return (await owner.post(path, json={}, headers=key)).status_code == 200

    await until(passes)


async def test_used_up_month_refuses_messages(one_day: None, stage: Stage) -> None:
    """Where metering says that the month is used up a publish is 402; without metering it passes."""
    _, owner = await _channel(stage, plan="free")

    async def months(request: GetMonths) -> Months:
        return Months(month=request.month, messages=dict.fromkeys(request.tenant_ids, 9_999))

    async with serve(stage.bus, GET_MONTHS, months, queue="metering"):
        assert (await owner.post("/channels/team.updates/messages", json={})).status_code == 200
        refused = await owner.post("/channels/team.updates/messages", json={})
    assert refused.status_code == 402
    quota = {"resource": "messages_per_month", "current": 10_000, "limit": 10_000, "plan": "free"}
    assert refused.json().items() >= quota.items()
    _, unmetered = await _channel(stage, plan="free")
    assert (await unmetered.post("/channels/team.updates/messages", json={})).status_code == 200


async def test_accepted_messages_and_calls_are_reported(stage: Stage) -> None:
    """Metering gets a message with its bytes per accepted publish, and a call per authenticated request."""
    await ensure_stream(stage.bus.jetstream(), USAGE)
    tenant_id, owner = await _channel(stage)
    body = '{"text":"é"}'
    for _ in range(3):
        await owner.post("/channels/team.updates/messages", content=body)
    await owner.post("/channels/team.updates/messages", content="[]")
    await owner.post("/channels/ghost/messages", json={})
    await stage.client("stranger").get("/agents")
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        await owner.post("/channels/team.updates/messages", content=body, headers=key)
    jetstream = stage.bus.jetstream()
    subscription = await jetstream.subscribe("usage.v1.batch.*", stream="USAGE", ordered_consumer=True)
    messages = calls = size = 0

    async def counted() -> bool:
        nonlocal messages, calls, size
        try:
            batch = msgspec.json.decode((await subscription.next_msg(timeout=0.5)).data, type=UsageBatch)
        except TimeoutError:
            return False
        for row in batch.rows:
            if row.tenant_id == tenant_id:
                assert row == UsageRow(
                    tenant_id,
                    channel_id=row.channel_id,
                    messages=row.messages,
                    bytes_in=row.bytes_in,
                    api_calls=row.api_calls,
                )
                messages, calls, size = messages + row.messages, calls + row.api_calls, size + row.bytes_in
        return (messages, calls) == (4, 8)

    await until(counted)
    assert size == 4 * len(body.encode())
    await subscription.unsubscribe()
