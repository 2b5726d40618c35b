"""Channels and their member rows over REST and, as gateways see them, over NATS."""

from __future__ import annotations

import pytest

from artcafe_common.clock import rfc3339
from artcafe_common.contracts.registry import (
    GET_GRANTS,
    RESOLVE_CHANNEL,
    Changed,
    ChannelInfo,
    GetGrants,
    Grant,
    ResolveChannel,
)
from artcafe_common.dynamo import Item
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.rpc import call
from artcafe_registry.domain.records import Channel

from .support import Stage, until


@pytest.mark.parametrize("channel_id", ["agents.presence.online", "agents.presence.a.b"])
async def test_presence_channels_are_the_platforms(stage: Stage, channel_id: str) -> None:
    """Nobody makes a channel on which the platform tells of presence, nor publishes in one that is there."""
    tenant_id, owner = await stage.owner(auto_create_channels=True)
    answers = [
        await owner.post("/channels", json={"name": "p", "channel_id": channel_id}),
        await owner.post("/channels", json={"name": channel_id}),
        await owner.post(f"/channels/{channel_id}/messages", json={"agent_id": "a1"}),
    ]
    made = ResolveChannel(tenant_id=tenant_id, channel_id=channel_id, create_for="a1")
    with pytest.raises(ServiceError) as refused:
        await call(stage.bus, RESOLVE_CHANNEL, made)
    assert refused.value.code == ErrorCode.PERMISSION_DENIED
    assert (await owner.get("/channels")).json()["channels"] == []
    # As an earlier release let people make it.
    now = rfc3339(0)
    await stage.store.channels.create(
        Channel(tenant_id=tenant_id, channel_id=channel_id, name="p", created_at=now, updated_at=now)
    )
    answers.append(await owner.post(f"/channels/{channel_id}/messages", json={"agent_id": "a1"}))
    for answer in answers:
        assert answer.status_code == 403
        assert answer.json()["detail"] == "the platform itself tells of presence"
    assert (await owner.delete(f"/channels/{channel_id}")).status_code == 204
    assert (await owner.post("/channels", json={"name": "agents.presence"})).status_code == 201


async def test_created_channel_reads_back(stage: Stage) -> None:
    """Every field comes back, over REST and over NATS, and the creation is announced."""
    tenant_id, owner = await stage.owner()
    given: Item = {
        "name": "Team Updates",
        "channel_id": "team.updates",
        "description": "what the team says",
        "access": "members",
        "metadata": {"name": "reserved", "n": 1.0},
    }
    created = await owner.post("/channels", json=given)
    assert created.status_code == 201
    channel = created.json()
    assert {name: channel[name] for name in given} == given
    assert channel["id"] == "team.updates"
    assert channel["delivery"] == "live"
    assert channel["retention"] is None
    assert (await owner.get("/channels/team.updates")).json() == channel
    found = await call(
        stage.bus, RESOLVE_CHANNEL, ResolveChannel(tenant_id=tenant_id, channel_id="team.updates")
    )
    assert found == ChannelInfo(
        channel_id="team.updates", name="Team Updates", access="members", delivery="live"
    )

    async def told() -> bool:
        wanted = Changed(tenant_id=tenant_id, kind="channel", id="team.updates", action="created")
        return wanted in stage.changed

    await until(told)


async def test_channel_id_comes_from_its_name(stage: Stage) -> None:
    """Without an id the name gives it; two names of the same id meet, and the second is refused."""
    _, owner = await stage.owner()
    assert (await owner.post("/channels", json={"name": "Café: Größe!"})).json()["id"] == "cafe-groe"
    assert (await owner.post("/channels", json={"name": "Team.Updates"})).json()["id"] == "team.updates"
    assert (await owner.post("/channels", json={"name": "team.updates"})).status_code == 409
    assert len((await owner.post("/channels", json={"name": "日本"})).json()["id"]) == 26


