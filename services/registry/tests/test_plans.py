"""Plans and the limits they set."""

from typing import get_args

import msgspec
import pytest

from artcafe_common.contracts.registry import Limits
from artcafe_registry.domain.plans import PLANS, PlanName, limits_of
from artcafe_registry.wire import LimitChanges


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("free", (3, 10_000, 5, 100, 10)),
        ("basic", (10, 100_000, 20, 500, 100)),
        ("pro", (50, 500_000, 100, 2_000, 500)),
        ("enterprise", (None, None, None, None, None)),
    ],
)
def test_plans_have_their_published_limits(plan: str, expected: tuple[int | None, ...]) -> None:
    """What a plan allows is what is published about it."""
    limits = limits_of(plan, {})
    assert (
        limits.agents,
        limits.messages_per_month,
        limits.connections,
        limits.api_calls_per_minute,
        limits.channels,
    ) == expected


def test_every_plan_can_be_named() -> None:
    """The names that a request may hold are the plans there are."""
    assert set(get_args(PlanName)) == set(PLANS)


def test_overrides_stand_in_for_the_plans_limits() -> None:
    """A tenant's own limits replace its plan's, null making one unlimited; the others stay."""
    limits = limits_of("free", {"agents": 100, "channels": None, "connections": 0})
    assert (limits.agents, limits.channels, limits.connections) == (100, None, 0)
    assert limits.messages_per_month == 10_000
    assert limits_of("free", {}) == PLANS["free"]


def test_unknown_plan_counts_as_free() -> None:
    """A plan that a newer version wrote gives no more than the least."""
    assert limits_of("platinum", {}) == PLANS["free"]


def test_limits_of_a_request_are_those_of_the_contract() -> None:
    """Every limit that gateways know can be set, and no other."""
    names = {field.name for field in msgspec.structs.fields(LimitChanges)}
    assert names == {field.name for field in msgspec.structs.fields(Limits)}
