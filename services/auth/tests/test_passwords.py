"""Passwords of the local issuer."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from artcafe_auth import passwords as module
from artcafe_auth.passwords import Passwords
from artcafe_common.errors import ErrorCode, ServiceError


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """Make the hasher, and end its threads."""
    made = Passwords()
    yield made
    made.close()


async def test_password_matches_its_hash(passwords: Passwords) -> None:
    """The right password matches, another does not, and the hash does not show it."""
    hashed = passwords.hash("correct horse")
    assert hashed.startswith("$argon2id$")
    assert "horse" not in hashed
    assert await passwords.matches(hashed, "correct horse")
    assert not await passwords.matches(hashed, "Correct horse")
    assert not await passwords.matches("not a hash", "correct horse")


async def test_nobody_has_no_password_and_costs_the_same(passwords: Passwords) -> None:
    """For an unknown person a hash with the same parameters is computed."""
    hashed = passwords.hash("correct horse")
    assert passwords._nobody.split("$")[:4] == hashed.split("$")[:4]
    assert not await passwords.matches(None, "correct horse")


@pytest.mark.parametrize("password", ["", "short", "1234567", "x" * 1025, "\u00e9" * 513])
def test_password_has_bounds(passwords: Passwords, password: str) -> None:
    """Neither guessed in a moment nor megabytes long."""
    with pytest.raises(ServiceError) as caught:
        passwords.hash(password)
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
    assert password == "" or password not in caught.value.detail


async def test_event_loop_goes_on_while_hashing(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many sign-ins at once do not hold up anything else."""
    hashed = passwords.hash("correct horse")
    loop = asyncio.get_running_loop()
    held_up = threading.Event()
    compute = passwords._verify

    def verify(hashed: str, password: str) -> bool:
        # It does not end before the loop has gone on: on the loop itself it never would.
        went_on = threading.Event()
        loop.call_soon_threadsafe(went_on.set)
        if held_up.is_set() or not went_on.wait(20):
            held_up.set()
            raise AssertionError("the loop stands still")
        return compute(hashed, password)

    monkeypatch.setattr(passwords, "_verify", verify)
    assert not any(await asyncio.gather(*(passwords.matches(hashed, "wrong password") for _ in range(30))))


async def test_too_many_at_once_are_told_to_come_back(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is bounded; the places are free again afterwards."""
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    hashed = passwords.hash("correct horse")
    tries = [passwords.matches(hashed, "correct horse") for _ in range(10)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert outcomes.count(True) == 3 + module.THREADS
    refused = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    assert {error.code for error in refused} == {ErrorCode.UNAVAILABLE}
    assert len(refused) == 5
    assert await passwords.matches(hashed, "correct horse")
