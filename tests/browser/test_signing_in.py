"""Signing in, staying signed in, and signing out."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

import jwt

from artcafe_devstack.devstack import DevStack

from .browser_support import Account, Organisation, Tab
from .identity_provider import IdentityProvider

STORED = "JSON.stringify([{...localStorage}, location.href, document.cookie])"


async def test_a_wrong_password_is_told_and_the_right_one_leads_in(
    tab: Tab, organisation: Organisation
) -> None:
    """A refused sign-in says so beside the form, and nothing has to be loaded again."""
    tab.expected.append("401")
    await tab.sign_in(organisation.owner, "wrong")
    await tab.page.locator(".problem:not(:empty)").wait_for()
    await tab.page.get_by_label("Password").fill(organisation.owner.password)
    await tab.page.get_by_role("button", name="Sign in", exact=True).last.click()
    await tab.heading("Overview")


async def test_the_token_stays_in_the_tab_and_goes_with_signing_out(
    tab: Tab, organisation: Organisation
) -> None:
    """The token is in no address, cookie or lasting storage, and signing out forgets it."""
    await tab.enter(organisation.owner)
    token = json.loads(await tab.page.evaluate("sessionStorage.getItem('artcafe.session')"))["token"]
    assert token not in await tab.page.evaluate(STORED)
    await tab.reload()
    await tab.heading("Overview")
    await tab.page.get_by_role("button", name="Sign out").click()
    await tab.page.get_by_label("Password").wait_for()
    assert await tab.page.evaluate("sessionStorage.length") == 0


async def test_a_person_in_several_organisations_chooses_one(tab: Tab, organisation: Organisation) -> None:
    """Who belongs to several organisations is asked, and can change."""
    await organisation.owner.call("POST", "/tenants", json={"name": "The other one"})
    await tab.sign_in(organisation.owner)
    await tab.page.get_by_role("button", name="The other one").click()
    await tab.heading("Overview")
    await tab.page.get_by_role("button", name="The other one").click()
    await tab.page.get_by_role("button", name="Browser test").click()
    await tab.heading("Overview")
    await tab.page.get_by_role("button", name="Organisation: Browser test").wait_for()


async def test_a_person_without_organisation_makes_one(
    tab: Tab, new_account: Callable[[], Awaitable[Account]]
) -> None:
    """Somebody new can begin at once."""
    await tab.sign_in(await new_account())
    await tab.page.get_by_label("Name").fill("Brand new")
    await tab.page.get_by_role("button", name="Make organisation").click()
    await tab.sees("Your first agent, in four steps")


async def test_an_ending_session_asks_for_the_password_and_keeps_the_page(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """Before the token ends the password is asked for, and what was typed on the page is still there."""
    await tab.enter(organisation.owner)
    await tab.page.evaluate(
        """token => {
            const state = JSON.parse(sessionStorage.getItem('artcafe.session'));
            sessionStorage.setItem('artcafe.session', JSON.stringify({...state, token}));
        }""",
        _ending(organisation.owner.token, stack, seconds=62),
    )
    await tab.open("#/agents", "Agents")
    await tab.reload()
    await tab.page.get_by_label("Search by name").fill("half typed")
    await tab.page.get_by_role("heading", name="Your session is ending").wait_for(timeout=20_000)
    await tab.page.get_by_role("dialog").get_by_label("Password").fill(organisation.owner.password)
    await tab.page.get_by_role("button", name="Go on").click()
    await tab.page.get_by_role("dialog").wait_for(state="detached")
    assert await tab.page.get_by_label("Search by name").input_value() == "half typed"
    kept = json.loads(await tab.page.evaluate("sessionStorage.getItem('artcafe.session')"))["token"]
    claims = jwt.decode(kept, options={"verify_signature": False})
    assert claims["exp"] > time.time() + 600
    await tab.page.locator(".pill.live").wait_for()


async def test_a_token_that_does_not_hold_asks_for_the_password(tab: Tab, organisation: Organisation) -> None:
    """A token that the server refuses leads to the password, not to a dead page."""
    tab.expected.append("401")
    await tab.enter(organisation.owner)
    await tab.page.evaluate(
        """() => {
            const state = JSON.parse(sessionStorage.getItem('artcafe.session'));
            sessionStorage.setItem('artcafe.session', JSON.stringify({...state, token: state.token + 'x'}));
        }"""
    )
    await tab.reload()
    await tab.page.get_by_role("dialog").get_by_label("Password").fill(organisation.owner.password)
    await tab.page.get_by_role("button", name="Go on").click()
    await tab.heading("Overview")


async def test_an_identity_provider_signs_in_with_pkce(tab: Tab, provider: IdentityProvider) -> None:
    """Who comes back from the provider is signed in, and its code is gone from the address."""
    await tab.load()
    await tab.page.get_by_text("You continue at").wait_for()
    await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
    await tab.sees("You belong to no organisation yet")
    assert "code=" not in tab.page.url
    await tab.page.get_by_label("Name").fill("From elsewhere")
    await tab.page.get_by_role("button", name="Make organisation").click()
    await tab.sees("ada@example.test")
    await tab.page.locator(".pill.live").wait_for()


async def test_an_ending_token_of_a_provider_is_renewed_without_a_word(
    tab: Tab, provider: IdentityProvider
) -> None:
    """With a refresh token nobody is asked for anything."""
    provider.token_seconds, provider.subject, before = 63, f"{provider.subject}-r", provider.refreshes
    try:
        await tab.load()
        await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
        await tab.page.get_by_label("Name").fill("Short-lived")
        provider.token_seconds = 3600
        await tab.page.get_by_role("button", name="Make organisation").click()
        await tab.page.locator(".pill.live").wait_for()
        async with _until(lambda: provider.refreshes > before):
            await tab.page.wait_for_timeout(6_000)
        assert await tab.page.get_by_role("dialog").count() == 0
        await tab.page.locator(".pill.live").wait_for()
    finally:
        provider.token_seconds = 3600


async def test_without_a_refresh_token_a_window_renews(tab: Tab, provider: IdentityProvider) -> None:
    """Without a refresh token signing in again happens in another window, and this one stays as it is."""
    provider.token_seconds, provider.hand_out_refresh_tokens = 63, False
    provider.subject = f"{provider.subject}-w"
    try:
        await tab.load()
        await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
        await tab.page.get_by_label("Name").fill("Another window")
        provider.token_seconds = 3600
        await tab.page.get_by_role("button", name="Make organisation").click()
        await tab.page.get_by_role("button", name="Sign in again").click(timeout=20_000)
        await tab.page.get_by_role("dialog").wait_for(state="detached")
        await tab.page.locator(".pill.live").wait_for()
    finally:
        provider.token_seconds, provider.hand_out_refresh_tokens = 3600, True


class _until:
    """Check at the end of a block that something has come true."""

    def __init__(self, check: Callable[[], bool]) -> None:
        self._check = check

    async def __aenter__(self) -> None:
        """Begin."""

    async def __aexit__(self, *_: object) -> None:
        assert self._check()


def _ending(token: str, stack: DevStack, seconds: int) -> str:
    """Return a token like another that ends soon, signed with the local issuer's key."""
    claims = jwt.decode(token, options={"verify_signature": False}) | {"exp": int(time.time()) + seconds}
    key = stack.environment("auth")["AUTH_LOCAL_ISSUER_KEY_FILE"]
    with open(key, "rb") as file:
        return jwt.encode(
            claims, file.read(), "ES256", headers={"kid": jwt.get_unverified_header(token)["kid"]}
        )
