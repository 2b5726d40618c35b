"""Lists are true without being asked for again: what others change is told."""

from __future__ import annotations

import asyncio
import json
import re
import time

from playwright.async_api import Route, WebSocketRoute, expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Organisation, Tab, until


def _asked(tab: Tab, what: str) -> int:
    """Return how often a page has asked for something."""
    return sum(f"/api/v1{what}" in address for address in tab.addresses)


async def test_agents_that_others_make_change_and_delete(tab: Tab, organisation: Organisation) -> None:
    """The list of agents follows; nothing but what has changed is asked for."""
    tab.expect_gone()
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    await tab.sees("There are no agents yet.")
    rows = tab.page.locator("tbody tr")
    await organisation.create_agent("painter")
    await expect(rows).to_contain_text(["Painter"])
    body = {"name": "Master", "capabilities": ["oil"]}
    await organisation.call("PUT", "/agents/painter", json=body)
    await expect(rows).to_contain_text(["Master"])
    await expect(rows).to_contain_text(["oil"])
    await organisation.call("DELETE", "/agents/painter")
    await tab.sees("There are no agents yet.")
    assert _asked(tab, "/agents/painter") == 2


async def test_channels_that_others_make_change_and_delete(tab: Tab, organisation: Organisation) -> None:
    """The list of channels follows; it is asked for once for each change."""
    await tab.enter(organisation.owner)
    await tab.open("#/channels", "Channels")
    await tab.sees("There are no channels yet.")
    asked = _asked(tab, "/channels?")
    rows = tab.page.locator("tbody tr")
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await expect(rows).to_contain_text(["Jobs"])
    await organisation.call("PUT", "/channels/jobs", json={"name": "Work", "access": "members"})
    await expect(rows).to_contain_text(["Work"])
    await expect(rows).to_contain_text(["its members"])
    await organisation.call("DELETE", "/channels/jobs")
    await tab.sees("There are no channels yet.")
    assert _asked(tab, "/channels?") == asked + 3


async def test_many_changes_are_not_as_many_questions(tab: Tab, organisation: Organisation) -> None:
    """A list that changes all the time is read about once a second, as each time is a call of the API."""
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await tab.enter(organisation.owner)
    await tab.open("#/channels", "Channels")
    await expect(tab.page.locator("tbody tr")).to_contain_text(["Jobs"])
    asked, began = _asked(tab, "/channels?"), time.monotonic()
    for number in range(20):
        await organisation.call("PUT", "/channels/jobs", json={"name": f"Work {number}"})
        # Longer than what is told together.
        await asyncio.sleep(0.2)
    await expect(tab.page.locator("tbody tr")).to_contain_text(["Work 19"])
    assert _asked(tab, "/channels?") - asked <= time.monotonic() - began + 2


async def test_one_agent_and_one_channel_follow_too(tab: Tab, organisation: Organisation) -> None:
    """An agent's keys and channels and a channel's members are those of this moment; what is gone says so."""
    tab.expect_gone()
    await organisation.create_agent("painter")
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await tab.enter(organisation.owner)
    await tab.open("#/agents/painter", "Painter")
    keys = tab.page.get_by_role("table", name="Keys").locator("tbody tr")
    await expect(keys).to_have_count(1)
    await organisation.call("POST", "/agents/painter/keys", json={"name": "second"})
    await expect(keys).to_have_count(2)
    await organisation.call("PUT", "/channels/jobs/members/painter", json={"role": "publisher"})
    await expect(tab.page.get_by_role("row", name="jobs")).to_contain_text("publish")
    await tab.open("#/channels/jobs", "Jobs")
    await expect(tab.page.get_by_role("row", name="painter")).to_contain_text("publish")
    await organisation.call("DELETE", "/channels/jobs/members/painter")
    await tab.sees("No special rights: every agent may read and publish here.")
    await organisation.call("DELETE", "/channels/jobs")
    await tab.sees("There is no such channel (any more).")
    await expect(tab.page.get_by_role("button", name="Publish")).to_have_count(0)


