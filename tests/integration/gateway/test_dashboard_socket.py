"""The dashboard's socket of a real gateway: who comes in, what they see and may do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from artcafe_common.contracts.registry import AgentStatus, Membership
from artcafe_gateway import dashboard_session, upkeep
from artcafe_gateway.store import ConnectionStore

from .test_preview import STEADY


def member(gateway: Any, user_id: str, role: str = "owner", tenant_id: str = "t1") -> str:
    """Make a person a member and return their token."""
    row = Membership(tenant_id=tenant_id, role=role)
    gateway.world.memberships.setdefault(user_id, []).append(row)
    token: str = gateway.world.token(user_id)
    return token


async def publish(agent: Any, channel: str, *data: Any) -> None:
    """Let an agent publish, and wait until all of it was accepted."""
    for each in data:
        await agent.send(type="publish", channel=channel, data=each)
    await agent.nothing()


@pytest.mark.parametrize("path", ["/ws/dashboard", "/api/v1/ws/dashboard"])
async def test_a_token_may_come_by_query_header_or_first_frame(gateway: Any, path: str) -> None:
    """All three ways end in the same greeting."""
    token = member(gateway, "ann")
    by_query = await gateway.open(f"{path}?token={token}")
    by_header = await gateway.open(path, additional_headers={"Authorization": f"Bearer {token}"})
    by_frame = await gateway.open(path)
    await by_frame.send(type="authenticate", token=token)
    by_old_frame = await gateway.open(path)
    await by_old_frame.send(type="auth", token=token, tenant_id="t1")
    for client in (by_query, by_header, by_frame, by_old_frame):
        greeting = await client.expect("connected", tenant_id="t1", user_id="ann", role="owner")
        assert "messages:read" in greeting["permissions"]
        assert greeting["limits"] == {"frame_bytes": 65_536}
        await client.nothing()


async def test_without_a_token_the_socket_is_closed_in_time(start_gateway: Any) -> None:
    """A client that says nothing does not stay."""
    gateway = await start_gateway(auth_timeout=0.3)
    client = await gateway.open("/ws/dashboard")
    assert (await client.closed())[0] == 4003


@pytest.mark.parametrize("token", ["x", "a.b.c", "", "é", "x" * 5000])
async def test_a_wrong_token_is_refused(gateway: Any, token: str) -> None:
    """Garbage of any form closes with 4500."""
    client = await gateway.open("/ws/dashboard")
    await client.send(type="authenticate", token=token)
    await client.expect("error", code="unauthenticated")
    assert (await client.closed())[0] == 4500


async def test_tokens_that_do_not_hold_are_refused(gateway: Any) -> None:
    """Expired, for somebody else, from somebody else: all 4500; within the leeway it is still good."""
    world = gateway.world
    member(gateway, "ann")
    for token in (
        world.token("ann", -31),
        world.token("ann", aud="other"),
        world.token("ann", iss="https://evil.test"),
    ):
        client = await gateway.open(f"/ws/dashboard?token={token}")
        assert (await client.closed())[0] == 4500
    late = await gateway.open(f"/ws/dashboard?token={world.token('ann', -15)}")
    await late.expect("connected")


async def test_a_person_sees_only_organisations_they_belong_to(gateway: Any) -> None:
    """Naming another tenant, belonging to none, or choosing none of several closes with 4500."""
    token = member(gateway, "ann")
    for query in (f"token={token}&tenant_id=t2", f"token={gateway.world.token('stranger')}"):
        client = await gateway.open(f"/ws/dashboard?{query}")
        await client.expect("error", code="permission_denied")
        assert (await client.closed())[0] == 4500
    member(gateway, "ann", tenant_id="t2")
    client = await gateway.open(f"/ws/dashboard?token={token}")
    await client.expect("error", code="invalid_argument")
    assert (await client.closed())[0] == 4500
    chosen = await gateway.open(
        "/ws/dashboard", additional_headers={"Authorization": f"Bearer {token}", "X-Tenant-Id": "t2"}
    )
    await chosen.expect("connected", tenant_id="t2")


async def test_a_channel_is_watched_until_it_is_not(gateway: Any) -> None:
    """A watcher gets each message of its channel, in older clients' words too, until it unsubscribes."""
    gateway.world.channel("t1", "room")
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("ann")
    await desk.send(type="subscribe_channel", channel_id="room", id=1)
    await desk.expect("subscription_confirmed", channel_id="room", id=1)
    await desk.send(type="subscribe_channel", channel_id="tenant.t1.channel.room")
    await desk.expect("subscription_confirmed")
    await publish(alice, "room", {"n": 1})
    seen = await desk.expect("channel_message", channel_id="room", agent_id="alice", data={"n": 1})
    assert seen["content"] == {"n": 1} and seen["from"] == "alice"
    assert seen["message_id"] and seen["timestamp"].endswith("Z")
    await desk.send(type="unsubscribe_channel", channel_id="room", id=2)
    await desk.expect("unsubscription_confirmed", channel_id="room", id=2)
    await publish(alice, "room", 2)
    await desk.nothing()


