"""The topic preview: what of an organisation's traffic is shown, and what is told of the rest."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
from playwright.async_api import Dialog, WebSocketRoute, expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Account, Organisation, Tab, until


async def test_the_preview_filters_and_shows_the_path(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """The preview shows what its patterns match with the way it took."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/preview", "Preview")
    await page.get_by_label("Patterns").fill("jobs.* audit.>")
    await page.get_by_role("button", name="Watch").click()
    await tab.sees("Watching jobs.*, audit.>")
    rows = page.locator(".messages > li")
    async with organisation.connect("painter", key, stack.base_url) as painter:
        await painter.publish("other", {"n": 0})
        await painter.publish("jobs.paint", {"n": 1})
        await expect(rows).to_have_count(1)
        await rows.locator("summary").click()
        steps = page.get_by_label("Path of the message").locator("li")
        subject = f"tenant.{organisation.tenant_id}.channel.jobs.paint"
        await expect(steps).to_contain_text(["painter", "gateway-1", subject, "gateway-1", "ms later"])
    await page.get_by_label("Patterns").fill("not a/pattern!")
    await page.get_by_role("button", name="Watch").click()
    # Of several the one that is wrong is named, and what was watched goes on.
    await tab.sees("Patterns: “a/pattern!” is none.")
    await tab.sees("Watching jobs.*, audit.>")
    await page.get_by_label("Patterns").fill(">")
    await page.get_by_text("Only some of them").click()
    await page.get_by_label("From").fill("painter no/body")
    await page.get_by_role("button", name="Watch").click()
    await tab.sees("From: “no/body” is neither")
    await tab.open("#/preview?patterns=team.>.x", "Preview")
    await tab.sees("Patterns: “team.>.x” is none.")


async def test_a_stream_says_from_where_on_something_else_is_watched(
    tab: Tab, organisation: Organisation
) -> None:
    """What was shown of other patterns stays, below a line that says what is watched since."""
    page = tab.page
    for channel_id in ("jobs", "other"):
        await organisation.call("POST", "/channels", json={"name": channel_id, "channel_id": channel_id})
    await tab.enter(organisation.owner)
    await tab.open("#/preview", "Preview")
    await tab.sees("Waiting for messages.")
    rows = page.locator(".messages > li")
    await organisation.call("POST", "/channels/other/messages", json={"data": {"n": 1}})
    await expect(rows).to_have_count(1)
    await page.get_by_label("Patterns").fill("jobs")
    await page.get_by_role("button", name="Watch").click()
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("From here on jobs, at most 20 messages a second")
    await organisation.call("POST", "/channels/jobs/messages", json={"data": {"n": 2}})
    await expect(rows.locator(".channel")).to_have_text(["jobs", "other"])


