"""Live messages and presence, in one tab and in two, and after the connection was lost."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable

from playwright.async_api import Route, WebSocketRoute, expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Organisation, Tab, until

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
        await tab.sees("Waiting for messages")
        rows = page.locator(".messages > li:not(.gap)")
        # It is of the last seconds: soon it is nothing again.
        rates = await tab.texts_of(page.get_by_label("Messages now", exact=True).locator(".big"))
        await painter.publish("team.updates", {"text": TRAP, "deep": {"er": [1, 2]}})
        await expect(rows).to_have_count(1)
        await rows.locator("summary").click()
        await expect(rows.locator("pre")).to_contain_text('"er": [\n      1,')
        assert await page.locator(".messages img, .messages script").count() == 0
        assert await page.title() != "caught"

        async def counted() -> bool:
            return set(await rates()) != {"0 per second"}

        await until(counted)
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


async def test_publishing_again_and_again_covers_nothing(tab: Tab, organisation: Organisation) -> None:
    """It is told once at a time; a message that is open names its sender in full."""
    page = tab.page
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels/jobs", "Jobs")
    await tab.sees("Waiting for messages")
    rows = page.locator(".messages > li")
    for count in range(1, 4):
        await page.get_by_role("button", name="Publish").click()
        await expect(rows).to_have_count(count)
        await expect(page.locator(".notice > span")).to_have_text(["Published"])
    await rows.first.locator("summary").click()
    await expect(rows.first.locator(".facts")).to_contain_text(f"user:{organisation.owner.user_id}")


async def test_two_tabs_see_the_same_and_one_publishes(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation
) -> None:
    """What one tab publishes arrives in both, once each, with the person as its sender."""
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    tabs = [await new_tab(), await new_tab()]
    for tab in tabs:
        await tab.enter(organisation.owner)
        await tab.open("#/channels/both", "Both")
        await tab.sees("Waiting for messages")
    await tabs[0].page.get_by_label("Message", exact=True).fill('{"to": "both tabs"}')
    await tabs[0].page.get_by_label("Message", exact=True).press("Control+Enter")
    for tab in tabs:
        row = tab.page.locator(".messages li", has_text="both tabs")
        await expect(row).to_have_count(1)
        await expect(row.locator(".sender")).to_have_text(f"user:{organisation.owner.user_id}")
    await tabs[0].page.get_by_label("Message", exact=True).fill("{not json")
    await tabs[0].page.get_by_role("button", name="Publish").click()
    await tabs[0].sees("That is not JSON")
    # The one that goes leaves the other whole.
    await tabs[1].open("#/overview", "Overview")
    await tabs[1].page.goto("about:blank")
    await tabs[0].page.get_by_label("Message", exact=True).fill('{"to": "who stayed"}')
    await tabs[0].page.get_by_role("button", name="Publish").click()
    await expect(tabs[0].page.locator(".messages li", has_text="who stayed")).to_have_count(1)


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
        # Since when it is connected.
        await expect(row.locator("td").last).to_have_text(re.compile(r"^\d+ (s|min)$"))
        await tab.page.get_by_label("Search by name").fill("oil")
        await expect(tab.page.locator("tbody tr")).to_have_count(1)
        await tab.page.get_by_label("Search by name").fill("")
        await tab.page.get_by_label("Status").select_option("offline")
        await expect(tab.page.locator("tbody tr")).to_have_count(1)
        await expect(tab.page.locator("tbody tr")).to_contain_text("Sleeper")
        await tab.page.get_by_label("Status").select_option("")
    await expect(row).to_contain_text("offline")


async def test_a_file_that_does_not_come_through_is_asked_for_again(tab: Tab) -> None:
    """Where one of the page's files fails to load, the page comes up a moment later, by itself."""
    tab.expected.append("ERR_CONNECTION_RESET")
    failures = 2

    async def fail(route: Route) -> None:
        nonlocal failures
        failures -= 1
        await (route.abort("connectionreset") if failures >= 0 else route.continue_())

    await tab.page.route("**/dashboard/views/usage.js", fail)
    await tab.page.goto(f"{tab.base_url}/#/agents")
    await tab.page.get_by_label("Password").wait_for()
    assert await tab.page.evaluate("sessionStorage.length") == 0


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
    await tab.live(timeout=40_000)
    await expect(page.locator(".banner.shown")).to_have_count(0)
    await page.locator(".messages .gap").wait_for()
    await page.get_by_label("Message", exact=True).fill('{"after": "the break"}')
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator(".messages li", has_text="the break")).to_have_count(1)
    assert await page.evaluate("window.marked") is True


