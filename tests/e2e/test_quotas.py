"""The month's messages through the whole stack: counted by metering, known to every gateway and to REST."""

from __future__ import annotations

from typing import Any

LIMIT = 40


async def test_a_used_up_month_is_known_everywhere_and_a_larger_plan_at_once(
    new_tenant: Any, admin: Any, eventually: Any
) -> None:
    """What one gateway accepts uses up the month of the other and of REST; dashboards hear of it once."""
    tenant = await new_tenant(plan="free", limits={"messages_per_month": LIMIT})
    first, second = await tenant.create_agent(), await tenant.create_agent()
    a, b = await tenant.socket(first, "gateway-1"), await tenant.socket(second, "gateway-2")
    desk = await tenant.dashboard(gateway="gateway-2")
    for number in range(LIMIT + 2):
        await a.send(type="publish", channel="room", data=number, id=number)
    for number in range(LIMIT):
        await a.until("published", id=number)
    quota = {"resource": "messages_per_month", "limit": LIMIT, "plan": "free"}
    assert (await a.until("error", id=LIMIT + 1, code="resource_exhausted")).items() >= quota.items()
    await desk.until("quota", percent=80, **quota)
    told = await desk.until("quota", percent=100, **quota)
    assert told["current"] >= LIMIT
    accepted = LIMIT

    async def refused_elsewhere() -> bool:
        nonlocal accepted
        await b.send(type="publish", channel="room", data="b", id="b")
        answer = await b.receive()
        accepted += answer["type"] == "published"
        return bool(answer["type"] == "error" and answer["code"] == "resource_exhausted")

    await eventually(refused_elsewhere)

    async def refused_by_rest() -> dict[str, Any] | None:
        nonlocal accepted
        answer = await tenant.call("POST", "/channels/room/messages", json={})
        accepted += answer.status_code == 200
        return answer.json() if answer.status_code == 402 else None

    assert (await eventually(refused_by_rest)).items() >= quota.items()
    later = await tenant.dashboard(gateway="gateway-1")
    await later.until("quota", percent=100, **quota)

    async def counted() -> bool:
        usage = (await tenant.call("GET", "/usage/current")).json()["usage"]
        return bool(usage["messages"] == accepted)

    await eventually(counted)
    # A refused publish is on no bill.
    await desk.nothing()
    changed = await admin.call(
        "PUT",
        f"/tenants/{tenant.tenant_id}",
        tenant.tenant_id,
        json={"limits": {"messages_per_month": 10_000}},
    )
    assert changed.status_code == 200, changed.text

    async def accepted_again() -> bool:
        await b.send(type="publish", channel="room", data="b", id="b")
        return bool((await b.receive())["type"] == "published")

    await eventually(accepted_again)
    await desk.until("quota", percent=0, limit=10_000)
