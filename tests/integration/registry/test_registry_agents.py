"""Agents over REST: what goes in comes out, page after page, and nothing else gets in."""

from __future__ import annotations

from artcafe_common.dynamo import Item

from .support import Stage

# Names that DynamoDB reserves or types it treats in its own way, and what JSON can hold beside them.
ODD_METADATA = {
    "status": "reserved",
    "owner": "",
    "": "empty name",
    "yes": True,
    "no": False,
    "nothing": None,
    "whole": 1,
    "float": 1.0,
    "small": 1e-300,
    "large": 1.7976931348623157e308,
    "precise": 0.1,
    "big": 123456789012345678901234567890,
    "list": [1, "1", True, None, [], {}],
    "set": ["a", "a"],
    "text": "ünïcödé \u0000 \U0001f600 ' \" \\ #name :value",
    "deep": {"a": {"b": {"c": [{"d": []}]}}},
}


async def test_created_agent_reads_back_as_it_was_given(stage: Stage) -> None:
    """Every field comes back with its value and type, odd ones included."""
    tenant_id, owner = await stage.owner()
    given = {
        "name": "The agent's name",
        "agent_id": "agent_1-A",
        "type": "worker",
        "description": "",
        "capabilities": ["plan", "ünïcödé", "with space"],
        "metadata": ODD_METADATA,
    }
    created = await owner.post("/agents", json=given)
    assert created.status_code == 201
    body = created.json()
    assert body["success"] is True
    assert body["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    agent = body["agent"]
    assert {name: agent[name] for name in given} == given
    assert isinstance(agent["metadata"]["float"], float)
    assert agent["id"] == "agent_1-A"
    assert agent["tenant_id"] == tenant_id
    assert agent["status"] == "offline"
    assert agent["last_seen"] is None
    assert agent["created_at"].endswith("Z")
    assert len(agent["keys"]) == 1
    read = (await owner.get("/agents/agent_1-A")).json()
    assert read == agent
    assert isinstance(read["metadata"]["float"], float)
    # The private key was shown once and is kept nowhere.
    assert not await stage.rows_with("PRIVATE KEY")


async def test_agent_id_is_made_where_none_is_given(stage: Stage) -> None:
    """An agent without an id gets a ULID."""
    _, owner = await stage.owner()
    agent = (await owner.post("/agents", json={"name": "a"})).json()["agent"]
    assert len(agent["agent_id"]) == 26


async def test_second_agent_of_the_same_id_is_refused(stage: Stage) -> None:
    """An id is taken once; the first agent stays as it is."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "first", "agent_id": "a"})
    again = await owner.post("/agents", json={"name": "second", "agent_id": "a"})
    assert again.status_code == 409
    assert again.json()["code"] == "already_exists"
    assert (await owner.get("/agents/a")).json()["name"] == "first"


MALFORMED_BODIES: list[Item] = [
    {},
    {"name": ""},
    {"name": "n" * 129},
    {"name": "a", "status": "online"},
    {"name": "a", "tenant_id": "other"},
    {"name": "a", "agent_id": "a.b"},
    {"name": "a", "agent_id": "a\n"},
    {"name": "a", "agent_id": "x" * 65},
    {"name": "a", "agent_id": "*"},
    {"name": "a", "capabilities": [""]},
    {"name": "a", "capabilities": ["x"] * 65},
    {"name": "a", "metadata": []},
    {"name": "a", "metadata": {"x": "y" * 20_000}},
    {"name": "a", "public_key": "ssh-dss AAAA"},
    {"name": None},
]


async def test_malformed_agent_is_refused(stage: Stage) -> None:
    """What is unknown, too large or not valid is refused, and nothing is made."""
    _, owner = await stage.owner()
    for body in MALFORMED_BODIES:
        refused = await owner.post("/agents", json=body)
        assert refused.status_code == 400, body
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "invalid_argument"
    assert (await owner.get("/agents")).json()["agents"] == []


async def test_put_replaces_only_what_is_given(stage: Stage) -> None:
    """A field that is not in the body stays; one that is, is replaced as a whole."""
    _, owner = await stage.owner()
    given = {
        "name": "old",
        "agent_id": "a",
        "type": "t",
        "capabilities": ["x"],
        "metadata": {"a": 1, "b": 2},
    }
    before = (await owner.post("/agents", json=given)).json()["agent"]
    after = (await owner.put("/agents/a", json={"metadata": {"c": 3}, "type": ""})).json()
    changed = {"metadata": {"c": 3}, "type": "", "updated_at": after["updated_at"]}
    assert after == before | changed
    assert (await owner.get("/agents/a")).json() == after


async def test_put_on_a_missing_agent_makes_none(stage: Stage) -> None:
    """An update of what does not exist is `not_found` and creates nothing."""
    _, owner = await stage.owner()
    assert (await owner.put("/agents/ghost", json={"name": "x"})).status_code == 404
    assert (await owner.get("/agents/ghost")).status_code == 404


async def test_deleted_agent_is_gone_and_its_id_free(stage: Stage) -> None:
    """After the deletion the agent is not found, and another may have its id and has nothing of the first."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "first", "agent_id": "a"})
    await owner.post("/channels", json={"name": "c", "channel_id": "c"})
    await owner.put("/channels/c/members/a", json={"role": "both"})
    assert (await owner.delete("/agents/a")).status_code == 204
    assert (await owner.get("/agents/a")).status_code == 404
    assert (await owner.delete("/agents/a")).status_code == 404
    assert (await owner.post("/agents", json={"name": "second", "agent_id": "a"})).status_code == 201
    assert (await owner.get("/channels/c/members/a")).status_code == 404
    assert (await owner.get("/channels/c/members")).json()["members"] == []


async def test_pages_hold_exactly_what_was_asked_for(stage: Stage) -> None:
    """Pages have `limit` agents each, in order and without repetition, and the last one says that it is."""
    _, owner = await stage.owner()
    for number in range(7):
        await owner.post("/agents", json={"name": "a", "agent_id": f"a{number}"})
    seen: list[list[str]] = []
    query = {"limit": "3"}
    while True:
        page = (await owner.get("/agents", params=query)).json()
        seen.append([agent["agent_id"] for agent in page["agents"]])
        if page["next_token"] is None:
            break
        query["next_token"] = page["next_token"]
    assert seen == [["a0", "a1", "a2"], ["a3", "a4", "a5"], ["a6"]]


async def test_filtered_pages_are_full_too(stage: Stage) -> None:
    """A filter leaves agents out, not places in the page: what matches is found however far apart it lies."""
    _, owner = await stage.owner()
    for number in range(9):
        given = {
            "name": "a",
            "agent_id": f"a{number}",
            "capabilities": ["rare"] if number % 3 == 0 else ["x"],
        }
        await owner.post("/agents", json=given)
    page = (await owner.get("/agents?capability=rare&limit=2")).json()
    assert [agent["agent_id"] for agent in page["agents"]] == ["a0", "a3"]
    rest = (await owner.get(f"/agents?capability=rare&limit=2&next_token={page['next_token']}")).json()
    assert [agent["agent_id"] for agent in rest["agents"]] == ["a6"]
    assert rest["next_token"] is None
    assert (await owner.get("/agents?capability=rar")).json()["agents"] == []
    assert (await owner.get("/agents?status=online")).json()["agents"] == []
    assert len((await owner.get("/agents?status=offline&capability=rare")).json()["agents"]) == 3


async def test_filtered_page_looks_past_many_that_do_not_match(stage: Stage) -> None:
    """More agents than one look takes in may lie between two that match."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "x"})
    row = next(iter(await stage.rows_with("'agent_id': 'x'")))
    table = stage.store.agents._tables.agents
    await table.put_many([row | {"agent_id": f"n{number:04}"} for number in range(600)])
    await table.put_many([row | {"agent_id": name, "capabilities": ["rare"]} for name in ("a", "m", "z")])
    page = (await owner.get("/agents?capability=rare&limit=3")).json()
    assert [agent["agent_id"] for agent in page["agents"]] == ["a", "m", "z"]
    assert page["next_token"] is None


async def test_malformed_query_is_refused(stage: Stage) -> None:
    """Limits, states, unknown parameters and invented tokens are refused."""
    _, owner = await stage.owner()
    for query in ("limit=0", "limit=101", "limit=x", "status=gone", "sort=name", "next_token=x"):
        assert (await owner.get(f"/agents?{query}")).status_code == 400, query


async def test_list_is_right_among_thousands_of_foreign_rows(stage: Stage) -> None:
    """Rows of other tenants neither show nor take places, whatever sorts before and after."""
    tenant_id, owner = await stage.owner()
    for number in range(3):
        await owner.post("/agents", json={"name": "mine", "agent_id": f"m{number}"})
    row = next(iter(await stage.rows_with("'agent_id': 'm0'")))
    foreign = [
        row | {"tenant_id": f"{tenant_id}{suffix}", "agent_id": f"m{number}"}
        for suffix in ("0", "_", "x")
        for number in range(1_000)
    ]
    foreign += [row | {"tenant_id": tenant_id[:-1], "agent_id": f"m{number}"} for number in range(500)]
    await stage.store.agents._tables.agents.put_many(foreign)
    page = (await owner.get("/agents?limit=2")).json()
    assert [agent["agent_id"] for agent in page["agents"]] == ["m0", "m1"]
    last = (await owner.get("/agents", params={"limit": 2, "next_token": page["next_token"]})).json()
    assert [agent["agent_id"] for agent in last["agents"]] == ["m2"]
    assert last["next_token"] is None
