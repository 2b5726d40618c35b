"""Rates of tenants, each its own."""

from collections import Counter

import pytest

from artcafe_common.contracts.registry import Limits
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.http import CallLimits, TenantRates
from artcafe_common.tokens import Person, TenantScope
from artcafe_common.usage import UsageCounter

from .support import FrozenClock


def _wait(rates: TenantRates, tenant_id: str, rate: float, burst: float) -> float:
    try:
        rates.take(tenant_id, rate, burst)
    except ServiceError as error:
        assert error.code == ErrorCode.RESOURCE_EXHAUSTED
        assert error.http_status == 429
        assert error.retry_after is not None
        return error.retry_after
    return 0.0


def test_burst_passes_and_then_the_rate_holds() -> None:
    """As many as the burst pass at once, then one for each interval, with the wait told."""
    clock = FrozenClock()
    rates = TenantRates("calls", clock)
    assert [_wait(rates, "t", 2.0, 3.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.uptime += 0.5
    assert [_wait(rates, "t", 2.0, 3.0) for _ in range(2)] == [0.0, 0.5]


def test_tenants_do_not_share_a_rate() -> None:
    """One tenant's refusals are no other's."""
    rates = TenantRates("calls", FrozenClock())
    assert _wait(rates, "a", 1.0, 1.0) == 0.0
    assert _wait(rates, "a", 1.0, 1.0) == 1.0
    assert _wait(rates, "b", 1.0, 1.0) == 0.0


def test_changed_plan_holds_at_once() -> None:
    """A tenant whose rate changes is held to the new one from the next call on."""
    rates = TenantRates("calls", FrozenClock())
    _wait(rates, "t", 1.0, 1.0)
    assert _wait(rates, "t", 1.0, 1.0) == 1.0
    assert [_wait(rates, "t", 4.0, 2.0) for _ in range(3)] == [0.0, 0.0, 0.25]


def test_wait_is_rounded_up_for_http() -> None:
    """A refused call always has something to wait for."""
    with pytest.raises(ServiceError) as refused:
        rates = TenantRates("calls", FrozenClock())
        for _ in range(2):
            rates.take("t", 100.0, 1.0)
    assert refused.value.retry_after == pytest.approx(0.01)


async def test_calls_are_held_to_the_plan_and_counted() -> None:
    """What passes is counted for its tenant, if there is one; over the plan's rate it is refused."""
    clock = FrozenClock()
    usage = UsageCounter(clock)

    async def limits_of(tenant_id: str) -> Limits | None:
        if tenant_id == "nobody":
            return None
        return Limits(api_calls_per_minute=3 if tenant_id == "t1" else None)

    limits = CallLimits(limits_of, usage, clock)
    ann = Person("ann", "ann@example.com", 2e9)
    outcomes: Counter[str] = Counter()
    await limits.on_call(TenantScope(ann, "nobody", "billing", frozenset()))
    for tenant_id in ("t1", "t2"):
        for _ in range(10):
            try:
                await limits.on_call(TenantScope(ann, tenant_id, "owner", frozenset()))
                outcomes[tenant_id] += 1
            except ServiceError as error:
                assert (error.http_status, error.retry_after) == (429, 20.0)
    assert outcomes == {"t1": 3, "t2": 10}
    [span] = usage.take()
    counted = {row.tenant_id: row.api_calls for batch in span.batches() for row in batch.rows}
    assert counted == outcomes
