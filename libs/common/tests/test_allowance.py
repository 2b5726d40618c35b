"""What a process knows of tenants' months, and what it lets through."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from artcafe_common import allowance as allowance_module
from artcafe_common.allowance import TENANTS_PER_QUESTION, Allowance, Allowances
from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import GetMonths, Months
from artcafe_common.errors import ErrorCode, ServiceError

from .support import FrozenClock

MARCH_ENDS = datetime(2026, 4, 1, tzinfo=UTC).timestamp()


class Metering:
    """Metering behind a bus: what it has counted, by month and tenant."""

    is_connected = True

    def __init__(self) -> None:
        self.counted: dict[tuple[str, str], int] = {}
        self.asked: list[list[str]] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def request(self, subject: str, payload: bytes, timeout: float, headers: Any) -> Any:
        """Answer what was true when it was asked."""
        request = msgspec.json.decode(payload, type=GetMonths)
        self.asked.append(request.tenant_ids)
        if self.failure is not None:
            raise self.failure
        counted = {name: self.counted.get((request.month, name), 0) for name in request.tenant_ids}
        await self.gate.wait()
        return SimpleNamespace(
            data=msgspec.json.encode(Months(month=request.month, messages=counted)), headers=None
        )


@pytest.fixture
def metering() -> Metering:
    """Give a metering that has counted nothing."""
    return Metering()


@pytest.fixture
def clock() -> FrozenClock:
    """Give a clock at the end of March 2026, ten minutes before April."""
    return FrozenClock(MARCH_ENDS - 600)


@pytest.fixture
def months(metering: Metering, clock: FrozenClock) -> Allowances:
    """Give the allowances of a process."""
    return Allowances(cast(Bus, metering), clock)


def limited(months: Allowances, limit: int | None = 10, tenant_id: str = "t") -> Allowance:
    """Return a tenant's allowance."""
    allowance = months.of(tenant_id)
    allowance.update("free", limit)
    return allowance


def accept(allowance: Allowance, number: int) -> int:
    """Try to publish some messages; return how many are accepted."""
    accepted = 0
    for _ in range(number):
        try:
            allowance.check()
        except ServiceError:
            continue
        allowance.used += 1
        accepted += 1
    return accepted


async def test_a_used_up_month_refuses_with_the_numbers(months: Allowances, metering: Metering) -> None:
    """What metering has counted stands against the plan's limit, and the refusal says both."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 10
    await months.refresh()
    with pytest.raises(ServiceError) as caught:
        allowance.check()
    error = caught.value
    assert (error.code, error.http_status, error.close_code) == (ErrorCode.RESOURCE_EXHAUSTED, 402, 4504)
    assert error.detail == "the plan free allows 10 messages per month"
    assert error.quota is not None
    assert msgspec.structs.astuple(error.quota) == ("messages_per_month", 10, 10, "free")


async def test_one_process_accepts_exactly_the_limit(months: Allowances, metering: Metering) -> None:
    """However late metering hears of them, not one message too many or too few is accepted."""
    allowance = limited(months, 100)
    metering.counted["2026-03", "t"] = 40
    await months.refresh()
    accepted = 0
    for behind in (0, 25, 5, 30, 0):
        accepted += accept(allowance, 20)
        metering.counted["2026-03", "t"] = 40 + max(0, accepted - behind)
        await months.refresh()
    assert accepted == 60


async def test_what_others_accept_is_known_after_the_next_question(
    metering: Metering, clock: FrozenClock
) -> None:
    """Two processes share a month: after each has asked, neither accepts more."""
    first, second = (Allowances(cast(Bus, metering), clock) for _ in range(2))
    here, there = limited(first, 10), limited(second, 10)
    await first.refresh()
    await second.refresh()
    assert accept(here, 6) + accept(there, 5) == 11
    metering.counted["2026-03", "t"] = 11
    await first.refresh()
    await second.refresh()
    assert accept(here, 5) + accept(there, 5) == 0


async def test_while_metering_is_away_the_last_figure_holds(months: Allowances, metering: Metering) -> None:
    """Nobody is refused because a figure cannot be had, and what is accepted meanwhile counts."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 7
    await months.refresh()
    metering.failure = NoRespondersError()
    assert accept(allowance, 2) == 2
    await months.refresh()
    assert accept(allowance, 5) == 1
    unknown = limited(months, 10, "u")
    await months.refresh()
    assert accept(unknown, 20) == 10


async def test_a_new_month_begins_at_its_edge_without_a_restart(
    months: Allowances, metering: Metering, clock: FrozenClock
) -> None:
    """What was used up is full again in the first second of April, and not a second earlier."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 10
    await months.refresh()
    clock.time = MARCH_ENDS - 1
    assert accept(allowance, 1) == 0
    clock.time = MARCH_ENDS
    assert accept(allowance, 11) == 10
    await months.refresh()
    assert (allowance.month, allowance.used) == ("2026-04", 10)


async def test_an_answer_about_the_last_month_says_nothing_of_this_one(
    months: Allowances, metering: Metering, clock: FrozenClock
) -> None:
    """A question that was under way while the month ended does not use up the new one."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 10
    metering.gate.clear()
    asking = asyncio.create_task(months.refresh())
    await asyncio.sleep(0)
    clock.time = MARCH_ENDS
    metering.gate.set()
    await asking
    assert accept(allowance, 10) == 10


