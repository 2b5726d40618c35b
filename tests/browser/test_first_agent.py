"""From an empty organisation to a first agent that talks, by nothing but what the page shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import expect

from artcafe_devstack.devstack import DevStack

from .browser_support import PATIENCE_SECONDS, Organisation, Tab, until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", ["With Python alone", "With the SDK, in a checkout"])
async def test_a_new_organisation_is_led_to_an_agent_that_talks(
    tab: Tab, organisation: Organisation, tmp_path: Path, way: str
) -> None:
    """Each step is done as the page says; the lines are copied and run as they are; the agent is heard."""
    page = tab.page
    await tab.enter(organisation.owner)
    await page.get_by_role("button", name="Make the first agent").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("Greeter")
    await dialog.get_by_label("Id", exact=True).fill("greeter")
    await dialog.get_by_role("button", name="Create agent").click()
    # While the key is there to be saved nobody is said to have it elsewhere.
    await expect(page.get_by_label("Agents online", exact=True)).to_contain_text("of 1")
    await expect(page.get_by_text("It was not made on this page")).to_have_count(0)
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Download greeter.key").click()
    await (await saving.value).save_as(tmp_path / "greeter.key")
    await page.get_by_role("button", name="Done").click()
    await expect(page.get_by_role("button", name="Make the channel hello")).to_be_focused()
    await page.keyboard.press("Enter")
    # Whoever has no pointer is not sent back to the top.
    await expect(page.locator("input[type=radio]:checked")).to_be_focused()

    await page.get_by_label(way).check(force=True)
    await _start_and_hear(tab, "greeter", tmp_path)


async def test_an_agent_that_was_made_elsewhere_is_led_on_as_well(
    tab: Tab, organisation: Organisation, tmp_path: Path
) -> None:
    """Whose key is not from this page is said to need it, and given one; the lines then work as they are."""
    page = tab.page
    await organisation.create_agent("barista")
    await tab.enter(organisation.owner)
    await tab.sees("The agent barista is there.")
    steps = page.get_by_label("First steps")
    await expect(steps).to_contain_text("Put barista's private key there as barista.key.")
    await expect(steps).not_to_contain_text("was downloaded to")
    await page.get_by_label("With the SDK, in a checkout").check(force=True)
    await expect(steps).to_contain_text("Put barista's private key there as barista.key.")
    await expect(steps.get_by_role("button", name="Make an agent")).to_be_visible()
    await steps.get_by_role("button", name="Add and download a key for barista").click()
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Download barista.key").click()
    await (await saving.value).save_as(tmp_path / "barista.key")
    await page.get_by_role("button", name="Done").click()
    await expect(steps).to_contain_text("in the folder that barista.key was downloaded to.")
    # Another day nobody knows where it was put.
    await tab.reload()
    await expect(steps).to_contain_text("Put barista's private key there as barista.key.")
    await page.get_by_role("button", name="Make the channel hello").click()
    await _start_and_hear(tab, "barista", tmp_path)


async def test_the_first_steps_follow_what_is_done_elsewhere(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """An agent that somebody deletes is no step done; a channel that an agent makes by using it is one."""
    tab.expect_gone()
    await tab.enter(organisation.owner)
    steps = tab.page.get_by_label("First steps")
    await expect(steps.get_by_role("button", name="Make the first agent")).to_be_visible()
    await organisation.create_agent("barista")
    await expect(steps).to_contain_text("The agent barista is there.")
    await organisation.call("DELETE", "/agents/barista")
    await expect(steps.get_by_role("button", name="Make the first agent")).to_be_visible()
    await expect(steps).not_to_contain_text("barista")
    key = await organisation.create_agent("painter")
    await expect(steps).to_contain_text("The agent painter is there.")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.publish("hello", {"text": "too early"})
        await expect(steps).to_contain_text("The channel hello is there.")

        async def heard() -> bool:
            await painter.publish("hello", {"text": "Good morning"})
            return await steps.get_by_text("Good morning").count() > 0

        await until(heard)


async def test_the_first_agent_says_what_is_refused(
    tab: Tab, organisation: Organisation, tmp_path: Path
) -> None:
    """Where it may not use the channel its program says so, rather than nothing."""
    page = tab.page
    channel = {"name": "Hello", "channel_id": "hello", "access": "members"}
    await organisation.call("POST", "/channels", json=channel)
    key = await organisation.create_agent("greeter")
    (tmp_path / "greeter.key").write_bytes(key.private_bytes())
    await tab.enter(organisation.owner)
    await tab.open("#/agents/greeter", "Greeter")
    await page.get_by_text("Lines to start this agent").click()
    program = page.locator("figure.code", has_text="Save as greeter_agent.py").locator("pre")
    (tmp_path / "greeter_agent.py").write_text(await program.inner_text())
    running = await asyncio.create_subprocess_exec(
        sys.executable, "greeter_agent.py", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert running.stdout is not None
        said = await asyncio.wait_for(running.stdout.readline(), PATIENCE_SECONDS)
        assert b"may not receive the channel" in said
    finally:
        running.terminate()
        await running.wait()


async def _start_and_hear(tab: Tab, agent_id: str, folder: Path) -> None:
    """Copy the lines that the page shows, run them where the key is, and talk with the agent."""
    page = tab.page
    lines: dict[str, str] = {}
    for block in await page.locator("figure.code").all():
        await block.get_by_role("button", name="Copy").click()
        title = await block.locator("figcaption span").inner_text()
        lines[title] = await page.evaluate("navigator.clipboard.readText()")
    program = lines.pop(f"Save as {agent_id}_agent.py, beside {agent_id}.key")
    (folder / f"{agent_id}_agent.py").write_text(program)
    commands = [command for block in lines.values() for command in block.splitlines()]
    running = await asyncio.to_thread(_run, commands, folder)
    try:
        await tab.sees(f"{agent_id} is online.")
        await tab.sees(f"Hello, I am {agent_id}.")
        await page.get_by_role("link", name="Answer it").click()
        await tab.heading("Hello")
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator(".messages li", has_text="I heard you.")).to_have_count(1)
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait, 30)


def _run(commands: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Run lines in a folder as they are, but for those that install: what they would is here already."""
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    kept = []
    for command in commands:
        match command.split():
            case ["python3", "-m", "venv", environment]:
                (folder / environment / "bin").mkdir(parents=True)
                (folder / environment / "bin" / "python").write_text(python)
                (folder / environment / "bin" / "python").chmod(0o755)
            case [pip, "install", *packages] if pip.endswith("/bin/pip"):
                pinned = (ROOT / "requirements" / "stack.txt").read_text()
                assert [name for name in packages if f"\n{name}==" not in pinned] == []
            case ["make", target]:
                subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
                (folder / ".venv").symlink_to(sys.prefix)
            case _:
                kept.append(command)
    script = "\n".join(["set -e", *kept[:-1], f"exec {kept[-1]}"])
    # Nothing of this test's own: what the lines need, they must name.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(["sh", "-c", script], cwd=folder, env=inherited)


