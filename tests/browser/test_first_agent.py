"""From an empty organisation to a first agent that talks, by nothing but what the page shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from playwright.async_api import expect

from .browser_support import Organisation, Tab


async def test_a_new_organisation_is_led_to_an_agent_that_talks(
    tab: Tab, organisation: Organisation, tmp_path: Path
) -> None:
    """Each step is done as the page says; the lines are copied and run as they are; the agent is heard."""
    page = tab.page
    await tab.enter(organisation.owner)
    await page.get_by_role("button", name="Make the first agent").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Greeter")
    await dialog.get_by_label("Id", exact=True).fill("greeter")
    await dialog.get_by_role("button", name="Create agent").click()
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Download greeter.key").click()
    await (await saving.value).save_as(tmp_path / "greeter.key")
    await page.get_by_role("button", name="Done").click()
    await page.get_by_role("button", name="Make the channel hello").click()

    block = page.locator("figure", has_text="Save as greeter_agent.py")
    await block.get_by_role("button", name="Copy").click()
    program = await page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "greeter_agent.py").write_text(program)
    start = await page.locator("figure", has_text="Start it").locator("code").inner_text()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["sh", "-c", start.replace("\npython", " && exec python")]
    running = await asyncio.to_thread(subprocess.Popen, command, cwd=tmp_path, env=environment)
    try:
        await tab.sees("greeter is online.")
        await tab.sees("Hello, I am greeter.")
        await page.get_by_role("link", name="Answer it").click()
        await tab.heading("Hello")
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator(".messages li", has_text="I heard you.")).to_have_count(1, timeout=15_000)
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait, 10)


async def test_an_agent_is_made_changed_and_deleted(tab: Tab, organisation: Organisation) -> None:
    """An agent's page adds and revokes keys, edits, and deletes after a question."""
    page = tab.page
    await tab.enter(organisation.owner)
    await organisation.create_agent("painter")
    await tab.open("#/agents", "Agents")
    await page.get_by_role("link", name="Painter").click()
    await tab.heading("Painter")

    await page.get_by_role("button", name="Add key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("laptop")
    await dialog.get_by_role("button", name="Add key").click()
    async with page.expect_download():
        await page.get_by_role("button", name="Download painter.key").click()
    await page.get_by_role("button", name="Done").click()
    keys = page.get_by_role("table", name="Keys").locator("tbody tr")
    await expect(keys).to_have_count(2)
    await keys.filter(has_text="laptop").get_by_role("button", name="Revoke").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(keys).to_have_count(1)

    await page.get_by_role("button", name="Edit").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Painter <b>the great</b>")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await tab.heading("Painter <b>the great</b>")

    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Delete agent").click()
    await tab.heading("Agents")
    await tab.sees("There are no agents yet.")


async def test_a_channel_is_made_and_its_members_are_managed(tab: Tab, organisation: Organisation) -> None:
    """A channel for members only takes an agent in, changes what it may do, and lets it go."""
    page = tab.page
    await tab.enter(organisation.owner)
    await organisation.create_agent("painter")
    await tab.open("#/channels", "Channels")
    await page.get_by_role("button", name="New channel").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Secrets")
    await dialog.get_by_label("Id", exact=True).fill("team.secrets")
    await dialog.get_by_label("Who may use it").select_option("members")
    await dialog.get_by_role("button", name="Create channel").click()
    await tab.heading("Secrets")

    await page.get_by_role("button", name="Add member").click()
    await dialog.get_by_label("Agent").fill("painter")
    await dialog.get_by_label("It may").select_option("subscriber")
    await dialog.get_by_role("button", name="Save").click()
    row = page.get_by_role("table", name="Members").locator("tbody tr")
    await expect(row).to_contain_text("read")
    await row.get_by_role("button", name="Change").click()
    await dialog.get_by_label("It may").select_option("publisher")
    await dialog.get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("publish")
    await tab.open("#/agents/painter", "Painter")
    await page.get_by_role("link", name="team.secrets").click()
    await row.get_by_role("button", name="Change").click()
    await dialog.get_by_role("button", name="Remove the row").click()
    await tab.sees("No members: no agent may use this channel.")

    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Delete channel").click()
    await tab.sees("There are no channels yet.")
