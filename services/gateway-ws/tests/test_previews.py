"""A tenant's live traffic for its dashboards: what is shown, how fast, and what is said of the rest."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gateway_fakes import START, FakeBus, FakeClock, FakeStore, FakeTransport, connect, message, settle

from artcafe_common.errors import ServiceError
from artcafe_common.ids import MessageIds, new_ulid
from artcafe_gateway.connection import Connection
from artcafe_gateway.preview import audience as audience_module
from artcafe_gateway.preview import previews as previews_module
from artcafe_gateway.preview.breaker import OPEN_AFTER_SECONDS, PAUSE_SECONDS, PROBE_SECONDS
from artcafe_gateway.preview.origin import Origins
from artcafe_gateway.preview.previews import TICK_SECONDS, PreviewLimits, Previews
from artcafe_gateway.preview.rendering import Renderer
from artcafe_gateway.preview.selection import Selection
from artcafe_gateway.preview.tap_bus import TapBus
from artcafe_gateway.preview.viewer import PING_SECONDS, Viewer
from artcafe_gateway.preview.wanted import Wanted
from artcafe_gateway.store import ConnectionStore

RATE, BURST, TENANT_RATE, DATA_BYTES = 10.0, 5.0, 100.0, 1000
PROCESS = f"gateway-1-{new_ulid()}"


class Screen:
    """A dashboard that watches."""

    def __init__(self, previews: Previews, tenant_id: str = "t") -> None:
        self.previews = previews
        self.connection: Connection
        self.transport: FakeTransport
        self.connection, self.transport = connect()
        self.viewer: Viewer = previews.viewer(tenant_id, "ann", self.connection)

    async def watch(self, *patterns: str, **asked: Any) -> dict[str, Any]:
        """Watch some patterns; returns the limits that hold."""
        return await self.previews.watch(self.viewer, Wanted(patterns=patterns or (">",), **asked))

    async def leave(self) -> None:
        """Watch no longer."""
        await self.previews.leave(self.viewer)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What was shown, alone or in batches."""
        found = []
        for event in self.transport.events:
            if event["type"] == "topic_preview_message":
                found.append(event)
            elif event["type"] == "topic_preview_batch":
                found += event["messages"]
        return found

    @property
    def topics(self) -> list[str]:
        """The channels of what was shown."""
        return [event["topic"] for event in self.shown]

    def dropped(self, *reasons: str) -> int:
        """How many messages were said to be left out, for some reasons or in all."""
        return sum(
            e["count"]
            for e in self.transport.events
            if e["type"] == "topic_preview_dropped" and (not reasons or e["reason"] in reasons)
        )

    @property
    def states(self) -> list[tuple[str, str]]:
        """Each change of state that was told, with its reason."""
        return [
            (e["state"], e["reason"]) for e in self.transport.events if e["type"] == "topic_preview_state"
        ]


Build = Callable[..., Previews]


@pytest.fixture
def build(bus: FakeBus, clock: FakeClock) -> Build:
    """Give a function that builds previews, with other limits than usual where a test says so."""

    def make(**limits: float) -> Previews:
        usual: dict[str, Any] = {
            "rate": RATE,
            "burst": BURST,
            "tenant_rate": TENANT_RATE,
            "data_bytes": DATA_BYTES,
            "share": 0.1,
            "late": 0.1,
        }
        origins = Origins(cast(ConnectionStore, FakeStore()), clock, PROCESS)
        return Previews(cast(TapBus, bus), clock, origins, "gateway-1", PreviewLimits(**(usual | limits)))

    return make


@pytest.fixture
async def previews(build: Build) -> Previews:
    """Give previews of 10 messages per second, 5 at once."""
    return build()


def publish(bus: FakeBus, channel: str, count: int = 1, tenant_id: str = "t", sender: str = "alice") -> None:
    """Let agents publish."""
    for number in range(count):
        bus.deliver(f"tenant.{tenant_id}.channel.{channel}", message(channel, {"n": number}, sender))


