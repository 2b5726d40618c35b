"""Live messages and presence, in one tab and in two, and after the connection was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from playwright.async_api import expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Organisation, Tab

TRAP = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"


async def test_messages_are_shown_paused_filtered_and_never_run(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """A channel page shows messages as text, holds while paused, filters, and opens to the whole data."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.publish("team.updates", {"first": True})
        await tab.open("#/channels/team.updates", "team.updates")
        await page.wait_for_timeout(1_000)
        rows = page.locator(".messages > li:not(.gap)")
        await painter.publish("team.updates", {"text": TRAP, "deep": {"er": [1, 2]}})
        await expect(rows).to_have_count(1)
        await rows.locator("summary").click()
        await expect(rows.locator("pre")).to_contain_text('"er": [\n      1,')
        assert await page.locator(".messages img, .messages script").count() == 0
        assert await page.title() != "caught"
        await rows.get_by_role("button", name="Copy JSON").click()
        assert TRAP.replace('"', '\\"') in await page.evaluate("navigator.clipboard.readText()")

        await page.get_by_role("button", name="Pause").click()
        await painter.publish("team.updates", {"text": "while paused"})
        await tab.sees("paused, 1 more")
        await expect(rows).to_have_count(1)
        await page.get_by_role("button", name="Resume").click()
        await expect(rows).to_have_count(2)
        await page.get_by_label("Filter the messages").fill("PAUSED")
        await expect(rows.locator("visible=true")).to_have_count(1)


async def test_two_tabs_see_the_same_and_one_publishes(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation
) -> None:
    """What one tab publishes arrives in both, once each, with the person as its sender."""
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    tabs = [await new_tab(), await new_tab()]
    for tab in tabs:
        await tab.enter(organisation.owner)
        await tab.open("#/channels/both", "Both")
    await tabs[1].page.wait_for_timeout(1_000)
    await tabs[0].page.get_by_label("Message", exact=True).fill('{"to": "both tabs"}')
    await tabs[0].page.get_by_label("Message", exact=True).press("Control+Enter")
    for tab in tabs:
        row = tab.page.locator(".messages li", has_text="both tabs")
        await expect(row).to_have_count(1)
        await expect(row.locator(".sender")).to_have_text(f"user:{organisation.owner.user_id}")
    await tabs[0].page.get_by_label("Message", exact=True).fill("{not json")
    await tabs[0].page.get_by_role("button", name="Publish").click()
    await tabs[0].sees("That is not JSON")


async def test_agents_come_and_go_before_ones_eyes(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """The list shows an agent online while it is, and finds it by what it can do."""
    key = await organisation.create_agent("painter")
    await organisation.create_agent("sleeper")
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    row = tab.page.get_by_role("row", name="Painter")
    await expect(row).to_contain_text("offline")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.presence("online", capabilities=["oil", "water"])
        await expect(row).to_contain_text("online")
        await expect(row).to_contain_text("water")
        await tab.page.get_by_label("Search by name").fill("oil")
        await expect(tab.page.locator("tbody tr")).to_have_count(1)
        await tab.page.get_by_label("Search by name").fill("")
        await tab.page.get_by_label("Status").select_option("offline")
        await expect(tab.page.locator("tbody tr")).to_have_count(1)
        await expect(tab.page.locator("tbody tr")).to_contain_text("Sleeper")
        await tab.page.get_by_label("Status").select_option("")
    await expect(row).to_contain_text("offline")


async def test_the_preview_filters_counts_and_shows_the_path(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """The preview shows what its patterns match with the way it took, and counts what was left out."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/preview", "Preview")
    await page.get_by_label("Patterns").fill("jobs.* audit.>")
    await page.get_by_label("Show at most").select_option("5")
    await page.get_by_role("button", name="Watch").click()
    await tab.sees("at most 5 messages a second")
    rows = page.locator(".messages > li")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.publish("other", {"n": 0})
        await painter.publish("jobs.paint", {"n": 1})
        await expect(rows).to_have_count(1)
        await rows.locator("summary").click()
        path = page.get_by_label("Path of the message")
        await expect(path).to_contain_text("painter")
        await expect(path).to_contain_text(f"tenant.{organisation.tenant_id}.channel.jobs.paint")
        # Each message is acknowledged, so this is as fast as one agent is.
        await asyncio.gather(*(painter.publish("jobs.paint", {"n": n}) for n in range(60)))
        left_out = page.locator(".counters > div", has_text="left out").locator("dd")
        await expect(left_out).not_to_have_text("0")
    await page.get_by_label("Patterns").fill("not a/pattern!")
    await page.get_by_role("button", name="Watch").click()
    await page.locator(".problem[role=status]").wait_for()


async def test_a_killed_gateway_is_told_and_survived(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """When the gateway dies the page says so, comes back by itself, and goes on with what it showed."""
    page = tab.page
    tab.expected += ["WebSocket connection to", "Failed to load resource"]
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels/both", "Both")
    await page.evaluate("window.marked = true")
    with stack.without("gateway-1"):
        await tab.sees("The connection is lost")
        await page.get_by_role("button", name="Publish").click()
        await tab.sees("There is no connection right now.")
    await page.locator(".pill.live").wait_for(timeout=40_000)
    await expect(page.locator(".banner.shown")).to_have_count(0)
    await page.locator(".messages .gap").wait_for()
    await page.get_by_label("Message", exact=True).fill('{"after": "the break"}')
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator(".messages li", has_text="the break")).to_have_count(1)
    assert await page.evaluate("window.marked") is True
