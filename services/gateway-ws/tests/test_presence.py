"""Who is online: heartbeats, pings and ends, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_fakes import House, settle

from artcafe_common.clock import rfc3339
from artcafe_common.contracts.gateway import Replaced
from artcafe_common.errors import CloseCode, unavailable
from artcafe_gateway import presence
from artcafe_gateway.presence import (
    COUNT_SECONDS,
    FINAL_STEP,
    STATEMENTS_BURST,
    VERSIONS_PER_GENERATION,
)
from artcafe_gateway.store import Holder, Orphan


def beat(house: House, seconds: float) -> None:
    """Let time pass and look at everyone."""
    house.clock.move(seconds)
    house.presences.tick()


async def test_an_agent_is_announced_online_when_it_opens(house: House) -> None:
    """Registry and the agents that watch each other hear of it."""
    house.open()
    [(_, watched)] = [
        item for item in house.bus.published if item[0] == "tenant.t.channel.agents.presence.online"
    ]
    assert json.loads(watched)["data"]["agent_id"] == "alice"
    assert house.announced() == [("online", "connected")]


async def test_since_when_an_agent_is_connected_is_told_while_it_is(house: House) -> None:
    """Every change says since when the connection holds; the last one, that it holds no more."""
    session, _ = house.open()
    house.clock.move(7)
    session.on_text(b'{"type":"presence","status":"busy"}')
    session.on_text(b'{"type":"presence","status":"offline"}')
    told = [
        json.loads(data).get("connected_at")
        for subject, data in house.bus.published
        if subject.startswith("gateway.v1.presence.")
    ]
    assert told == [rfc3339(session.connected_at), rfc3339(session.connected_at), None]


async def test_of_many_statements_the_newest_is_told_later(house: House) -> None:
    """Each is a write into stream and store: what comes faster is acknowledged, and told at a tick's pace."""
    session, transport = house.open()
    house.announced()
    for number in range(100):
        session.on_text(b'{"type":"presence","status":"busy","metadata":{"n":%d}}' % number)
    at_once = house.presence_events()
    assert [event.metadata for event in at_once] == [{"n": n} for n in range(int(STATEMENTS_BURST))]
    assert [event["type"] for event in transport.events] == ["presence_ack"] * 100
    beat(house, 1)
    beat(house, 1)
    beat(house, 1)
    assert [event.metadata for event in house.presence_events()] == [{"n": 99}]
    session.on_text(b'{"type":"presence","metadata":{"n":100}}')
    assert [event.metadata for event in house.presence_events()] == [{"n": 100}]


async def test_a_last_statement_that_was_held_back_holds(house: House) -> None:
    """Whoever says offline and leaves is offline, however much was said before."""
    session, _ = house.open()
    for _ in range(20):
        session.on_text(b'{"type":"presence","status":"busy"}')
    house.announced()
    session.on_text(b'{"type":"presence","status":"offline"}')
    assert house.announced() == []
    beat(house, 1)
    assert house.announced() == [("offline", "stated")]
    session.on_text(b'{"type":"presence","status":"busy"}')
    session.on_text(b'{"type":"presence","status":"offline"}')
    session.connection.lost()
    await settle()
    assert house.announced() == [("offline", "closed")]


async def test_when_an_agent_was_last_heard_is_told_with_its_end(house: House) -> None:
    """Whoever asks when an agent died is not told when it was given up."""
    session, _ = house.open()
    house.clock.move(7)
    session.on_text(b'{"type":"heartbeat"}')
    heard = rfc3339(house.clock.now())
    session.connection.lost()
    for _ in range(20):
        beat(house, 5)
    await settle()
    told = [
        (event["status"], event["last_seen"])
        for subject, data in house.bus.published
        if subject.startswith("gateway.v1.presence.") and (event := json.loads(data))
    ]
    assert told[1:] == [("suspect", heard), ("offline", heard)]


