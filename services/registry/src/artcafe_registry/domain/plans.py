"""Plans and the limits they set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from artcafe_common.contracts.registry import Limits

PlanName = Literal["free", "basic", "pro", "enterprise"]

MESSAGE_BYTES = 65_536

PLANS: Mapping[str, Limits] = {
    "free": Limits(
        agents=3,
        channels=10,
        connections=5,
        messages_per_month=10_000,
        messages_per_second=50,
        bytes_per_message=MESSAGE_BYTES,
        api_calls_per_minute=100,
    ),
    "basic": Limits(
        agents=10,
        channels=100,
        connections=20,
        messages_per_month=100_000,
        messages_per_second=200,
        bytes_per_message=MESSAGE_BYTES,
        api_calls_per_minute=500,
    ),
    "pro": Limits(
        agents=50,
        channels=500,
        connections=100,
        messages_per_month=500_000,
        messages_per_second=1_000,
        bytes_per_message=MESSAGE_BYTES,
        api_calls_per_minute=2_000,
    ),
    "enterprise": Limits(),
}

FREE_PLAN: PlanName = "free"


def limits_of(plan: str, overrides: Mapping[str, int | None]) -> Limits:
    """Return a plan's limits with a tenant's own in their place; a plan that is not known counts as free."""
    limits = PLANS.get(plan, PLANS[FREE_PLAN])
    return msgspec.structs.replace(limits, **overrides) if overrides else limits