async def test_conditions_samples_and_cuts_are_the_servers(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """Of an address with conditions only what they mean is shown; long data is cut and says so."""
    page = tab.page
    keys = {name: await organisation.create_agent(name) for name in ("painter", "critic")}
    await tab.enter(organisation.owner)
    await tab.open("#/preview?sender=critic&min=1000&cut=1000", "Preview")
    await tab.sees(
        "Watching > from critic with at least 1.0 KB, at most 20 messages a second, 1.0 KB of each."
    )
    rows = page.locator(".messages > li")
    async with (
        organisation.connect("painter", keys["painter"], stack.base_url) as painter,
        organisation.connect("critic", keys["critic"], stack.base_url) as critic,
    ):
        await painter.publish("jobs", {"text": "p" * 2000})
        await critic.publish("jobs", {"text": "short"})
        await critic.publish("jobs", {"text": "c" * 2000})
        await expect(rows).to_have_count(1)
        await expect(rows.locator(".tag")).to_have_text("cut")
        await rows.locator("summary").click()
        await expect(rows).to_contain_text("Only the beginning of the data is shown here.")
        assert len(await rows.locator("pre").inner_text()) == 1000

        await page.get_by_label("From").fill("")
        await page.get_by_label("Bytes, at least").fill("")
        await page.get_by_label("Sample").select_option("10")
        await page.get_by_role("button", name="Watch").click()
        await tab.sees("one in 10")
        assert "sample=10" in page.url
        await page.get_by_role("button", name="Clear").click()
        for number in range(20):
            await painter.publish("jobs", {"n": number})
        await expect(rows).to_have_count(2)
        await tab.sees("18 between the samples")


async def test_a_flood_is_thinned_out_counted_and_bears_being_looked_at(
    tab: Tab, organisation: Organisation, stack: DevStack, admin: Account
) -> None:
    """Of thousands a few are shown, the rest is counted, the list stays bounded and the page answers."""
    page = tab.page
    unlimited = {"limits": {"messages_per_second": None}}
    await admin.call("PUT", f"/tenants/{organisation.tenant_id}", organisation.tenant_id, json=unlimited)
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/preview?patterns=jobs", "Preview")
    await page.get_by_label("Show at most").select_option("50")
    await page.get_by_role("button", name="Watch").click()
    await tab.sees("at most 50 messages a second")
    stop = asyncio.Event()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        async with organisation.connect("painter", key, stack.base_url) as painter:
            while not stop.is_set():
                await asyncio.gather(*(painter.publish("jobs", {"n": n}, wait=False) for n in range(40)))
                sent += 40
                await asyncio.sleep(0.05)

    flooding = asyncio.create_task(flood())
    try:
        await tab.sees("over the rate")
        await expect(page.locator(".messages > li").nth(299)).to_be_attached(timeout=40_000)
        await page.get_by_role("button", name="Pause").click()
        await tab.sees("paused,")
        await page.get_by_label("Filter the messages").fill("nothing like this")
        await expect(page.locator(".messages > li").locator("visible=true")).to_have_count(0)
        await tab.sees("Nothing that is shown matches the filter.")
        assert await page.locator(".messages > li").count() == 300
    finally:
        stop.set()
        await flooding
    counters = page.locator(".counters dd")

    async def told() -> int:
        shown, left_out = [int(text.replace(",", "")) for text in await counters.all_inner_texts()]
        return shown + left_out

    async def all_told() -> bool:
        return await told() == sent

    await until(all_told)


async def test_the_overview_counts_messages_and_is_shown_none(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """Its rate needs no message, and agents that come and go are none: the figure moves for what they say."""
    page = tab.page
    frames = tab.frames()
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    figures = await tab.texts_of(page.get_by_label("Messages now", exact=True).locator(".big"))

    def left_out() -> list[dict[str, Any]]:
        return [frame for frame in frames if frame["type"] == "topic_preview_dropped"]

    async def counted() -> bool:
        return sum(int(frame["count"]) - int(frame.get("presence", 0)) for frame in left_out()) == 30

    async def ticked() -> bool:
        return len(await figures()) > ticks + 3

    async def moved() -> bool:
        return set(await figures()) != {"0 per second"}

    async def told_of_presence() -> bool:
        return any(frame.get("presence") for frame in left_out())

    async with organisation.connect("painter", key, stack.base_url) as painter:
        await until(told_of_presence)
        ticks = len(await figures())
        await until(ticked)
        assert set(await figures()) == {"0 per second"}
        for number in range(30):
            await painter.publish("jobs", {"n": number})
        await until(counted)
        await until(moved)
    assert {frame["reason"] for frame in left_out()} == {"counts_only"}
    assert not [frame for frame in frames if frame["type"].startswith("topic_preview_message")]


async def test_what_was_left_out_on_another_page_is_not_counted(tab: Tab, organisation: Organisation) -> None:
    """What is told when a page is left, or confirmed too late for it, is not of the next one's preview."""
    told = 0
    late: list[str | bytes] = []

    def through(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def to_server(text: str | bytes) -> None:
            nonlocal told
            if json.loads(text)["type"] == "unsubscribe_topic_preview":
                told += 1
                while late:
                    socket.send(late.pop())
                dropped = {"type": "topic_preview_dropped", "reason": "counts_only", "window_ms": 900}
                socket.send(json.dumps({**dropped, "count": 5000}))
            server.send(text)

        def to_page(text: str | bytes) -> None:
            if json.loads(text).get("counts_only") and not told:
                late.append(text)
            else:
                socket.send(text)

        socket.on_message(to_server)
        server.on_message(to_page)

    await tab.page.route_web_socket("**/ws/dashboard", through)
    await tab.enter(organisation.owner)
    counters = tab.page.locator(".counters dd")
    rate = tab.page.locator(".rate .big")
    line = tab.page.locator(".live-line .line")
    for path, heading in (("preview", "Preview"), ("overview", "Overview")):
        await expect(line).to_have_attribute("d", re.compile("L"))
        await tab.open(f"#/{path}", heading)
        rates = await tab.texts_of(rate)
        if path == "preview":
            await tab.sees("Watching >")
        await expect(line).to_have_attribute("d", re.compile("L.*L"))
        assert set(await rates()) == {"0 per second"}
        if path == "preview":
            assert await counters.all_inner_texts() == ["0", "0"]
    assert told == 2


async def test_the_breakers_states_are_told(tab: Tab, organisation: Organisation) -> None:
    """Each state is said beside the figures, in the stream and on the overview, and taken back."""
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    await tab.page.route_web_socket("**/ws/dashboard", through)
    await tab.enter(organisation.owner)
    await tab.open("#/preview", "Preview")
    await tab.sees("Breaker closed: this browser keeps up.")

    def change(state: str, previous: str, reason: str = "slow_dashboard") -> None:
        event = {"type": "topic_preview_state", "state": state, "previous": previous, "reason": reason}
        sockets[-1].send(json.dumps({**event, "timestamp": "2026-01-01T00:00:00.000Z"}))

    breaker = tab.page.locator(".breaker")
    for state, previous, words in (
        ("sampled", "closed", "one message in ten is shown"),
        ("open", "sampled", "nothing is shown until it has caught up"),
        ("half_open", "open", "to see whether this browser keeps up again"),
    ):
        change(state, previous)
        await expect(breaker).to_contain_text(words)
        await expect(tab.page.locator(".messages .gap").first).to_contain_text(words)
    change("open", "half_open", "overload")
    await expect(breaker).to_contain_text("agents come first")
    change("closed", "open")
    await expect(breaker).to_contain_text("Breaker closed: this browser keeps up.")
    await tab.open("#/overview", "Overview")
    change("open", "closed")
    await expect(tab.page.locator(".alerts")).to_contain_text("does not keep up with the preview")
    change("closed", "open")
    await expect(tab.page.locator(".alerts")).to_contain_text("Nothing needs attention.")


async def test_a_browser_that_stands_still_opens_the_breaker_and_gets_its_preview_back(
    tab: Tab, organisation: Organisation, stack: DevStack, admin: Account
) -> None:
    """A flood at a page that reads nothing: thinned out, stopped, tried and shown again; all is counted."""
    page = tab.page
    frames = tab.frames()
    unlimited = {"limits": {"messages_per_second": None, "messages_per_month": None}}
    await admin.call("PUT", f"/tenants/{organisation.tenant_id}", organisation.tenant_id, json=unlimited)
    key = await organisation.create_agent("painter")
    await tab.enter(organisation.owner)
    await tab.open("#/preview?patterns=jobs&rate=500&cut=60000", "Preview")
    await tab.sees("Breaker closed: this browser keeps up.")
    metrics = f"{stack.urls['gateway-1']['http']}/metrics"
    stop, held = asyncio.Event(), asyncio.Queue[Dialog]()
    sent = 0

    def states() -> list[str]:
        return [str(frame["state"]) for frame in frames if frame["type"] == "topic_preview_state"]

    async def times_opened() -> float:
        async with httpx.AsyncClient(timeout=30) as http:
            told = (await http.get(metrics)).text
        return sum(float(each) for each in re.findall(r'preview_states_total\{state="open"\} (\S+)', told))

    async def opened() -> bool:
        return await times_opened() > before

    async def closed_again() -> bool:
        return "half_open closed" in " ".join(states())

    async def flood() -> None:
        nonlocal sent
        async with organisation.connect("painter", key, stack.base_url) as painter:
            while not stop.is_set():
                await painter.publish("jobs", {"n": sent, "x": "x" * 50_000})
                sent += 1
                await asyncio.sleep(0.005)

    # While it is asked, a page does nothing else, nor reads its socket.
    before = await times_opened()
    page.on("dialog", held.put_nowait)
    await page.evaluate("void setTimeout(() => alert('held'))")
    question = await held.get()
    flooding = asyncio.create_task(flood())
    try:
        await until(opened, 120)
        await question.accept()
        await until(closed_again, 120)
    finally:
        stop.set()
        await flooding
    # A probe may have come too early, and a flood that goes on for a moment may be too much again.
    told = " ".join(states())
    assert re.match(r"(sampled closed )*sampled open half_open( open half_open)* closed\b", told), told
    await expect(page.locator(".breaker")).to_contain_text("Breaker closed: this browser keeps up.")
    await expect(page.locator(".messages .gap", has_text="Breaker closed").first).to_be_attached()
    await tab.sees("this browser did not keep up")
    counters = page.locator(".counters dd")

    async def all_told() -> bool:
        return sum(int(text.replace(",", "")) for text in await counters.all_inner_texts()) == sent

    await until(all_told, 60)
