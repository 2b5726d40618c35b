"""Signing in, staying signed in, and signing out."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import jwt
import pytest_asyncio
from playwright.async_api import Locator, expect

from .browser_support import Account, LocalIssuer, Organisation, Tab, found_organisation, until
from .identity_provider import USER_PREFIX, IdentityProvider

STORED = """async () => JSON.stringify([
    {...localStorage}, location.href, document.cookie, history.state,
    await indexedDB.databases(), await caches.keys(),
])"""


@pytest_asyncio.fixture(loop_scope="session")
async def organisation(new_password_account: Callable[[], Awaitable[Account]]) -> Organisation:
    """Make an organisation whose owner signs in with a password."""
    return await found_organisation(await new_password_account())


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
    await tab.sign_in(organisation.owner)
    await tab.heading("Overview")
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
    tab: Tab, new_password_account: Callable[[], Awaitable[Account]]
) -> None:
    """Somebody new can begin at once."""
    await tab.sign_in(await new_password_account())
    await tab.page.get_by_label("Name").fill("Brand new")
    await tab.page.get_by_role("button", name="Make organisation").click()
    await tab.sees("Your first agent, in four steps")


async def take_token(tab: Tab, token: str) -> None:
    """Go on with another token of the same person, from the next time that the page is loaded."""
    await tab.page.evaluate(
        """token => {
            const state = JSON.parse(sessionStorage.getItem('artcafe.session'));
            sessionStorage.setItem('artcafe.session', JSON.stringify({...state, token}));
        }""",
        token,
    )
    await tab.reload()


def renewal(tab: Tab) -> Locator:
    """Return the line that asks to sign in again."""
    return tab.page.get_by_role("region", name="Your session is ending")


async def test_an_ending_session_asks_beside_the_page(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, issuer: LocalIssuer
) -> None:
    """A minute before the token ends the password is asked for, in no one's way, and once for all tabs."""
    tab, person = await new_tab(), organisation.owner
    await tab.enter(person)
    await take_token(tab, issuer.token(62, sub=person.user_id, email=person.email))
    await tab.open("#/agents", "Agents")
    await tab.live()
    search = tab.page.get_by_label("Search by name")
    await search.press_sequentially("half typ")
    await renewal(tab).wait_for()
    # What has the focus keeps it, and the page is used as before.
    await tab.page.keyboard.type("ed")
    assert await search.input_value() == "half typed"
    assert await tab.page.get_by_role("dialog").count() == 0
    await tab.page.get_by_role("link", name="Channels").click()
    await tab.heading("Channels")
    await tab.page.get_by_role("button", name="New channel").click()
    # In a dialog it can still be answered.
    await expect(tab.page.get_by_role("dialog").get_by_label("Password")).to_be_visible()
    await tab.page.get_by_role("button", name="Cancel").click()
    other = Tab(await tab.page.context.new_page(), tab.base_url)
    state = json.dumps(await tab.page.evaluate("sessionStorage['artcafe.session']"))
    await other.page.add_init_script(
        f"location.origin !== 'null' && (sessionStorage['artcafe.session'] ??= {state})"
    )
    await other.load()
    await renewal(other).wait_for()
    await renewal(tab).get_by_label("Password").fill(person.password)
    await renewal(tab).get_by_role("button", name="Go on").click()
    for each in (tab, other):
        await renewal(each).wait_for(state="detached")
        await each.live()
        kept = json.loads(await each.page.evaluate("sessionStorage.getItem('artcafe.session')"))["token"]
        claims = jwt.decode(kept, options={"verify_signature": False})
        assert claims["exp"] > time.time() + 600
    assert other.problems == []
    # The connection is still the one that was there before.
    assert sum(address.endswith("/ws/dashboard") for address in other.addresses) == 1


