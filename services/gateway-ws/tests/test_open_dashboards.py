"""How many dashboards may be open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gateway_fakes import FakeClock

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_gateway.open_dashboards import OPENED_BURST_MIN, OPENED_PER_SECOND, OpenDashboards


def session(tenant_id: str, user_id: str) -> Any:
    """Return a session as far as it is counted."""
    person = SimpleNamespace(user_id=user_id)
    scope = SimpleNamespace(person=person)
    return type("Session", (), {"tenant_id": tenant_id, "scope": scope})()


def test_a_person_has_so_many_in_an_organisation() -> None:
    """Others, and the same person elsewhere, still come in; and there is room again when one has closed."""
    dashboards = OpenDashboards(2, 10, FakeClock())
    mine = [session("t", "ann") for _ in range(2)]
    for each in mine:
        dashboards.check("t", "ann")
        dashboards.add(each)
    with pytest.raises(ServiceError, match="you have 2 dashboards open") as caught:
        dashboards.check("t", "ann")
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED
    dashboards.check("t", "ben")
    dashboards.check("t2", "ann")
    dashboards.discard(mine[0])
    dashboards.discard(mine[0])
    dashboards.check("t", "ann")
    assert list(dashboards) == mine[1:] and len(dashboards) == 1


def test_an_organisation_has_so_many_in_all() -> None:
    """However many people it has."""
    dashboards = OpenDashboards(2, 3, FakeClock())
    for number in range(3):
        dashboards.add(session("t", f"person-{number}"))
    with pytest.raises(ServiceError, match="your organisation has 3 dashboards open"):
        dashboards.check("t", "somebody else")
    dashboards.check("t1", "somebody else")


def test_nothing_is_kept_of_those_that_have_closed() -> None:
    """Strangers' ids do not add up."""
    dashboards = OpenDashboards(2, 3, FakeClock())
    for number in range(50):
        one = session(f"t{number}", "ann")
        dashboards.add(one)
        dashboards.discard(one)
    assert not dashboards._of_person and not dashboards._of_tenant and len(dashboards) == 0


def test_a_person_opens_them_at_a_pace() -> None:
    """Who opens and closes them over and over has to wait; another person has not, nor they a while later."""
    clock = FakeClock()
    dashboards = OpenDashboards(2, 10, clock)
    for _ in range(OPENED_BURST_MIN):
        dashboards.check("t", "ann")
        one = session("t", "ann")
        dashboards.add(one)
        dashboards.discard(one)
    with pytest.raises(ServiceError, match="faster") as caught:
        dashboards.check("t", "ann")
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED
    dashboards.check("t", "ben")
    clock.move(1 / OPENED_PER_SECOND)
    dashboards.check("t", "ann")


def test_all_that_a_person_may_have_come_back_at_once() -> None:
    """As after a restart of the gateway."""
    dashboards = OpenDashboards(100, 1000, FakeClock())
    for _ in range(100):
        dashboards.check("t", "ann")
        dashboards.add(session("t", "ann"))
