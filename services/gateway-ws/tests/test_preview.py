"""A tenant's live traffic for its dashboards: what is shown, how fast, and what is said of the rest."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from gateway_fakes import FakeBus, FakeClock, FakeTransport, connect, message, settle

from artcafe_common.bus import Bus
from artcafe_common.quota import TokenBucket
from artcafe_gateway import preview as preview_module
from artcafe_gateway.connection import Connection
from artcafe_gateway.preview import Previews

RATE, BURST = 10.0, 5.0


class Screen:
    """A dashboard that watches."""

    def __init__(self, previews: Previews, tenant_id: str = "t") -> None:
        self.previews = previews
        self.tenant_id = tenant_id
        self.connection: Connection
        self.transport: FakeTransport
        self.connection, self.transport = connect()
        self.bucket: TokenBucket = previews.bucket()

    async def watch(self, *patterns: str, max_rate: float | None = None) -> float:
        """Watch some patterns."""
        return await self.previews.watch(
            self.tenant_id, self.connection, patterns or (">",), max_rate, self.bucket
        )

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What was shown."""
        return [event for event in self.transport.events if event["type"] == "topic_preview_message"]

    @property
    def dropped(self) -> int:
        """How many messages were said to be left out."""
        return sum(e["count"] for e in self.transport.events if e["type"] == "topic_preview_dropped")


@pytest.fixture
async def previews(bus: FakeBus, clock: FakeClock) -> Previews:
    """Give previews of 10 messages per second, 5 at once."""
    return Previews(cast(Bus, bus), clock, "gateway-1", RATE, BURST)


def say(bus: FakeBus, channel: str, count: int = 1, tenant_id: str = "t") -> None:
    """Let agents publish."""
    for number in range(count):
        bus.deliver(f"tenant.{tenant_id}.channel.{channel}", message(channel, {"n": number}))


async def test_a_message_is_shown_with_its_path(bus: FakeBus, previews: Previews) -> None:
    """Subject, data, size and the way it came are there."""
    screen = Screen(previews)
    await screen.watch()
    say(bus, "team.a")
    [shown] = screen.shown
    assert (shown["subject"], shown["topic"]) == ("tenant.t.channel.team.a", "team.a")
    assert (shown["data"], shown["size"]) == ({"n": 0}, 7)
    assert shown["path"]["publisher"] == "alice"
    assert shown["path"]["gateway"] == "gateway-1"


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
        say(bus, channel)
    assert [shown["topic"] for shown in screen.shown] == seen


async def test_what_is_shown_and_what_is_said_to_be_left_out_is_everything(
    bus: FakeBus, clock: FakeClock, previews: Previews
) -> None:
    """Beyond the rate nothing is shown, and the count of it is exact."""
    screen = Screen(previews)
    await screen.watch()
    say(bus, "c", 50)
    assert len(screen.shown) == BURST
    previews.tell_dropped()
    clock.move(0.2)
    say(bus, "c", 50)
    clock.move(1.0)
    previews.tell_dropped()
    previews.tell_dropped()
    assert len(screen.shown) == BURST + 2
    assert screen.dropped == 100 - len(screen.shown)
    assert screen.transport.events[-1]["window_ms"] == 1000


async def test_a_screen_may_ask_for_less_but_not_for_more(bus: FakeBus, previews: Previews) -> None:
    """The rate that holds is told."""
    screen = Screen(previews)
    assert await screen.watch(max_rate=1000.0) == RATE
    assert await screen.watch(max_rate=1.0) == 1.0
    say(bus, "c", 50)
    assert len(screen.shown) == 2


async def test_asking_again_does_not_raise_the_limit(bus: FakeBus, previews: Previews) -> None:
    """Whoever subscribes before each message is shown no more than who waits, and counts go on."""
    screen = Screen(previews)
    for _ in range(20):
        await screen.watch()
        say(bus, "c", 2)
    for _ in range(20):
        await previews.leave("t", screen.connection)
        await screen.watch("c")
        say(bus, "c", 2)
    previews.tell_dropped()
    assert len(screen.shown) == BURST
    assert len(screen.shown) + screen.dropped == 80


async def test_patterns_may_be_changed_while_watching(bus: FakeBus, previews: Previews) -> None:
    """A new set of patterns replaces the old one, also for subjects that were seen before."""
    screen = Screen(previews)
    await screen.watch("a")
    say(bus, "a")
    say(bus, "b")
    await screen.watch("b")
    say(bus, "a")
    say(bus, "b")
    assert [shown["topic"] for shown in screen.shown] == ["a", "b"]


async def test_a_screen_that_does_not_read_is_told_later(bus: FakeBus, previews: Previews) -> None:
    """A preview never waits in an outbox; what was left out is told when the screen reads again."""
    screen = Screen(previews)
    await screen.watch()
    screen.connection.pause()
    say(bus, "c", 3)
    previews.tell_dropped()
    screen.connection.resume()
    assert screen.transport.events == []
    previews.tell_dropped()
    assert screen.dropped == 3


async def test_screens_of_a_tenant_share_one_tap(bus: FakeBus, previews: Previews) -> None:
    """However many dashboards watch, NATS is asked once, and the last one to leave ends it."""
    screens = [Screen(previews) for _ in range(3)]
    other = Screen(previews, "t2")
    for screen in [*screens, other]:
        await screen.watch()
    assert bus.subjects == ["tenant.t.>", "tenant.t2.>"]
    say(bus, "c", tenant_id="t2")
    assert [len(screen.shown) for screen in [*screens, other]] == [0, 0, 0, 1]
    for screen in screens:
        await previews.leave("t", screen.connection)
    assert bus.subjects == ["tenant.t2.>"]
    await previews.leave("t", screens[0].connection)


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


async def test_subjects_without_number_are_not_remembered_without_bound(
    bus: FakeBus, previews: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant with endless channels does not fill the memory of its taps."""
    monkeypatch.setattr(preview_module, "ROUTES_MAX", 10)
    screen = Screen(previews)
    await screen.watch()
    for number in range(100):
        say(bus, f"c{number}")
    assert len(previews._taps["t"].routes) <= 10