async def say(
    bus: FakeBus, channel: str, count: int = 1, tenant_id: str = "t", sender: str = "alice"
) -> None:
    """Let agents publish, and what is shown of it be sent."""
    publish(bus, channel, count, tenant_id, sender)
    await settle(3)


def run(previews: Previews, clock: FakeClock, seconds: float, late: float = 0.0) -> None:
    """Let time pass."""
    for _ in range(round(seconds / TICK_SECONDS)):
        clock.move(TICK_SECONDS)
        previews.tick(late)


async def test_a_message_is_shown_with_its_path(bus: FakeBus, clock: FakeClock, previews: Previews) -> None:
    """Subject, data, size and the way it came are there."""
    screen = Screen(previews)
    await screen.watch()
    message_id = MessageIds(PROCESS).new(START)
    bus.deliver("tenant.t.channel.team.a", message("team.a", {"n": 0}, message_id=message_id))
    clock.move(0.25)
    await settle()
    [shown] = screen.shown
    assert (shown["subject"], shown["topic"]) == ("tenant.t.channel.team.a", "team.a")
    assert (shown["data"], shown["size"]) == ({"n": 0}, 7)
    assert "truncated" not in shown
    assert shown["path"] == {
        "publisher": "alice",
        "publisher_gateway": "gateway-1",
        "subject": "tenant.t.channel.team.a",
        "gateway": "gateway-1",
        "published_at": shown["timestamp"],
        "forwarded_at": shown["timestamp"],
        "kind": "live",
    }


async def test_the_platforms_own_messages_are_told_apart(bus: FakeBus, previews: Previews) -> None:
    """Presence is a kind of its own."""
    screen = Screen(previews)
    await screen.watch()
    await say(bus, "agents.presence.online")
    assert screen.shown[0]["path"]["kind"] == "presence"


async def test_long_data_is_cut(bus: FakeBus, previews: Previews) -> None:
    """Its beginning is shown as text, between characters, with the size of all of it."""
    screens = [Screen(previews) for _ in range(3)]
    limits = [await screen.watch(max_bytes=most) for screen, most in zip(screens, (None, 6, 0), strict=True)]
    assert [limit["max_bytes"] for limit in limits] == [DATA_BYTES, 6, 0]
    bus.deliver("tenant.t.channel.c", message("c", "aäöü" * 200))
    await settle()
    size = 200 * 7 + 2
    assert [(s["data"], s["truncated"], s["size"]) for screen in screens for s in screen.shown] == [
        (('"' + "aäöü" * 200)[:572].encode()[:DATA_BYTES].decode(errors="ignore"), True, size),
        ('"aäö', True, size),
        ("", True, size),
    ]


@pytest.mark.parametrize(
    ("patterns", "seen"),
    [
        ((">",), ["team.a", "team.a.b", "other"]),
        (("team.*",), ["team.a"]),
        (("team.>", "other"), ["team.a", "team.a.b", "other"]),
        (("team.a", "team.*"), ["team.a"]),
        (("nothing",), []),
    ],
)
async def test_only_what_the_patterns_match_is_shown_once(
    bus: FakeBus, previews: Previews, patterns: tuple[str, ...], seen: list[str]
) -> None:
    """Patterns that overlap show a message once."""
    screen = Screen(previews)
    await screen.watch(*patterns)
    for channel in ("team.a", "team.a.b", "other"):
        await say(bus, channel)
    assert screen.topics == seen