async def test_without_the_message_bus_nothing_looks_live(
    new_tab: Callable[..., Awaitable[Tab]], organisation: Organisation, stack: DevStack
) -> None:
    """While NATS is away the page says so in its head, in streams and figures; then all of it goes on."""
    tab, other = await new_tab(), await new_tab()
    page = tab.page
    other.expected.append("Failed to load resource")
    for channel_id in ("both", "other"):
        await organisation.call("POST", "/channels", json={"name": channel_id, "channel_id": channel_id})
    for each in (tab, other):
        await each.enter(organisation.owner)
    await tab.open("#/channels/both", "both")
    await tab.sees("Waiting for messages")
    lines, alerts = page.locator(".messages .gap"), other.page.locator(".alerts")
    with stack.without("nats"):
        await expect(page.locator(".pill")).to_have_text("No messages")
        await expect(page.locator(".pill.live")).to_have_count(0)
        await tab.sees("The message bus is away: no message comes through")
        await expect(lines).to_have_text(["No message comes through: the message bus is away."])
        await expect(page.get_by_label("Messages now", exact=True).locator(".big")).to_have_text(
            "\N{EN DASH}"
        )
        await expect(page.get_by_text("Waiting for messages").locator("visible=true")).to_have_count(0)
        await expect(alerts).to_contain_text("how the other services are is not known", timeout=40_000)
        await expect(alerts).not_to_contain_text("The service")
        # What the gateway knows is watched, what it does not is refused, and asked for again.
        await other.open("#/channels/both")
        await other.sees("No message comes through: the message bus is away.")
        await other.open("#/channels/other")
        await other.sees("is unavailable, try again")
    await tab.live(timeout=60_000)
    await expect(page.locator(".banner.shown")).to_have_count(0)
    await expect(lines.first).to_contain_text(re.compile(r"^The message bus was away for \d+ s"))
    await expect(other.page.get_by_text("is unavailable, try again")).to_have_count(0, timeout=60_000)
    for each in (tab, other):
        await each.page.get_by_label("Message", exact=True).fill('{"after": "the silence"}')
        await each.page.get_by_role("button", name="Publish").click()
        await expect(each.page.locator(".messages li", has_text="the silence")).to_have_count(1)
    await other.open("#/overview", "Overview")
    await expect(alerts).to_contain_text("Nothing needs attention.", timeout=60_000)


async def test_numbers_stay_as_they_were_written(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """A number with more digits than JavaScript holds is shown, copied and published as it is."""
    page = tab.page
    key = await organisation.create_agent("clock")
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels/both", "Both")
    await tab.sees("Waiting for messages")
    nanoseconds, text = 1764460800123456789, "12345678901234567890"
    async with organisation.connect("clock", key, stack.base_url) as clock:
        heard = await clock.subscribe("both")
        await clock.publish("both", {"at": nanoseconds, "text": text, "small": [1.5, 7]})
        first = await anext(heard)
        row = page.locator(".messages > li:not(.gap)").first
        await row.locator("summary").click()
        await expect(row.locator("pre")).to_contain_text(f'"at": {nanoseconds},')
        await row.get_by_role("button", name="Copy JSON").click()
        assert json.loads(await page.evaluate("navigator.clipboard.readText()")) == first.data
        await page.get_by_label("Message", exact=True).fill(f'{{"id": {nanoseconds}}}')
        await page.get_by_role("button", name="Publish").click()
        second = await anext(heard)
        assert second.data["id"] == nanoseconds


async def test_a_message_that_is_too_large_is_told_of(tab: Tab, organisation: Organisation) -> None:
    """A message that no frame holds is refused by the page: it would cost the connection."""
    page = tab.page
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels/both", "Both")
    await tab.sees("Waiting for messages")
    await page.get_by_label("Message", exact=True).fill(json.dumps("é" * 40_000))
    await page.get_by_role("button", name="Publish").click()
    await tab.sees("of at most 65,536.")
    await page.get_by_label("Message", exact=True).fill('{"small": true}')
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator(".messages li", has_text="small")).to_have_count(1)


async def test_a_network_that_changes_is_not_trusted(tab: Tab, organisation: Organisation) -> None:
    """Where the browser tells of its network, it is asked at once whether the connection is still there."""
    asked: list[str] = []
    swallow = False

    def through(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def from_page(text: str | bytes) -> None:
            if json.loads(text)["type"] == "ping":
                asked.append(str(text))
            server.send(text)

        socket.on_message(from_page)
        server.on_message(lambda text: None if swallow else socket.send(text))

    await tab.page.route_web_socket("**/ws/dashboard", through)
    await tab.enter(organisation.owner)

    async def asked_for(times: int) -> None:
        async def reached() -> bool:
            return len(asked) >= times

        await until(reached)

    for number, event in enumerate(("offline", "online"), start=1):
        await tab.page.evaluate("name => dispatchEvent(new Event(name))", event)
        await asked_for(number)
    await expect(tab.page.locator(".pill.live")).to_be_visible()
    swallow = True
    await tab.page.evaluate("dispatchEvent(new Event('offline'))")
    await tab.sees("The connection is lost", seconds=60)
    swallow = False
    await tab.live()
