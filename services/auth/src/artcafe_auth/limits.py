"""Rates of what strangers may ask for, kept in the memory of each replica.

With several replicas behind a balancer the effective limit is up to so many times higher. That is enough for
what they are for: they bound what a flood costs. What keeps an attacker from guessing is that challenges and
tickets have 256 random bits.

What is counted for one agent or one e-mail, whoever asks, must not become a way to lock its owner out. So
each address has a small allowance for each of them that nobody else can use up; only what goes beyond it is
taken from what all addresses share.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable

from artcafe_auth import metrics
from artcafe_common.clock import Clock
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import Buckets

SECONDS_PER_MINUTE = 60.0
ALL_ADDRESSES_FACTOR = 10
# The part of a rate that an address has to itself for each agent or e-mail.
OWN_DIVISOR = 6
IPV6_CLIENT_BITS = 64


class _Limit:
    """So many a minute for each key, and as many at once; 0 is no limit."""

    def __init__(self, name: str, per_minute: int, clock: Clock) -> None:
        self._name = name
        self._buckets: Buckets[Hashable] | None = None
        if per_minute:
            self._buckets = Buckets(per_minute / SECONDS_PER_MINUTE, float(per_minute), clock)

    def wait(self, key: Hashable) -> float:
        """Count one; return 0.0, or the seconds to wait where there is no more."""
        return 0.0 if self._buckets is None else self._buckets.take(key)

    def take(self, key: Hashable) -> None:
        """Count one. Raises: ServiceError ``resource_exhausted``."""
        wait = self.wait(key)
        if wait:
            metrics.RATE_LIMITED.labels(self._name).inc()
            raise ServiceError(
                ErrorCode.RESOURCE_EXHAUSTED, "too many requests, try again later", retry_after=wait
            )


class _SharedLimit:
    """What all addresses together may ask for about one thing, beyond what each of them has to itself."""

    def __init__(self, name: str, per_minute: int, own_per_minute: int, clock: Clock) -> None:
        self._shared = _Limit(name, per_minute, clock)
        self._own = _Limit(f"{name}_own", own_per_minute, clock)

    def take(self, client: str, thing: Hashable) -> None:
        """Count one. Raises: ServiceError ``resource_exhausted``."""
        if self._own.wait((client, thing)):
            self._shared.take(thing)


class RateLimits:
    """The limits of auth; an unknown address ("") is not counted by address."""

    def __init__(self, *, address_rate: int, agent_rate: int, login_rate: int, clock: Clock) -> None:
        self._challenges = _Limit("challenges_of_address", address_rate, clock)
        self._proofs = _Limit("proofs_of_address", address_rate, clock)
        self._agent_here = _Limit("challenges_for_agent_from_address", agent_rate, clock)
        self._agent = _SharedLimit(
            "challenges_for_agent", agent_rate * ALL_ADDRESSES_FACTOR, _own(agent_rate), clock
        )
        self._login_address = _Limit("logins_from_address", login_rate, clock)
        self._login_email = _SharedLimit("logins_of_email", login_rate, _own(login_rate), clock)

    def challenge(self, tenant_id: str, agent_id: str, address: str) -> None:
        """Count a challenge that is asked for. Raises: ServiceError ``resource_exhausted``."""
        client = client_of(address)
        if client:
            self._challenges.take(client)
        self._agent_here.take((client, tenant_id, agent_id))
        self._agent.take(client, (tenant_id, agent_id))

    def proof(self, address: str) -> None:
        """Count a proof that is offered. Raises: ServiceError ``resource_exhausted``."""
        if client := client_of(address):
            self._proofs.take(client)

    def login(self, email: str, address: str) -> None:
        """Count an attempt to sign in. Raises: ServiceError ``resource_exhausted``."""
        client = client_of(address)
        if client:
            self._login_address.take(client)
        self._login_email.take(client, email)


def _own(per_minute: int) -> int:
    return max(1, per_minute // OWN_DIVISOR) if per_minute else 0


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