async def test_malformed_channel_is_refused(stage: Stage) -> None:
    """Wildcards, separators, unknown fields and values are refused and nothing is made."""
    _, owner = await stage.owner()
    bodies: list[Item] = [
        *({"name": "c", "channel_id": bad} for bad in ("*", "a.>", ".a", "a.", "a..b", "a b", "a#b", "a\n")),
        {"name": "c", "channel_id": "x" * 65},
        {"name": "c", "channel_id": ".".join(["x"] * 65)},
        {"name": "c", "access": "secret"},
        {"name": "c", "delivery": "never"},
        {"name": "c", "owner": "me"},
        {"channel_id": "c"},
    ]
    for body in bodies:
        assert (await owner.post("/channels", json=body)).status_code == 400, body
    assert (await owner.get("/channels")).json()["channels"] == []


@pytest.mark.parametrize("path", ["/channels/*", "/channels/a..b", "/channels/a%2Fb", "/channels/%3E"])
async def test_malformed_path_is_refused(stage: Stage, path: str) -> None:
    """What is no channel's id in a path never reaches the store."""
    _, owner = await stage.owner()
    assert (await owner.get(path)).status_code in (400, 404)
    assert (await owner.post(f"{path}/messages", json={})).status_code in (400, 404)


async def test_durable_channels_are_refused_for_now(stage: Stage) -> None:
    """Durable delivery, retention and reading kept messages are `failed_precondition`."""
    _, owner = await stage.owner()
    await owner.post("/channels", json={"name": "c"})
    refused = [
        await owner.post("/channels", json={"name": "d", "delivery": "durable"}),
        await owner.post("/channels", json={"name": "d", "retention": {"max_messages": 5}}),
        await owner.put("/channels/c", json={"delivery": "durable"}),
        await owner.put("/channels/c", json={"retention": {"max_age_seconds": 60}}),
        await owner.get("/channels/c/messages"),
        await owner.get("/channels/c/messages?since=5&limit=10"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [
        (409, "failed_precondition")
    ] * 6
    assert (await owner.get("/channels/ghost/messages")).status_code == 404
    assert (await owner.put("/channels/c", json={"delivery": "live", "retention": None})).status_code == 200
    assert (await owner.get("/channels/d")).status_code == 404


async def test_put_changes_a_channel_and_never_its_id(stage: Stage) -> None:
    """A display name may change; the id stays, and cannot be given."""
    _, owner = await stage.owner()
    before = (await owner.post("/channels", json={"name": "Old", "description": "d"})).json()
    after = (await owner.put("/channels/old", json={"name": "New", "access": "members"})).json()
    assert after == before | {"name": "New", "access": "members", "updated_at": after["updated_at"]}
    assert (await owner.put("/channels/old", json={"channel_id": "new"})).status_code == 400
    assert (await owner.put("/channels/ghost", json={"name": "x"})).status_code == 404


async def test_channels_come_in_pages(stage: Stage) -> None:
    """Pages follow each other without a gap or a repetition."""
    _, owner = await stage.owner()
    names = sorted(f"c{number}.x" for number in range(5))
    for name in names:
        await owner.post("/channels", json={"name": name, "channel_id": name})
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = (await owner.get("/channels", params=query)).json()
        seen += [channel["channel_id"] for channel in page["channels"]]
        if not page["next_token"]:
            break
        query["next_token"] = page["next_token"]
    assert seen == names


async def test_member_row_is_made_replaced_and_removed(stage: Stage) -> None:
    """A row reads back over REST and NATS, keeps its making when replaced, and is announced each time."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await owner.post("/channels", json={"name": "c"})
    made = await owner.put("/channels/c/members/a", json={"role": "subscriber", "auto_subscribe": True})
    assert made.status_code == 200
    assert made.json() == (await owner.get("/channels/c/members/a")).json()
    grants = (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a"))).grants
    assert grants == [Grant(channel_id="c", role="subscriber", auto_subscribe=True)]
    assert (await owner.get("/agents/a/channels")).json() == {"members": [made.json()], "next_token": None}
    assert (await owner.get("/agents/ghost/channels")).status_code == 404
    replaced = (await owner.put("/channels/c/members/a", json={})).json()
    assert replaced["role"] == "both"
    assert replaced["auto_subscribe"] is False
    assert replaced["created_at"] == made.json()["created_at"]
    assert (await owner.delete("/channels/c/members/a")).status_code == 204
    assert (await owner.delete("/channels/c/members/a")).status_code == 404
    assert (await owner.get("/channels/c/members/a")).status_code == 404
    assert (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a"))).grants == []

    async def told() -> bool:
        return sum(event.kind == "grants" and event.id == "a" for event in stage.changed) == 3

    await until(told)


async def test_member_row_needs_its_agent_and_its_channel(stage: Stage) -> None:
    """A row for an agent or a channel that is not there is refused and not made."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await owner.post("/channels", json={"name": "c"})
    no_agent = await owner.put("/channels/c/members/ghost", json={})
    no_channel = await owner.put("/channels/ghost/members/a", json={})
    assert (no_agent.status_code, no_agent.json()["detail"]) == (404, "agent not found")
    assert (no_channel.status_code, no_channel.json()["detail"]) == (404, "channel not found")
    assert (await owner.get("/channels/ghost/members")).status_code == 404
    assert (await owner.put("/channels/c/members/a", json={"role": "owner"})).status_code == 400
    assert (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a"))).grants == []


async def test_members_of_a_channel_are_not_those_of_one_below_it(stage: Stage) -> None:
    """`team` and `team.x` have each their own rows, in pages of their own."""
    tenant_id, owner = await stage.owner()
    for number in range(3):
        await owner.post("/agents", json={"name": "a", "agent_id": f"a{number}"})
    for channel in ("team", "team.x", "team-x"):
        await owner.post("/channels", json={"name": channel, "channel_id": channel})
    await owner.put("/channels/team/members/a0", json={})
    for number in range(3):
        await owner.put(f"/channels/team.x/members/a{number}", json={})
    assert len((await owner.get("/channels/team/members")).json()["members"]) == 1
    page = (await owner.get("/channels/team.x/members?limit=2")).json()
    assert [member["agent_id"] for member in page["members"]] == ["a0", "a1"]
    token = page["next_token"]
    rest = (await owner.get("/channels/team.x/members", params={"next_token": token})).json()
    assert [member["agent_id"] for member in rest["members"]] == ["a2"]
    assert (await owner.get("/channels/team/members", params={"next_token": token})).status_code == 400
    grants = (await call(stage.bus, GET_GRANTS, GetGrants(tenant_id, "a0"))).grants
    assert [grant.channel_id for grant in grants] == ["team", "team.x"]


async def test_unknown_channel_is_made_only_where_the_tenant_allows_it(stage: Stage) -> None:
    """A channel that agents use comes into being where that is allowed and asked for, and nowhere else."""
    allowed = await stage.tenant(auto_create_channels=True)
    strict = await stage.tenant()

    async def refused(tenant_id: str, create_for: str | None, channel_id: str = "new") -> ErrorCode:
        asked = ResolveChannel(tenant_id=tenant_id, channel_id=channel_id, create_for=create_for)
        with pytest.raises(ServiceError) as error:
            await call(stage.bus, RESOLVE_CHANNEL, asked)
        return error.value.code

    assert await refused(strict, "a") == ErrorCode.NOT_FOUND
    assert await refused(allowed, None) == ErrorCode.NOT_FOUND
    assert await refused(allowed, "a", "new.>") == ErrorCode.INVALID_ARGUMENT
    assert await refused(allowed, "a.b") == ErrorCode.INVALID_ARGUMENT
    assert await refused("t-nowhere", "a") == ErrorCode.NOT_FOUND
    made = await call(
        stage.bus, RESOLVE_CHANNEL, ResolveChannel(tenant_id=allowed, channel_id="new", create_for="a")
    )
    assert made == ChannelInfo(channel_id="new", name="new", access="open", delivery="live")
    assert (await stage.client(allowed).get("/channels/new")).json()["created_by"] == "a"
