"""Remembered tokens: checked once, and never beyond their expiry."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artcafe_common.contracts.auth import IssuerKeys, Jwks
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.tokens import LEEWAY_SECONDS, KeyRing
from artcafe_registry.verifying import REMEMBERED_SECONDS, RememberingVerifier

from .clocks import MovedClock

KEY = Ed25519PrivateKey.generate()


class _Ring(KeyRing):
    """A key ring that counts how often a key is looked for, that is, how often a token is checked."""

    def __init__(self, clock: MovedClock) -> None:
        jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k"}
        keys = IssuerKeys(issuer="iss", keys=[jwk], audiences=["a"], algorithms=["EdDSA"])

        async def fetch() -> Jwks:
            return Jwks(issuers=[keys])

        super().__init__(fetch, clock)
        self.checks = 0

    async def find(self, issuer: str, key_id: str) -> tuple[IssuerKeys, dict[str, Any]] | None:
        """Find a key."""
        self.checks += 1
        return await super().find(issuer, key_id)


def _token(clock: MovedClock, seconds: float, sub: str = "me") -> str:
    claims = {"iss": "iss", "aud": "a", "sub": sub, "exp": clock.now() + seconds}
    return jwt.encode(claims, KEY, "EdDSA", {"kid": "k"})


async def test_token_is_checked_once_in_a_while() -> None:
    """The same token is not checked again for some seconds; another one is."""
    clock = MovedClock()
    ring = _Ring(clock)
    verifier = RememberingVerifier(ring, clock)
    token = _token(clock, 600)
    for _ in range(3):
        assert (await verifier.verify(token)).user_id == "me"
    assert (await verifier.verify(_token(clock, 600, "you"))).user_id == "you"
    assert ring.checks == 2
    clock.seconds += REMEMBERED_SECONDS + 1
    await verifier.verify(token)
    assert ring.checks == 3


async def test_remembered_token_expires_all_the_same() -> None:
    """A token that was good a moment ago is refused when its time and the leeway are over."""
    clock = MovedClock()
    verifier = RememberingVerifier(_Ring(clock), clock)
    token = _token(clock, 1)
    clock.seconds += LEEWAY_SECONDS
    assert (await verifier.verify(token)).user_id == "me"
    clock.seconds += 2
    with pytest.raises(ServiceError) as refused:
        await verifier.verify(token)
    assert refused.value.code == ErrorCode.UNAUTHENTICATED


async def test_refusal_is_not_remembered_as_anything() -> None:
    """A bad token is refused each time, whatever characters it is made of."""
    clock = MovedClock()
    verifier = RememberingVerifier(_Ring(clock), clock)
    good = _token(clock, 600)
    forged = good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:]
    for bad in ("", "x", forged, "\ud800", good + "."):
        for _ in range(2):
            with pytest.raises(ServiceError) as refused:
                await verifier.verify(bad)
            assert refused.value.code == ErrorCode.UNAUTHENTICATED
