"""What one agent's commands do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_fakes import House, settle

from artcafe_common.contracts.registry import Changed, Grant, Limits
from artcafe_gateway.agent_session import PATTERNS_MAX, WILDCARDS_MAX
from artcafe_gateway.session import MISSES_BURST, MISSES_PER_SECOND


def published(house: House, channel: str) -> list[Any]:
    """Return the data of what was published on a channel."""
    subject = f"tenant.t.channel.{channel}"
    return [json.loads(payload)["data"] for name, payload in house.bus.published if name == subject]


def send(session: Any, **frame: Any) -> None:
    """Let the agent send one frame."""
    session.on_text(json.dumps(frame).encode())


async def test_a_message_published_just_before_leaving_is_published(house: House) -> None:
    """A program may publish to a channel for the first time and end at once."""
    session, _ = house.open()
    house.registry_gate.clear()
    send(session, type="publish", channel="c", data=1)
    send(session, type="publish", channel="c", data=2, id=1)
    session.connection.acknowledge_close(1000)
    session.connection.lost()
    await settle()
    house.registry_gate.set()
    await settle()
    assert published(house, "c") == [1, 2]


async def test_a_revoked_agent_publishes_nothing_more(house: House) -> None:
    """What waits for registry when its session is revoked is not published."""
    session, _ = house.open()
    house.registry_gate.clear()
    send(session, type="publish", channel="c", data=1)
    send(session, type="publish", channel="c", data=2)
    await settle()
    session.end(4501, "key revoked")
    house.registry_gate.set()
    send(session, type="publish", channel="c", data=3)
    await settle()
    assert published(house, "c") == []


async def test_who_names_channels_that_there_are_not_is_held_back(house: House) -> None:
    """Each is a question to registry, which is there for all tenants; known channels cost nothing."""
    session, transport = house.open()
    send(session, type="subscribe", channel="known", id="known")
    await settle()
    house.missing = True

    async def answer_to(channel: str, id: int) -> str:
        send(session, type="publish", channel=channel, data=1, id=id)
        await settle()
        answer = transport.events[-1]
        assert answer["id"] == id
        return str(answer.get("code", answer["type"]))

    codes = [await answer_to(f"no-{number}", number) for number in range(int(MISSES_BURST) + 20)]
    assert codes == ["not_found"] * int(MISSES_BURST) + ["resource_exhausted"] * 20
    questions = len(house.bus.asked)
    assert await answer_to("known", 1000) == "published"
    house.clock.move(1 / MISSES_PER_SECOND)
    assert await answer_to("another", 1001) == "not_found"
    assert await answer_to("one more", 1002) == "invalid_argument"
    assert await answer_to("one-more", 1003) == "resource_exhausted"
    assert len(house.bus.asked) == questions + 1
    other, transport = house.open("bob")
    session = other
    assert await answer_to("no-1", 1) == "not_found"


async def test_names_in_a_command_cost_as_well(house: House) -> None:
    """A frame may hold a hundred: who subscribes to them and leaves them over and over is closed."""
    session, transport = house.open()
    names = [f"agents.presence.p{number}" for number in range(100)]
    for _ in range(9):
        # As an agent that comes back with all that it may have.
        send(session, type="subscribe", channels=names)
        await settle(400)
        names = [f"{name}x" for name in names]
    assert transport.close_codes == [] and len(session.patterns) == 900
    for _ in range(20):
        send(session, type="subscribe", channels=list(session.patterns)[:100])
        await settle(400)
    assert transport.close_codes == [4004]


async def test_at_a_restart_only_what_no_answer_is_expected_for_is_taken(house: House) -> None:
    """The client repeats what was not acknowledged, so that must not have happened."""
    session, _ = house.open()
    send(session, type="publish", channel="c", data=0)
    await settle()
    session.connection.close(1012, "restart", end="restart")
    send(session, type="publish", channel="c", data=1)
    send(session, type="publish", channel="c", data=2, id="x")
    send(session, type="publish", channel="new", data=3)
    send(session, type="subscribe", channel="c")
    await settle()
    assert published(house, "c") == [0, 1]
    assert published(house, "new") == [3]
    assert session.patterns == {}


async def test_a_change_of_a_channel_ends_a_publishers_right_at_once(house: House) -> None:
    """A publisher that has used a channel is checked again as soon as the channel has changed."""
    session, transport = house.open()
    send(session, type="publish", channel="c", data=1)
    await settle()
    house.access = "members"
    house.directory.forget(Changed(tenant_id="t", kind="channel", id="c", action="updated"))
    send(session, type="publish", channel="c", data=2)
    await settle()
    assert published(house, "c") == [1]
    assert transport.events[-1]["code"] == "permission_denied"


async def test_an_answer_older_than_a_change_lets_nobody_publish_for_good(house: House) -> None:
    """The channel was changed while it was asked for: the next message is checked anew."""
    session, transport = house.open()
    house.registry_gate.clear()
    send(session, type="publish", channel="c", data=1)
    await settle()
    house.access = "members"
    house.directory.forget(Changed(tenant_id="t", kind="channel", id="c", action="updated"))
    house.registry_gate.set()
    await settle()
    send(session, type="publish", channel="c", data=2)
    await settle()
    assert published(house, "c") == [1]
    assert transport.events[-1]["code"] == "permission_denied"


async def test_other_rows_count_from_the_next_message(house: House) -> None:
    """A right that a row takes away is gone although the channel was used before."""
    session, transport = house.open()
    send(session, type="publish", channel="c", data=1)
    await settle()
    session.take_grants({"c": Grant(channel_id="c", role="subscriber")})
    send(session, type="publish", channel="c", data=2)
    await settle()
    assert published(house, "c") == [1]
    assert transport.events[-1]["code"] == "permission_denied"


@pytest.mark.parametrize(
    "frame",
    [
        {"channel": "*"},
        {"channel": "tenant.other.channel.c"},
        {},
        {"channel": "agents.presence.online"},
        {"channel": "agents.presence.nonsense"},
    ],
)
async def test_publishes_that_cost_more_than_a_message_are_limited(
    house: House, frame: dict[str, str]
) -> None:
    """Refusals and announcements have the rate of commands, whatever the plan allows for messages."""
    session, transport = house.open()
    for _ in range(1001):
        send(session, type="publish", data=1, **frame)
        await settle(3)
    assert transport.close_codes == [4004]


async def test_ever_new_channels_are_limited(house: House) -> None:
    """Each unknown name is a question to registry, so these have the rate of commands."""
    session, transport = house.open()
    for number in range(1001):
        send(session, type="publish", channel=f"c{number}", data=1)
        await settle(5)
    assert transport.close_codes == [4004]


async def test_messages_on_known_channels_are_not_limited_by_commands(house: House) -> None:
    """A plan without a rate lets an agent publish as fast as it can, by either name of the channel."""
    session, transport = house.open()
    for number in range(3000):
        name = "tenant.t.channel.c" if number % 2 else "c"
        send(session, type="publish", channel=name, data=number)
        if number < 4:
            await settle()
    assert len(published(house, "c")) == 3000
    assert transport.close_codes == []


async def test_who_does_not_heed_the_rate_of_messages_is_closed_in_the_end(house: House) -> None:
    """Refusals are answered for a while, then the connection ends with 4004."""
    session, transport = house.session(limits=Limits(messages_per_second=1))
    for _ in range(1200):
        send(session, type="publish", channel="c", data=1)
        await settle(3)
    assert transport.close_codes == [4004]
    assert len(published(house, "c")) == 2


async def test_a_used_up_month_refuses_with_the_numbers(house: House) -> None:
    """A publish over the month is refused with the quota, costs none of the rate, and counts nothing."""
    session, transport = house.session(limits=Limits(messages_per_month=2, messages_per_second=2))
    for number in range(4):
        send(session, type="publish", channel="c", data=number, id=number)
        await settle()
    quota = {"resource": "messages_per_month", "current": 2, "limit": 2, "plan": "pro"}
    assert [e["type"] for e in transport.events] == ["published", "published", "error", "error"]
    assert transport.events[-1].items() >= ({"code": "resource_exhausted", "id": 3} | quota).items()
    assert published(house, "c") == [0, 1]
    session.tenant.month.used = 0
    send(session, type="publish", channel="c", data=4)
    assert published(house, "c") == [0, 1, 4]


async def test_what_the_bus_does_not_take_is_not_of_the_month(house: House) -> None:
    """A publish that fails while NATS is away uses nothing up."""
    session, _ = house.session(limits=Limits(messages_per_month=2))
    send(session, type="publish", channel="c", data=0)
    await settle()
    house.bus.is_connected = False
    send(session, type="publish", channel="c", data=1)
    house.bus.is_connected = True
    assert session.tenant.month.used == 1


async def test_who_does_not_heed_the_quota_is_closed_with_4504(house: House) -> None:
    """Refusals are answered for a while, then the connection ends: coming back unchanged does not help."""
    session, transport = house.session(limits=Limits(messages_per_month=1))
    for _ in range(1100):
        send(session, type="publish", channel="c", data=1)
        await settle(3)
    assert transport.close_codes == [4504]
    assert len(published(house, "c")) == 1


async def test_subscriptions_are_bounded(house: House) -> None:
    """An agent can hold a thousand channels, of these a hundred with wildcards, and not one more."""
    session, transport = house.open()
    for first in range(0, WILDCARDS_MAX, 100):
        send(session, type="subscribe", channels=[f"w{n}.>" for n in range(first, first + 100)])
    await settle(1000)
    send(session, type="subscribe", channel="more.>", id=1)
    send(session, type="subscribe", channel="w1.>", id=2)
    await settle()
    assert [(e["type"], e["id"]) for e in transport.events[-2:]] == [("error", 1), ("subscribed", 2)]
    for first in range(WILDCARDS_MAX, PATTERNS_MAX, 100):
        send(session, type="subscribe", channels=[f"c{n}" for n in range(first, first + 100)])
    await settle(8000)
    send(session, type="subscribe", channel="one.more", id=3)
    await settle()
    assert (transport.events[-1]["code"], transport.events[-1]["id"]) == ("resource_exhausted", 3)
    assert len(session.patterns) == PATTERNS_MAX


async def test_nothing_is_left_of_an_agent_that_went_while_it_subscribed(house: House) -> None:
    """Whatever the moment, no subscription stays behind."""
    for turns in range(12):
        session, _ = house.open()
        send(session, type="subscribe", channels=["a", "b.*", "c"])
        await settle(turns)
        session.connection.lost()
        await settle()
    await house.background.wait()
    await house.fanout.close()
    assert house.bus.subjects == []
    assert house.fanout.subject_count == 0


async def test_only_the_channel_that_changed_is_checked(house: House) -> None:
    """A change of one channel costs one question, however many subscriptions a session has."""
    session, _ = house.open()
    send(session, type="subscribe", channels=["a", "b", "c"])
    await settle()
    asked = len(house.bus.asked)
    house.directory.forget_all()
    await session.check_subscriptions("b")
    assert len(house.bus.asked) == asked + 1
    await session.check_subscriptions("not subscribed")
    assert len(house.bus.asked) == asked + 1
