"""What somebody has their hands on stays: rows clicked, selected or open, while all changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from artcafe_agent import Client
from artcafe_devstack.devstack import DevStack

from .browser_support import Account, Organisation, Tab, until

CHANGES = 12
# The mark's width, and its distance from what it is around.
MARK_PIXELS = 5
SELECT = "element => getSelection().selectAllChildren(element)"
SELECTED = "getSelection().toString()"


async def _press_while(page: Page, target: Locator, change: Callable[[int], Any]) -> None:
    """Press the button on something, let go only after many changes."""
    await target.scroll_into_view_if_needed()
    await target.hover()
    await page.mouse.down()
    for number in range(CHANGES):
        await change(number)
        await asyncio.sleep(0.1)
    await page.mouse.up()


@pytest.mark.parametrize(("page_name", "path"), [("Agents", "#/agents"), ("Overview", "#/overview")])
async def test_a_click_outlives_changes_of_the_list(
    tab: Tab, organisation: Organisation, stack: DevStack, page_name: str, path: str
) -> None:
    """A press that spans changes of the row it is on, and of its neighbours, is a click."""
    keys = {name: await organisation.create_agent(name) for name in ("painter", "critic")}
    await tab.enter(organisation.owner)
    await tab.open(path, page_name)
    async with organisation.connect("painter", keys["painter"], stack.base_url) as painter:
        link = tab.page.locator("main").get_by_role("link", name="Painter").first
        await expect(tab.page.locator("main .status.online").first).to_be_visible()

        async def change(number: int) -> None:
            await painter.presence("online", capabilities=[f"skill-{number}"])
            if number % 6 == 0:
                # It goes to the top, and down again.
                async with organisation.connect("critic", keys["critic"], stack.base_url):
                    pass

        await _press_while(tab.page, link, change)
        await tab.heading("Painter")


async def test_a_selection_in_a_row_outlives_changes_of_it(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """What somebody has selected stays so, while the row says what is new beside it."""
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    row = tab.page.locator("tbody tr")
    await expect(row).to_have_count(1)
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await expect(row).to_contain_text("online")
        await row.locator("code").evaluate(SELECT)
        for number in range(3):
            await painter.presence("online", capabilities=[f"skill-{number}"])
            await expect(row).to_contain_text(f"skill-{number}")
            assert await tab.page.evaluate(SELECTED) == "painter"


async def test_rows_change_places_only_when_the_pointer_has_gone(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """An agent that comes online goes to the top of the list once nobody is about to click there."""
    keys = {name: await organisation.create_agent(name) for name in ("aria", "zoe")}
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    rows = tab.page.locator("tbody tr")
    await expect(rows).to_have_count(2)
    await rows.first.hover()
    async with organisation.connect("zoe", keys["zoe"], stack.base_url):
        await expect(rows.nth(1)).to_contain_text("online")
        await expect(rows.first).to_contain_text("Aria")
        await tab.page.get_by_role("heading", name="Agents", level=1).hover()
        await expect(rows.first).to_contain_text("Zoe")


@asynccontextmanager
async def _talking(painter: Client, per_second: int = 20) -> AsyncIterator[Callable[[], int]]:
    """Publish at a rate; gives a function that returns how many were sent."""
    sent = 0

    async def talk() -> None:
        nonlocal sent
        while True:
            await painter.publish("jobs", {"n": sent}, wait=False)
            sent += 1
            await asyncio.sleep(1 / per_second)

    talking = asyncio.create_task(talk())
    try:
        yield lambda: sent
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


@pytest.mark.parametrize(("page_name", "path"), [("Preview", "#/preview"), ("Jobs", "#/channels/jobs")])
async def test_a_message_can_be_opened_and_read_while_others_pass(
    tab: Tab, organisation: Organisation, stack: DevStack, admin: Account, page_name: str, path: str
) -> None:
    """At 20 messages a second a row opens by a click, stays in its place, and is there until it is closed."""
    page = tab.page
    unlimited = {"limits": {"messages_per_second": None}}
    await admin.call("PUT", f"/tenants/{organisation.tenant_id}", organisation.tenant_id, json=unlimited)
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open(path, page_name)
    await tab.sees("Waiting for messages")
    rows = page.locator(".messages > li:not(.gap)")
    news = page.get_by_role("button", name="new: show")
    first = "document.querySelector('.messages > li').dataset.text"

    async def moved_on(before: str) -> bool:
        return bool(await page.evaluate(first) != before)

    async with organisation.connect("painter", key, stack.base_url) as painter, _talking(painter) as sent:
        await expect(rows.nth(9)).to_be_attached()
        await rows.nth(3).scroll_into_view_if_needed()
        await rows.nth(3).locator("summary").hover()
        await news.wait_for()
        # Rows went on until the pointer had arrived.
        wanted = await page.locator(".messages > li:hover").get_attribute("data-text")
        row = page.locator(f".messages > li[data-text='{wanted}']")
        place = await row.bounding_box()
        await page.mouse.down()
        begun = sent()
        await until(_reaches(sent, begun + 20))
        await page.mouse.up()
        await expect(row.locator("pre")).to_be_visible()
        # The pointer goes, the row is still open: nothing moves.
        await page.get_by_label("Filter the messages").hover()
        await until(_reaches(sent, begun + 60))
        await expect(news).to_be_visible()
        now = await row.bounding_box()
        assert place is not None and now is not None
        assert abs(now["y"] - place["y"]) < 1

        await news.click()
        await expect(row.locator("details[open]")).to_have_count(1)
        assert await rows.first.get_attribute("data-text") != wanted
        # More than the list keeps have passed: what is open is not among those that go.
        begun = sent()
        await until(_reaches(sent, begun + 330), seconds=60)
        await news.click()
        await expect(row.locator("details[open]")).to_have_count(1)
        assert await page.locator(".messages > li").count() <= 301

        await row.locator("summary").click()
        await page.get_by_label("Filter the messages").hover()
        before = await page.evaluate(first)
        await until(lambda: moved_on(before))
        await expect(news).to_be_hidden()


def _reaches(sent: Callable[[], int], wanted: int) -> Callable[[], Any]:
    async def reached() -> bool:
        return sent() >= wanted

    return reached


async def test_the_keyboard_holds_a_stream_too(tab: Tab, organisation: Organisation, stack: DevStack) -> None:
    """While the focus is in the list nothing moves, and when it leaves what came is shown."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels/jobs", "Jobs")
    await tab.sees("Waiting for messages")
    rows = page.locator(".messages > li")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.publish("jobs", {"n": 1})
        await expect(rows).to_have_count(1)
        await page.get_by_label("Filter the messages").focus()
        await page.keyboard.press("Tab")
        await expect(rows.locator("summary")).to_be_focused()
        await painter.publish("jobs", {"n": 2})
        await tab.sees("1 new: show")
        await expect(rows).to_have_count(1)
        await page.get_by_label("Filter the messages").focus()
        await expect(rows).to_have_count(2)


