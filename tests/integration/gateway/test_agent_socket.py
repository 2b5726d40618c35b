"""The agent's socket of a real gateway: commands, delivery, isolation, hostile input."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from artcafe_common.contracts.registry import Grant, Limits


async def test_a_message_reaches_every_subscriber_with_its_data_unchanged(gateway: Any) -> None:
    """A publish arrives at the subscribers as sent, with sender, id, channel and time."""
    alice, bob, carol = [await gateway.agent(name) for name in ("alice", "bob", "carol")]
    await bob.subscribe("team.updates")
    await carol.subscribe("team.updates")
    data = {"text": "grüße", "n": 1.5, "nested": [None, True, {"": ""}]}
    await alice.send(type="publish", channel="team.updates", data=data, id=7)
    published = await alice.expect("published", id=7, channel="team.updates")
    for reader in (bob, carol):
        message = await reader.expect("message", channel="team.updates", subject="team.updates", data=data)
        assert message["from"] == "alice"
        assert message["message_id"] == published["message_id"]
        assert message["timestamp"].endswith("Z")
    await alice.nothing()


async def test_a_publish_without_id_is_not_answered(gateway: Any) -> None:
    """Older agents expect silence after a publish that succeeded."""
    alice = await gateway.agent("alice")
    await alice.send(type="publish", subject="room", data=1)
    await alice.nothing()


async def test_fifty_messages_arrive_in_order_and_complete(gateway: Any) -> None:
    """Every reader gets the fifty messages of one publisher once and in order."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("room")
    for number in range(50):
        await alice.send(type="publish", channel="room", data=number)
    assert [(await bob.expect("message"))["data"] for _ in range(50)] == list(range(50))
    await bob.nothing()


async def test_messages_travel_between_two_gateways(start_gateway: Any) -> None:
    """An agent on one gateway hears an agent on another."""
    first, second = await start_gateway("gateway-1"), await start_gateway("gateway-2")
    alice, bob = await first.agent("alice"), await second.agent("bob")
    await bob.subscribe("room")
    await alice.send(type="publish", channel="room", data="across")
    await bob.expect("message", data="across")


async def test_overlapping_subscriptions_deliver_once(gateway: Any) -> None:
    """Exact, repeated and wildcard subscriptions of one socket bring a message once."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("team.a", "team.*", ">", "team.a")
    for channel in ("team.a", "team.b", "other"):
        await alice.send(type="publish", channel=channel, data=channel)
        await bob.expect("message", channel=channel, data=channel)
    await bob.nothing()
    await bob.send(type="unsubscribe", channel="team.a")
    await bob.expect("unsubscribed", channel="team.a")
    await alice.send(type="publish", channel="team.a", data="again")
    await bob.expect("message", data="again")
    await bob.nothing()


async def test_unsubscribing_one_channel_leaves_the_others(gateway: Any) -> None:
    """After an unsubscribe the other channels go on and the one is silent."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("a", "b")
    await bob.send(type="unsubscribe", channel="a", id=1)
    await bob.expect("unsubscribed", channel="a", id=1)
    await alice.send(type="publish", channel="a", data=1)
    await alice.send(type="publish", channel="b", data=2)
    await bob.expect("message", channel="b", data=2)