async def test_an_unknown_channel_is_not_found_and_not_created(gateway: Any) -> None:
    """A person's look creates no channel, whatever the tenant allows its agents."""
    desk = await gateway.dashboard("ann")
    await desk.send(type="subscribe_channel", channel_id="nowhere", id=1)
    await desk.expect("error", code="not_found", id=1)
    await desk.send(type="publish_channel", channel_id="nowhere", data=1, id=2)
    await desk.expect("error", code="not_found", id=2)
    assert ("t1", "nowhere") not in gateway.world.channels


async def test_a_person_publishes_as_themselves(gateway: Any) -> None:
    """Agents get a person's message with a sender that no agent can have."""
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("ann", role="member")
    await alice.subscribe("room")
    await desk.send(type="publish_channel", channel_id="room", data={"text": "hi"}, id=1)
    published = await desk.expect("published", id=1, channel_id="room", success=True)
    await alice.expect(
        "message", **{"from": "user:ann"}, data={"text": "hi"}, message_id=published["message_id"]
    )


async def test_presence_cannot_be_forged_by_a_person(gateway: Any) -> None:
    """The channels on which the platform tells of presence take nothing from dashboards."""
    gateway.world.channel("t1", "agents.presence.offline")
    desk = await gateway.dashboard("ann")
    await desk.send(type="publish_channel", channel_id="agents.presence.offline", data={}, id=1)
    await desk.expect("error", code="permission_denied", id=1)


async def test_a_viewer_reads_and_does_not_publish(gateway: Any) -> None:
    """The role decides what a person may do."""
    gateway.world.channel("t1", "room")
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("eve", role="viewer")
    await alice.subscribe("room")
    await desk.send(type="publish_channel", channel_id="room", data=1, id=1)
    await desk.expect("error", code="permission_denied", id=1)
    await desk.send(type="subscribe_channel", channel_id="room")
    await desk.expect("subscription_confirmed")
    await alice.nothing()


async def test_billing_sees_nothing_of_what_agents_say(gateway: Any) -> None:
    """A person who only pays gets no message, no preview and no list of agents."""
    gateway.world.channel("t1", "room")
    alice, desk = await gateway.agent("alice"), await gateway.dashboard("bill", role="billing")
    for command in (
        {"type": "subscribe_channel", "channel_id": "room"},
        {"type": "subscribe_topic_preview"},
        {"type": "subscribe_agents"},
        {"type": "publish_channel", "channel_id": "room", "data": 1},
    ):
        await desk.send(**command, id=1)
        await desk.expect("error", code="permission_denied", id=1)
    await publish(alice, "room", 1)
    await desk.nothing()


async def test_tabs_are_independent(gateway: Any) -> None:
    """Several sockets of one person each have their own subscriptions; closing one leaves the others."""
    for channel in ("a", "b"):
        gateway.world.channel("t1", channel)
    alice = await gateway.agent("alice")
    tabs = [await gateway.dashboard("ann") for _ in range(3)]
    for tab, channel in zip(tabs, ("a", "b", "a"), strict=True):
        await tab.send(type="subscribe_channel", channel_id=channel)
        await tab.expect("subscription_confirmed")
    await tabs[0].socket.close()
    await publish(alice, "a", 1)
    await publish(alice, "b", 2)
    await tabs[1].expect("channel_message", data=2)
    await tabs[2].expect("channel_message", data=1)
    for tab in tabs[1:]:
        await tab.nothing()