async def test_a_silent_agent_is_suspect_at_half_the_time_and_offline_after_it(house: House) -> None:
    """Doubt comes first, then the end, each told once; the socket is closed with 4001."""
    session, transport = house.open()
    house.announced()
    session.on_text(b'{"type":"heartbeat"}')
    for _ in range(9):
        beat(house, 5)
    assert house.announced() == []
    beat(house, 1)
    beat(house, 1)
    assert house.announced() == [("suspect", "heartbeat late")]
    beat(house, 43)
    await settle()
    assert house.announced() == []
    beat(house, 1)
    await settle()
    assert house.announced() == [("offline", "heartbeat timeout")]
    assert transport.close_codes == [CloseCode.HEARTBEAT_TIMEOUT]
    assert house.store.released == [("t", "alice", session.connection.connection_id)]
    session.connection.lost()
    beat(house, 200)
    await settle()
    assert house.announced() == []


async def test_a_heartbeat_keeps_an_agent_online(house: House) -> None:
    """Heartbeats at the usual pace announce nothing."""
    session, transport = house.open()
    house.announced()
    for _ in range(20):
        beat(house, 30)
        session.on_text(b'{"type":"heartbeat"}')
        session.connection.ping_unanswered = False
    assert house.announced() == []
    assert transport.close_codes == []


@pytest.mark.parametrize("text", [b'{"type":"heartbeat"}', b'{"type":"ping"}', b"{broken"])
async def test_a_suspect_agent_that_shows_life_is_online_again(house: House, text: bytes) -> None:
    """Any frame is life; the doubt is taken back, once."""
    session, _ = house.open()
    session.on_text(b'{"type":"heartbeat"}')
    session.connection.pinged_at += 1000
    beat(house, 50)
    house.announced()
    session.on_text(text)
    beat(house, 1)
    beat(house, 1)
    assert [status for status, _ in house.announced()] == ["online"]


async def test_pongs_are_life_only_for_agents_without_heartbeats(house: House) -> None:
    """A library answers pings for a program that hangs: who sends heartbeats must go on sending them."""
    quiet, _ = house.open("quiet")
    beating, transport = house.open("beating")
    beating.on_text(b'{"type":"heartbeat"}')
    for _ in range(5):
        beat(house, 20)
        await settle()
        for session in (quiet, beating):
            session.connection.ping_unanswered = False
            session.on_alive()
    assert ("offline", "heartbeat timeout") in house.announced("beating")
    assert house.announced("quiet") == [("online", "connected")]
    assert transport.close_codes == [CloseCode.HEARTBEAT_TIMEOUT]


async def test_a_socket_that_does_not_answer_a_ping_is_cut(house: House) -> None:
    """A ping goes out at its interval, and without an answer the socket ends."""
    session, transport = house.open()
    beat(house, 25)
    assert transport.opcodes == []
    beat(house, 1)
    assert transport.opcodes == [9]
    beat(house, 20)
    aborted = [transport.aborted]
    beat(house, 1)
    assert [*aborted, transport.aborted] == [False, True]
    assert session.connection.ping_unanswered


async def test_an_agent_is_not_blamed_for_what_this_process_does_not_read(house: House) -> None:
    """While reading is paused the silence is our own: no ping is missed and nobody is given up."""
    session, transport = house.open()
    house.announced()
    beat(house, 26)
    session.connection.pause_reading()
    for _ in range(20):
        beat(house, 10)
    await settle()
    assert house.announced() == [] and not transport.aborted
    session.connection.resume_reading()
    beat(house, 1)
    assert house.announced() == []


