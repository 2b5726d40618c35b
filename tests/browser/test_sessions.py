"""What gateways know of open sessions: when agents were heard of, what they hear, how many there may be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from playwright.async_api import Locator, expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Account, Organisation, Tab, until


async def shown_time(row: Locator) -> datetime | None:
    """Return when a row of the list of agents says that the agent was last heard of."""
    text = await row.locator("td").nth(3).locator("time").get_attribute("datetime")
    return datetime.fromisoformat(text) if text else None


async def test_the_last_heartbeat_is_shown_and_not_that_of_a_change(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """It moves while an agent sends nothing else, and stands still at the last word of one that is silent."""
    page = tab.page
    frames = tab.frames()
    keys = {name: await organisation.create_agent(name) for name in ("beating", "frozen")}
    async with organisation.connect("beating", keys["beating"], stack.base_url):
        await tab.enter(organisation.owner)
        await tab.open("#/agents", "Agents")
        row = page.get_by_role("row", name="Beating")
        await row.locator("time").first.wait_for()
        first = await shown_time(row)
        assert first is not None

        async def moved() -> bool:
            now = await shown_time(row)
            return now is not None and now - first > timedelta(seconds=3)

        await until(moved)
        await expect(row).to_contain_text("online")

        def said_suspect(frame: dict[str, Any]) -> bool:
            return frame.get("agent_id") == "frozen" and frame.get("status") == "suspect"

        row = page.get_by_role("row", name="Frozen")
        texts = await tab.texts_of(row)

        async def shown_and_heard() -> bool:
            # A few seconds later it is lost.
            shown = any("suspect" in text for text in await texts())
            return shown and any(said_suspect(frame) for frame in frames)

        frozen = await organisation.open_socket("frozen", keys["frozen"], stack.base_url)
        await until(shown_and_heard)
        [told] = [frame for frame in frames if said_suspect(frame)]
        silent_since, announced = (datetime.fromisoformat(told[name]) for name in ("last_seen", "timestamp"))
        # Half of the time after which it is given up.
        assert announced - silent_since >= timedelta(seconds=4)
        assert await shown_time(row) == silent_since
        await expect(row).to_contain_text("lost")
        assert await shown_time(row) == silent_since
        await tab.open("#/overview", "Overview")
        await expect(page.locator(".alerts")).to_contain_text("Frozen was lost (heartbeat timeout).")
        await frozen.close()


async def test_who_hears_what_is_shown_beside_special_rights(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """An agent's page has the channels it listens to and publishes in; a channel's page has who listens."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/agents/painter", "Painter")
    card = page.locator("section.card", has=page.get_by_role("heading", name="Channels", exact=True))
    await expect(card).to_contain_text("It is not connected: it listens to no channel now.")
    await expect(card).to_contain_text("No special rights: it may use every open channel")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.subscribe("jobs.*")
        await painter.subscribe("news")
        await painter.publish("results", {"n": 1})
        listens, published = card.locator("dd").nth(0), card.locator("dd").nth(1)
        await expect(listens).to_have_text("jobs.*, news")
        await expect(published).to_have_text("results")
        await listens.get_by_role("link", name="news").click()
        await tab.heading("news")
        listening = page.get_by_label("Listening now")
        await expect(listening.get_by_role("link", name="Painter")).to_be_visible()
        await organisation.call("POST", "/channels", json={"name": "Paint", "channel_id": "jobs.paint"})
        await tab.open("#/channels/jobs.paint", "Paint")
        await expect(listening.get_by_role("listitem")).to_have_text("Painterby jobs.*")
        await tab.open("#/channels/results", "results")
        await expect(listening).to_contain_text("No agent listens here right now.")


async def test_connections_are_shown_and_told_before_one_is_refused(
    tab: Tab, organisation: Organisation, stack: DevStack, admin: Account
) -> None:
    """The plan's connections stand beside its other limits, and need attention when there are no more."""
    page = tab.page
    body = {"limits": {"connections": 2}}
    await admin.call("PUT", f"/tenants/{organisation.tenant_id}", organisation.tenant_id, json=body)
    keys = {name: await organisation.create_agent(name) for name in ("one", "two")}
    await tab.enter(organisation.owner)
    meter, alerts = page.locator(".meter", has_text="Connections"), page.locator(".alerts")
    await expect(meter).to_contain_text("0 of 2")
    async with organisation.connect("one", keys["one"], stack.base_url):
        await expect(meter).to_contain_text("1 of 2")
        async with organisation.connect("two", keys["two"], stack.base_url):
            await expect(meter).to_contain_text("2 of 2")
            await expect(alerts).to_contain_text("The plan's limit of 2 connections is reached.")
        await expect(meter).to_contain_text("1 of 2")
        await expect(alerts).not_to_contain_text("connections is reached")
