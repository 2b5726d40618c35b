"""The people of an organisation: taken in, given roles, removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from playwright.async_api import Route, expect

from .browser_support import Account, Organisation, Tab

NewAccount = Callable[[], Awaitable[Account]]


async def test_a_person_is_added_given_a_role_and_removed(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, new_account: NewAccount
) -> None:
    """Whoever is added gets in, a changed role holds at once, and who is removed is out at once."""
    tab, theirs = await new_tab(), await new_tab()
    theirs.expected.append("403")
    person = await new_account()
    page = tab.page
    await tab.enter(organisation.owner)
    await tab.open("#/people", "People")
    await page.get_by_role("button", name="Add a person").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Their id").fill(person.user_id)
    await dialog.get_by_label("E-mail").fill(person.email)
    await dialog.get_by_label("Role").select_option("viewer")
    await dialog.get_by_role("button", name="Add", exact=True).click()
    row = page.get_by_role("row", name=person.email)
    await expect(row).to_contain_text("viewer")

    await theirs.enter(person)
    await expect(theirs.page.locator(".who")).to_contain_text("viewer")
    await row.get_by_role("button", name="Change").click()
    await dialog.get_by_label("Role").select_option("admin")
    await dialog.get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("admin")
    await expect(theirs.page.locator(".who")).to_contain_text("admin")
    await theirs.open("#/people", "People")
    # An admin may do much, but nothing about owners.
    owner = theirs.page.get_by_role("row", name=organisation.owner.user_id)
    await expect(owner).to_contain_text("owner")
    await expect(owner.get_by_role("button")).to_have_count(0)

    await row.get_by_role("button", name="Remove").click()
    await dialog.get_by_role("button", name="Remove", exact=True).click()
    await expect(row).to_have_count(0)
    await theirs.page.locator(".pill.stopped").wait_for()


async def test_who_waits_to_be_added_finds_the_organisation(
    tab: Tab, organisation: Organisation, new_account: NewAccount
) -> None:
    """Nothing has to be loaded again, and what they are writing meanwhile stays."""
    page = tab.page
    person = await new_account()
    await tab.enter(person, page=None)
    await page.get_by_label("Name").fill("Perhaps")
    await organisation.add(person, "viewer")
    await page.get_by_role("button", name="Browser test").wait_for()
    await expect(page.get_by_label("Name")).to_have_value("Perhaps")
    await page.get_by_role("button", name="Browser test").click()
    await tab.heading("Overview")


async def test_the_last_owner_cannot_leave(tab: Tab, organisation: Organisation) -> None:
    """What the server refuses is said in the dialog, and nothing is lost."""
    tab.expected.append("409")
    await tab.enter(organisation.owner)
    await tab.open("#/people", "People")
    await tab.page.get_by_role("button", name="Leave").click()
    await tab.page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    await tab.sees("this is the last owner")
    await tab.page.get_by_role("button", name="Cancel").click()
    await expect(tab.page.get_by_role("row", name=organisation.owner.email)).to_contain_text("(you)")


async def test_who_leaves_is_out(tab: Tab, organisation: Organisation, new_account: NewAccount) -> None:
    """Anybody may leave, and is then asked to sign in again."""
    person = await new_account()
    await organisation.add(person, "viewer")
    await tab.enter(person)
    await tab.open("#/people", "People")
    await tab.page.get_by_role("button", name="Leave").click()
    await tab.page.get_by_role("dialog").get_by_role("button", name="Leave").click()
    await tab.page.get_by_label("Password").wait_for()
    members = await organisation.call("GET", f"/tenants/{organisation.tenant_id}/members")
    assert person.user_id not in [member["user_id"] for member in members["members"]]


async def test_who_was_removed_is_led_to_other_organisations(
    tab: Tab, organisation: Organisation, new_account: NewAccount
) -> None:
    """A page of an organisation that one belongs to no more says so, and is no dead end."""
    page = tab.page
    tab.expected.append("status of 403")
    person = await new_account()
    await organisation.add(person, "member")
    await tab.enter(person)
    await organisation.call("DELETE", f"/tenants/{organisation.tenant_id}/members/{person.user_id}")
    await tab.sees("The live connection has ended (")
    await tab.reload()
    await tab.sees("Not connected.")
    await expect(page.locator(".banner.shown")).not_to_contain_text("What you see")
    await page.get_by_role("button", name="Other organisations").click()
    await tab.sees("You belong to no organisation yet.")
    await page.get_by_label("Name").fill("  ")
    await page.get_by_role("button", name="Make organisation").click()
    # What is blank is nothing, and the browser says so.
    await expect(page.get_by_label("Name")).to_be_focused()
    await expect(page.get_by_label("Name")).to_have_value("")
    await page.get_by_label("Name").fill("My own")
    await page.get_by_role("button", name="Make organisation").click()
    await tab.sees("Your first agent, in four steps")


async def test_an_id_that_climbs_up_an_address_reaches_nothing_else(
    tab: Tab, organisation: Organisation
) -> None:
    """Removing somebody called ``..`` does not remove the organisation, as its address would say."""
    page = tab.page
    methods: list[str] = []
    page.on("request", lambda request: methods.append(request.method))

    async def with_another(route: Route) -> None:
        answer = await route.fetch()
        people = await answer.json()
        other = people["members"][0] | {"user_id": "..", "role": "viewer", "email": "climber@example.test"}
        await route.fulfill(response=answer, json=people | {"members": [*people["members"], other]})

    await page.route("**/members?*", with_another)
    await tab.enter(organisation.owner)
    await tab.open("#/people", "People")
    await page.get_by_role("row", name="climber@example.test").get_by_role("button", name="Remove").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    await tab.sees("This id cannot be part of an address.")
    assert "DELETE" not in methods
    await organisation.call("GET", f"/tenants/{organisation.tenant_id}")