async def test_conditions_hold_for_what_is_counted_as_well(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """A message that was not wanted is neither shown nor left out, beside a dashboard that wants all."""
    picky, greedy = Screen(previews), Screen(previews)
    await picky.watch(channels=("a",), senders=frozenset({b'"bob"'}))
    await greedy.watch()
    for _ in range(20):
        await say(bus, "a", sender="alice")
        await say(bus, "a", sender="bob")
        await say(bus, "b", sender="bob")
    run(previews, clock, 1.0)
    assert len(picky.shown) == BURST and picky.dropped() == 20 - BURST
    assert len(greedy.shown) == BURST and greedy.dropped() == 60 - BURST


async def test_conditions_are_looked_at_also_where_all_rest(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Who has been shown enough still does not count what it did not want."""
    picky, greedy = Screen(previews), Screen(previews)
    await picky.watch("a", size_min=1000)
    await greedy.watch("b")
    for _ in range(20):
        bus.deliver("tenant.t.channel.a", message("a", "x" * 1000))
    await say(bus, "b", 20)
    await say(bus, "a", 20)
    run(previews, clock, 1.0)
    assert len(picky.shown) + picky.dropped() == 20
    assert len(greedy.shown) + greedy.dropped() == 20


async def test_what_is_shown_and_what_is_said_to_be_left_out_is_everything(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Beyond the rate nothing is shown, and the count of it is exact, by reason."""
    screen = Screen(previews)
    await screen.watch()
    await say(bus, "c", 50)
    assert len(screen.shown) == BURST
    run(previews, clock, 0.2)
    await say(bus, "c", 50)
    run(previews, clock, 1.0)
    assert len(screen.shown) == BURST + 2
    assert screen.dropped("rate_limit") == screen.dropped() == 100 - len(screen.shown)
    windows = [e["window_ms"] for e in screen.transport.events if e["type"] == "topic_preview_dropped"]
    assert sum(windows) == pytest.approx(1000, abs=200)
    run(previews, clock, 3.0)
    assert screen.dropped() == 100 - len(screen.shown)


async def test_what_nobody_can_be_shown_is_not_even_looked_at(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages rest where they are read, once every viewer has had its share, and are decoded for no one."""
    rendered = 0
    render = Renderer.render

    def counting(self: Renderer, subject: str, frame: bytes, data_bytes: int) -> bytes:
        nonlocal rendered
        rendered += 1
        return render(self, subject, frame, data_bytes)

    monkeypatch.setattr(Renderer, "render", counting)
    handled = 0
    screens = [Screen(previews) for _ in range(10)]
    for screen in screens:
        await screen.watch()
    [tap] = bus.subscriptions
    handler = tap.handler

    def watching(subject: bytes, frame: bytes) -> None:
        nonlocal handled
        handled += 1
        handler(subject, frame)

    bus.subscriptions[0] = tap._replace(handler=watching)
    await say(bus, "c", 10_000)
    assert rendered == BURST and handled == BURST + 1
    run(previews, clock, 1.0)
    for screen in screens:
        assert len(screen.shown) == BURST and screen.dropped() == 10_000 - BURST


async def test_what_passes_by_costs_no_more_with_many_dashboards(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dashboards that ask for the same are counted for together, over all channels; counts stay exact."""
    calls = matched = 0
    passed, takes = Viewer.passed, Selection.takes

    def counting(self: Viewer, count: int, presence: bool = False) -> None:
        nonlocal calls
        calls += 1
        passed(self, count, presence)

    def matching(self: Selection, channel_id: str, tokens: Sequence[str]) -> bool:
        nonlocal matched
        matched += 1
        return takes(self, channel_id, tokens)

    monkeypatch.setattr(Viewer, "passed", counting)
    monkeypatch.setattr(Selection, "takes", matching)
    screens = [Screen(previews) for _ in range(30)]
    for screen in screens:
        await screen.watch(counts_only=True)
    for _ in range(2):
        for number in range(50):
            await say(bus, f"c{number}", 4)
        run(previews, clock, TICK_SECONDS)
    assert calls <= 2 * len(screens) and matched == 50
    late = Screen(previews)
    await late.watch(counts_only=True)
    await screens.pop().leave()
    await say(bus, "c1", 7)
    run(previews, clock, 1.0)
    assert {screen.dropped("counts_only") for screen in screens} == {407} and late.dropped() == 7
    assert matched == 50


async def test_a_quiet_channel_is_shown_beside_a_loud_one(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """What one dashboard is flooded with takes nothing from another that watches something else."""
    loud, quiet = Screen(previews), Screen(previews)
    await loud.watch("loud")
    await quiet.watch("quiet")
    await say(bus, "loud", 1000)
    await say(bus, "quiet", 3)
    run(previews, clock, 1.0)
    assert (len(quiet.shown), quiet.dropped()) == (3, 0)
    assert loud.dropped() == 1000 - BURST


async def test_a_screen_may_ask_for_less_but_not_for_more(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """The limits that hold are told."""
    screen = Screen(previews)
    assert await screen.watch(max_rate=1000.0, max_bytes=10**9) == {
        "max_rate": RATE,
        "burst": BURST,
        "tenant_max_rate": TENANT_RATE,
        "max_bytes": DATA_BYTES,
        "state": "closed",
    }
    assert (await screen.watch(max_rate=1.0))["max_rate"] == 1.0
    await say(bus, "c", 50)
    assert len(screen.shown) == 2


async def test_asking_again_does_not_raise_the_limit(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Whoever subscribes before each message is shown no more than who waits, and counts go on."""
    screen = Screen(previews)
    for _ in range(20):
        await screen.watch()
        await say(bus, "c", 2)
    for _ in range(20):
        await screen.leave()
        await screen.watch("c")
        await say(bus, "c", 2)
    run(previews, clock, 1.0)
    assert len(screen.shown) == BURST
    assert len(screen.shown) + screen.dropped() == 80


async def test_patterns_may_be_changed_while_watching(bus: FakeBus, previews: Previews) -> None:
    """A new set of patterns replaces the old one, also for subjects that were seen before."""
    screen = Screen(previews)
    await screen.watch("a")
    await say(bus, "a")
    await say(bus, "b")
    await screen.watch("b")
    await say(bus, "a")
    await say(bus, "b")
    assert screen.topics == ["a", "b"]


async def test_what_was_left_out_before_a_change_is_told_before_it(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """So that nobody takes it for a part of what is watched from then on."""
    screen = Screen(previews)
    await screen.watch(sample=100)
    await say(bus, "a", 50)
    await screen.watch("b")
    assert screen.dropped() == screen.dropped("sample") == 49
    await say(bus, "a", 50)
    run(previews, clock, 2.0)
    assert screen.dropped() == 49


async def test_every_nth_message_is_shown_beginning_with_the_first(
    bus: FakeBus, clock: FakeClock, build: Build
) -> None:
    """A sample is the same whoever asks, and what it leaves out is counted."""
    previews = build(rate=1000.0, burst=1000.0, tenant_rate=10_000.0)
    screens = [Screen(previews) for _ in range(2)]
    for screen in screens:
        await screen.watch(sample=10)
    await say(bus, "c", 95)
    run(previews, clock, 1.0)
    for screen in screens:
        assert [shown["data"]["n"] for shown in screen.shown] == list(range(0, 95, 10))
        assert screen.dropped("sample") == screen.dropped() == 85


async def test_a_sample_of_too_much_is_limited_and_counted_apart(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Also where messages were only counted, those of the sample are known from the others."""
    screen = Screen(previews)
    await screen.watch(sample=4)
    await say(bus, "c", 1001)
    run(previews, clock, 1.0)
    assert len(screen.shown) == BURST
    assert screen.dropped("rate_limit") == 251 - BURST
    assert screen.dropped("sample") == 750


async def test_batches_come_several_messages_a_frame(bus: FakeBus, clock: FakeClock, build: Build) -> None:
    """Where that was asked for, with each tick; and one frame holds no more than 50."""
    previews = build(rate=1000.0, burst=1000.0, tenant_rate=10_000.0)
    screen, plain = Screen(previews), Screen(previews)
    await screen.watch(batch=True)
    await plain.watch()
    await say(bus, "c", 120)
    assert screen.transport.events == [] and len(plain.shown) == 120
    run(previews, clock, TICK_SECONDS)
    assert [len(event["messages"]) for event in screen.transport.events] == [50, 50, 20]
    assert screen.shown == plain.shown
    assert {event["type"] for event in screen.shown} == {"topic_preview_message"}


async def test_messages_of_one_read_are_one_write(bus: FakeBus, build: Build) -> None:
    """A dashboard costs one system call for all that comes together."""
    screen = Screen(build(burst=50.0, rate=50.0))
    await screen.watch()
    await say(bus, "c", 20)
    assert len(screen.shown) == 20 and len(screen.transport.writes) == 1


async def test_screens_of_a_tenant_share_its_limit_fairly(
    bus: FakeBus, clock: FakeClock, build: Build
) -> None:
    """However many dashboards watch, the tenant's messages are bounded, and each gets some."""
    previews = build(rate=50.0, burst=50.0, tenant_rate=100.0)
    screens = [Screen(previews) for _ in range(30)]
    other = Screen(previews, "t2")
    for screen in [*screens, other]:
        await screen.watch()
    ticks = round(10 / TICK_SECONDS)
    for _ in range(ticks):
        await say(bus, "c", 40)
        run(previews, clock, TICK_SECONDS)
    await say(bus, "c", 40, tenant_id="t2")
    counts = [len(screen.shown) for screen in screens]
    # The limit of ten seconds, and what may come at once.
    assert sum(counts) == pytest.approx(1100, abs=20)
    assert min(counts) > 20
    assert len(other.shown) == 40
    for screen in screens:
        await screen.leave()
        assert screen.dropped("tenant_rate_limit") > 0
        assert len(screen.shown) + screen.dropped() == 40 * ticks


async def test_a_screen_that_does_not_read_is_told_later(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview never waits in an outbox; what was left out is told when the screen reads again."""
    screen = Screen(previews)
    await screen.watch()
    screen.connection.pause()
    monkeypatch.setattr(Renderer, "render", lambda *_: pytest.fail("nobody would see it"))
    await say(bus, "c", 3)
    run(previews, clock, 2.0)
    screen.connection.resume()
    assert screen.transport.events == []
    run(previews, clock, 1.0)
    assert screen.dropped("slow_dashboard") == 3


async def test_a_socket_that_fills_up_in_the_middle_gets_no_more(bus: FakeBus, build: Build) -> None:
    """What one read brings is written in portions, so that little waits for a socket that is full."""
    screen = Screen(build(burst=100.0, rate=100.0, data_bytes=20_000))
    await screen.watch()
    screen.transport.on_write = screen.connection.pause
    for _ in range(20):
        bus.deliver("tenant.t.channel.c", message("c", "x" * 19_000))
    await settle()
    assert len(screen.shown) == 3
    screen.transport.on_write = lambda: None
    screen.connection.resume()
    await screen.leave()
    assert screen.dropped("slow_dashboard") == 17


async def test_the_breaker_opens_and_each_change_is_told_when_the_socket_drains(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """While it does not read nothing is written; afterwards it hears all of it, and counts are exact."""
    screen = Screen(previews)
    await screen.watch()
    published = 0

    async def pass_time(seconds: float) -> None:
        nonlocal published
        for _ in range(round(seconds / TICK_SECONDS)):
            await say(bus, "c", 3)
            published += 3
            run(previews, clock, TICK_SECONDS)

    screen.connection.pause()
    await pass_time(OPEN_AFTER_SECONDS + 1)
    assert screen.transport.events == []
    screen.connection.resume()
    await pass_time(PAUSE_SECONDS - 1.5)
    assert screen.states == [("sampled", "slow_dashboard"), ("open", "slow_dashboard")]
    # Open, so that it hears nothing but how many there were.
    assert screen.shown == [] and screen.dropped("slow_dashboard") > 0
    await pass_time(1.0)
    assert screen.states[-1] == ("half_open", "slow_dashboard")
    while screen.states[-1] != ("closed", "slow_dashboard"):
        await pass_time(TICK_SECONDS)
    probes = len(screen.shown)
    assert 0 < probes <= (PROBE_SECONDS + 0.2) * 30 / 10
    await pass_time(1.0)
    await screen.leave()
    assert len(screen.shown) > probes
    assert len(screen.shown) + screen.dropped() == published


async def test_a_socket_that_answers_no_ping_is_stuck_before_it_is_full(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """The buffers of a socket hold a lot; who answers nothing for a while is not sent to meanwhile."""
    screen = Screen(previews)
    await screen.watch()
    screen.connection.ping(clock.monotonic())
    run(previews, clock, PING_SECONDS)
    assert screen.states == []
    run(previews, clock, 2.0)
    assert screen.states == [("sampled", "slow_dashboard")]


async def test_screens_of_a_tenant_share_one_tap(bus: FakeBus, previews: Previews) -> None:
    """However many dashboards watch, NATS is asked once, and the last one to leave ends it."""
    screens = [Screen(previews) for _ in range(3)]
    other, ten = Screen(previews, "t2"), Screen(previews, "t20")
    for screen in [*screens, other, ten]:
        await screen.watch()
    assert bus.subjects == ["tenant.t.>", "tenant.t2.>", "tenant.t20.>"]
    await say(bus, "c", tenant_id="t2")
    assert [len(screen.shown) for screen in [*screens, other, ten]] == [0, 0, 0, 1, 0]
    for screen in screens:
        await screen.leave()
    assert bus.subjects == ["tenant.t2.>", "tenant.t20.>"]
    await other.leave()
    await screens[0].leave()
    assert bus.subjects == ["tenant.t20.>"]


async def test_a_screen_that_leaves_takes_nothing_from_another(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Two tabs of one person are two previews; what one has not been told yet is told when it goes."""
    one, two = Screen(previews), Screen(previews)
    await one.watch()
    await two.watch()
    await say(bus, "c", 20)
    await one.leave()
    assert one.dropped() == 20 - BURST
    await say(bus, "c", 20)
    run(previews, clock, 1.0)
    assert one.dropped() == 20 - BURST
    assert len(two.shown) + two.dropped() == 40


async def test_a_screen_that_closes_while_nats_is_asked_leaves_nothing(
    bus: FakeBus, previews: Previews
) -> None:
    """No tap stays for a dashboard that has gone."""
    screen = Screen(previews)
    bus.gate.clear()
    watching = asyncio.create_task(screen.watch())
    await settle()
    screen.connection.lost()
    bus.gate.set()
    await watching
    assert bus.subjects == []


async def test_without_nats_nothing_is_watched(bus: FakeBus, previews: Previews) -> None:
    """It is said, and nothing is left of it."""
    bus.is_connected = False
    with pytest.raises(ServiceError, match="message bus"):
        await Screen(previews).watch()
    assert previews._taps == {}


async def test_without_nats_nobody_joins_a_preview_in_silence(bus: FakeBus, previews: Previews) -> None:
    """It is said as well where others watch already; what one watched before goes on as it was."""
    first = Screen(previews)
    await first.watch("a")
    bus.is_connected = False
    for screen in (first, Screen(previews)):
        with pytest.raises(ServiceError, match="message bus"):
            await screen.watch("b")
    bus.is_connected = True
    await say(bus, "a")
    await say(bus, "b")
    assert first.topics == ["a"]


async def test_subjects_without_number_are_not_remembered_without_bound(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant with endless channels does not fill the memory of its taps, and each message counts."""
    monkeypatch.setattr(audience_module, "ROUTES_MAX", 10)
    screen = Screen(previews)
    await screen.watch()
    for number in range(100):
        await say(bus, f"c{number}", 2)
    assert len(previews._taps["t"].audience.routes) <= 10
    run(previews, clock, 1.0)
    assert len(screen.shown) + screen.dropped() == 200


async def test_under_load_dashboards_give_way_first_then_the_tap(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """A late process sends nothing to dashboards, then listens no more; both come back and are told."""
    screen = Screen(previews)
    await screen.watch()
    for _ in range(20):
        await say(bus, "c", 10)
        run(previews, clock, TICK_SECONDS)
    run(previews, clock, 0.6, late=0.2)
    assert screen.states == [("open", "overload")]
    shown = len(screen.shown)
    await say(bus, "c", 10)
    assert bus.subjects == ["tenant.t.>"]
    assert len(screen.shown) == shown
    run(previews, clock, 1.0, late=0.2)
    await settle()
    assert bus.subjects == []
    assert screen.dropped("overload") == 10
    counted = len(screen.shown) + screen.dropped()
    assert counted == 210
    # Closed for two seconds, in which about as much passes by as before.
    run(previews, clock, 2.0)
    await settle()
    assert bus.subjects == ["tenant.t.>"]
    run(previews, clock, 2.1)
    assert screen.states == [("open", "overload"), ("closed", "overload")]
    run(previews, clock, 1.0)
    estimates = [e for e in screen.transport.events if e.get("reason") == "tap_closed"]
    assert all(e["estimated"] for e in estimates)
    await say(bus, "c", 3)
    assert len(screen.shown) == shown + 3
    assert len([e for e in screen.transport.events if e.get("estimated")]) == len(estimates)


async def test_what_passes_by_a_closed_tap_is_estimated_from_before(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """The number is said to be an estimate."""
    screen = Screen(previews)
    await screen.watch()
    late = 0.0
    for tick in range(60):
        await say(bus, "c", 10)
        late = 0.2 if tick > 30 else 0.0
        run(previews, clock, TICK_SECONDS, late)
        await settle()
    run(previews, clock, 1.0)
    # Of some two seconds.
    assert screen.dropped("tap_closed") == pytest.approx(200, abs=100)


async def test_what_passes_by_while_nats_is_away_is_an_estimate_too(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """A connection that was cut off, as that of a gateway that does not keep up, is not passed over."""
    screen = Screen(previews)
    await screen.watch()
    for _ in range(round(2 / TICK_SECONDS)):
        await say(bus, "c", 4)
        run(previews, clock, TICK_SECONDS)
    bus.is_connected = False
    run(previews, clock, 2.0)
    bus.is_connected = True
    run(previews, clock, 2.0)
    assert screen.dropped("tap_closed") == pytest.approx(2 * 4 / TICK_SECONDS, abs=8)


async def test_little_that_passes_by_is_estimated_as_well(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """A second in which the tap was closed in part, and nothing came before, says nothing of the pace."""
    screen = Screen(previews)
    await screen.watch()
    for _ in range(3):
        await say(bus, "c")
        run(previews, clock, 1.0)
    run(previews, clock, 0.6)
    bus.is_connected = False
    run(previews, clock, 10.0)
    bus.is_connected = True
    run(previews, clock, 2.0)
    assert screen.dropped("tap_closed") == pytest.approx(10, abs=2)


async def test_taps_that_take_more_than_their_share_give_way(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Also where the process is not late: the tenant with the most messages, and no other."""
    loud, quiet = Screen(previews), Screen(previews, "t2")
    await loud.watch()
    await quiet.watch()
    for _ in range(round(2 / TICK_SECONDS)):
        await say(bus, "c", 100)
        await say(bus, "c", 1, tenant_id="t2")
        if "tenant.t.>" in bus.subjects:
            bus.busy_seconds += TICK_SECONDS * 0.2
        run(previews, clock, TICK_SECONDS)
        await settle()
    assert bus.subjects == ["tenant.t2.>"]
    assert loud.states == [("open", "overload")] and quiet.states == []
    await loud.leave()
    assert previews._taps.keys() == {"t2"}


async def test_the_time_of_the_ticks_is_a_part_of_the_share(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents wait for it just as for what is read."""
    screen = Screen(previews)
    await screen.watch()
    elapsed = itertools.count(step=TICK_SECONDS * 0.2)
    monkeypatch.setattr(previews_module, "time", SimpleNamespace(thread_time=lambda: next(elapsed)))
    run(previews, clock, 1.0)
    assert screen.states == [("open", "overload")]


async def test_a_tick_that_fails_ends_nothing(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A fault of previews is logged, once in a while, and is no reason to end the process of all agents."""
    monkeypatch.setattr(previews_module, "TICK_SECONDS", 0.001)
    ticks, ticked = 0, asyncio.Event()

    def tick(late: float) -> None:
        nonlocal ticks
        ticks += 1
        if ticks > 3:
            ticked.set()
        raise RuntimeError

    monkeypatch.setattr(previews, "tick", tick)
    await Screen(previews).watch()
    running = asyncio.create_task(previews.run())
    async with asyncio.timeout(30):
        await ticked.wait()
    assert not running.done()
    running.cancel()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "preview_tick_failed"
    ]


async def test_a_tap_that_cannot_be_opened_again_is_tried_again(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """NATS may be away just then."""
    screen = Screen(previews)
    await screen.watch()
    run(previews, clock, 1.7, late=0.2)
    await settle()
    assert bus.subjects == []
    bus.is_connected = False
    run(previews, clock, 3.0)
    await settle()
    assert bus.subjects == []
    bus.is_connected = True
    run(previews, clock, 0.2)
    await settle()
    assert bus.subjects == ["tenant.t.>"]


async def test_who_watched_what_is_logged(
    bus: FakeBus, clock: FakeClock, previews: Previews, caplog: pytest.LogCaptureFixture
) -> None:
    """Its beginning and its end, with what was shown; a change is both; and no payload."""
    caplog.set_level(logging.INFO)
    screen = Screen(previews)
    await screen.watch(
        "a",
        senders=frozenset({b'"al\\"ice"', b'"\\u00e4"'}),
        channels=("a.*", "a"),
        size_min=2,
        sample=3,
        max_rate=4.0,
        max_bytes=7,
    )
    await say(bus, "a", 24, sender='al"ice')
    clock.move(2)
    await screen.watch("b", counts_only=True)
    await screen.leave()
    await screen.leave()
    records = [record for record in caplog.records if record.name.endswith("previews")]
    assert [record.message for record in records] == ["preview_started", "preview_ended"] * 2
    first = vars(records[1])
    assert (first["tenant_id"], first["user_id"]) == ("t", "ann")
    assert first["connection_id"] == screen.connection.connection_id
    assert first["patterns"] == ["a"]
    assert (first["where_sender"], first["where_channel"]) == (['al"ice', "ä"], ["a.*", "a"])
    assert first["where_size"] == {"min": 2, "max": None}
    assert (first["sample"], first["max_rate"], first["max_bytes"]) == (3, 4.0, 7)
    assert (first["shown"], first["left_out"], first["seconds"]) == (5, 19, 2)
    assert first["shown_bytes"] > 0 and first["counts_only"] is False
    second = vars(records[3])
    assert (second["counts_only"], second["max_bytes"], second["shown"]) == (True, 0, 0)
    assert "where_size" not in second and "where_sender" not in second


async def test_who_asks_for_counts_alone_is_shown_nothing(
    bus: FakeBus, clock: FakeClock, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message is counted and none is decoded, also after a change from one that is shown, and back."""
    screen, picky = Screen(previews), Screen(previews)
    await screen.watch()
    await say(bus, "a", 3)
    limits = await screen.watch(counts_only=True)
    await picky.watch(counts_only=True, senders=frozenset({b'"bob"'}))
    assert limits["max_bytes"] == 0
    monkeypatch.setattr(Renderer, "render", None)
    await say(bus, "a", 1000)
    await say(bus, "a", 7, sender="bob")
    run(previews, clock, 1.4)
    await say(bus, "b", 10)
    run(previews, clock, 1.2)
    monkeypatch.undo()
    assert len(screen.shown) == 3 and screen.dropped("counts_only") == screen.dropped() == 1017
    assert picky.shown == [] and picky.dropped("counts_only") == 7
    await screen.watch()
    await say(bus, "a")
    assert len(screen.shown) == 4


async def test_presence_among_what_was_left_out_is_told(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """So that a rate of messages can be told from agents that come and go, whatever left them out."""
    counting, sampling = Screen(previews), Screen(previews)
    await counting.watch(counts_only=True)
    await sampling.watch(sample=100)
    await say(bus, "agents.presence.online", 20)
    await say(bus, "a", 30)
    run(previews, clock, 1.0)
    for screen, count, presence in ((counting, 50, 20), (sampling, 49, 19)):
        [told] = [e for e in screen.transport.events if e["type"] == "topic_preview_dropped"]
        assert (told["count"], told["presence"]) == (count, presence)
    await say(bus, "a", 5)
    run(previews, clock, 1.0)
    assert "presence" not in counting.transport.events[-1]