async def test_a_clock_that_was_ahead_of_the_month_gives_no_second_one(
    months: Allowances, metering: Metering, clock: FrozenClock
) -> None:
    """Once the machine's clock is right again, what is used up of the month that it is is used up."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 10
    await months.refresh()
    clock.time = MARCH_ENDS + 60
    await months.refresh()
    assert accept(allowance, 1) == 1
    clock.time = MARCH_ENDS - 500
    await months.refresh()
    assert (allowance.month, accept(allowance, 1)) == ("2026-03", 0)


@pytest.mark.parametrize("moment", ["2028-02-29", "2026-12-31"])
def test_months_end_where_the_calendar_says(metering: Metering, moment: str) -> None:
    """A leap day belongs to February, and December is followed by January of the next year."""
    noon = datetime.fromisoformat(moment).replace(tzinfo=UTC, hour=12)
    clock = FrozenClock(noon.timestamp())
    months = Allowances(cast(Bus, metering), clock)
    assert months.month == moment[:7]
    clock.move(12 * 3600 - 1)
    months.turn()
    assert months.month == moment[:7]
    clock.move(1)
    months.turn()
    assert months.month == {"2028-02-29": "2028-03", "2026-12-31": "2027-01"}[moment]


async def test_another_plan_holds_at_once(months: Allowances, metering: Metering) -> None:
    """More room is there with the next message, less is too, and without a limit nothing is asked."""
    allowance = limited(months)
    metering.counted["2026-03", "t"] = 10
    await months.refresh()
    assert accept(allowance, 1) == 0
    allowance.update("basic", 12)
    assert accept(allowance, 5) == 2
    allowance.update("enterprise", None)
    assert accept(allowance, 5) == 5
    metering.asked.clear()
    await months.refresh()
    assert metering.asked == []
    allowance.update("free", 10)
    assert accept(allowance, 1) == 0


async def test_each_threshold_is_told_once_a_month(
    months: Allowances, metering: Metering, clock: FrozenClock
) -> None:
    """80 and 100 percent are told once, also where one step passes both, and again in the next month."""
    told: list[tuple[str, int]] = []
    months.on_level(lambda allowance, percent: told.append((allowance.month, percent)))
    allowance = limited(months)
    for _ in range(10):
        accept(allowance, 1)
        for _ in range(3):
            await months.refresh()
    assert told == [("2026-03", 80), ("2026-03", 100)]
    clock.time = MARCH_ENDS
    await months.refresh()
    metering.counted["2026-04", "t"] = 10
    accept(allowance, 1)
    await months.refresh()
    assert told[2:] == [("2026-04", 0), ("2026-04", 80), ("2026-04", 100)]


async def test_thresholds_are_those_of_the_plan(months: Allowances) -> None:
    """A larger plan makes room again, which is told, and then its own thresholds are."""
    told: list[int] = []
    months.on_level(lambda _, percent: told.append(percent))
    allowance = limited(months)
    accept(allowance, 10)
    await months.refresh()
    allowance.update("basic", 12)
    await months.refresh()
    accept(allowance, 2)
    await months.refresh()
    allowance.update("pro", None)
    await months.refresh()
    assert told == [80, 100, 80, 100, 0]


async def test_only_where_something_happens_metering_is_asked(months: Allowances, metering: Metering) -> None:
    """A tenant that publishes nothing here and that nobody watches costs nothing, however many there are."""
    tenants = [limited(months, 10, f"t{number}") for number in range(TENANTS_PER_QUESTION + 1)]
    await months.refresh()
    assert [len(asked) for asked in metering.asked] == [TENANTS_PER_QUESTION, 1]
    metering.asked.clear()
    await months.refresh()
    assert metering.asked == []
    accept(tenants[1], 1)
    tenants[2].watchers += 1
    metering.counted["2026-03", "t2"] = 8
    await months.refresh()
    assert metering.asked == [["t1", "t2"]]
    assert tenants[2].level == 80


async def test_the_first_user_of_a_tenant_waits_for_what_is_known(
    months: Allowances, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a start a used-up month is known before the first message; later nobody waits."""
    metering.counted["2026-03", "t"] = 10
    allowance = limited(months)
    running = asyncio.create_task(months.run())
    with monkeypatch.context() as patient:
        patient.setattr(allowance_module, "FIRST_SECONDS", 30.0)
        await asyncio.gather(*(months.know(allowance) for _ in range(100)))
    assert accept(allowance, 1) == 0
    assert metering.asked == [["t"]]
    metering.failure = NatsTimeoutError()
    await months.know(allowance)
    unknown = limited(months, 10, "u")
    await months.know(unknown)
    assert accept(unknown, 1) == 1
    running.cancel()
    await asyncio.wait([running])


async def test_ever_new_tenants_do_not_keep_the_others_from_their_turn(
    months: Allowances, metering: Metering
) -> None:
    """While new ones are asked for all the time, what others accept is still heard of."""
    allowance = limited(months)
    await months.refresh()
    metering.counted["2026-03", "t"] = 10
    allowance.used += 1
    running = asyncio.create_task(months.run())
    others: list[Allowance] = []
    async with asyncio.timeout(20):
        while allowance.used < 10 or len(others) <= 20:
            others.append(limited(months, 10, f"t{len(others)}"))
            await months.know(others[-1])
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


def test_what_nobody_holds_is_forgotten(months: Allowances) -> None:
    """The same tenant is one allowance for all who hold it, and none once nobody does."""
    first = limited(months)
    first.used = 5
    assert months.of("t") is first
    del first
    gc.collect()
    assert months.of("t").used == 0
