"""What a service asks auth and registry in order to know who calls it."""

from __future__ import annotations

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, Jwks
from artcafe_common.contracts.registry import GET_MEMBERSHIPS, GetMemberships, Memberships
from artcafe_common.rpc import call
from artcafe_common.tokens import Access, KeyRing, TokenVerifier


class RemoteMemberships:
    """A `MembershipSource` that asks registry each time: a membership that ends, ends everywhere at once."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def memberships(self, user_id: str, claimed_tenant_id: str | None) -> Memberships:
        """Return every membership of a person; an unknown person has none."""
        return await call(self._bus, GET_MEMBERSHIPS, GetMemberships(user_id, claimed_tenant_id))


def remote_key_ring(bus: Bus, clock: Clock) -> KeyRing:
    """Return a key ring that gets the issuers' keys from auth."""

    async def fetch() -> Jwks:
        return await call(bus, GET_JWKS, GetJwks())

    return KeyRing(fetch, clock)


def remote_access(bus: Bus, clock: Clock) -> Access:
    """Return the access check of a service that is neither auth nor registry."""
    return Access(TokenVerifier(remote_key_ring(bus, clock), clock), RemoteMemberships(bus))