async def test_the_overview_says_what_needs_attention(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """An agent that vanishes and a plan that is used up are told as they happen, and taken back."""
    tab.expect_gone()
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.sees("Nothing needs attention.")
    alerts = tab.page.locator(".alerts")
    for name in ("second", "third"):
        await organisation.create_agent(name)
    await expect(alerts).to_contain_text("The plan's limit of 3 agents is reached.")
    await organisation.call("DELETE", "/agents/third")
    await tab.sees("Nothing needs attention.")

    socket = await organisation.open_socket("painter", key, stack.base_url)

    async def online() -> bool:
        # One that is silent is doubted, too, and would be for another reason.
        await socket.send('{"type": "heartbeat"}')
        return "1 of 2" in await tab.page.get_by_label("Agents online").inner_text()

    await until(online)
    socket.transport.abort()
    await expect(alerts).to_contain_text("Painter does not answer")
    await expect(alerts).to_contain_text("Painter was lost (did not come back)")
    await tab.page.get_by_role("link", name="Look").click()
    await tab.heading("Painter")
    await expect(tab.page.locator(".status")).to_have_text("lost")
    async with organisation.connect("painter", key, stack.base_url):
        await expect(tab.page.locator(".status")).to_have_text("online")
        await tab.open("#/overview", "Overview")
        await tab.sees("Nothing needs attention.")


async def test_a_list_says_how_much_of_it_is_shown(tab: Tab, organisation: Organisation) -> None:
    """Of many channels the first are shown, and it is told that there are others."""
    there = 250

    async def channels(route: Route) -> None:
        start = int((re.findall(r"next_token=(\d+)", route.request.url) or ["0"])[0])
        page = [
            {"channel_id": f"c{n}", "name": f"Channel {n}", "description": "", "access": "open"}
            for n in range(start, min(start + 100, there))
        ]
        after = str(start + 100) if start + 100 < there else None
        await route.fulfill(body=json.dumps({"channels": page, "next_token": after}))

    await tab.page.route("**/api/v1/channels?*", channels)
    await tab.enter(organisation.owner)
    await tab.open("#/channels", "Channels")
    counter, rows = tab.page.locator(".toolbar .hint"), tab.page.locator("tbody tr")
    search = tab.page.get_by_label("Search by name")
    await expect(counter).to_have_text("250 channels; the first 200 are shown, search for others")
    await expect(rows).to_have_count(200)
    await search.fill("c249")
    await expect(counter).to_have_text("250 channels; 1 shown")
    await expect(rows).to_have_count(1)
    # What is beyond what a page reads is not said to be missing.
    there = 5000
    await tab.open("#/people", "People")
    await tab.open("#/channels", "Channels")
    await expect(counter).to_have_text("the first 1,000 channels; the first 200 are shown, search for others")
    await search.fill("c4000")
    await tab.sees("None of the first 1,000 channels matches.")


async def test_addresses_of_what_cannot_be_say_so(tab: Tab, organisation: Organisation) -> None:
    """An id that none can have, or that was cut, leads to a page that says so, and back from there."""
    tab.expected += ["status of 404", "status of 400"]
    await tab.enter(organisation.owner)
    for path in ("agents/no such", "agents/nobody", "agents/%E0%A4", f"agents/{'x' * 300}"):
        await tab.open(f"#/{path}")
        await tab.sees("There is no such agent (any more).")
        await expect(tab.page.get_by_text("Loading…").locator("visible=true")).to_have_count(0)
        await tab.page.get_by_role("link", name="All agents").click()
        await tab.heading("Agents")
    for path in ("channels/no such", "channels/nowhere", "channels/%", "channels/a..b"):
        await tab.open(f"#/{path}")
        await tab.sees("There is no such channel (any more).")
        await tab.page.get_by_role("link", name="All channels").click()
        await tab.heading("Channels")
    await tab.open("#/agents/%E0%A4")
    await tab.reload()
    await tab.sees("There is no such agent (any more).")


async def test_an_agent_that_is_made_while_the_list_comes_stays_in_it(
    tab: Tab, organisation: Organisation
) -> None:
    """What is not in the snapshot, as it was made since that was taken, is not taken for deleted."""
    held: list[tuple[WebSocketRoute, str | bytes]] = []

    def through(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def to_page(text: str | bytes) -> None:
            if json.loads(text)["type"] == "agents_snapshot_complete":
                held.append((socket, text))
            else:
                socket.send(text)

        server.on_message(to_page)

    await tab.page.route_web_socket("**/ws/dashboard", through)
    await organisation.create_agent("first")
    await tab.enter(organisation.owner)
    await tab.open("#/agents", "Agents")
    rows = tab.page.locator("tbody tr")
    await expect(rows).to_have_count(1)
    await organisation.create_agent("second")
    await expect(rows).to_have_count(2)

    async def is_held() -> bool:
        return bool(held)

    await until(is_held)
    socket, text = held.pop()
    socket.send(text)
    # Two agents that are known to be all there are.
    await tab.open("#/overview", "Overview")
    await expect(tab.page.get_by_label("Agents online", exact=True)).to_contain_text("0 of 2")


async def test_what_failed_while_nobody_looked_is_asked_for_again(
    tab: Tab, organisation: Organisation
) -> None:
    """A page that is looked at again does not stay with a failure of the time when it was hidden."""
    page = tab.page
    tab.expected.append("status of 503")
    await tab.enter(organisation.owner)
    await page.evaluate("Object.defineProperty(document, 'hidden', {get: () => !window.looked})")

    async def fail(route: Route) -> None:
        await route.fulfill(status=503, body=json.dumps({"detail": "Just a moment."}))

    await page.route("**/api/v1/channels?*", fail)
    await tab.open("#/channels", "Channels")
    await tab.sees("Just a moment.")
    await page.unroute("**/api/v1/channels?*")
    await page.evaluate("window.looked = true; document.dispatchEvent(new Event('visibilitychange'))")
    await tab.sees("There are no channels yet.")


async def test_an_answer_that_is_cut_off_is_told_and_asked_for_again(
    tab: Tab, organisation: Organisation
) -> None:
    """Half an answer is not taken for an empty one, and the list comes with the next."""
    await organisation.call("POST", "/channels", json={"name": "Both", "channel_id": "both"})
    await tab.enter(organisation.owner)

    async def cut(route: Route) -> None:
        await route.fulfill(status=200, content_type="application/json", body='{"channels": [')

    await tab.page.route("**/api/v1/channels?*", cut)
    await tab.open("#/channels", "Channels")
    await tab.sees("The answer was cut off.")
    await tab.page.unroute("**/api/v1/channels?*")
    await tab.sees("both")


# Asks for a list whose answer never comes to its end, is left after its beginning, and tells what it got.
LEFT = """async () => {
    const { get } = await import("/dashboard/api.js");
    const leaving = new AbortController();
    window.fetch = async (url, { signal }) => {
        const body = new ReadableStream({
            start(stream) {
                stream.enqueue(new TextEncoder().encode('{"channels": ['));
                signal.addEventListener("abort", () => stream.error(signal.reason));
                setTimeout(() => leaving.abort());
            },
        });
        return new Response(body, { status: 200 });
    };
    try {
        return await get("/channels", { signal: leaving.signal });
    } catch (error) {
        return error.name;
    }
}"""


async def test_a_page_that_is_left_while_an_answer_comes_reports_no_fault(
    tab: Tab, organisation: Organisation
) -> None:
    """What nobody waits for any more ends as such, and is no answer."""
    await tab.enter(organisation.owner)
    assert await tab.page.evaluate(LEFT) == "AbortError"