async def test_an_agents_id_is_made_from_its_name(tab: Tab, organisation: Organisation) -> None:
    """The id follows the name, is one that nobody has, and stays what somebody makes of it."""
    page = tab.page
    await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("button", name="New agent").click()
    dialog = page.get_by_role("dialog")
    name, agent_id = dialog.get_by_label("Name"), dialog.get_by_label("Id", exact=True)
    for written, made in {
        "Painter": "painter-2",
        " Écran n° 2! ": "ecran-n-2",
        "日本": "",
        "Esc test": "esc-test",
    }.items():
        await name.fill(written)
        await expect(agent_id).to_have_value(made)
    await agent_id.fill("mine")
    await name.fill("Esc test 2")
    await expect(agent_id).to_have_value("mine")
    await agent_id.fill("")
    await name.fill("Esc test")
    await dialog.get_by_role("button", name="Create agent").click()
    await page.get_by_role("button", name="Download esc-test.key").wait_for()
    assert (await organisation.call("GET", "/agents/esc-test"))["name"] == "Esc test"


async def test_an_agent_is_made_changed_and_deleted(tab: Tab, organisation: Organisation) -> None:
    """An agent's page adds and revokes keys, edits, and deletes after a question."""
    page = tab.page
    tab.expect_gone()
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
    tab.expect_gone()
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