async def test_a_publisher_hears_itself_only_if_it_subscribed_and_wants_to(gateway: Any) -> None:
    """A subscribed publisher gets its own message, and not with ``echo: false``; others get both."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await alice.subscribe("room")
    await bob.subscribe("room")
    await alice.send(type="publish", channel="room", data=1)
    await alice.expect("message", data=1)
    await alice.send(type="publish", channel="room", data=2, echo=False)
    await alice.nothing()
    assert [(await bob.expect("message"))["data"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "tenant.t1.channel.room",
        "tenant.t1.>",
        "*",
        ">",
        "room ",
        "ro om",
        "a..b",
        ".a",
        "room%2E",
        "",
        "a" * 300,
    ],
)
async def test_another_tenants_channel_cannot_be_named(gateway: Any, name: str) -> None:
    """Whatever an agent of t2 publishes to, agents of t1 hear nothing; t10 is not t1 either."""
    gateway.world.tenant("t10")
    victim = await gateway.agent("victim", "t1")
    await victim.subscribe(">")
    for tenant_id in ("t2", "t10"):
        attacker = await gateway.agent("attacker", tenant_id)
        await attacker.send(type="publish", channel=name, data="x", id=1)
        await attacker.expect("error", id=1)
    await victim.nothing()


@pytest.mark.parametrize(
    "name", ["tenant.t1.channel.room", "tenant.t1.>", "..", "room ", "tenant.*.channel.room"]
)
async def test_another_tenants_channel_cannot_be_subscribed_to(gateway: Any, name: str) -> None:
    """No spelling subscribes an agent of t2 to what agents of t1 say."""
    attacker = await gateway.agent("attacker", "t2")
    await attacker.send(type="subscribe", channel=name, id=1)
    await attacker.expect("error", id=1)
    await attacker.subscribe(">", "*", "room")
    alice = await gateway.agent("alice", "t1")
    await alice.send(type="publish", channel="room", data="secret", id=1)
    await alice.expect("published")
    await attacker.nothing()


async def test_own_full_subject_and_short_name_meet(gateway: Any) -> None:
    """Publishing and subscribing resolve a name the same way."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("tenant.t1.channel.room")
    await alice.send(type="publish", subject="room", data=1)
    await bob.expect("message", channel="room", data=1)


async def test_a_members_channel_is_closed_to_others(gateway: Any) -> None:
    """Only agents with a row may use a channel for members, each as its role says, also by wildcards."""
    world = gateway.world
    world.channel("t1", "secret", access="members")
    world.grants["t1", "reader"] = [Grant(channel_id="secret", role="subscriber")]
    world.grants["t1", "writer"] = [Grant(channel_id="secret", role="publisher")]
    reader, writer, other = [await gateway.agent(name) for name in ("reader", "writer", "other")]
    await reader.subscribe("secret")
    await other.subscribe(">")
    for client in (other, writer):
        await client.send(type="subscribe", channel="secret", id=1)
        await client.expect("error", code="permission_denied", id=1)
    for client in (other, reader):
        await client.send(type="publish", channel="secret", data=0, id=2)
        await client.expect("error", code="permission_denied", id=2)
    await writer.send(type="publish", channel="secret", data="for members")
    await reader.expect("message", data="for members")
    await other.nothing()


async def test_a_grant_that_is_taken_away_ends_the_subscription(gateway: Any) -> None:
    """When a member row goes the agent is told and hears nothing more, by its wildcard neither."""
    world = gateway.world
    world.channel("t1", "secret", access="members")
    world.grants["t1", "bob"] = [Grant(channel_id="secret", role="both")]
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    world.grants["t1", "alice"] = [Grant(channel_id="secret", role="both")]
    world.changed("t1", "grants", "alice")
    await bob.subscribe("secret", "*")
    del world.grants["t1", "bob"]
    world.changed("t1", "grants", "bob")
    await bob.expect("unsubscribed", channel="secret", reason="permission_denied")
    await alice.send(type="publish", channel="secret", data=1, id=1)
    await alice.expect("published")
    await bob.nothing()


async def test_an_agent_is_subscribed_to_what_its_rows_say(gateway: Any) -> None:
    """A row with auto_subscribe subscribes its agent at connect."""
    gateway.world.channel("t1", "news")
    gateway.world.grants["t1", "bob"] = [Grant(channel_id="news", role="both", auto_subscribe=True)]
    bob = await gateway.agent("bob")
    await bob.expect("subscribed", channel="news")


async def test_publishing_to_a_wildcard_is_refused(gateway: Any) -> None:
    """A wildcard names no channel that could be published to."""
    alice = await gateway.agent("alice")
    for name in ("*", ">", "team.*", "team.>"):
        await alice.send(type="publish", channel=name, data=1, id=name)
        await alice.expect("error", code="invalid_argument", id=name)


