"""What each role is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from playwright.async_api import expect

from .browser_support import Account, Organisation, Tab


async def test_a_viewer_looks_and_changes_nothing(
    tab: Tab, organisation: Organisation, new_account: Callable[[], Awaitable[Account]]
) -> None:
    """A viewer sees agents and channels without a way to change them, and no usage."""
    viewer = await new_account()
    await organisation.add(viewer, "viewer")
    await organisation.create_agent("painter")
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(viewer)
    await expect(tab.page.get_by_role("navigation").get_by_role("link")).to_have_text(
        ["Overview", "Agents", "Channels", "Preview", "People"]
    )
    pages = {"agents": "Agents", "agents/painter": "Painter", "channels/both": "Both", "people": "People"}
    for path, heading in pages.items():
        await tab.open(f"#/{path}", heading)
        await tab.loaded()
        for name in ("New", "Add", "Edit", "Delete", "Revoke", "Publish", "Change", "Remove"):
            assert await tab.page.locator("main").get_by_role("button", name=name).count() == 0, name
    await tab.open("#/usage", "Overview")


async def test_billing_sees_usage_alone(
    tab: Tab, organisation: Organisation, new_account: Callable[[], Awaitable[Account]]
) -> None:
    """Whoever bills sees the usage and no other page."""
    billing = await new_account()
    await organisation.add(billing, "billing")
    await tab.enter(billing, "Usage")
    await expect(tab.page.get_by_role("navigation").get_by_role("link")).to_have_text(["Usage"])
    await tab.open("#/agents", "Usage")


async def test_a_role_that_changes_changes_the_pages(
    tab: Tab, organisation: Organisation, new_account: Callable[[], Awaitable[Account]]
) -> None:
    """A member who becomes a viewer loses the buttons without loading the page again."""
    person = await new_account()
    await organisation.add(person, "member")
    await tab.enter(person)
    await tab.open("#/agents", "Agents")
    await tab.page.get_by_role("button", name="New agent").wait_for()
    path = f"/tenants/{organisation.tenant_id}/members/{person.user_id}"
    await organisation.call("PUT", path, json={"role": "viewer"})
    await expect(tab.page.get_by_role("button", name="New agent")).to_have_count(0)
    await expect(tab.page.locator(".who")).to_contain_text("viewer")
