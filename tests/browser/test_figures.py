"""Figures: the line of a rate goes on, and what cannot be read or asked says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Locator, Route, expect

from artcafe_devstack.devstack import DevStack

from .browser_support import Organisation, Tab, until

# What is to be done each second is done after five.
SELDOM = """{
    const each = setInterval;
    window.setInterval = (act, ms, ...rest) => {
        if (ms !== 1000) return each(act, ms, ...rest);
        const again = () => { act(); setTimeout(again, 5000); };
        return setTimeout(again, 5000);
    };
}"""
# How many seconds of a line were counted: its points.
POINTS = """line => (line.getAttribute("d") ?? "").split(/[ML]/).filter(Boolean).length"""

# How far labels of a chart reach beyond it, in pixels.
BEYOND = """labels => labels.map(each =>
    each.getBoundingClientRect().right - each.closest("svg").getBoundingClientRect().right)"""


async def _counted(line: Locator, wanted: int) -> None:
    async def reached() -> bool:
        return bool(await line.evaluate(POINTS) >= wanted)

    await until(reached)


@pytest.mark.parametrize("path", ["overview", "channels/jobs", "preview"])
async def test_the_line_of_a_rate_goes_on_after_a_visit_elsewhere(
    tab: Tab, organisation: Organisation, path: str
) -> None:
    """Whoever comes back to a page sees what was counted there before."""
    headings = {"overview": "Overview", "channels/jobs": "Jobs", "preview": "Preview"}
    await organisation.call("POST", "/channels", json={"name": "Jobs", "channel_id": "jobs"})
    await tab.enter(organisation.owner)
    await tab.open(f"#/{path}", headings[path])
    line = tab.page.locator(".live-line .line")
    await _counted(line, 4)
    await tab.open("#/people", "People")
    await tab.open(f"#/{path}", headings[path])
    assert await line.evaluate(POINTS) >= 4


async def test_the_seconds_that_nobody_counted_are_a_gap(tab: Tab, organisation: Organisation) -> None:
    """The line is broken where the page was away, rather than drawn through."""
    await tab.enter(organisation.owner)
    line = tab.page.locator(".live-line .line")
    await _counted(line, 2)
    await tab.open("#/people", "People")
    await tab.page.wait_for_timeout(3_000)
    await tab.open("#/overview", "Overview")
    before = await line.evaluate(POINTS)
    await _counted(line, before + 2)
    assert (await line.get_attribute("d") or "").count("M") == 2


async def test_a_line_is_of_one_thing_in_one_organisation(tab: Tab, organisation: Organisation) -> None:
    """What was counted of other patterns, or in another organisation, is not shown as if it were of these."""
    page = tab.page
    await tab.enter(organisation.owner)
    line = page.locator(".live-line .line")
    await tab.open("#/preview", "Preview")
    await _counted(line, 5)
    await page.get_by_label("Patterns").fill("jobs")
    await page.get_by_role("button", name="Watch").click()
    await tab.sees("Watching jobs")
    assert await line.evaluate(POINTS) < 5
    await tab.open("#/overview", "Overview")
    await _counted(line, 5)
    await organisation.owner.call("POST", "/tenants", json={"name": "The other one"})
    await page.get_by_role("button", name="Browser test").click()
    await page.get_by_role("button", name="The other one").click()
    await tab.heading("Overview")
    assert await line.evaluate(POINTS) < 5


async def test_figures_that_cannot_be_read_say_why(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """Without metering the tiles and the page of usage say so, and no more once it is back."""
    tab.expected.append("Failed to load resource")
    with stack.without("metering"):
        await tab.enter(organisation.owner)
        for tile in ("Today", "This month"):
            await expect(tab.page.get_by_label(tile, exact=True)).to_contain_text("Cannot be read right now")
        await tab.open("#/usage", "Usage")
        await expect(tab.page.locator("main .problem:not(:empty)")).to_have_count(2)
    await tab.open("#/overview", "Overview")
    for tile in ("Today", "This month"):
        await expect(tab.page.get_by_label(tile, exact=True)).to_contain_text("0 messages", timeout=60_000)
        await expect(tab.page.get_by_label(tile, exact=True)).not_to_contain_text("Cannot be read")


async def test_a_range_that_is_backwards_is_told_in_the_words_of_the_page(
    tab: Tab, organisation: Organisation
) -> None:
    """The fields are called as they are on the page, and no chart of another range stays below."""
    page = tab.page
    tab.expected.append("status of 400")
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    chart = page.get_by_role("img", name="Messages by day")
    await expect(chart).to_be_visible()
    day = await page.get_by_label("From").input_value()
    await page.get_by_label("To").fill("2020-01-01")
    await tab.sees("“From” is after “To”")
    await expect(chart).to_have_count(0)
    await expect(page.get_by_role("button", name="Download CSV")).to_be_disabled()
    await page.get_by_label("To").fill(day)
    await expect(chart).to_be_visible()
    await expect(page.locator("main .problem:not(:empty)")).to_have_count(0)


async def test_hours_have_their_day_and_little_time_its_digits(tab: Tab, organisation: Organisation) -> None:
    """An axis has no value twice, what is little is not said to be nothing, and midnights are told apart."""
    page = tab.page

    async def two_minutes(route: Route) -> None:
        answer = await route.fetch()
        reply = await answer.json()
        for figures in (reply["totals"], reply["metrics"][-1]):
            figures["connection_seconds"] = 121.0
        await route.fulfill(response=answer, json=reply)

    await page.route("**/api/v1/usage/metrics?*", two_minutes)
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    await page.get_by_label("Show").select_option("connection_seconds")
    chart = page.get_by_role("img", name="Connected hours by day")
    await expect(chart.locator("text[text-anchor=end]")).to_have_text(["0", "0.02", "0.04"])
    rows = page.get_by_role("table", name="Usage by period").get_by_role("row")
    await expect(rows.last).to_contain_text("0.03")
    await page.get_by_label("Divide by").select_option("hour")
    labels = page.get_by_role("img", name="Connected hours by hour").locator("text[text-anchor=middle]")
    await labels.first.wait_for()
    texts = await labels.all_text_contents()
    days = {await page.get_by_label(end, exact=True).input_value() for end in ("From", "To")}
    assert len(texts) == len(set(texts)) and {text[:5] for text in texts} == {day[5:] for day in days}
    # On a telephone, too, none is cut.
    await page.set_viewport_size({"width": 390, "height": 800})

    async def redrawn() -> bool:
        return 0 < await labels.count() < len(texts)

    await until(redrawn)
    assert max(await labels.evaluate_all(BEYOND)) <= 0


async def test_months_are_whole(tab: Tab, organisation: Organisation) -> None:
    """Whoever divides by months sees no part of one as if it were all of it, and days again as before."""
    page = tab.page
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    begin = page.get_by_label("From")
    day = await begin.input_value()
    await page.get_by_label("Divide by").select_option("month")
    await expect(page.get_by_role("img", name="Messages by month, 12 bars")).to_be_visible()
    assert (await begin.input_value()).endswith("-01")
    await page.get_by_label("Divide by").select_option("day")
    await expect(begin).to_have_value(day)


async def test_an_empty_day_is_asked_for_and_nothing_else_is_shown(
    tab: Tab, organisation: Organisation
) -> None:
    """Who takes a date away is asked for one, rather than shown a range that is in no field."""
    page = tab.page
    await tab.enter(organisation.owner)
    await tab.open("#/usage", "Usage")
    chart = page.get_by_role("img", name="Messages by day")
    await expect(chart).to_be_visible()
    day = await page.get_by_label("From").input_value()
    await page.get_by_label("From").fill("")
    await tab.sees("Choose a day in “From” and in “To”.")
    await page.get_by_label("Divide by").select_option("hour")
    await expect(chart).to_have_count(0)
    await page.get_by_label("Divide by").select_option("day")
    await page.get_by_label("From").fill(day)
    await expect(chart).to_be_visible()


async def test_a_page_that_is_open_at_midnight_goes_on_with_the_new_day(
    tab: Tab, organisation: Organisation
) -> None:
    """What is called today's is today's, and the days that can be chosen end with it."""
    page = tab.page
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0)
    today, yesterday = (f"{day:%Y-%m-%d}" for day in (noon, noon - timedelta(days=1)))
    await page.clock.set_system_time(noon - timedelta(days=1))
    await tab.enter(organisation.owner)
    await expect(page.get_by_label("Today", exact=True)).to_contain_text("0 messages")
    assert any(f"start_date={yesterday}&end_date={yesterday}" in address for address in tab.addresses)
    await page.clock.set_system_time(noon)
    async with page.expect_request(lambda request: f"start_date={today}" in request.url):
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    await page.clock.set_system_time(noon - timedelta(days=1))
    await tab.open("#/people", "People")
    await tab.open("#/usage", "Usage")
    await expect(page.get_by_label("To", exact=True)).to_have_value(yesterday)
    await expect(page.get_by_role("img", name="Messages by day")).to_be_visible()
    await page.clock.set_system_time(noon)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.get_by_label("To", exact=True)).to_have_value(today)
    await expect(page.get_by_label("To", exact=True)).to_have_attribute("max", today)


async def test_the_rate_of_a_page_that_was_hidden_is_still_by_the_second(
    tab: Tab, organisation: Organisation, stack: DevStack
) -> None:
    """Where the browser lets the page count only now and then, what came is that of all seconds between."""
    page = tab.page
    key = await organisation.create_agent("painter")
    await page.add_init_script(SELDOM)
    await tab.enter(organisation.owner)
    figure = page.get_by_label("Messages now", exact=True).locator(".big")
    await expect(figure).to_have_text("0 per second")
    seen: list[float] = []
    async with organisation.connect("painter", key, stack.base_url) as painter:
        for number in range(40):
            await painter.publish("jobs", {"n": number})

        async def shown() -> bool:
            seen.append(float((await figure.inner_text()).split()[0]))
            return seen[-1] > 0

        await until(shown)
    # 40 in five seconds, or in two times five.
    assert seen[-1] <= 8
    line = page.locator(".live-line .line")
    await _counted(line, 5)