async def test_an_unknown_channel_is_not_created_where_the_tenant_does_not_allow_it(gateway: Any) -> None:
    """Without auto-creation publish and subscribe answer not_found."""
    gateway.world.tenant("t3", auto_create_channels=False)
    alice = await gateway.agent("alice", "t3")
    await alice.send(type="publish", channel="nowhere", data=1, id=1)
    await alice.expect("error", code="not_found", id=1)
    await alice.send(type="subscribe", channel="nowhere", id=2)
    await alice.expect("error", code="not_found", id=2)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("", "not a JSON object"),
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("17", "not a JSON object"),
        ('"publish"', "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "a frame needs a type"),
        ('{"type":5}', "a frame needs a type"),
        ('{"type":"dance"}', "unknown type 'dance'"),
        ('{"type":"subscribe"}', "channel is missing"),
        ('{"type":"publish","data":1}', "channel is missing"),
        ("[" * 20_000, "not a JSON object"),
        ('{"type":"publish","channel":"a","data":' + "[" * 20_000 + "]" * 20_000 + "}", "not a JSON object"),
    ],
)
async def test_a_malformed_frame_is_answered_and_the_session_goes_on(
    gateway: Any, payload: str, message: str
) -> None:
    """Bad frames get an error each, and the next command works."""
    alice = await gateway.agent("alice")
    await alice.socket.send(payload)
    error = await alice.expect("error", code="invalid_argument", message=message)
    assert error["error"] == message
    await alice.nothing()


async def test_a_bad_field_is_named_and_the_id_is_echoed(gateway: Any) -> None:
    """A command with a field of the wrong type says which, under the command's id."""
    alice = await gateway.agent("alice")
    await alice.send(type="subscribe", channel=5, id="c1")
    error = await alice.expect("error", id="c1")
    assert "$.channel" in error["message"]


async def test_binary_frames_and_invalid_utf8_close_the_socket(gateway: Any) -> None:
    """Binary frames close with 1003 and text that is not UTF-8 with 1007; nobody else notices."""
    bob = await gateway.agent("bob")
    await bob.subscribe("room")
    alice = await gateway.agent("alice")
    await alice.socket.send(b"\x00\x01")
    assert (await alice.closed())[0] == 1003
    carol = await gateway.agent("carol")
    await carol.socket.send(b'{"type":"publish","channel":"room","data":"\xff\xfe"}', text=True)
    assert (await carol.closed())[0] == 1007
    await bob.nothing()


async def test_a_frame_over_the_limit_closes_with_1009(start_gateway: Any) -> None:
    """Too big a message, whole or in fragments, closes with 1009; one at the limit passes."""
    gateway = await start_gateway(max_message_bytes=2048)
    bob = await gateway.agent("bob")
    await bob.subscribe("room")
    alice = await gateway.agent("alice")
    envelope = len('{"type":"publish","channel":"room","data":""}')
    await alice.socket.send('{"type":"publish","channel":"room","data":"' + "x" * (2048 - envelope) + '"}')
    await bob.expect("message", channel="room")
    with pytest.raises(ConnectionClosed):
        await alice.socket.send("x" * 2049)
        await alice.receive()
    assert (await alice.closed())[0] == 1009
    carol = await gateway.agent("carol")
    with pytest.raises(ConnectionClosed):
        await carol.socket.send(["x" * 1500, "x" * 1500])
        await carol.receive()
    assert (await carol.closed())[0] == 1009


async def test_a_fragmented_message_is_put_together(gateway: Any) -> None:
    """A command in three fragments is one command."""
    alice = await gateway.agent("alice")
    await alice.socket.send(['{"type":"pi', 'ng","id', '":1}'])
    await alice.expect("pong", id=1)


async def test_a_heartbeat_may_carry_any_metrics(gateway: Any) -> None:
    """Heartbeats are acknowledged with metrics of any kind and without."""
    alice = await gateway.agent("alice")
    for metrics in ({"cpu": 0.5, "nested": {"a": [1]}}, [1], "x", 3, None):
        await alice.send(type="heartbeat", metrics=metrics, id=1)
        await alice.expect("heartbeat_ack", id=1)
    await alice.send(type="heartbeat")
    await alice.expect("heartbeat_ack")


