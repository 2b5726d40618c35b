"""Every page: fits a telephone, can be used by everybody, and works by keyboard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from artcafe_devstack.devstack import DevStack

from .browser_support import ARTIFACTS, Organisation, Tab

PAGES = {
    "overview": "Overview",
    "agents": "Agents",
    "agents/painter": "Painter",
    "channels": "Channels",
    "channels/team.updates": "team.updates",
    "preview": "Preview",
    "usage": "Usage",
}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
async def test_every_page_fits_and_passes_axe(
    new_tab: Callable[..., Awaitable[Tab]],
    organisation: Organisation,
    stack: DevStack,
    width: int,
    scheme: str,
) -> None:
    """No page scrolls sideways or has an accessibility problem that axe-core finds."""
    tab = await new_tab(viewport={"width": width, "height": 844}, color_scheme=scheme)
    ARTIFACTS.mkdir(exist_ok=True)
    await tab.load()
    await tab.page.get_by_label("E-mail").wait_for()
    await _check(tab, f"{width}-{scheme}-sign-in")
    await tab.enter(organisation.owner)
    await tab.sees("Your first agent")
    await _check(tab, f"{width}-{scheme}-first-steps")
    await tab.page.get_by_role("button", name="Make the first agent").click()
    await _check(tab, f"{width}-{scheme}-dialog")
    await tab.page.get_by_role("button", name="Cancel").click()

    key = await organisation.create_agent("painter")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.presence("online", capabilities=["a-capability-with-quite-a-long-name-" * 2])
        data = {"text": "no-spaces-to-break-at-" * 12, "list": [1, 2, {"three": 3}]}
        await painter.publish("team.updates", data)
        for path, heading in PAGES.items():
            await tab.open(f"#/{path}", heading)
            await tab.page.wait_for_timeout(700)
            if path in ("preview", "channels/team.updates"):
                await painter.publish("team.updates", data)
                await tab.page.locator(".messages summary").first.click()
            await _check(tab, f"{width}-{scheme}-{path.replace('/', '-')}")


async def _check(tab: Tab, name: str) -> None:
    await tab.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
    assert await tab.overflow() <= 0, name
    found = await Axe().run(tab.page, options=RULES)
    problems = [
        f"{name}: {each['id']} {[node['html'][:120] for node in each['nodes']]}"
        for each in found.response["violations"]
    ]
    assert problems == []


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


async def test_usage_is_shown_and_downloaded(tab: Tab, organisation: Organisation, stack: DevStack) -> None:
    """What an agent sent is counted on the page, by agent, and in the file."""
    page = tab.page
    key = await organisation.create_agent("painter")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        for number in range(3):
            await painter.publish("jobs", {"n": number})
    await tab.enter(organisation.owner)
    await page.wait_for_timeout(2_500)
    await tab.open("#/usage", "Usage")
    await page.get_by_label("Group by").select_option("agent")
    row = page.get_by_role("table", name="Usage by agent").get_by_role("row", name="painter")
    await expect(row).to_contain_text("3")
    await page.get_by_label("Divide by").select_option("hour")
    await expect(page.get_by_role("img", name="Messages by hour")).to_be_visible()
    await page.get_by_label("Divide by").select_option("day")
    await expect(page.get_by_role("img", name="Messages by day")).to_be_visible()
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Download CSV").click()
    lines = (await (await saving.value).path()).read_text().splitlines()
    assert (
        lines[0] == "start,end,agent_id,messages,deliveries,bytes_in,bytes_out,api_calls,connection_seconds"
    )
    assert any(",painter,3," in line for line in lines[1:])