async def test_nobody_is_given_up_for_the_time_in_which_this_process_stood_still(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It heard nobody then and let nobody in: no agent, ping or lost socket is too late."""
    monkeypatch.setattr(presence, "TICK_SECONDS", 0.001)
    running = asyncio.create_task(house.presences.run())
    try:
        silent, transport = house.open("silent")
        lost, _ = house.open("lost")
        lost.connection.lost()
        silent.connection.ping(house.clock.monotonic())
        heard = rfc3339(house.clock.now())
        # It sleeps by now.
        await settle()
        house.clock.move(1000)
        # It has looked.
        await asyncio.sleep(0.05)
        house.clock.move(50)
        await asyncio.sleep(0.05)
        assert house.announced("silent") == [("online", "connected")]
        assert [status for status, _ in house.announced("lost")] == ["online", "suspect"]
        assert not transport.aborted and transport.close_codes == []
    finally:
        running.cancel()
    beat(house, 91)
    await settle()
    # When they were heard is told as it was.
    assert [p.last_seen for p in house.presence_events("lost")] == [heard]
    assert house.announced("silent") == [("offline", "heartbeat timeout")]
    assert transport.aborted


async def test_a_goodbye_is_offline_at_once(house: House) -> None:
    """A clean close needs no timeout."""
    session, _ = house.open()
    house.announced()
    session.connection.acknowledge_close(1000)
    session.connection.lost()
    await settle()
    assert house.announced() == [("offline", "closed")]
    assert house.store.holders == {}


async def test_a_lost_socket_is_suspect_then_offline(house: House) -> None:
    """An agent whose socket vanished has the timeout to come back."""
    session, _ = house.open()
    house.announced()
    session.connection.lost()
    await settle()
    assert house.announced() == [("suspect", "connection lost")]
    beat(house, 90)
    await settle()
    assert house.announced() == []
    beat(house, 1)
    await settle()
    assert house.announced() == [("offline", "did not come back")]


async def test_an_agent_that_comes_back_in_time_was_never_offline(house: House) -> None:
    """The new connection takes the old one's place, whose end changes nothing any more."""
    first, _ = house.open()
    first.connection.lost()
    beat(house, 60)
    second, _ = house.open()
    for _ in range(4):
        beat(house, 20)
        second.on_text(b'{"type":"heartbeat"}')
        second.connection.ping_unanswered = False
    await settle()
    assert [status for status, _ in house.announced()] == ["online", "suspect", "online"]
    assert house.presences.get("t", "alice") is second


async def test_a_newer_connection_closes_the_older_one(house: House) -> None:
    """The older socket is told 4006, and its late end leaves the agent online."""
    first, transport = house.open()
    second, _ = house.open()
    assert transport.close_codes == [CloseCode.REPLACED]
    house.announced()
    first.connection.lost()
    await settle()
    assert house.announced() == []
    assert house.presences.sessions() == [second]


async def test_of_two_connections_that_open_in_the_wrong_order_the_newer_stays(house: House) -> None:
    """The one that the store has as newest wins although the other one's task ended later."""
    older, late = house.session(generation=1)
    newer, transport = house.session(generation=2)
    house.presences.opened(newer, None)
    house.presences.opened(older, None)
    assert house.presences.sessions() == [newer]
    assert late.close_codes == [CloseCode.REPLACED]
    assert transport.close_codes == []
    older.connection.lost()
    await settle()
    assert house.announced() == [("online", "connected")]


async def test_a_connection_replaced_elsewhere_before_it_opened_is_closed(house: House) -> None:
    """The other gateway's word may come while the handshake is still going on."""
    session, transport = house.session()
    house.presences.replaced(
        Replaced(tenant_id="t", agent_id="alice", connection_id=session.connection.connection_id)
    )
    house.presences.opened(session, None)
    assert transport.close_codes == [CloseCode.REPLACED]
    assert house.presences.sessions() == []
    beat(house, 120)
    assert not house.presences._replaced_early


async def test_a_connection_replaced_elsewhere_is_closed_and_says_nothing(house: House) -> None:
    """Its agent is online at the other gateway; only the connection that was meant is closed."""
    session, transport = house.open()
    house.announced()
    house.presences.replaced(Replaced(tenant_id="t", agent_id="alice", connection_id="another"))
    assert transport.close_codes == []
    house.presences.replaced(
        Replaced(tenant_id="t", agent_id="alice", connection_id=session.connection.connection_id)
    )
    assert transport.close_codes == [CloseCode.REPLACED]
    session.connection.lost()
    beat(house, 200)
    await settle()
    assert house.announced() == []


async def test_the_gateway_that_held_an_agent_before_is_told(house: House) -> None:
    """Only the one that the store names hears of it."""
    session, _ = house.session()
    house.presences.opened(session, Holder("gateway-2-X", "C1"))
    subjects = [subject for subject, _ in house.bus.published if "replaced" in subject]
    assert subjects == ["gateway.v1.replaced.gateway-2-X"]


async def test_an_agent_that_says_offline_is_offline_and_stays_so_when_it_leaves(house: House) -> None:
    """The word of an agent counts at once, and its end is not told twice."""
    session, _ = house.open()
    house.announced()
    session.on_text(b'{"type":"presence","status":"offline"}')
    session.on_text(b'{"type":"heartbeat"}')
    session.connection.lost()
    await settle()
    assert house.announced() == [("offline", "stated")]
    assert house.store.holders == {}


async def test_a_restart_is_announced_to_nobody(house: House) -> None:
    """Sockets that this server closes to restart come back elsewhere within moments."""
    session, _ = house.open()
    house.announced()
    house.presences.drain()
    session.connection.close(CloseCode.RESTART, "restart", end="restart")
    session.connection.lost()
    beat(house, 500)
    await settle()
    assert house.announced() == []
    assert ("t", "alice") in house.store.holders


async def test_the_end_of_one_that_is_elsewhere_by_now_is_not_announced(house: House) -> None:
    """The store says whether an agent has come back at another gateway."""
    session, _ = house.open()
    house.announced()
    house.store.holders["t", "alice"] = Holder("other", "C2")
    session.connection.acknowledge_close(1000)
    session.connection.lost()
    await settle()
    assert house.announced() == []


async def test_versions_grow_over_changes_and_connections(house: House) -> None:
    """A reader that keeps the highest version is right, whatever order it hears things in."""
    first, _ = house.open()
    first.connection.lost()
    second, _ = house.open()
    second.connection.acknowledge_close(1000)
    second.connection.lost()
    await settle()
    versions = [presence.version for presence in house.presence_events()]
    assert versions == sorted(set(versions)) and len(versions) == 4
    await house.presences.bury(Orphan("t", "alice", "C", 2, False), 0.0)
    assert second.next_version() < 2 * VERSIONS_PER_GENERATION + FINAL_STEP


async def test_an_agent_whose_release_was_repeated_is_offline_all_the_same(house: House) -> None:
    """The repeated one finds the record released already: nobody else holds the agent, so it has gone."""
    session, _ = house.open()
    house.announced()
    house.store.holders.clear()
    session.connection.acknowledge_close(1000)
    session.connection.lost()
    await settle()
    assert house.announced() == [("offline", "closed")]


async def test_an_orphan_is_announced_once_and_not_if_it_came_back(house: House) -> None:
    """Whoever releases the record announces it; one that has a newer record is left alone."""
    orphan = Orphan("t", "alice", "C1", 7, False)
    house.store.holders["t", "alice"] = Holder("dead", "C1")
    await house.presences.bury(orphan, 0.0)
    await house.presences.bury(orphan, 0.0)
    [presence] = house.presence_events()
    assert (presence.status, presence.version) == ("offline", 7 * VERSIONS_PER_GENERATION + FINAL_STEP)
    house.store.holders["t", "alice"] = Holder("alive", "C2")
    await house.presences.bury(orphan, 0.0)
    assert house.announced() == []


async def test_what_could_not_be_announced_is_told_when_the_bus_is_back(house: House) -> None:
    """Who is here, who is in doubt, and who went meanwhile."""
    stays, _ = house.open("stays")
    doubted, _ = house.open("doubted")
    gone, _ = house.open("gone")
    house.bus.is_connected = False
    doubted.connection.lost()
    gone.connection.acknowledge_close(1000)
    gone.connection.lost()
    await settle()
    house.bus.published.clear()
    house.clock.move(80)
    stays.on_alive()
    house.presences.tick()
    house.bus.is_connected = True
    house.presences.reannounce()
    await settle()
    statuses = {name: house.announced(name)[-1][0] for name in ("stays", "doubted", "gone")}
    assert statuses == {"stays": "online", "doubted": "suspect", "gone": "offline"}
    beat(house, 80)
    beat(house, 1)
    house.bus.published.clear()
    house.presences.reannounce()
    await settle()
    assert house.announced("gone") == []
    assert house.announced("stays") != []


async def test_a_record_that_cannot_be_released_is_released_later(house: House) -> None:
    """While the store is away the agent is offline all the same; its place is freed afterwards."""
    session, _ = house.open()
    house.announced()
    house.store.error = unavailable("store")
    session.connection.acknowledge_close(1000)
    session.connection.lost()
    await settle()
    assert house.announced() == [("offline", "closed")]
    house.store.error = None
    await house.presences.release_late()
    assert house.store.holders == {}
    await house.presences.release_late()
    assert len(house.store.released) == 1


async def test_sessions_that_others_gave_up_are_closed(house: House) -> None:
    """After this process was taken for dead its agents come back, and those that are elsewhere end."""
    kept, _ = house.open("kept")
    lost, lost_transport = house.open("lost")
    moved, moved_transport = house.open("moved")
    del house.store.holders["t", "lost"]
    house.store.holders["t", "moved"] = Holder("other", "C2")
    house.presences.reclaim()
    await settle()
    assert not kept.connection.closing
    assert lost_transport.close_codes == [CloseCode.RESTART]
    assert moved_transport.close_codes == [CloseCode.REPLACED]
    assert lost.connection.deaf and moved.connection.deaf


def seconds(house: House) -> dict[str, float]:
    """Return the seconds counted by agent since the last call."""
    found: dict[str, float] = {}
    for span in house.counter.take():
        for row in span.rows:
            found[row.agent_id] = found.get(row.agent_id, 0.0) + row.connection_seconds
    return found


async def test_time_connected_is_counted_now_and_then_and_at_the_end(house: House) -> None:
    """An idle agent costs a row of usage only now and then, and not a second is lost."""
    session, _ = house.open()
    beat(house, COUNT_SECONDS)
    assert seconds(house) == {}
    beat(house, 1)
    assert seconds(house) == {"alice": COUNT_SECONDS + 1}
    house.clock.move(5)
    session.connection.lost()
    beat(house, 5)
    assert seconds(house) == {"alice": 5.0}


async def test_time_connected_is_counted_in_its_hour(house: House) -> None:
    """At the end of an hour everyone's time in it is counted."""
    house.clock.wall = 3600 * 500_000 - 10.0
    house.presences._hour = house.clock.now() // 3600
    house.counter.tally(house.clock.now(), "t")
    house.open()
    house.clock.move(11)
    [first, *_] = house.counter.take()
    assert [row.connection_seconds for row in first.rows if row.agent_id] == [11.0]


async def test_no_time_is_counted_twice_where_it_ends_the_hour_itself(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one whose time is counted first in a new hour gets none taken away that the old one has."""
    house.clock.wall = 3600 * 500_000 - COUNT_SECONDS
    house.presences._hour = house.clock.now() // 3600
    house.counter.tally(house.clock.now(), "t")
    for name in ("alice", "bob"):
        house.open(name)
    house.clock.move(COUNT_SECONDS + 1)
    opened_for = COUNT_SECONDS + 1

    def monotonic() -> float:
        # Each look at it takes time.
        house.clock.elapsed += 0.01
        return house.clock.elapsed

    monkeypatch.setattr(house.clock, "monotonic", monotonic)
    house.presences.tick()
    rows = [row for span in house.counter.take() for row in span.rows if row.agent_id]
    assert min(row.connection_seconds for row in rows) >= 0
    for name in ("alice", "bob"):
        counted = sum(row.connection_seconds for row in rows if row.agent_id == name)
        assert opened_for < counted < opened_for + 1


async def test_announcing_thousands_again_leaves_room_for_others(house: House) -> None:
    """After the bus was away agents are announced a few hundred at a time, each once."""
    for number in range(500):
        house.open(f"a{number}")
    house.bus.published.clear()
    house.presences.reannounce()
    await settle(3)
    first = len([subject for subject, _ in house.bus.published if "presence.t." in subject])
    assert first == 200
    await house.presences.close()
    subjects = [subject for subject, _ in house.bus.published if "presence.t." in subject]
    assert len(subjects) == len(set(subjects)) == 500