async def test_features_to_come_are_refused_clearly(gateway: Any) -> None:
    """Requests, replies and positions are answered with failed_precondition."""
    alice = await gateway.agent("alice")
    for frame in (
        {"type": "request", "to": "bob", "data": 1},
        {"type": "reply", "request_id": "r", "data": 1},
        {"type": "subscribe", "channel": "room", "since": 4},
    ):
        await alice.send(**frame, id=1)
        await alice.expect("error", code="failed_precondition", id=1)


async def test_limits_of_the_plan_hold_for_size_and_rate(gateway: Any) -> None:
    """Data over the plan's size and messages over its rate are refused; the refused ones do not arrive."""
    gateway.world.tenant("t3", limits=Limits(bytes_per_message=10, messages_per_second=1))
    alice, bob = await gateway.agent("alice", "t3"), await gateway.agent("bob", "t3")
    await bob.subscribe("room")
    await alice.send(type="publish", channel="room", data="x" * 9, id=0)
    await alice.expect("error", code="invalid_argument", id=0)
    answers = []
    for number in range(30):
        await alice.send(type="publish", channel="room", data=number, id=number)
        answers.append(await alice.receive())
    accepted = [answer["id"] for answer in answers if answer["type"] == "published"]
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert refused and all(answer["code"] == "resource_exhausted" for answer in refused)
    assert all(answer["retry_after"] > 0 for answer in refused)
    assert [(await bob.expect("message"))["data"] for _ in accepted] == accepted
    await bob.nothing()


async def test_a_flood_of_commands_is_closed_with_4004(gateway: Any) -> None:
    """A client that sends commands without end is closed for its rate."""
    alice = await gateway.agent("alice")

    async def read() -> None:
        async for _ in alice.socket:
            pass

    # Reading all the while: a client that does not read is closed as a slow consumer instead.
    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionClosed):
        for _ in range(5000):
            await alice.socket.send('{"type":"ping"}')
            await asyncio.sleep(0)
    assert (await alice.closed())[0] == 4004
    await asyncio.wait([reading])
    reading.exception()


async def test_registry_away_is_unavailable_and_known_channels_go_on(gateway: Any) -> None:
    """Without registry new channels answer unavailable, those in use keep working, and it comes back."""
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("room")
    await alice.send(type="publish", channel="room", data=1, id=1)
    await alice.expect("published")
    await bob.expect("message", data=1)
    gateway.world.unavailable = True
    await alice.send(type="publish", channel="new", data=1, id=2)
    await alice.expect("error", code="unavailable", id=2)
    await alice.send(type="publish", channel="room", data=2, id=3)
    await alice.expect("published", id=3)
    await bob.expect("message", data=2)
    gateway.world.unavailable = False
    await alice.send(type="publish", channel="new", data=1, id=4)
    await alice.expect("published", id=4)


DEEP = "[" * 65 + "]" * 65


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (f'{{"a":{DEEP}}}', "nested deeper than 64"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested deeper than 64"),
        (f'{{"a":{"1" * 1001}}}', "more than 1000 digits"),
        ("[]", "expected an object"),
        ('"x"', "expected an object"),
    ],
)
async def test_metadata_that_not_everybody_can_read_is_refused(
    gateway: Any, presence: Any, metadata: str, said: str
) -> None:
    """What an agent states is decoded by registry and dashboards: it is bounded as data is."""
    client = await gateway.agent("alice")
    await client.socket.send(f'{{"type":"presence","status":"busy","id":1,"metadata":{metadata}}}')
    error = await client.expect("error", code="invalid_argument", id=1)
    assert said in error["message"]
    await client.send(type="presence", status="busy", id=2, metadata={"a": {"b": [1.5, None]}})
    await client.expect("presence_ack", id=2)
    stated = {"a": {"b": [1.5, None]}}
    async with asyncio.timeout(30):
        while stated not in [event.metadata for event in presence.events]:
            await asyncio.sleep(0.01)
    assert all(event.metadata in (None, stated) for event in presence.events)
