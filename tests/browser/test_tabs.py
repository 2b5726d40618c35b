"""Several tabs of one person: signed in together, signed out together, and nothing stays behind."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest_asyncio
from playwright.async_api import Locator, expect

from .browser_support import Account, LocalIssuer, Organisation, Tab, found_organisation, until
from .identity_provider import IdentityProvider
from .test_signing_in import STORED

TOKEN = "JSON.parse(sessionStorage.getItem('artcafe.session') ?? '{}').token ?? null"
NewTab = Callable[..., Awaitable[Tab]]


@pytest_asyncio.fixture(loop_scope="session")
async def organisation(new_password_account: Callable[[], Awaitable[Account]]) -> Organisation:
    """Make an organisation whose owner signs in with a password."""
    return await found_organisation(await new_password_account())


async def _opened(tab: Tab, link: Locator) -> Tab:
    """Open a link in a tab of its own, as Ctrl and a click do."""
    async with tab.page.context.expect_page() as opening:
        await link.click(modifiers=["ControlOrMeta"])
    return Tab(await opening.value, tab.base_url)


async def _another(tab: Tab) -> Tab:
    """Open the dashboard in another tab of the same browser, by its address."""
    another = Tab(await tab.page.context.new_page(), tab.base_url)
    await another.load()
    return another


async def test_a_link_in_a_new_tab_is_where_it_leads(tab: Tab, organisation: Organisation) -> None:
    """A new tab is signed in, by nothing that is stored, and goes on without the one it came from."""
    await organisation.create_agent("painter")
    await tab.sign_in(organisation.owner)
    await tab.heading("Overview")
    await tab.open("#/agents", "Agents")
    new = await _opened(tab, tab.page.get_by_role("link", name="Painter"))
    await new.heading("Painter")
    await new.live()
    token = await new.page.evaluate(TOKEN)
    assert token is not None
    for each in (tab, new):
        assert token not in await each.page.evaluate(STORED)
    await tab.page.goto("about:blank")
    await new.reload()
    await new.heading("Painter")
    assert new.problems == []


async def test_a_sign_in_ends_with_the_last_tab(tab: Tab, organisation: Organisation) -> None:
    """When no tab is left nobody is signed in."""
    first = await _another(tab)
    await first.sign_in(organisation.owner)
    await first.heading("Overview")
    second = await _another(tab)
    await second.heading("Overview")
    for each in (first, second):
        await each.page.close()
    await tab.load()
    await tab.page.get_by_label("Password").wait_for()
    assert await tab.page.evaluate("sessionStorage.length") == 0


async def test_a_new_tab_is_in_the_organisation_of_the_one_used_last(
    tab: Tab, organisation: Organisation
) -> None:
    """With tabs in several organisations a link opens in that of the tab it was in, and the others stay."""
    await organisation.create_agent("painter")
    await tab.sign_in(organisation.owner)
    await tab.heading("Overview")
    other = await _another(tab)
    await other.heading("Overview")
    await organisation.owner.call("POST", "/tenants", json={"name": "The other one"})
    await other.page.get_by_role("button", name="Browser test").click()
    await other.page.get_by_role("button", name="The other one").click()
    await other.heading("Overview")
    await tab.open("#/agents", "Agents")
    new = await _opened(tab, tab.page.get_by_role("link", name="Painter"))
    await new.heading("Painter")
    await other.page.get_by_role("link", name="Agents", exact=True).click()
    await other.heading("Agents")
    third = await _opened(other, other.page.get_by_role("link", name="Channels", exact=True))
    await third.heading("Channels")
    await expect(third.page.get_by_role("button", name="Organisation: The other one")).to_be_visible()
    await expect(tab.page.get_by_role("button", name="Organisation: Browser test")).to_be_visible()


async def test_signing_out_ends_all_tabs_of_a_person_and_no_others(
    tab: Tab, organisation: Organisation, new_password_account: Callable[[], Awaitable[Account]]
) -> None:
    """Whoever signs out is signed out everywhere in this browser, dialogs and all; another person is not."""
    someone = await found_organisation(await new_password_account())
    # Both are at the form before anybody is signed in.
    others = await _another(tab)
    second = await _another(tab)
    await tab.sign_in(organisation.owner)
    await tab.heading("Overview")
    await others.page.get_by_label("E-mail").fill(someone.owner.email)
    await others.page.get_by_label("Password").fill(someone.owner.password)
    await others.page.get_by_role("button", name="Sign in", exact=True).last.click()
    await others.heading("Overview")
    await second.page.get_by_label("E-mail").fill(organisation.owner.email)
    await second.page.get_by_label("Password").fill(organisation.owner.password)
    await second.page.get_by_role("button", name="Sign in", exact=True).last.click()
    await second.heading("Overview")
    await second.open("#/agents", "Agents")
    await second.page.get_by_role("button", name="New agent").click()
    await tab.page.get_by_role("button", name="Sign out").click()
    for each in (tab, second):
        await each.page.get_by_label("Password").wait_for()
        await expect(each.page.get_by_role("dialog")).to_have_count(0)
        assert await each.page.evaluate("sessionStorage.length") == 0
    await others.live()
    await others.open("#/people", "People")
    assert others.problems == second.problems == []


async def test_signing_in_again_in_one_tab_is_enough(
    tab: Tab, organisation: Organisation, issuer: LocalIssuer
) -> None:
    """A session that ends in all tabs goes on in all of them by one password."""
    await tab.load()
    ending = issuer.token(75, sub=organisation.owner.user_id, email=organisation.owner.email)
    state = {"token": ending, "email": organisation.owner.email, "userId": organisation.owner.user_id}
    await tab.page.evaluate("state => sessionStorage.setItem('artcafe.session', state)", json.dumps(state))
    await tab.reload()
    await tab.heading("Overview")
    another = await _another(tab)
    await another.heading("Overview")
    for each in (tab, another):
        await each.page.get_by_label("Password").wait_for(timeout=60_000)
    await another.page.get_by_label("Password").fill(organisation.owner.password)
    await another.page.get_by_role("button", name="Go on").click()
    for each in (tab, another):
        await expect(each.page.get_by_label("Password")).to_have_count(0)
        await each.live()
    token = await another.page.evaluate(TOKEN)
    assert token != ending
    assert await tab.page.evaluate(TOKEN) == token


async def test_tabs_renew_a_token_of_a_provider_once(tab: Tab, provider: IdentityProvider) -> None:
    """Of several tabs one uses the refresh token, which may hold but once; the others take what it got."""
    subject, before = provider.subject, provider.refreshes
    provider.token_seconds, provider.subject = 75, f"{subject}-t"
    tabs = [tab]

    async def renewed() -> bool:
        tokens = [await each.page.evaluate(TOKEN) for each in tabs]
        return None not in tokens and first not in tokens and len(set(tokens)) == 1

    try:
        await tab.load()
        await tab.page.get_by_role("button", name="Sign in", exact=True).first.click()
        await tab.page.get_by_label("Name").fill("Many tabs")
        # However late the page is from here on, the next token is the one that it goes on with.
        first = await tab.page.evaluate(TOKEN)
        provider.token_seconds = 3600
        await tab.page.get_by_role("button", name="Make organisation").click()
        await tab.live()
        for _ in range(2):
            tabs.append(await _another(tab))
            await tabs[-1].live()
        await until(renewed, seconds=60)
        assert provider.refreshes == before + 1
        assert [problem for each in tabs for problem in each.problems] == []
    finally:
        provider.token_seconds = 3600
        provider.subject = subject
