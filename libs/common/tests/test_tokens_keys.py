"""The issuers' keys: when they are asked for, and how long they serve."""

from __future__ import annotations

import asyncio

import pytest

from artcafe_common import tokens
from artcafe_common.errors import ErrorCode, unavailable
from artcafe_common.tokens import KeyRing

from .support import FrozenClock
from .token_support import ISSUER, KEYS, Auth, issuer_keys, refused, turns


async def test_keys_are_asked_for_once(ring: KeyRing, auth: Auth) -> None:
    """Known keys are found without asking again."""
    for _ in range(10):
        assert await ring.find(ISSUER, "ed") is not None
    assert auth.asked == 1


async def test_rotated_key_is_found_without_a_restart(ring: KeyRing, auth: Auth, clock: FrozenClock) -> None:
    """A key that appears at the issuer is asked for when a token first names it."""
    await ring.find(ISSUER, "ed")
    auth.issuers = [issuer_keys(keys=[*KEYS, {**KEYS[2], "kid": "new"}])]
    clock.move(tokens.UNKNOWN_KEY_PAUSE_SECONDS)
    assert await ring.find(ISSUER, "new") is not None
    assert auth.asked == 2


async def test_unknown_keys_ask_once_per_pause(ring: KeyRing, auth: Auth, clock: FrozenClock) -> None:
    """Tokens with made-up key ids do not make us ask all the time, and known keys go on."""
    for _ in range(3):
        for number in range(50):
            assert await ring.find(ISSUER, f"made-up-{number}") is None
            assert await ring.find(f"https://made-up-{number}", "ed") is None
            assert await ring.find(ISSUER, "ed") is not None
        clock.move(tokens.UNKNOWN_KEY_PAUSE_SECONDS)
    assert auth.asked == 3


async def test_those_who_ask_at_once_share_one_question(ring: KeyRing, auth: Auth) -> None:
    """Many first requests ask auth once, and all get its answer."""
    auth.gate = asyncio.Event()
    asking = [asyncio.create_task(ring.find(ISSUER, "ed")) for _ in range(50)]
    await asyncio.sleep(0)
    auth.gate.set()
    assert all(await asyncio.gather(*asking))
    assert auth.asked == 1


async def test_one_who_gives_up_does_not_spoil_it_for_others(ring: KeyRing, auth: Auth) -> None:
    """The question goes on when the request that asked it is cancelled."""
    auth.gate = asyncio.Event()
    first = asyncio.create_task(ring.find(ISSUER, "ed"))
    second = asyncio.create_task(ring.find(ISSUER, "ed"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    auth.gate.set()
    assert await second is not None
    assert auth.asked == 1


async def test_first_question_without_an_answer_is_unavailable(ring: KeyRing, auth: Auth) -> None:
    """Before any keys are known a token cannot be judged, and each request tries again."""
    auth.error = unavailable("auth")
    for _ in range(3):
        await refused(ring.find(ISSUER, "ed"), ErrorCode.UNAVAILABLE)
    assert auth.asked == 3
    auth.error = None
    assert await ring.find(ISSUER, "ed") is not None


async def test_bug_in_the_question_is_seen(ring: KeyRing, auth: Auth) -> None:
    """What is not auth being away comes out as it is."""
    auth.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await ring.find(ISSUER, "ed")


async def test_old_keys_are_asked_for_again_without_making_anybody_wait(
    ring: KeyRing, auth: Auth, clock: FrozenClock
) -> None:
    """A request with a known key is served at once while newer keys are on their way."""
    await ring.find(ISSUER, "ed")
    clock.move(tokens.KEYS_FRESH_SECONDS + 1)
    auth.gate = asyncio.Event()
    for _ in range(5):
        assert await ring.find(ISSUER, "ed") is not None
    auth.issuers = [issuer_keys(keys=KEYS[:1])]
    auth.gate.set()
    await turns()
    assert auth.asked == 2
    assert await ring.find(ISSUER, "ed") is None


async def test_old_keys_serve_while_auth_is_away(ring: KeyRing, auth: Auth, clock: FrozenClock) -> None:
    """An outage of auth locks nobody out, and does not make us ask with every request."""
    await ring.find(ISSUER, "ed")
    auth.error = unavailable("auth")
    clock.move(tokens.KEYS_STALE_SECONDS - 60)
    for _ in range(20):
        assert await ring.find(ISSUER, "ed") is not None
        await turns()
    assert auth.asked == 2


async def test_old_keys_serve_for_a_bounded_time(ring: KeyRing, auth: Auth, clock: FrozenClock) -> None:
    """After too long an outage no key is believed any more, however often it is tried, until auth is back."""
    await ring.find(ISSUER, "ed")
    auth.error = unavailable("auth")
    clock.move(tokens.KEYS_STALE_SECONDS + 1)
    for _ in range(5):
        await refused(ring.find(ISSUER, "ed"), ErrorCode.UNAVAILABLE)
        await refused(ring.find(ISSUER, "unknown"), ErrorCode.UNAVAILABLE)
        clock.move(1)
    assert auth.asked == 2
    auth.error = None
    clock.move(tokens.UNKNOWN_KEY_PAUSE_SECONDS)
    assert await ring.find(ISSUER, "ed") is not None


async def test_issuer_whose_keys_auth_cannot_reach_keeps_those_it_had(
    ring: KeyRing, auth: Auth, clock: FrozenClock
) -> None:
    """A provider that is down does not lock its people out, for a bounded time; other issuers go on."""
    other = issuer_keys(issuer="https://other.test")
    auth.issuers = [issuer_keys(), other]
    await ring.find(ISSUER, "ed")
    auth.issuers = [issuer_keys(keys=[]), other]
    for _ in range(int(tokens.KEYS_STALE_SECONDS // 3600)):
        clock.move(3599)
        assert await ring.find(ISSUER, "ed") is not None
        await turns()
    clock.move(3600)
    await ring.find("https://other.test", "ed")
    await turns()
    assert await ring.find("https://other.test", "ed") is not None
    await refused(ring.find(ISSUER, "ed"), ErrorCode.UNAVAILABLE)


async def test_issuer_that_auth_no_longer_trusts_is_gone(
    ring: KeyRing, auth: Auth, clock: FrozenClock
) -> None:
    """An issuer that was taken out of the configuration is believed no more."""
    await ring.find(ISSUER, "ed")
    auth.issuers = []
    clock.move(tokens.KEYS_FRESH_SECONDS + 1)
    await ring.find(ISSUER, "ed")
    await turns()
    assert await ring.find(ISSUER, "ed") is None


async def test_issuer_without_keys_yet_is_unavailable(auth: Auth, ring: KeyRing) -> None:
    """A trusted issuer whose keys nobody could get is no reason to call a token bad."""
    auth.issuers = [issuer_keys(keys=[])]
    await refused(ring.find(ISSUER, "ed"), ErrorCode.UNAVAILABLE)


async def test_key_that_is_found_can_be_changed_without_harm(ring: KeyRing) -> None:
    """What a caller does to a key does not reach the ring's own."""
    found = await ring.find(ISSUER, "ed")
    assert found is not None
    found[1].clear()
    again = await ring.find(ISSUER, "ed")
    assert again is not None
    assert again[1]["kid"] == "ed"
