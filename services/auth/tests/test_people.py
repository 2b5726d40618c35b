"""Signing in at the local issuer."""

from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from artcafe_auth.limits import RateLimits
from artcafe_auth.local_issuer import LocalIssuer, load_or_create_key
from artcafe_auth.passwords import Passwords
from artcafe_auth.people import LocalPeople, add_user, normal_email
from artcafe_common.errors import ErrorCode, ServiceError

from .support import ManualClock, MemoryUserStore


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """Make the hasher, and end its threads."""
    made = Passwords()
    yield made
    made.close()


@pytest.fixture
def store() -> MemoryUserStore:
    """Make an empty store."""
    return MemoryUserStore()


@pytest.fixture
def people(store: MemoryUserStore, passwords: Passwords, tmp_path: Path) -> LocalPeople:
    """Make the local issuer's people, five attempts a minute."""
    clock = ManualClock()
    issuer = LocalIssuer(
        load_or_create_key(tmp_path / "key.pem"), url="http://localhost", audience="artcafe", token_seconds=60
    )
    limits = RateLimits(address_rate=0, agent_rate=0, login_rate=5, clock=clock)
    return LocalPeople(store, passwords, issuer, limits, clock)


async def test_person_signs_in(people: LocalPeople, store: MemoryUserStore, passwords: Passwords) -> None:
    """The right password gives a token for the person's id, however the e-mail is spelt."""
    user = await add_user(store, passwords, ManualClock(), "Ann@Example.com", "correct horse")
    signed_in = await people.sign_in(" ann@EXAMPLE.com", "correct horse", "192.0.2.1")
    claims = jwt.decode(signed_in.token, options={"verify_signature": False})
    assert claims["sub"] == user.user_id
    assert claims["email"] == "ann@example.com"
    assert signed_in.seconds == 60


async def test_unknown_email_looks_like_a_wrong_password(
    people: LocalPeople, store: MemoryUserStore, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both get the same answer after the same work."""
    await add_user(store, passwords, ManualClock(), "ann@example.com", "correct horse")
    verified = []
    real = passwords._verify

    def count(hashed: str, password: str) -> bool:
        verified.append(hashed)
        return real(hashed, password)

    monkeypatch.setattr(passwords, "_verify", count)
    bodies = []
    for email in ("ann@example.com", "bob@example.com"):
        with pytest.raises(ServiceError) as caught:
            await people.sign_in(email, "wrong password", "192.0.2.1")
        bodies.append(caught.value.body())
    assert bodies[0] == bodies[1]
    assert bodies[0].code == ErrorCode.UNAUTHENTICATED
    assert len(verified) == 2


async def test_attempts_are_limited(people: LocalPeople) -> None:
    """After some attempts the answer is to wait, also for a person who does not exist."""
    for _ in range(5):
        with pytest.raises(ServiceError, match="wrong"):
            await people.sign_in("bob@example.com", "wrong password", "192.0.2.1")
    # At another address: one attempt that it has to itself, and the last of the shared ones.
    for _ in range(2):
        with pytest.raises(ServiceError, match="wrong"):
            await people.sign_in("BOB@example.com", "wrong password", "192.0.2.2")
    with pytest.raises(ServiceError) as caught:
        await people.sign_in("Bob@example.com", "wrong password", "192.0.2.2")
    assert caught.value.code == ErrorCode.RESOURCE_EXHAUSTED


async def test_adding_again_keeps_the_id(store: MemoryUserStore, passwords: Passwords) -> None:
    """A person who is added again keeps the id and gets the new password, or keeps the old one."""
    clock = ManualClock()
    first = await add_user(store, passwords, clock, "ann@example.com", "correct horse")
    assert await add_user(store, passwords, clock, "ann@example.com", None) == first
    second = await add_user(store, passwords, clock, "ANN@example.com", "battery staple")
    assert second.user_id == first.user_id
    assert await passwords.matches(second.password, "battery staple")
    with pytest.raises(ServiceError, match="needs a password"):
        await add_user(store, passwords, clock, "bob@example.com", None)


@pytest.mark.parametrize(
    "email", ["", "ann", "@", "ann@", "@example.com", "a b@c", "a@b@c", "a" * 255 + "@b"]
)
def test_what_is_no_email_is_refused(email: str) -> None:
    """A login name is an e-mail address."""
    with pytest.raises(ServiceError) as caught:
        normal_email(email)
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
