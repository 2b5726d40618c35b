"""Rates held in memory, each tenant with its own: calls per minute, messages per second.

Every replica holds them for itself, so that a tenant gets at most its rate times the number of replicas.
"""

from __future__ import annotations

from collections import OrderedDict

from artcafe_common.clock import Clock
from artcafe_common.errors import ErrorCode, ServiceError, not_found
from artcafe_common.quota import Buckets, TokenBucket
from artcafe_common.tokens import Person, TenantScope
from artcafe_common.usage import UsageCounter
from artcafe_registry import metrics
from artcafe_registry.directory import Directory

CAPACITY = 100_000
PERSON_CALLS_PER_SECOND = 2.0
PERSON_CALLS_BURST = 60.0


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
            metrics.REFUSED_CALLS.inc()
            raise too_many(self._what, bucket.wait(now))


class CallLimits:
    """Counts every call and holds tenants and people to their rates."""

    def __init__(self, directory: Directory, usage: UsageCounter, clock: Clock) -> None:
        self._directory = directory
        self._usage = usage
        self._tenants = TenantRates("calls per minute", clock)
        self._people: Buckets[str] = Buckets(PERSON_CALLS_PER_SECOND, PERSON_CALLS_BURST, clock)

    async def on_call(self, scope: TenantScope) -> None:
        """Count one call in a tenant. Raises: ServiceError ``not_found``, ``resource_exhausted``."""
        tenant = await self._directory.tenant(scope.tenant_id)
        if tenant is None:
            raise not_found("tenant")
        limit = tenant.limits.api_calls_per_minute
        if limit is not None:
            self._tenants.take(scope.tenant_id, limit / 60, limit)
        self._usage.api_call(scope.tenant_id)

    def on_person(self, person: Person) -> None:
        """Hold a person to a rate where a call is about no tenant. Raises: ServiceError."""
        if wait := self._people.take(person.user_id):
            metrics.REFUSED_CALLS.inc()
            raise too_many("calls", wait)


def too_many(what: str, retry_after: float) -> ServiceError:
    """Return the error for a rate that was passed; `retry_after` in seconds."""
    return ServiceError(ErrorCode.RESOURCE_EXHAUSTED, f"too many {what}", retry_after=retry_after)
