"""Local delivery: who gets a message, once and in order, and that every copy is counted exactly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, cast

import pytest
from gateway_fakes import FakeBus, FakeClock, FakeSession, message, parse, settle
from nats.errors import FlushTimeoutError

from artcafe_common.bus import Bus
from artcafe_common.errors import ErrorCode, ServiceError, not_found, unavailable
from artcafe_common.ids import new_ulid, tokens_match
from artcafe_common.usage import UsageCounter
from artcafe_gateway import fanout as fanout_module
from artcafe_gateway import metrics
from artcafe_gateway.fanout import Fanout
from artcafe_gateway.outbox import Policy

HOUR = 3600


class Hall:
    """A fanout with its NATS, clock and counter."""

    def __init__(self, bus: FakeBus, clock: FakeClock) -> None:
        self.bus = bus
        self.clock = clock
        self.counter = UsageCounter(clock)
        self.asked: list[str] = []
        self.answer: ServiceError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_resolved: Any = lambda channel_id: None
        self.fanout = Fanout(cast(Bus, bus), self.counter, clock, self.resolve)

    async def resolve(self, tenant_id: str, channel_id: str) -> None:
        """Make a channel known, or fail, when the gate opens."""
        self.asked.append(channel_id)
        await self.gate.wait()
        if self.answer is not None:
            raise self.answer
        self.on_resolved(channel_id)

    async def join(self, session: FakeSession, *patterns: str, policy: Policy = "disconnect") -> None:
        """Subscribe a session."""
        for pattern in patterns:
            await self.fanout.subscribe(session, pattern, policy)

    async def say(self, channel_id: str, *data: Any, tenant_id: str = "t") -> None:
        """Bring messages in one read, and let them be delivered."""
        for each in data:
            self.bus.deliver(f"tenant.{tenant_id}.channel.{channel_id}", message(channel_id, each))
        await settle()

    def usage(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return deliveries and bytes by (agent, channel) since the last call; zero rows are left out."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for span in self.counter.take():
            for row in span.rows:
                count, size = found.get((row.agent_id, row.channel_id), (0, 0))
                found[row.agent_id, row.channel_id] = (count + row.deliveries, size + row.bytes_out)
        return {key: counts for key, counts in found.items() if counts != (0, 0)}


@pytest.fixture
async def hall(bus: FakeBus, clock: FakeClock) -> Hall:
    """Give an empty hall."""
    return Hall(bus, clock)


@pytest.fixture
def deliveries() -> Iterator[Any]:
    """Give a function that tells by how much the metric of deliveries has grown."""
    before = metrics.DELIVERIES._value.get()
    yield lambda: metrics.DELIVERIES._value.get() - before


async def test_a_message_reaches_its_subscribers_alone(hall: Hall) -> None:
    """Only sessions on the channel, or on a pattern over it, get a message."""
    exact, wild, other = FakeSession("exact"), FakeSession("wild"), FakeSession("other")
    await hall.join(exact, "team.a")
    await hall.join(wild, "team.*")
    await hall.join(other, "team.b", "x.>")
    await hall.say("team.a", 1, 2)
    assert (exact.got, wild.got, other.got) == ([1, 2], [1, 2], [])


async def test_many_sessions_share_one_subscription_at_nats(hall: Hall) -> None:
    """The first opens it and the last one ends it."""
    sessions = [FakeSession(f"a{number}") for number in range(5)]
    for session in sessions:
        await hall.join(session, "c")
        await hall.join(session, "c")
    assert hall.bus.subjects == ["tenant.t.channel.c"]
    for session in sessions[:-1]:
        assert await hall.fanout.unsubscribe(session, "c")
    assert hall.bus.subjects == ["tenant.t.channel.c"]
    hall.fanout.leave_all(sessions[-1])
    await hall.fanout.close()
    assert hall.bus.subjects == []
    assert hall.fanout.subject_count == 0
    assert not hall.fanout._wild_patterns


async def test_tenants_are_apart(hall: Hall) -> None:
    """The same channel of another tenant, also of one whose id only starts alike, is another channel."""
    mine, theirs = FakeSession(tenant_id="t"), FakeSession(tenant_id="t1")
    await hall.join(mine, "c", ">")
    await hall.join(theirs, "c", ">")
    await hall.say("c", "secret", tenant_id="t1")
    assert (mine.got, theirs.got) == ([], ["secret"])


@pytest.mark.parametrize("patterns", [("c.a", "c.*", ">"), (">", "c.*", "c.a"), ("c.*", "c.a")])
async def test_overlapping_patterns_deliver_once(hall: Hall, patterns: tuple[str, ...]) -> None:
    """The first pattern of a session that matches has the message, whatever their order."""
    session = FakeSession()
    await hall.join(session, *patterns)
    await hall.say("c.a", 1)
    for pattern in patterns[:-1]:
        assert await hall.fanout.unsubscribe(session, pattern)
        await hall.say("c.a", pattern)
    assert session.got == [1, *patterns[:-1]]


async def test_what_patterns_cost_does_not_multiply(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session with many patterns over the same channels leaves one without comparing each with each."""
    compared = 0

    def counted(wanted: Sequence[str], given: Sequence[str]) -> bool:
        nonlocal compared
        compared += 1
        return tokens_match(wanted, given)

    monkeypatch.setattr(fanout_module, "tokens_match", counted)
    session = FakeSession()
    others = [f"other.{number}.>" for number in range(40)]
    over = [".".join(tokens) + ".>" for tokens in product("a*", repeat=5)]
    channels = [f"a.a.a.a.a.c{number}" for number in range(10)]
    await hall.join(session, *others, *over)
    for channel in channels:
        await hall.say(channel, channel)
    compared = 0
    for pattern in over[:-1]:
        assert await hall.fanout.unsubscribe(session, pattern)
    # For each pattern and channel: whose the channel was, whose it is, and into whose route it is put.
    assert compared <= 4 * len(over) * len(channels) * (len(others) + 1)
    for channel in channels:
        await hall.say(channel, "still here")
    assert session.got == [*channels, *["still here"] * len(channels)]


