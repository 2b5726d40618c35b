"""The line over the pages that says how much of the month is used."""

from __future__ import annotations

from playwright.async_api import expect

from .browser_support import Account, Organisation, Tab


async def test_a_month_that_is_used_up_is_told_on_every_page(
    one_day: None, tab: Tab, organisation: Organisation, admin: Account
) -> None:
    """The line comes as the month fills up, is there after a reload, and goes when there is room again."""

    async def allow(messages: int) -> None:
        body = {"limits": {"messages_per_month": messages}}
        await admin.call("PUT", f"/tenants/{organisation.tenant_id}", organisation.tenant_id, json=body)

    await allow(10)
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)
    banner = tab.page.locator(".banner.shown")
    await expect(banner).to_have_count(0)
    for number in range(8):
        await organisation.call("POST", "/channels/both/messages", json={"n": number})
    await expect(banner).to_contain_text("8 of the 10 messages of the plan free are used this month.")
    await expect(banner).not_to_contain_text("refused")
    for number in range(2):
        await organisation.call("POST", "/channels/both/messages", json={"n": number})
    await expect(banner).to_contain_text("Publishing is refused until the next month (UTC) or a larger plan.")
    await tab.reload()
    await tab.open("#/channels/both", "Both")
    await expect(banner).to_contain_text("10 of the 10 messages")
    await allow(1000)
    await expect(banner).to_have_count(0)