async def test_a_preview_shows_what_its_patterns_match(start_gateway: Any) -> None:
    """Patterns over channels or subjects, changed without reconnecting, and none shows another tenant."""
    gateway = await start_gateway(**STEADY)
    alice, spy = await gateway.agent("alice"), await gateway.agent("spy", "t2")
    desk = await gateway.dashboard("ann")
    await desk.send(type="subscribe_topic_preview", patterns=["team.*", "channel.x"], id=1)
    confirmed = await desk.expect("subscription_confirmed", subscription="topic_preview", id=1)
    assert confirmed["patterns"] == ["team.*", "x"] and confirmed["max_rate"] == 50.0
    # Once the last of them is shown, none is still on its way to the next patterns.
    for channel in ("y", "team.a.b", "team.a", "x"):
        await publish(spy, channel, "secret")
        await publish(alice, channel, channel)
    for channel in ("team.a", "x"):
        shown = await desk.expect("topic_preview_message", topic=channel, data=channel)
        assert shown["subject"] == f"tenant.t1.channel.{channel}"
        assert shown["path"]["publisher"] == "alice"
    await desk.send(type="subscribe_topic_preview", pattern="y")
    await desk.expect("subscription_confirmed", patterns=["y"])
    await publish(alice, "x", 1)
    await publish(alice, "y", 2)
    await desk.expect("topic_preview_message", topic="y", data=2)
    for pattern in ("tenant.t2.>", "tenant.t2.channel.x", "a b"):
        await desk.send(type="subscribe_topic_preview", pattern=pattern, id=2)
        await desk.expect("error", id=2)
    await desk.send(type="unsubscribe_topic_preview")
    await desk.expect("unsubscription_confirmed", subscription="topic_preview")
    await publish(alice, "y", 3)
    await desk.nothing()


async def test_a_preview_shows_or_counts_every_message(start_gateway: Any) -> None:
    """What was shown and what was said to be left out is exactly what was published, for each dashboard."""
    gateway = await start_gateway(preview_rate=20.0, preview_burst=10.0, preview_late=60.0)
    alice = await gateway.agent("alice")
    desks = [await gateway.dashboard("ann"), await gateway.dashboard("ben")]
    for desk, rate in zip(desks, (20.0, 2.0), strict=True):
        await desk.send(type="subscribe_topic_preview", pattern="room", max_rate=rate)
        await desk.expect("subscription_confirmed", max_rate=rate)
    await publish(alice, "room", *range(300))
    for desk in desks:
        shown: list[int] = []
        dropped = 0
        while len(shown) + dropped < 300:
            event = await desk.receive()
            if event["type"] == "topic_preview_message":
                shown.append(event["data"])
            else:
                assert event["type"] == "topic_preview_dropped" and event["window_ms"] >= 0
                dropped += event["count"]
        assert len(shown) + dropped == 300
        assert shown == sorted(set(shown)) and 0 < len(shown) < 250
        await desk.nothing()


async def test_a_dashboard_sees_every_agent_and_each_change(gateway: Any) -> None:
    """First those that registry knows, then who comes and goes; other tenants' agents never."""
    gateway.world.statuses = [AgentStatus(agent_id="old", name="Old", status="offline", capabilities=["ocr"])]
    desk = await gateway.dashboard("ann")
    await desk.send(type="subscribe_agents", id=1)
    await desk.expect("subscription_confirmed", subscription="agents", id=1)
    await desk.expect("agent_status", agent_id="old", status="offline", snapshot=True, capabilities=["ocr"])
    await desk.expect("agents_snapshot_complete")
    await gateway.agent("spy", "t2")
    alice = await gateway.agent("alice")
    await desk.expect("agent_status", agent_id="alice", status="online")
    await alice.socket.close()
    await desk.expect("agent_status", agent_id="alice", status="offline", reason="closed")
    await desk.send(type="unsubscribe_agents")
    await desk.expect("unsubscription_confirmed", subscription="agents")
    await gateway.agent("bob")
    await desk.nothing()


async def test_an_expiring_token_is_told_and_refreshed(gateway: Any) -> None:
    """A minute before its end the person is told, and a newer token goes on without a break."""
    member(gateway, "ann")
    world = gateway.world
    desk = await gateway.open(f"/ws/dashboard?token={world.token('ann', 61.0)}")
    await desk.expect("connected")
    await desk.expect("token_expiring")
    await desk.send(type="refresh", token=world.token("ann", 3600), id=1)
    await desk.expect("refreshed", id=1, role="owner")
    await desk.send(type="refresh", token=world.token("ben", 3600), id=2)
    await desk.expect("error", id=2)
    await desk.send(type="refresh", token="garbage", id=3)
    await desk.expect("error", id=3, code="unauthenticated")
    await desk.nothing()


