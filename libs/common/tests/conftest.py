"""Fixtures of the tests of this package."""

from __future__ import annotations

import pytest

from artcafe_common.tokens import Access, KeyRing, TokenVerifier

from .support import FrozenClock
from .token_support import Auth, Registry


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that stands still."""
    return FrozenClock()


@pytest.fixture
def auth() -> Auth:
    """Auth with one issuer."""
    return Auth()


@pytest.fixture
def ring(auth: Auth, clock: FrozenClock) -> KeyRing:
    """A key ring that asks it."""
    return KeyRing(auth.fetch, clock)


@pytest.fixture
def verifier(ring: KeyRing, clock: FrozenClock) -> TokenVerifier:
    """A verifier of its keys."""
    return TokenVerifier(ring, clock)


@pytest.fixture
def registry() -> Registry:
    """A registry that knows nobody."""
    return Registry()


@pytest.fixture
def access(verifier: TokenVerifier, registry: Registry) -> Access:
    """An access check with these."""
    return Access(verifier, registry)
