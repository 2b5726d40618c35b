"""Every page: fits a telephone, can be used by everybody, and works by keyboard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from artcafe_devstack.devstack import DevStack

from .browser_support import ARTIFACTS, Organisation, Tab, until

PAGES = {
    "overview": "Overview",
    "agents": "Agents",
    "agents/painter": "Painter",
    "channels": "Channels",
    "channels/team.updates": "team.updates",
    "preview": "Preview",
    "usage": "Usage",
    "people": "People",
}
# Day, month, year and the button for the calendar.
DATE_PIXELS = 140
# How much wider words are than their place.
BEYOND = "all => all.map(each => each.scrollWidth - each.clientWidth)"
STOPS = "a[href], button:not(:disabled), input, select, textarea, summary, [tabindex='0']"
FOCUSED = """() => {
    const element = document.activeElement;
    if (!element.closest("main")) return null;
    const label = element.type === "radio" ? element.closest("label") : element;
    const box = label.getBoundingClientRect();
    const x = Math.min(Math.max(box.left + box.width / 2, 1), innerWidth - 1);
    const y = Math.min(Math.max(box.top + Math.min(box.height, 40) / 2, 1), innerHeight - 1);
    const top = document.elementFromPoint(x, y);
    return {
        what: element.outerHTML.slice(0, 90),
        marked: getComputedStyle(label).outlineStyle !== "none",
        in_sight: label.contains(top) || top?.contains(label),
    };
}"""
# In one go: each second the page says anew how the connection is.
MOVING_WHILE_IT_WAITS = """() => {
    document.querySelector(".pill").classList.add("waiting");
    return document.getAnimations().length;
}"""
AXE = Axe().axe_script
# The one and the other differ in colours alone.
CHECKS: dict[Literal["light", "dark"], list[str]] = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": ["color-contrast", "link-in-text-block"],
}
VIOLATIONS = """async (rules) => {
    const {violations} = await axe.run(document, {runOnly: rules, resultTypes: ["violations"]});
    return violations.map(({id, nodes}) => `${id} ${nodes.map(({html}) => html.slice(0, 120)).join(" ")}`);
}"""


@pytest.mark.parametrize("width", [1280, 390])
async def test_every_page_fits_and_passes_axe(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, stack: DevStack, width: int
) -> None:
    """No page scrolls sideways or has an accessibility problem that axe-core finds, in light and in dark."""
    tab = await new_tab(viewport={"width": width, "height": 844}, color_scheme="light")
    ARTIFACTS.mkdir(exist_ok=True)
    await tab.load()
    await tab.page.get_by_label("E-mail").wait_for()
    await _check(tab, f"{width}-sign-in")
    await tab.enter(organisation.owner)
    await tab.sees("Your first agent")
    await _check(tab, f"{width}-first-steps")

    key = await organisation.create_agent("painter")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.presence("online", capabilities=["a-capability-with-quite-a-long-name-" * 2])
        data = {"text": "no-spaces-to-break-at-" * 12, "list": [1, 2, {"three": 3}]}
        await painter.publish("team.updates", data)
        for path, heading in PAGES.items():
            await tab.open(f"#/{path}", heading)
            await tab.loaded()
            if path in ("preview", "channels/team.updates"):
                await tab.sees("Waiting for messages")
                await painter.publish("team.updates", data)
                await tab.page.locator(".messages summary").first.click()
            await _unfold(tab)
            await _check(tab, f"{width}-{path.replace('/', '-')}")
    for path, button in {"agents": "New agent", "channels": "New channel", "people": "Add a person"}.items():
        await tab.open(f"#/{path}", path.title())
        await tab.page.get_by_role("button", name=button).click()
        await tab.page.get_by_role("dialog").wait_for()
        await _check(tab, f"{width}-{path}-dialog")
        await tab.page.get_by_role("button", name="Cancel").click()


@pytest.mark.parametrize("width", [1280, 390])
async def test_no_name_is_too_long_for_a_page(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, width: int
) -> None:
    """Names, ids and descriptions as long as they may be, in one word, make no page scroll sideways."""
    tab = await new_tab(viewport={"width": width, "height": 844})
    agent_id, channel_id = "a" * 64, f"{'c' * 64}.{'d' * 63}"
    await organisation.create_agent(agent_id)
    body = {"name": "N" * 128, "description": "d" * 1024, "capabilities": ["e" * 64]}
    await organisation.call("PUT", f"/agents/{agent_id}", json=body)
    body = {"name": "M" * 128, "description": "w" * 1024, "channel_id": channel_id}
    await organisation.call("POST", "/channels", json=body)
    await organisation.call("PUT", f"/channels/{channel_id}/members/{agent_id}", json={"role": "both"})
    await tab.enter(organisation.owner)
    await tab.sees(f"The agent {agent_id} is there.")
    pages = {
        "overview": "Overview",
        "agents": "Agents",
        f"agents/{agent_id}": "N" * 128,
        "channels": "Channels",
        f"channels/{channel_id}": "M" * 128,
    }
    for path, heading in pages.items():
        await tab.open(f"#/{path}", heading)
        await tab.loaded()
        await _unfold(tab)
        assert await tab.overflow() <= 0, path
    await tab.open(f"#/agents/{agent_id}", "N" * 128)
    await tab.page.get_by_role("button", name="Delete").click()
    dialog = tab.page.get_by_role("dialog")
    await dialog.wait_for()
    assert await dialog.evaluate("element => element.scrollWidth - element.clientWidth") <= 0


async def test_pages_that_are_enlarged_four_times_can_be_read(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, stack: DevStack
) -> None:
    """At 320 pixels (WCAG 1.4.10) nothing scrolls sideways, and no word lies over another or is cut."""
    tab = await new_tab(viewport={"width": 320, "height": 800})
    page = tab.page
    key = await organisation.create_agent("painter-of-houses")
    async with organisation.connect("painter-of-houses", key, stack.base_url) as painter:
        await painter.publish("team.updates", {"n": 1})
    await tab.enter(organisation.owner)
    lately = page.locator(".lately li")
    await expect(lately.locator("time")).to_have_count(1)
    # As wide as it gets.
    await lately.locator("time").evaluate("element => { element.textContent = '23 seconds ago' }")
    for path, heading in PAGES.items():
        if path != "agents/painter":
            await tab.open(f"#/{path}", heading)
            await tab.loaded()
            assert await tab.overflow() <= 0, path
    words = page.locator("nav a")
    assert await words.count() == 6
    assert max(await words.evaluate_all(BEYOND)) <= 0
    await tab.open("#/usage", "Usage")
    date = await page.get_by_label("From").bounding_box()
    assert date is not None and date["width"] >= DATE_PIXELS


async def _unfold(tab: Tab) -> None:
    folded = tab.page.locator("main details:not([open]) > summary")
    while await folded.count():
        await folded.first.click()


async def _check(tab: Tab, name: str) -> None:
    if not await tab.page.evaluate("'axe' in window"):
        await tab.page.evaluate(AXE)
    problems = []
    for scheme, rules in CHECKS.items():
        await tab.page.emulate_media(color_scheme=scheme)
        await tab.page.screenshot(path=ARTIFACTS / f"{name}-{scheme}.png", full_page=True)
        problems += [f"{name}-{scheme}: {each}" for each in await tab.page.evaluate(VIOLATIONS, rules)]
    await tab.page.emulate_media(color_scheme="light")
    assert problems == []
    assert await tab.overflow() <= 0, name


async def test_the_keyboard_reaches_everything_and_focus_follows(
    tab: Tab, organisation: Organisation
) -> None:
    """The skip link leads past the navigation, a new page takes the focus, a dialog gives it back."""
    page = tab.page
    await tab.enter(organisation.owner)
    # Where Tab goes first depends on what had the focus; in the page's order the skip link is the first stop.
    stops = "a[href], button, input, select, textarea, [tabindex]"
    assert await page.locator(stops).first.inner_text() == "Skip to the page"
    await page.get_by_role("link", name="Skip to the page").press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.get_by_role("navigation").get_by_role("link", name="Agents").press("Enter")
    await expect(page.get_by_role("heading", name="Agents", level=1)).to_be_focused()
    assert await page.title() == "Agents · ArtCafe PubSub"
    button = page.get_by_role("button", name="New agent")
    await button.press("Enter")
    await expect(page.get_by_role("dialog").get_by_label("Name")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()


@pytest.mark.parametrize("width", [1280, 390])
async def test_focus_can_be_seen_on_every_page(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, width: int
) -> None:
    """Tab goes through all that can be used, in order, each in sight, marked, and under nothing else."""
    tab = await new_tab(viewport={"width": width, "height": 700})
    await organisation.create_agent("painter")
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)
    for path, heading in PAGES.items():
        path = path.replace("team.updates", "both")
        await tab.open(f"#/{path}", "Both" if path.endswith("both") else heading)
        await tab.loaded()
        await _unfold(tab)
        await tab.page.locator("h1").focus()
        wanted = await tab.page.locator(f"main :is({STOPS}):visible").count()
        seen: list[str] = []
        for _ in range(wanted):
            await tab.page.keyboard.press("Tab")
            focused = await tab.page.evaluate(FOCUSED)
            if focused is None:
                break
            assert focused["marked"], (path, focused)
            assert focused["in_sight"], (path, focused)
            seen.append(focused["what"])
        # A group of choices is one stop.
        assert len(seen) >= wanted - 2, (path, seen)


async def test_a_dialog_keeps_the_focus(tab: Tab, organisation: Organisation) -> None:
    """While a dialog is open, nothing behind it can be reached."""
    await tab.enter(organisation.owner)
    await tab.open("#/people", "People")
    await tab.page.get_by_role("button", name="Add a person").press("Enter")
    await expect(tab.page.get_by_label("Their id")).to_be_focused()
    for _ in range(15):
        await tab.page.keyboard.press("Tab")
        behind = "!document.activeElement.closest('dialog') && document.activeElement !== document.body"
        assert not await tab.page.evaluate(behind)


async def test_nothing_moves_for_those_who_do_not_want_it(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation
) -> None:
    """With reduced motion no animation runs, not even while the page connects again."""
    tab = await new_tab(reduced_motion="reduce")
    tab.expected += ["WebSocket", "ERR_INTERNET_DISCONNECTED"]
    await tab.enter(organisation.owner)
    assert await tab.page.evaluate(MOVING_WHILE_IT_WAITS) == 0
    await tab.page.emulate_media(reduced_motion="no-preference")
    assert await tab.page.evaluate(MOVING_WHILE_IT_WAITS) > 0


async def test_usage_is_shown_and_downloaded(
    one_day: None, tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """What an agent sent is counted on the page, by agent, and in the file."""
    page = tab.page
    key = await organisation.create_agent("painter")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        for number in range(3):
            await painter.publish("jobs", {"n": number})

    async def counted() -> bool:
        usage = await organisation.call("GET", "/usage/current")
        return bool(usage["usage"]["messages"] == 3)

    await until(counted)
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    await page.get_by_label("Group by").select_option("agent")
    row = page.get_by_role("table", name="Usage by agent").get_by_role("row", name="painter")
    await expect(row).to_contain_text("3")
    await page.get_by_label("Divide by").select_option("hour")
    await expect(page.get_by_role("img", name="Messages by hour and agent")).to_be_visible()
    await expect(page.locator(".legend")).to_contain_text("painter")
    await page.get_by_label("Divide by").select_option("day")
    await expect(page.get_by_role("img", name="Messages by day and agent")).to_be_visible()
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Download CSV").click()
    lines = (await (await saving.value).path()).read_text().splitlines()
    assert (
        lines[0] == "start,end,agent_id,messages,deliveries,bytes_in,bytes_out,api_calls,connection_seconds"
    )
    assert any(",painter,3," in line for line in lines[1:])