async def test_a_token_of_another_issuer_is_another_persons(gateway: Any) -> None:
    """Who has the same subject at another issuer neither comes in nor takes a session over."""
    member(gateway, "ann")
    elsewhere = gateway.world.token("ann", iss=gateway.world.other_issuer)
    refused = await gateway.open(f"/ws/dashboard?token={elsewhere}")
    await refused.expect("error", code="permission_denied")
    # Also where both belong to the organisation.
    member(gateway, "acme:ann")
    desk = await gateway.open(f"/ws/dashboard?token={gateway.world.token('ann', 61.0)}")
    await desk.expect("connected", user_id="ann")
    await desk.send(type="refresh", token=elsewhere, id=1)
    await desk.expect("error", id=1, code="invalid_argument")
    other = await gateway.open(f"/ws/dashboard?token={elsewhere}")
    await other.expect("connected", user_id="acme:ann")


async def test_a_token_with_another_role_closes_the_views_of_the_old_one(gateway: Any) -> None:
    """A refreshed token that stands for less leaves nothing open that it would not have opened."""
    world = gateway.world
    desk = await gateway.dashboard("ann")
    await desk.send(type="subscribe_topic_preview")
    await desk.expect("subscription_confirmed")
    # No announcement: the role is what the identity provider says in the token.
    world.memberships["ann"] = [Membership(tenant_id="t1", role="billing")]
    await desk.send(type="refresh", token=world.token("ann", 7200))
    assert (await desk.closed())[0] == 1012


async def test_tokens_are_taken_at_a_pace(gateway: Any) -> None:
    """Each is checked, and registry asked: one that goes on at once is refused, and stays open."""
    world = gateway.world
    desk = await gateway.dashboard("ann")
    for number in range(200):
        await desk.send(type="refresh", token=world.token("ann"), id=number)
    await desk.expect("refreshed", id=0)
    refused = await desk.until("error", code="resource_exhausted")
    assert refused["retry_after"] > 0
    await desk.send(type="ping", id="still here")
    await desk.until("pong", id="still here")


