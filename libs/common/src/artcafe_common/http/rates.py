"""Rates of REST, held in memory, each tenant with its own: calls per minute, messages per second, exports.

Every replica of every service holds them for itself, so that a tenant gets at most its rate times the number
of replicas from each service.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from artcafe_common import metrics
from artcafe_common.clock import Clock
from artcafe_common.contracts.registry import Limits
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import Buckets, TokenBucket
from artcafe_common.tokens import Person, TenantScope
from artcafe_common.usage import UsageCounter

CAPACITY = 100_000
PERSON_CALLS_PER_SECOND = 2.0
PERSON_CALLS_BURST = 60.0

# None: there is no such tenant.
LimitsOf = Callable[[str], Awaitable[Limits | None]]


class TenantRates:
    """A token bucket per tenant, made anew when the tenant's rate changes."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, tenant_id: str, rate: float, burst: float) -> None:
        """Take one token of `rate` per second and `burst` at once.

        Raises: ServiceError ``resource_exhausted`` with a retry hint.
        """
        now = self._clock.monotonic()
        bucket = self._buckets.get(tenant_id)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = self._buckets[tenant_id] = TokenBucket(rate, burst, now)
            if len(self._buckets) > CAPACITY:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(tenant_id)
        if not bucket.take(now):
            raise too_many(self._what, bucket.wait(now))


class CallLimits:
    """Counts every call in a tenant and holds tenants and people to their rates."""

    def __init__(self, limits_of: LimitsOf, usage: UsageCounter, clock: Clock) -> None:
        self._limits_of = limits_of
        self._usage = usage
        self._tenants = TenantRates("calls per minute", clock)
        self._people: Buckets[str] = Buckets(PERSON_CALLS_PER_SECOND, PERSON_CALLS_BURST, clock)

    async def on_call(self, scope: TenantScope) -> None:
        """Count one call in a tenant; one that is about no tenant, as platform roles may ask, is nobody's.

        Raises: ServiceError ``resource_exhausted``, and what asking for the tenant's limits raises.
        """
        limits = await self._limits_of(scope.tenant_id)
        if limits is None:
            return
        limit = limits.api_calls_per_minute
        if limit is not None:
            self._tenants.take(scope.tenant_id, limit / 60, limit)
        self._usage.api_call(scope.tenant_id)

    def on_person(self, person: Person) -> None:
        """Hold a person to a rate where a call is about no tenant. Raises: ServiceError."""
        if wait := self._people.take(person.user_id):
            raise too_many("calls", wait)


def too_many(what: str, retry_after: float) -> ServiceError:
    """Count and return the error for a rate that was passed; `retry_after` in seconds."""
    metrics.HTTP_REFUSED.inc()
    return ServiceError(ErrorCode.RESOURCE_EXHAUSTED, f"too many {what}", retry_after=retry_after)
