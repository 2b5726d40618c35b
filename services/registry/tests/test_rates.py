"""Rates of tenants, each its own."""

import pytest

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_registry.rates import TenantRates

from .clocks import MovedClock


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
    clock = MovedClock()
    rates = TenantRates("calls", clock)
    assert [_wait(rates, "t", 2.0, 3.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.seconds += 0.5
    assert [_wait(rates, "t", 2.0, 3.0) for _ in range(2)] == [0.0, 0.5]


def test_tenants_do_not_share_a_rate() -> None:
    """One tenant's refusals are no other's."""
    rates = TenantRates("calls", MovedClock())
    assert _wait(rates, "a", 1.0, 1.0) == 0.0
    assert _wait(rates, "a", 1.0, 1.0) == 1.0
    assert _wait(rates, "b", 1.0, 1.0) == 0.0


def test_changed_plan_holds_at_once() -> None:
    """A tenant whose rate changes is held to the new one from the next call on."""
    rates = TenantRates("calls", MovedClock())
    _wait(rates, "t", 1.0, 1.0)
    assert _wait(rates, "t", 1.0, 1.0) == 1.0
    assert [_wait(rates, "t", 4.0, 2.0) for _ in range(3)] == [0.0, 0.0, 0.25]


def test_wait_is_rounded_up_for_http() -> None:
    """A refused call always has something to wait for."""
    with pytest.raises(ServiceError) as refused:
        rates = TenantRates("calls", MovedClock())
        for _ in range(2):
            rates.take("t", 100.0, 1.0)
    assert refused.value.retry_after == pytest.approx(0.01)