async def test_a_right_that_is_lost_unannounced_ends_within_a_while(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a role on the platform: who has lost it does not look on until their token ends."""
    monkeypatch.setattr(upkeep, "DASHBOARDS_RECHECKED_SECONDS", 0.05)
    gateway = await start_gateway()
    desk, other = await gateway.dashboard("ann"), await gateway.dashboard("ben")
    gateway.world.memberships["ann"] = []
    assert (await desk.closed())[0] == 4501
    await other.nothing()


async def test_a_dashboard_watches_a_bounded_number_of_channels(gateway: Any) -> None:
    """One person cannot have this process hold subscriptions without end."""
    desk = await gateway.dashboard("ann")
    for number in range(1001):
        gateway.world.channel("t1", f"c{number}")
        await desk.send(type="subscribe_channel", channel_id=f"c{number}", id=number)
    for number in range(1000):
        await desk.expect("subscription_confirmed", id=number)
    await desk.expect("error", code="resource_exhausted", id=1000)


async def test_an_expired_token_ends_the_session(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its end and the leeway the socket is closed with 4005."""
    # To check a token has its own: this one is let in however late it comes.
    monkeypatch.setattr(dashboard_session, "LEEWAY_SECONDS", 1.0)
    member(gateway, "ann")
    ends_at = time.time() + 0.5
    desk = await gateway.open(f"/ws/dashboard?token={gateway.world.token('ann', exp=ends_at)}")
    await desk.expect("connected")
    await desk.expect("token_expiring")
    assert (await desk.closed())[0] == 4005
    assert time.time() > ends_at


async def test_another_role_closes_the_views_of_the_old_one(gateway: Any) -> None:
    """A person whose role changes connects anew; one who is no longer a member is closed for good."""
    ann, ben = await gateway.dashboard("ann"), await gateway.dashboard("ben")
    memberships = gateway.world.memberships
    memberships["ann"] = [Membership(tenant_id="t1", role="billing")]
    gateway.world.changed("t1", "member", "ann")
    assert (await ann.closed())[0] == 1012
    memberships["ben"] = []
    gateway.world.changed("t1", "member", "ben", "deleted")
    assert (await ben.closed())[0] == 4501
    again = await gateway.open(f"/ws/dashboard?token={gateway.world.token('ann')}")
    await again.expect("connected", role="billing")


async def test_a_membership_that_cannot_be_checked_now_is_checked_later(gateway: Any) -> None:
    """While registry is away nobody is thrown out, and the loss of a role still takes effect afterwards."""
    ann = await gateway.dashboard("ann")
    world = gateway.world
    world.memberships["ann"] = []
    world.unavailable = True
    world.changed("t1", "member", "ann", "deleted")
    async with asyncio.timeout(30):
        while not world.refusals:
            await asyncio.sleep(0.02)
    await ann.nothing()
    world.unavailable = False
    assert (await ann.closed())[0] == 4501


async def test_commands_of_agents_are_unknown_here_and_the_other_way_round(gateway: Any) -> None:
    """Each socket has its own commands."""
    desk, alice = await gateway.dashboard("ann"), await gateway.agent("alice")
    await desk.send(type="subscribe", channel="room", id=1)
    await desk.expect("error", code="invalid_argument", id=1)
    await alice.send(type="subscribe_topic_preview", id=1)
    await alice.expect("error", code="invalid_argument", id=1)
    await desk.send(type="authenticate", token="x", id=2)
    await desk.expect("error", id=2)


async def test_a_dashboard_that_does_not_read_stays_and_is_told_what_it_missed(start_gateway: Any) -> None:
    """A slow dashboard loses messages, exactly counted, and neither its socket nor anybody's time."""
    gateway = await start_gateway(outbox_bytes=65_536)
    alice, bob = await gateway.agent("alice"), await gateway.agent("bob")
    await bob.subscribe("room")
    desk = await gateway.dashboard("ann")
    await desk.send(type="subscribe_channel", channel_id="room")
    await desk.expect("subscription_confirmed")
    desk.socket.transport.pause_reading()
    count = 400
    for number in range(count):
        await alice.send(type="publish", channel="room", data={"n": number, "x": "x" * 20_000})
        assert (await bob.expect("message"))["data"]["n"] == number
    desk.socket.transport.resume_reading()
    seen: list[int] = []
    dropped = 0
    async with asyncio.timeout(60):
        while len(seen) + dropped < count:
            event = await desk.receive()
            if event["type"] == "channel_message":
                seen.append(event["data"]["n"])
            else:
                assert event["type"] == "dropped" and event["channel_id"] == "room"
                dropped += event["count"]
    assert len(seen) + dropped == count and dropped > 0
    assert seen == sorted(set(seen))
    await publish(alice, "room", {"n": "live"})
    await desk.until("channel_message", data={"n": "live"})


async def test_one_person_does_not_take_every_place(start_gateway: Any) -> None:
    """Over the bound a dashboard is told why and may come back; other people come in, and so do agents."""
    gateway = await start_gateway(max_dashboards_per_person=3, max_dashboards_per_tenant=5)
    mine = [await gateway.dashboard("ann") for _ in range(3)]
    token = gateway.world.token("ann")
    refused = await gateway.open(f"/ws/dashboard?token={token}&tenant_id=t1")
    error = await refused.expect("error", code="resource_exhausted")
    code, reason = await refused.closed()
    assert code == 4004 and reason == error["message"] and "3 dashboards" in reason
    for user_id in ("ben", "cyn"):
        await gateway.dashboard(user_id)
    gateway.world.memberships["dan"] = [Membership(tenant_id="t1", role="viewer")]
    refused = await gateway.open(f"/ws/dashboard?token={gateway.world.token('dan')}&tenant_id=t1")
    assert "your organisation has 5" in (await refused.expect("error"))["message"]
    await gateway.dashboard("ann", "t2")
    await gateway.agent("alice")
    await mine[0].socket.close()
    async with asyncio.timeout(30):
        while True:
            client = await gateway.open(f"/ws/dashboard?token={token}&tenant_id=t1")
            if (await client.receive())["type"] == "connected":
                break


async def test_the_record_of_a_dashboard_is_removed_after_it_was_written(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the store takes: else it would stay of one that has gone meanwhile."""
    began, gate, both = asyncio.Event(), asyncio.Event(), asyncio.Event()
    done: list[str] = []

    def note(what: str) -> None:
        done.append(what)
        if len(done) == 2:
            both.set()

    async def put_dashboard(*_: Any) -> None:
        began.set()
        await gate.wait()
        note("written")

    async def delete_dashboard(*_: Any) -> None:
        note("removed")

    monkeypatch.setattr(ConnectionStore, "put_dashboard", put_dashboard)
    monkeypatch.setattr(ConnectionStore, "delete_dashboard", delete_dashboard)
    gateway = await start_gateway()
    desk = await gateway.dashboard("ann")
    await began.wait()
    await desk.socket.close()
    # All that its end brings about has had its turn.
    alice = await gateway.agent("alice")
    await alice.nothing()
    gate.set()
    async with asyncio.timeout(30):
        await both.wait()
    assert done == ["written", "removed"]
