"""How a service learns who calls it: keys from auth, memberships from registry, over a real NATS."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, IssuerKeys, Jwks
from artcafe_common.contracts.registry import GET_MEMBERSHIPS, GetMemberships, Membership, Memberships
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.remote import RemoteMemberships, remote_access
from artcafe_common.rpc import serve

from .common_support import opened

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A bus of the service that is called."""
    async with opened(nats_url) as connected:
        yield connected


async def _jwks(request: GetJwks) -> Jwks:
    key = {**json.loads(OKPAlgorithm.to_jwk(KEY.public_key())), "kid": "k1"}
    issuer = IssuerKeys(issuer="https://i", keys=[key], audiences=["artcafe"], algorithms=["EdDSA"])
    return Jwks(issuers=[issuer])


async def _memberships(request: GetMemberships) -> Memberships:
    rows = [Membership(tenant_id="t1", role="viewer")] if request.user_id == "p1" else []
    return Memberships(user_id=request.user_id, memberships=rows)


def _token(person: str) -> str:
    claims = {"iss": "https://i", "aud": "artcafe", "sub": person, "exp": time.time() + 60}
    return jwt.encode(claims, KEY, "EdDSA", {"kid": "k1"})


async def test_caller_is_known_by_what_auth_and_registry_say(nats_url: str, bus: Bus) -> None:
    """A token is checked with auth's keys, and opens the tenant that registry knows for the person."""
    async with (
        opened(nats_url) as others,
        serve(others, GET_JWKS, _jwks, queue="auth"),
        serve(others, GET_MEMBERSHIPS, _memberships, queue="registry"),
    ):
        access = remote_access(bus, SystemClock())
        scope = await access.scope(_token("p1"), None)
        assert (scope.person.user_id, scope.tenant_id, scope.role) == ("p1", "t1", "viewer")
        with pytest.raises(ServiceError) as caught:
            await access.scope(_token("p2"), "t1")
        assert caught.value.code == ErrorCode.PERMISSION_DENIED


async def test_caller_is_unknown_for_now_while_auth_is_away(bus: Bus) -> None:
    """Without keys a token is not called bad: whoever has it may come again."""
    with pytest.raises(ServiceError) as caught:
        await remote_access(bus, SystemClock()).person(_token("p1"))
    assert caught.value.code == ErrorCode.UNAVAILABLE


async def test_memberships_are_unavailable_while_registry_is_away(bus: Bus) -> None:
    """Without registry nobody is said to belong to nothing."""
    with pytest.raises(ServiceError) as caught:
        await RemoteMemberships(bus).memberships("p1", None)
    assert caught.value.code == ErrorCode.UNAVAILABLE


async def test_membership_that_ends_is_seen_at_once(nats_url: str, bus: Bus) -> None:
    """Nothing is remembered: what registry says now, counts."""
    rows: list[Membership] = [Membership(tenant_id="t1", role="owner")]

    async def memberships(request: GetMemberships) -> Memberships:
        return Memberships(user_id=request.user_id, memberships=list(rows))

    async with (
        opened(nats_url) as others,
        serve(others, GET_JWKS, _jwks, queue="auth"),
        serve(others, GET_MEMBERSHIPS, memberships, queue="registry"),
    ):
        access = remote_access(bus, SystemClock())
        assert (await access.scope(_token("p1"), "t1")).role == "owner"
        rows.clear()
        with pytest.raises(ServiceError):
            await access.scope(_token("p1"), "t1")
