"""Who watches what of one tenant's traffic."""

from __future__ import annotations

import gc
import weakref

import pytest
from gateway_fakes import FakeClock, connect

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import TokenBucket
from artcafe_gateway.preview import audience as audience_module
from artcafe_gateway.preview.audience import Audience
from artcafe_gateway.preview.viewer import Viewer
from artcafe_gateway.preview.wanted import Wanted


class Hall:
    """An audience, and how to come into it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.audience = Audience()

    def enter(self, *patterns: str, channels: tuple[str, ...] | None = None) -> Viewer:
        """Come and watch some patterns."""
        connection, _ = connect()
        viewer = Viewer("t", "ann", connection, self.clock, TokenBucket(1.0, 1.0, 0.0))
        self.ask(viewer, *patterns, channels=channels)
        return viewer

    def ask(self, viewer: Viewer, *patterns: str, channels: tuple[str, ...] | None = None) -> None:
        """Watch something else."""
        wanted = Wanted(patterns=patterns, channels=channels)
        self.audience.check(viewer, wanted)
        viewer.change(wanted, 0)
        self.audience.join(viewer)

    def viewers(self, channel_id: str) -> tuple[Viewer, ...]:
        """Return who watches a channel."""
        return self.audience.route(f"tenant.t.channel.{channel_id}".encode()).viewers


@pytest.fixture
async def hall(clock: FakeClock) -> Hall:
    """Give an empty one."""
    return Hall(clock)


async def test_who_comes_goes_or_asks_anew_is_known_at_once(hall: Hall) -> None:
    """Of subjects that were seen before as of new ones, by a pattern that others have or not."""
    one, two = hall.enter("a.*"), hall.enter("a.*")
    assert hall.viewers("a.x") == (one, two) and hall.viewers("b") == ()
    three = hall.enter("a.*")
    assert hall.viewers("a.x") == (one, two, three)
    hall.ask(two, "b")
    assert hall.viewers("a.x") == (one, three) and hall.viewers("b") == (two,)
    hall.audience.part(one)
    hall.audience.part(one)
    assert hall.viewers("a.x") == (three,)
    hall.ask(three, "a.*", channels=("a.y",))
    assert hall.viewers("a.x") == () and hall.viewers("a.y") == (three,)


async def test_subjects_of_the_same_viewers_are_one_route(hall: Hall) -> None:
    """Presence apart, since it is counted apart."""
    hall.enter(">")
    hall.enter("a", "agents.>")
    names = ("a", "b", "c", "agents.x", "agents.presence.online")
    routes = [hall.audience.route(f"tenant.t.channel.{name}".encode()) for name in names]
    assert routes[1] is routes[2] and routes[0] is routes[3]
    assert [route.presence for route in routes] == [False, False, False, False, True]
    assert len(set(map(id, routes))) == 3


async def test_who_has_left_is_not_kept(hall: Hall) -> None:
    """Also where no message comes any more that would have the route looked at."""
    hall.enter("a")
    gone = hall.enter("a")
    assert len(hall.viewers("a")) == 2
    hall.audience.part(gone)
    kept = weakref.ref(gone)
    gc.disable()
    try:
        del gone
        assert kept() is None
    finally:
        gc.enable()


async def test_all_patterns_of_a_tenant_are_bounded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with every new channel; those that several dashboards have in common count once."""
    monkeypatch.setattr(audience_module, "PATTERNS_MAX", 5)
    one = hall.enter("a.*", "b.>", channels=("*.c",))
    hall.enter("a.*", "b.>", channels=("*.c",))
    alone = hall.enter("c.*", "d.*")
    with pytest.raises(ServiceError, match="more than 5 patterns") as caught:
        hall.enter("e.*")
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED
    with pytest.raises(ServiceError, match="more than 5 patterns"):
        hall.ask(one, "e.*")
    with pytest.raises(ServiceError, match="more than 5 patterns"):
        hall.ask(alone, "c.*", "d.*", "e.*")
    assert hall.viewers("c.x") == (alone,)
    # In place of what it had.
    hall.ask(alone, "e.*", "f.*")
    assert hall.viewers("c.x") == () and hall.viewers("f.x") == (alone,)
    # What is looked up costs nothing.
    for _ in range(3):
        hall.enter(">", "x", "y.z", channels=("u", "v"))