async def test_a_session_that_has_ended_goes_on_where_it_was(
    tab: Tab, organisation: Organisation, issuer: LocalIssuer
) -> None:
    """Who answers late finds the page as they left it, and live again with all that it watched."""
    person = organisation.owner
    tab.expected.append("401")
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(person)
    # Over, but within what clocks may differ by.
    await take_token(tab, issuer.token(-15, sub=person.user_id, email=person.email))
    await tab.open("#/channels/both", "Both")
    await tab.sees("Waiting for messages")
    await tab.page.get_by_label("Message", exact=True).fill('{"after": "the end"}')
    await expect(tab.page.locator(".pill.stopped")).to_be_visible(timeout=40_000)
    await tab.page.get_by_role("link", name="Overview").click()
    await tab.heading("Overview")
    await tab.page.go_back()
    await tab.heading("both")
    await tab.page.get_by_label("Message", exact=True).fill('{"after": "the end"}')
    await renewal(tab).get_by_label("Password").fill(person.password)
    await renewal(tab).get_by_role("button", name="Go on").click()
    await renewal(tab).wait_for(state="detached")
    await tab.live()
    await tab.heading("Both")
    await tab.page.locator(".messages .gap", has_text="The connection was away").wait_for()
    await tab.page.get_by_role("button", name="Publish").click()
    await expect(tab.page.locator(".messages li", has_text="the end")).to_have_count(1)


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
    await renewal(tab).get_by_label("Password").fill(organisation.owner.password)
    await tab.page.get_by_role("button", name="Go on").click()
    await tab.heading("Overview")


async def test_an_identity_provider_signs_in_with_pkce(tab: Tab, provider: IdentityProvider) -> None:
    """Who comes back from the provider is signed in, and its code is gone from the address."""
    await tab.load()
    await tab.page.get_by_text("You continue at").wait_for()
    await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
    await tab.sees("You belong to no organisation yet")
    assert "code=" not in tab.page.url
    # What others write to add them: their id at the provider, after its prefix.
    await tab.page.get_by_text(f"{USER_PREFIX}{provider.subject}").wait_for()
    await tab.page.get_by_label("Name").fill("From elsewhere")
    await tab.page.get_by_role("button", name="Make organisation").click()
    await tab.sees("ada@example.test")
    await tab.live()


async def test_an_ending_token_of_a_provider_is_renewed_without_a_word(
    tab: Tab, provider: IdentityProvider
) -> None:
    """With a refresh token nobody is asked for anything."""
    provider.token_seconds, provider.subject, before = 63, f"{provider.subject}-r", provider.refreshes

    async def refreshed() -> bool:
        return provider.refreshes > before

    try:
        await tab.load()
        await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
        await tab.page.get_by_label("Name").fill("Short-lived")
        provider.token_seconds = 3600
        await tab.page.get_by_role("button", name="Make organisation").click()
        await tab.live()
        await until(refreshed)
        await tab.live()
        assert await tab.page.get_by_role("dialog").count() == 0
        # The connection is still the first one.
        assert sum(address.endswith("/ws/dashboard") for address in tab.addresses) == 1
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
        await tab.page.get_by_role("button", name="Sign in again").click()
        await renewal(tab).wait_for(state="detached")
        await tab.live()
    finally:
        provider.token_seconds, provider.hand_out_refresh_tokens = 3600, True


async def test_a_sign_in_that_cannot_be_finished_says_why(
    new_tab: Callable[..., Awaitable[Tab]], provider: IdentityProvider
) -> None:
    """Who comes back with an answer that nobody waits for, or has no https, is told; the form is there."""
    tab = await new_tab()
    await tab.page.goto(f"{tab.base_url}/?code=old&state=of-another-day")
    await tab.sees("That sign-in was not begun in this tab, or is over already: sign in again.")
    assert "state=" not in tab.page.url
    await tab.page.get_by_label("Password").wait_for()

    plain = await new_tab()
    await plain.page.add_init_script("Object.defineProperty(Crypto.prototype, 'subtle', {get() {}})")
    await plain.load()
    await plain.page.get_by_role("button", name="Sign in", exact=True).first.click()
    await plain.sees("Signing in: An identity provider can only be used from a page that came over https.")

    cut = await new_tab()
    cut.expected.append("Failed to load resource")
    await cut.page.route("**/token", lambda route: route.abort())
    await cut.load()
    await cut.page.get_by_role("button", name="Sign in", exact=True).first.click()
    await cut.sees(f"{urlsplit(provider.url).netloc} cannot be reached")
    assert "code=" not in cut.page.url