async def test_subscribing_again_changes_the_policy_alone(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the session is already nothing is looked for."""
    session = FakeSession()
    await hall.join(session, "a.*", "a.b")
    await hall.say("a.b", 1)
    monkeypatch.setattr(hall.fanout, "_place", None)
    await hall.fanout.subscribe(session, "a.*", "drop_oldest")
    await hall.say("a.b", 2)
    assert session.got == [1, 2]
    assert session.patterns == {"a.*": "drop_oldest", "a.b": "disconnect"}
    [route] = hall.fanout._subjects["t", "a.*"].routes.values()
    assert route.receivers == {session.connection: "drop_oldest"}


async def test_a_pattern_that_goes_leaves_its_channels_to_the_next(hall: Hall) -> None:
    """Each order of leaving keeps delivery at exactly one copy, with routes that are in use already."""
    session, witness = FakeSession("s"), FakeSession("w")
    await hall.join(session, "c.*", ">", "c.a")
    await hall.join(witness, ">", "c.*", "c.a")
    for step, gone in enumerate(["c.*", ">"]):
        await hall.say("c.a", step)
        await hall.say("c.b", step)
        await hall.fanout.unsubscribe(session, gone)
    await hall.say("c.a", "end")
    await hall.say("c.b", "end")
    assert session.got == [0, 0, 1, 1, "end"]
    assert witness.got == [0, 0, 1, 1, "end", "end"]


async def test_who_comes_and_goes_changes_a_route_in_use(hall: Hall, deliveries: Any) -> None:
    """Joining and leaving take effect between messages, and each copy is counted for its receiver."""
    first, second = FakeSession("first"), FakeSession("second")
    await hall.join(first, "c")
    await hall.say("c", 1)
    await hall.join(second, "c")
    await hall.say("c", 2, 3)
    await hall.fanout.unsubscribe(first, "c")
    await hall.say("c", 4)
    assert (first.got, second.got) == ([1, 2, 3], [2, 3, 4])
    assert hall.usage() == {("first", "c"): (3, 3), ("second", "c"): (3, 3)}
    assert deliveries() == 6


async def test_a_change_of_rights_takes_effect_on_a_route_in_use(hall: Hall) -> None:
    """A session that may read no longer gets nothing more, and again when it may."""
    session, other = FakeSession("s"), FakeSession("o")
    await hall.join(session, "c", ">")
    await hall.join(other, ">")
    await hall.say("c", 1)
    session.allowed["c"] = False
    hall.fanout.invalidate_session(session)
    await hall.say("c", 2)
    session.allowed["c"] = True
    hall.fanout.invalidate_session(session)
    await hall.say("c", 3)
    other.allowed["c"] = False
    hall.fanout.invalidate_channel("t", "c")
    await hall.say("c", 4)
    assert (session.got, other.got) == ([1, 3, 4], [1, 2, 3])
    assert hall.usage() == {("s", "c"): (3, 3), ("o", "c"): (3, 3)}


async def test_messages_of_one_turn_are_one_write(hall: Hall) -> None:
    """Frames that come in together are joined for each socket."""
    session = FakeSession()
    await hall.join(session, "c")
    await hall.say("c", *range(10))
    assert len(session.transport.writes) == 1
    assert session.got == list(range(10))


async def test_a_publisher_that_wants_no_echo_is_left_out(hall: Hall) -> None:
    """Only its own message is kept from it; the copy is not counted."""
    alice, bob = FakeSession("alice"), FakeSession("bob")
    await hall.join(alice, "c")
    await hall.join(bob, "c")
    own = new_ulid()
    hall.fanout.no_echo(own.encode(), alice.connection)
    hall.bus.deliver("tenant.t.channel.c", message("c", "own", message_id=own))
    hall.bus.deliver("tenant.t.channel.c", message("c", "other"))
    await settle()
    assert (alice.got, bob.got) == (["other"], ["own", "other"])
    assert hall.usage() == {("alice", "c"): (1, 7), ("bob", "c"): (2, 12)}


async def test_unwanted_echoes_are_forgotten(hall: Hall) -> None:
    """What is remembered to leave out a sender does not pile up."""
    session = FakeSession()
    for number in range(100):
        hall.fanout.no_echo(b"%d" % number, session.connection)
    hall.clock.move(fanout_module.NO_ECHO_SECONDS + 1)
    hall.usage()
    assert not hall.fanout._no_echo


async def test_counts_are_exact_whatever_becomes_of_a_copy(hall: Hall, deliveries: Any) -> None:
    """Written, held and sent later, held and dropped, cut off: what a socket took is what is counted."""
    fast, slow, loose, firm = [FakeSession(name, outbox=300) for name in ("fast", "slow", "loose", "firm")]
    await hall.join(fast, "c")
    await hall.join(slow, "c")
    await hall.join(loose, "c", policy="drop_newest")
    await hall.join(firm, "c")
    text = "x" * 100
    await hall.say("c", text)
    for session in (slow, loose, firm):
        session.connection.pause()
    await hall.say("c", "ä")
    await hall.say("c", text)
    assert firm.connection.closing and slow.connection.closing and not loose.connection.closing
    await hall.say("c", 7)
    loose.connection.resume()
    size = len(json.dumps(text))
    assert fast.got == [text, "ä", text, 7]
    assert loose.got == [text, "ä"]
    assert hall.usage() == {
        ("fast", "c"): (4, 2 * size + 4 + 1),
        ("slow", "c"): (1, size),
        ("firm", "c"): (1, size),
        ("loose", "c"): (2, size + 4),
    }
    assert deliveries() == 8


async def test_a_receiver_that_is_closing_is_neither_written_to_nor_counted(hall: Hall) -> None:
    """After a close frame no data follows, and nobody pays for it."""
    session = FakeSession()
    await hall.join(session, "c")
    await hall.say("c", 1)
    session.connection.close(4501, "revoked")
    await hall.say("c", 2)
    session.connection.lost()
    await hall.say("c", 3)
    assert [frame.opcode for frame in parse(bytes(session.transport.written))] == [1, 8]
    assert hall.usage() == {("a", "c"): (1, 1)}


async def test_counts_belong_to_the_hour_in_which_a_copy_was_delivered(hall: Hall) -> None:
    """At the edge of an hour nothing is lost, doubled or moved into the hour that is over."""
    session, held = FakeSession("s"), FakeSession("h")
    await hall.join(session, "c")
    await hall.join(held, "c")
    hall.clock.wall = HOUR * 500_000 - 1.0
    await hall.say("c", 1)
    held.connection.pause()
    await hall.say("c", 2)
    hall.clock.wall += 2
    held.connection.resume()
    await hall.say("c", 3)
    batches = [
        (span.start, {row.agent_id: row.deliveries for row in span.rows if row.deliveries})
        for span in hall.counter.take()
    ]
    assert [counts for _, counts in batches] == [{"s": 2, "h": 1}, {"s": 1, "h": 2}]
    assert batches[0][0] < HOUR * 500_000 <= batches[1][0]


def by_hour(hall: Hall) -> list[dict[str, int]]:
    """Return the deliveries by agent of each span, with those that come to nothing."""
    return [{row.agent_id: row.deliveries for row in span.rows} for span in hall.counter.take()]


async def test_who_joins_when_an_hour_has_ended_owes_nothing(hall: Hall) -> None:
    """What was delivered before somebody joined is not taken from them in the hour that begins."""
    early, late = FakeSession("early"), FakeSession("late")
    await hall.join(early, "c")
    hall.clock.wall = HOUR * 500_000 - 1.0
    hall.counter.tally(hall.clock.now(), "t")
    await hall.say("c", 1)
    hall.clock.wall += 2
    await hall.join(late, "c")
    await hall.say("c", 2)
    spans = by_hour(hall)
    assert min(min(span.values()) for span in spans) >= 0
    assert {name: sum(span.get(name, 0) for span in spans) for name in ("early", "late")} == {
        "early": 2,
        "late": 1,
    }


async def test_an_hour_that_ends_among_the_copies_of_a_message_leaves_no_debt(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is held back is taken from the hour in which it is counted with the others."""
    sessions = [FakeSession(name) for name in ("a", "b", "free")]
    for session in sessions:
        await hall.join(session, "c")
    await hall.say("c", 1)
    hall.usage()
    for held in sessions[:2]:
        held.connection.pause()
    times = iter([HOUR * 500_000 - 0.5])
    monkeypatch.setattr(hall.clock, "now", lambda: next(times, HOUR * 500_000 + 0.5))
    await hall.say("c", 2)
    spans = by_hour(hall)
    assert min(min(span.values()) for span in spans) >= 0
    assert sum(span["free"] for span in spans) == 1


async def test_presence_channels_are_not_counted(hall: Hall) -> None:
    """What the platform itself tells is delivered for nothing."""
    session = FakeSession()
    await hall.join(session, "agents.presence.>")
    await hall.say("agents.presence.online", 1)
    assert session.got == [1]
    assert hall.usage() == {}


async def test_a_channel_nobody_knows_yet_is_looked_up_once_and_its_messages_wait(hall: Hall) -> None:
    """While registry is asked messages wait, then all are delivered in order."""
    session, other = FakeSession("s"), FakeSession("o")
    session.allowed["c"] = other.allowed["c"] = None
    await hall.join(session, "c")
    await hall.join(other, "c")
    hall.gate.clear()
    await hall.say("c", 1, 2)
    await hall.say("c", 3)
    assert (session.got, hall.asked) == ([], ["c"])

    def resolved(channel_id: str) -> None:
        session.allowed["c"], other.allowed["c"] = True, False

    hall.on_resolved = resolved
    hall.gate.set()
    await settle()
    await hall.say("c", 4)
    assert (session.got, other.got) == ([1, 2, 3, 4], [])
    assert hall.usage() == {("s", "c"): (4, 4)}


async def test_messages_wait_for_a_registry_that_is_away_for_a_moment(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that cannot be looked up now is tried again, and nothing is lost meanwhile."""
    monkeypatch.setattr(fanout_module, "RESOLVE_PAUSE_SECONDS", 0.005)
    session = FakeSession()
    session.allowed["c"] = None
    await hall.join(session, "c")
    hall.answer = unavailable("registry")
    await hall.say("c", 1)
    async with asyncio.timeout(30):
        while len(hall.asked) < 3:
            await asyncio.sleep(0.001)
    hall.on_resolved = lambda channel_id: session.allowed.update({"c": True})
    hall.answer = None
    async with asyncio.timeout(30):
        while not session.got:
            await asyncio.sleep(0.001)
    assert session.got == [1]


@pytest.mark.parametrize("error", [not_found("channel"), unavailable("registry")])
async def test_what_cannot_be_looked_up_is_lost_and_said_once(
    hall: Hall, error: ServiceError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is given what they may not be allowed to read; one line says how much was lost."""
    monkeypatch.setattr(fanout_module, "RESOLVE_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(fanout_module, "RESOLVE_PATIENCE_SECONDS", -1.0)
    session = FakeSession()
    session.allowed["c"] = None
    await hall.join(session, "c")
    hall.answer = error
    hall.gate.clear()
    await hall.say("c", *range(7))
    hall.gate.set()
    await hall.fanout.close()
    [record] = [r for r in caplog.records if r.message == "messages_lost_while_resolving"]
    assert (record.count, record.code) == (7, error.code)  # type: ignore[attr-defined]
    session.allowed["c"] = True
    await hall.say("c", "next")
    assert session.got == ["next"]


async def test_what_waits_for_a_look_up_is_bounded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages beyond the bound are lost rather than kept, those before it arrive."""
    monkeypatch.setattr(fanout_module, "PENDING_BYTES_MAX", 10_000)
    session = FakeSession(outbox=1_000_000)
    session.allowed["c"] = None
    await hall.join(session, "c")
    hall.gate.clear()
    await hall.say("c", *["x" * 900 for _ in range(50)])
    hall.on_resolved = lambda channel_id: session.allowed.update({"c": True})
    hall.gate.set()
    await hall.fanout.close()
    assert len(session.got) == 9


async def test_a_session_that_joins_during_a_look_up_gets_what_waits_for_all(hall: Hall) -> None:
    """The route is filled with those who are there when it is filled."""
    early, late = FakeSession("early"), FakeSession("late")
    early.allowed["c"] = late.allowed["c"] = None
    await hall.join(early, "c")
    hall.gate.clear()
    await hall.say("c", 1)
    await hall.join(late, "c")
    await hall.fanout.unsubscribe(early, "c")

    def resolved(channel_id: str) -> None:
        early.allowed["c"] = late.allowed["c"] = True

    hall.on_resolved = resolved
    hall.gate.set()
    await hall.say("c", 2)
    assert (early.got, late.got) == ([], [1, 2])
    assert hall.usage() == {("late", "c"): (2, 2)}


async def test_dashboards_read_their_own_text_and_are_not_counted(hall: Hall) -> None:
    """A message is rendered once for all watchers; an agent beside them gets the frame."""
    agent, one, two = FakeSession("agent"), FakeSession(None), FakeSession(None)
    for session in (agent, one, two):
        await hall.join(session, "c", policy="drop_newest")
    await hall.say("c", 1)
    assert agent.got == [1]
    assert [list(event) for event in one.transport.events + two.transport.events] == [["seen"], ["seen"]]
    assert one.rendered + two.rendered == 1
    assert hall.usage() == {("agent", "c"): (1, 1)}


async def test_messages_of_one_read_are_one_write_for_a_dashboard_too(hall: Hall) -> None:
    """In their order; for one whose socket is full each is held for itself."""
    reader, stuck = FakeSession(None), FakeSession(None)
    for session in (reader, stuck):
        await hall.join(session, "c", policy="drop_newest")
    stuck.connection.pause()
    await hall.say("c", 1, 2, 3)
    assert [event["seen"]["data"] for event in reader.transport.events] == [1, 2, 3]
    assert len(reader.transport.writes) == 1
    assert stuck.transport.writes == []
    stuck.connection.resume()
    assert stuck.transport.events == reader.transport.events


async def test_a_dashboard_that_does_not_read_loses_messages_not_its_socket(hall: Hall) -> None:
    """Beyond its outbox a watcher's messages are dropped, which it is told, and it goes on."""
    watcher = FakeSession(None, outbox=500)
    watcher.connection.on_drop = lambda channel, count: json.dumps({"dropped": count}).encode()
    await hall.join(watcher, "c", policy="drop_newest")
    watcher.connection.pause()
    await hall.say("c", *["x" * 100 for _ in range(10)])
    watcher.connection.resume()
    await hall.say("c", 1)
    seen = [event for event in watcher.transport.events if "seen" in event]
    [notice] = [event for event in watcher.transport.events if "dropped" in event]
    assert len(seen) + notice["dropped"] == 11
    assert not watcher.connection.closing
    assert hall.usage() == {}


async def test_a_session_that_ends_while_nats_is_asked_leaves_others_their_subscription(hall: Hall) -> None:
    """The one that asked first may go; those who wait with it are subscribed all the same."""
    first, second = FakeSession("first"), FakeSession("second")
    hall.bus.gate.clear()
    asking = asyncio.create_task(hall.join(first, "c"))
    await settle()
    waiting = asyncio.create_task(hall.join(second, "c"))
    await settle()
    asking.cancel()
    hall.fanout.leave_all(first)
    await settle()
    hall.bus.gate.set()
    await waiting
    await hall.say("c", 1)
    assert (first.got, second.got) == ([], [1])


async def test_a_subscription_that_everybody_left_while_nats_was_asked_is_ended(hall: Hall) -> None:
    """Nothing is left at NATS of a session that went in the middle of subscribing."""
    session = FakeSession()
    hall.bus.gate.clear()
    asking = asyncio.create_task(hall.join(session, "c"))
    await settle()
    hall.fanout.leave_all(session)
    other = FakeSession("other")
    again = asyncio.create_task(hall.join(other, "c"))
    await settle()
    hall.bus.gate.set()
    await asyncio.gather(asking, again)
    await hall.fanout.close()
    assert hall.bus.subjects == ["tenant.t.channel.c"]
    await hall.say("c", 1)
    assert other.got == [1]


async def test_a_subscription_that_nats_does_not_take_is_refused_and_tried_anew(hall: Hall) -> None:
    """Everyone who waited hears unavailable and is not on the channel; the next attempt starts afresh."""
    sessions = [FakeSession("a"), FakeSession("b")]
    hall.bus.flush_error = FlushTimeoutError()
    results = await asyncio.gather(*(hall.join(s, "c") for s in sessions), return_exceptions=True)
    assert [error.code for error in results if isinstance(error, ServiceError)] == [
        ErrorCode.UNAVAILABLE,
        ErrorCode.UNAVAILABLE,
    ]
    assert hall.bus.subjects == [] and hall.fanout.subject_count == 0
    assert [session.patterns for session in sessions] == [{}, {}]
    hall.bus.flush_error = None
    await hall.join(sessions[0], "c")
    await hall.say("c", 1)
    assert sessions[0].got == [1]


async def test_subscribing_while_the_bus_is_away_is_refused_at_once(hall: Hall) -> None:
    """A client is told instead of waiting for a connection that is not there."""
    session = FakeSession()
    hall.bus.is_connected = False
    with pytest.raises(ServiceError) as caught:
        await hall.join(session, "c")
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert session.patterns == {}


async def test_a_message_that_cannot_be_handled_stops_no_other(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken frame on one channel leaves other channels of the same turn, and its own next one, alone."""
    session = FakeSession()
    await hall.join(session, "a", "b")
    hall.bus.deliver("tenant.t.channel.a", b"not a frame")
    hall.bus.deliver("tenant.t.channel.b", message("b", 1))
    await settle()
    assert session.got == [1]
    await hall.say("a", 2)
    assert session.got == [1, 2]
    assert "delivery_failed" in caplog.text


async def test_leaving_with_many_wildcards_is_cheap(hall: Hall) -> None:
    """Nothing falls from one pattern of a session that ends to the next."""
    session, other = FakeSession("s"), FakeSession("o")
    await hall.join(session, *(f"a{number}.>" for number in range(100)), ">")
    await hall.join(other, ">")
    await hall.say("a5.x", 1)
    session.connection.lost()
    hall.fanout.leave_all(session)
    await hall.fanout.close()
    await hall.say("a5.x", 2)
    assert (session.got, other.got) == ([1], [1, 2])
    assert hall.bus.subjects == ["tenant.t.channel.>"]
    assert hall.usage() == {("s", "a5.x"): (1, 1), ("o", "a5.x"): (2, 2)}
