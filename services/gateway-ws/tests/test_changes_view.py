"""What of an organisation has changed, for its dashboards."""

from __future__ import annotations

import asyncio

import pytest
from gateway_fakes import FakeTransport, connect

from artcafe_common.contracts.registry import Changed
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.roles import Role, permissions_of
from artcafe_gateway import changes_view
from artcafe_gateway.changes_view import KINDS, ChangesView, kinds_for
from artcafe_gateway.connection import Connection


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell at once."""
    monkeypatch.setattr(changes_view, "PAUSE_SECONDS", 0.0)


@pytest.fixture
async def view() -> ChangesView:
    """Give a view that nobody watches."""
    return ChangesView()


def watch(view: ChangesView, tenant_id: str = "t", *kinds: str) -> tuple[Connection, FakeTransport]:
    """Let a dashboard watch."""
    connection, transport = connect()
    view.watch(tenant_id, connection, frozenset(kinds or KINDS))
    return connection, transport


def change(
    view: ChangesView, id: str, action: str = "updated", kind: str = "agent", tenant_id: str = "t"
) -> None:
    """Let registry announce something."""
    view.changed(Changed(tenant_id=tenant_id, kind=kind, id=id, action=action))


def told(transport: FakeTransport) -> list[tuple[str, str, str] | str]:
    """Return what a dashboard heard."""
    return [
        (e["kind"], e["object_id"], e["action"]) if e["type"] == "changed" else e["type"]
        for e in transport.events
    ]


async def pause() -> None:
    """Wait for the timer, which is due."""
    for _ in range(3):
        await asyncio.sleep(0.001)


async def test_changes_are_told_to_their_tenant_alone(view: ChangesView) -> None:
    """Whole ids are compared, and who left hears nothing."""
    (_, one), (_, ten), (gone, left) = watch(view, "t1"), watch(view, "t10"), watch(view, "t1")
    view.leave("t1", gone)
    change(view, "a", "created", tenant_id="t1")
    await pause()
    assert (told(one), told(ten), told(left)) == ([("agent", "a", "created")], [], [])


async def test_only_kinds_that_were_asked_for_are_told(view: ChangesView) -> None:
    """A page of channels is not woken by agents."""
    _, transport = watch(view, "t", "channel")
    change(view, "a")
    change(view, "c", "deleted", kind="channel")
    await pause()
    assert told(transport) == [("channel", "c", "deleted")]


async def test_changes_of_one_thing_that_come_together_are_one(view: ChangesView) -> None:
    """The last one counts; what is new stays new."""
    _, transport = watch(view)
    for action in ("created", "updated", "updated"):
        change(view, "a", action)
    change(view, "b")
    change(view, "b", "deleted")
    await pause()
    assert told(transport) == [("agent", "a", "created"), ("agent", "b", "deleted")]


async def test_too_many_changes_are_told_as_one(view: ChangesView) -> None:
    """Nobody is flooded: the dashboard reads its lists anew, and hears of what comes after."""
    _, transport = watch(view)
    for number in range(changes_view.PENDING_MAX + 1):
        change(view, f"a{number}")
    change(view, "last")
    await pause()
    assert told(transport) == ["changes_missed", ("agent", "last", "updated")]


async def test_a_dashboard_that_does_not_read_costs_a_bounded_memory_and_is_told_later(
    view: ChangesView,
) -> None:
    """Nothing is put into its outbox."""
    connection, transport = watch(view)
    connection.pause()
    for number in range(5000):
        change(view, f"a{number}")
        if number % 100 == 0:
            await pause()
    assert transport.writes == []
    connection.resume()
    await pause()
    assert told(transport)[0] == "changes_missed"
    assert len(told(transport)) <= changes_view.PENDING_MAX + 1


async def test_what_may_have_been_missed_is_told(view: ChangesView) -> None:
    """After the bus was away."""
    _, transport = watch(view)
    view.missed()
    await pause()
    assert told(transport) == ["changes_missed"]


async def test_nothing_runs_for_a_dashboard_that_has_gone(view: ChangesView) -> None:
    """One that closes while it was to be told is forgotten, and nothing is left."""
    connection, _ = watch(view)
    connection.pause()
    change(view, "a")
    connection.lost()
    view.leave("t", connection)
    await pause()
    assert view._timer is None and view._watchers == {}


@pytest.mark.parametrize(
    ("role", "kinds"),
    [
        (Role.VIEWER, set(KINDS)),
        (Role.BILLING, {"tenant"}),
    ],
)
def test_a_role_hears_of_what_it_may_read(role: Role, kinds: set[str]) -> None:
    """Without a wish, of all that; a wish for more is refused."""
    permissions = permissions_of(role)
    assert kinds_for(None, permissions) == kinds
    for kind in KINDS:
        if kind in kinds:
            assert kinds_for([kind], permissions) == {kind}
        else:
            with pytest.raises(ServiceError) as caught:
                kinds_for([kind], permissions)
            assert caught.value.code == ErrorCode.PERMISSION_DENIED


def test_an_unknown_kind_is_named() -> None:
    """And nobody without any right hears anything."""
    with pytest.raises(ServiceError, match="agnet"):
        kinds_for(["agnet"], permissions_of(Role.OWNER))
    with pytest.raises(ServiceError):
        kinds_for(None, frozenset())
