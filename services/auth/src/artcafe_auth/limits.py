"""Rates of what strangers may ask for, kept in the memory of each replica.

With several replicas behind a balancer the effective limit is up to so many times higher. That is enough for
what they are for: they bound what a flood costs. What keeps an attacker from guessing is that challenges and
tickets have 256 random bits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable

from artcafe_auth import metrics
from artcafe_common.clock import Clock
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import Buckets

SECONDS_PER_MINUTE = 60.0
# A stranger may use up one agent's challenges from their own address, hardly those of all addresses.
ALL_ADDRESSES_FACTOR = 10
IPV6_CLIENT_BITS = 64


class _Limit:
    """So many a minute for each key, and as many at once; 0 is no limit."""

    def __init__(self, name: str, per_minute: int, clock: Clock) -> None:
        self._name = name
        self._buckets: Buckets[Hashable] | None = None
        if per_minute:
            self._buckets = Buckets(per_minute / SECONDS_PER_MINUTE, float(per_minute), clock)

    def take(self, key: Hashable) -> None:
        """Count one. Raises: ServiceError ``resource_exhausted``."""
        if self._buckets is None:
            return
        wait = self._buckets.take(key)
        if wait:
            metrics.RATE_LIMITED.labels(self._name).inc()
            raise ServiceError(
                ErrorCode.RESOURCE_EXHAUSTED, "too many requests, try again later", retry_after=wait
            )


class RateLimits:
    """The limits of auth; an unknown address ("") is not counted by address."""

    def __init__(self, *, address_rate: int, agent_rate: int, login_rate: int, clock: Clock) -> None:
        self._challenges = _Limit("challenges_of_address", address_rate, clock)
        self._proofs = _Limit("proofs_of_address", address_rate, clock)
        self._agent_here = _Limit("challenges_for_agent_from_address", agent_rate, clock)
        self._agent = _Limit("challenges_for_agent", agent_rate * ALL_ADDRESSES_FACTOR, clock)
        self._login_address = _Limit("logins_from_address", login_rate, clock)
        self._login_email = _Limit("logins_of_email", login_rate, clock)

    def challenge(self, tenant_id: str, agent_id: str, address: str) -> None:
        """Count a challenge that is asked for. Raises: ServiceError ``resource_exhausted``."""
        client = client_of(address)
        if client:
            self._challenges.take(client)
        self._agent_here.take((client, tenant_id, agent_id))
        self._agent.take((tenant_id, agent_id))

    def proof(self, address: str) -> None:
        """Count a proof that is offered. Raises: ServiceError ``resource_exhausted``."""
        if client := client_of(address):
            self._proofs.take(client)

    def login(self, email: str, address: str) -> None:
        """Count an attempt to sign in. Raises: ServiceError ``resource_exhausted``."""
        if client := client_of(address):
            self._login_address.take(client)
        self._login_email.take(email)


def client_of(address: str) -> str:
    """Return what stands for one client: an IPv4 address, or the network an IPv6 client has to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), IPV6_CLIENT_BITS), strict=False))
    return str(parsed)