ESCAPES = 8


async def test_escape_does_not_throw_a_private_key_away(tab: Tab, organisation: Organisation) -> None:
    """The key that is shown once stays until Done is pressed, however often one presses Escape."""
    page = tab.page
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    await page.get_by_role("button", name="New agent").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Greeter")
    await page.get_by_role("button", name="Create agent").click()
    save = page.get_by_role("button", name="Download")
    await expect(save).to_be_focused()
    for _ in range(ESCAPES):
        await page.keyboard.press("Escape")
    await page.mouse.click(5, 5)
    for _ in range(ESCAPES):
        await page.keyboard.press("Escape")
    await expect(page.get_by_role("heading", name="The private key")).to_be_visible()
    async with page.expect_download():
        await save.click()
    await page.get_by_role("button", name="Done").click()
    await tab.heading("Greeter")


async def test_the_mark_of_the_focus_lies_over_no_text(tab: Tab, organisation: Organisation) -> None:
    """What is said above a button that has the focus, and below a field that has it, can be read."""
    page = tab.page
    tab.expected.append("status of 400")
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    day = page.get_by_label("From")
    await day.fill("2020-01-01")
    await _apart(day, page.get_by_text("a range by day has at most 366 days"))
    await tab.open("#/agents", "Agents")
    await page.get_by_role("button", name="New agent").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Greeter")
    await page.get_by_role("button", name="Create agent").click()
    save = page.get_by_role("button", name="Download greeter.key")
    await _apart(page.get_by_text("With this key programs act as"), save)


async def _apart(above: Locator, below: Locator) -> None:
    """Expect room between two elements for the mark of the focus."""
    await below.wait_for()
    upper, lower = await above.bounding_box(), await below.bounding_box()
    assert upper is not None and lower is not None
    assert lower["y"] - upper["y"] - upper["height"] >= MARK_PIXELS


async def test_escape_does_not_sign_out(tab: Tab, organisation: Organisation) -> None:
    """Whoever is asked to sign in again stays where they are unless they say otherwise."""
    page = tab.page
    tab.expected.append("401")
    await tab.enter(organisation.owner)
    await page.evaluate(
        """() => {
            const state = JSON.parse(sessionStorage.getItem('artcafe.session'));
            sessionStorage.setItem('artcafe.session', JSON.stringify({...state, token: state.token + 'x'}));
        }"""
    )
    await tab.reload()
    await page.get_by_role("heading", name="Your session is ending").wait_for()
    for _ in range(ESCAPES):
        await page.keyboard.press("Escape")
    await expect(page.get_by_role("heading", name="Your session is ending")).to_be_visible()
    await page.get_by_role("button", name="Sign out instead").click()
    await page.get_by_label("Password").wait_for()
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_a_private_key_is_not_lost_where_copying_is_refused(
    tab: Tab, organisation: Organisation
) -> None:
    """A browser that does not copy says so in the dialog, which then shows the key to be selected."""
    page = tab.page
    await page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    await page.get_by_role("button", name="New agent").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Greeter")
    await dialog.get_by_role("button", name="Create agent").click()
    done = dialog.get_by_role("button", name="Done")
    await expect(done).to_be_disabled()
    await dialog.get_by_role("button", name="Copy instead").click()
    key = dialog.get_by_label("The key's text")
    await expect(key).to_contain_text("-----END OPENSSH PRIVATE KEY-----")
    # What is outside the dialog cannot be used, and is not read out.
    told = dialog.get_by_role("status")
    await expect(told).to_contain_text("select the text instead")
    await told.get_by_role("button", name="Dismiss").click()
    await expect(told).to_be_empty()
    await done.click()
    await tab.heading("Greeter")
