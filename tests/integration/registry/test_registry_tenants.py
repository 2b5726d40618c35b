"""Tenants and their people over REST: who may make, change, suspend and leave what."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from artcafe_common.contracts.auth import Revoked
from artcafe_common.contracts.registry import (
    GET_MEMBERSHIPS,
    GET_TENANT,
    Changed,
    GetMemberships,
    GetTenant,
    Membership,
    Memberships,
)
from artcafe_common.dynamo import Item
from artcafe_common.rpc import call

from .support import Stage, staged, until


async def test_person_without_a_tenant_makes_their_own(stage: Stage) -> None:
    """Somebody who belongs nowhere is told how, makes a free tenant, owns it and works in it at once."""
    person = stage.client("newcomer", claims={"email": "new@example.org"})
    refused = await person.get("/agents")
    assert refused.status_code == 403
    assert "POST /api/v1/tenants" in refused.json()["detail"]
    made = await person.post("/tenants", json={"name": "Mine"})
    assert made.status_code == 201
    tenant = made.json()
    assert tenant["plan"] == "free"
    assert tenant["role"] == "owner"
    assert tenant["status"] == "active"
    assert tenant["limits"]["agents"] == 3
    assert tenant["auto_create_channels"] is False
    assert (await person.post("/agents", json={"name": "a"})).status_code == 201
    assert (await person.get("/tenants")).json()["tenants"] == [tenant | {"agents": 0}]
    assert (await person.get(f"/tenants/{tenant['id']}")).json()["agents"] == 1
    members = (await person.get(f"/tenants/{tenant['id']}/members")).json()["members"]
    assert [(m["user_id"], m["role"], m["email"]) for m in members] == [
        ("newcomer", "owner", "new@example.org")
    ]


async def test_self_service_gives_no_plan_no_limits_and_no_owner(stage: Stage) -> None:
    """What platform administrators decide, nobody else may ask for."""
    person = stage.client("newcomer")
    bodies: list[Item] = [
        {"plan": "pro"},
        {"plan": "enterprise"},
        {"limits": {"agents": None}},
        {"owner_user_id": "somebody"},
    ]
    for body in bodies:
        refused = await person.post("/tenants", json={"name": "x"} | body)
        assert refused.status_code == 403, body
    assert (await person.post("/tenants", json={"name": "x", "plan": "gold"})).status_code == 400
    assert (await person.post("/tenants", json={"name": "x", "status": "active"})).status_code == 400
    assert (await person.post("/tenants", json={"name": "x", "tenant_id": "a.b"})).status_code == 400
    assert (await person.get("/tenants")).json()["tenants"] == []


async def test_self_service_may_be_off(nats_url: str, aws_environment: object) -> None:
    """Where the platform does not offer it only a platform administrator makes tenants, also for others."""
    async with staged(nats_url, REGISTRY_SELF_SERVICE_TENANTS="false") as stage:
        assert (await stage.client("newcomer").post("/tenants", json={"name": "x"})).status_code == 403
        admin = await stage.platform_admin()
        body = {
            "name": "Theirs",
            "tenant_id": "theirs",
            "plan": "pro",
            "limits": {"agents": 70, "connections": None},
            "owner_user_id": "them",
            "auto_create_channels": True,
        }
        made = await admin.post("/tenants", json=body)
        assert made.status_code == 201
        assert made.json()["limits"] == {
            "agents": 70,
            "channels": 500,
            "connections": None,
            "messages_per_month": 500_000,
            "messages_per_second": 1_000,
            "bytes_per_message": 65_536,
            "api_calls_per_minute": 2_000,
        }
        assert (await admin.post("/tenants", json=body)).status_code == 409
        theirs = (await stage.client("them").get("/tenants")).json()["tenants"]
        assert [(tenant["id"], tenant["role"]) for tenant in theirs] == [("theirs", "owner")]


async def test_tenant_is_told_over_nats_as_it_is(stage: Stage) -> None:
    """Gateways get a tenant's plan, limits and settings, and hear of every change."""
    tenant_id, owner = await stage.owner(plan="basic", overrides={"agents": 11})
    told = await call(stage.bus, GET_TENANT, GetTenant(tenant_id))
    assert (told.name, told.plan, told.status, told.limits.agents, told.limits.channels) == (
        "Test",
        "basic",
        "active",
        11,
        100,
    )
    await owner.put(f"/tenants/{tenant_id}", json={"name": "Renamed", "auto_create_channels": True})
    told = await call(stage.bus, GET_TENANT, GetTenant(tenant_id))
    assert (told.name, told.auto_create_channels) == ("Renamed", True)

    async def heard() -> bool:
        return Changed(tenant_id=tenant_id, kind="tenant", id=tenant_id, action="updated") in stage.changed

    await until(heard)


async def test_plan_limits_and_status_are_the_platforms(stage: Stage) -> None:
    """An owner renames; plan, limits and suspension take a platform administrator."""
    tenant_id, owner = await stage.owner(plan="free")
    bodies: list[Item] = [
        {"plan": "pro"},
        {"status": "suspended"},
        {"limits": {"agents": 100}},
        {"limits": None},
        {"name": "x", "plan": "pro"},
    ]
    for body in bodies:
        assert (await owner.put(f"/tenants/{tenant_id}", json=body)).status_code == 403, body
    assert (await owner.get(f"/tenants/{tenant_id}")).json()["name"] == "Test"
    admin = await stage.platform_admin()
    changed = await admin.put(f"/tenants/{tenant_id}", json={"plan": "basic", "limits": {"agents": 1}})
    assert changed.status_code == 200
    assert (changed.json()["plan"], changed.json()["limits"]["agents"]) == ("basic", 1)
    changed = await admin.put(f"/tenants/{tenant_id}", json={"limits": {"channels": None}})
    assert (changed.json()["limits"]["agents"], changed.json()["limits"]["channels"]) == (1, None)
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 201
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 402
    changed = await admin.put(f"/tenants/{tenant_id}", json={"limits": None})
    assert changed.json()["limits"]["agents"] == 10
    assert (await owner.post("/agents", json={"name": "a"})).status_code == 201
    for bad in ({"limits": {"agents": -1}}, {"limits": {"wings": 2}}, {"plan": "gold"}, {"tenant_id": "x"}):
        assert (await admin.put(f"/tenants/{tenant_id}", json=bad)).status_code == 400, bad


async def test_suspended_tenant_is_closed_to_its_people_and_told(stage: Stage) -> None:
    """A suspended tenant's people get 403 and its sessions are told to close; resuming opens it again."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    admin = await stage.platform_admin()
    assert (await admin.put(f"/tenants/{tenant_id}", json={"status": "suspended"})).status_code == 200
    for answer in (
        await owner.get("/agents/a"),
        await owner.post("/agents", json={"name": "b"}),
        await owner.put(f"/tenants/{tenant_id}", json={"name": "x"}),
        await owner.delete(f"/tenants/{tenant_id}"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (403, "this organisation is suspended")
    # They still see that it is there and why it does not work.
    (tenant,) = (await owner.get("/tenants")).json()["tenants"]
    assert tenant["status"] == "suspended"
    assert (await call(stage.bus, GET_TENANT, GetTenant(tenant_id))).status == "suspended"
    assert stage.revoked == [Revoked(tenant_id=tenant_id, reason="tenant_suspended")]
    assert await stage.store.pending.all() == []
    assert (await admin.put(f"/tenants/{tenant_id}", json={"status": "active"})).status_code == 200
    assert (await owner.get("/agents/a")).status_code == 200


async def test_list_and_tenant_show_the_same_role(stage: Stage) -> None:
    """The caller's in it: a platform administrator may be its owner, too."""
    other = await stage.tenant()
    admin = await stage.platform_admin()
    own = (await admin.post("/tenants", json={"name": "Mine"})).json()["tenant_id"]
    listed = {each["tenant_id"]: each["role"] for each in (await admin.get("/tenants")).json()["tenants"]}
    assert listed == {own: "owner", other: "platform_admin"}
    for tenant_id, role in listed.items():
        assert (await admin.get(f"/tenants/{tenant_id}")).json()["role"] == role


async def test_who_bills_for_the_platform_sees_all_tenants_and_changes_none(stage: Stage) -> None:
    """There must be a way to know whom to bill; a role that this version does not know shows nobody."""
    tenant_id, _ = await stage.owner(plan="pro")
    for user_id, role in (("biller", "billing"), ("later", "auditor")):
        await stage.store.members.set_platform_roles(user_id, [role])
    biller = stage.client("biller")
    (listed,) = (await biller.get("/tenants")).json()["tenants"]
    assert (listed["tenant_id"], listed["plan"], listed["role"]) == (tenant_id, "pro", "billing")
    assert (await biller.get(f"/tenants/{tenant_id}")).json()["role"] == "billing"
    assert (await biller.put(f"/tenants/{tenant_id}", json={"name": "x"})).status_code == 403
    assert (await biller.delete(f"/tenants/{tenant_id}")).status_code == 403
    assert (await stage.client("later").get("/tenants")).json()["tenants"] == []


async def test_platform_administrator_sees_all_tenants_but_no_messages(stage: Stage) -> None:
    """They list every tenant in full pages and read each, but neither make agents nor publish in them."""
    made = {await stage.tenant() for _ in range(7)}
    admin = await stage.platform_admin()
    seen: list[str] = []
    query: dict[str, str] = {"limit": "3"}
    while True:
        page = (await admin.get("/tenants", params=query)).json()
        assert len(page["tenants"]) <= 3
        seen += [tenant["id"] for tenant in page["tenants"]]
        if not page["next_token"]:
            break
        query["next_token"] = page["next_token"]
    assert len(seen) == len(set(seen))
    assert set(seen) == made
    tenant_id = seen[0]
    owner = stage.client(tenant_id)
    await owner.post("/channels", json={"name": "c"})
    assert (await admin.get(f"/tenants/{tenant_id}")).json()["role"] == "platform_admin"
    visiting = {"X-Tenant-Id": tenant_id}
    assert (await admin.get("/agents", headers=visiting)).status_code == 200
    assert (await admin.post("/agents", json={"name": "x"}, headers=visiting)).status_code == 403
    assert (await admin.post("/channels/c/messages", json={}, headers=visiting)).status_code == 403
    assert (await admin.get("/agents", headers={"X-Tenant-Id": "t-nowhere"})).status_code == 404
    assert (await admin.get("/tenants/t-nowhere")).status_code == 404
    assert (await admin.delete("/tenants/t-nowhere")).status_code == 404
    # A page token of theirs is nothing to anyone else.
    token = (await admin.get("/tenants?limit=1")).json()["next_token"]
    assert (await owner.get("/tenants", params={"next_token": token})).status_code == 400


async def test_persons_tenants_come_in_pages(stage: Stage) -> None:
    """Somebody in many tenants gets them page by page."""
    made = sorted([await stage.tenant("busy") for _ in range(5)])
    person = stage.client("busy")
    first = (await person.get("/tenants?limit=3")).json()
    rest = (await person.get("/tenants", params={"next_token": first["next_token"]})).json()
    assert [tenant["id"] for tenant in first["tenants"] + rest["tenants"]] == made
    assert rest["next_token"] is None


async def test_roles_open_what_they_should(stage: Stage) -> None:
    """Each role reads and writes what the table of roles says, over real requests."""
    tenant_id, owner = await stage.owner()
    await owner.post("/channels", json={"name": "c"})
    for role in ("admin", "member", "viewer", "billing"):
        await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": f"{role}-1", "role": role})
    expected = {
        "admin": (200, 201, 200, 200, 201, 200),
        "member": (200, 201, 200, 200, 403, 403),
        "viewer": (200, 403, 403, 200, 403, 403),
        "billing": (403, 403, 403, 200, 403, 403),
    }
    for role, codes in expected.items():
        person = stage.client(f"{role}-1")
        answers = (
            await person.get("/agents"),
            await person.post("/agents", json={"name": "a"}),
            await person.post("/channels/c/messages", json={}),
            await person.get(f"/tenants/{tenant_id}"),
            await person.post(f"/tenants/{tenant_id}/members", json={"user_id": f"by-{role}"}),
            await person.put(f"/tenants/{tenant_id}", json={"name": "Test"}),
        )
        assert tuple(answer.status_code for answer in answers) == codes, role
        assert (await person.delete(f"/tenants/{tenant_id}")).status_code == 403


async def test_admin_cannot_touch_owners(stage: Stage) -> None:
    """An admin neither makes an owner, nor changes or removes one, nor becomes one."""
    tenant_id, owner = await stage.owner()
    people = f"/tenants/{tenant_id}/members"
    await owner.post(people, json={"user_id": "boss", "role": "admin"})
    await owner.post(people, json={"user_id": "m", "role": "member"})
    admin = stage.client("boss")
    assert (await admin.post(people, json={"user_id": "x", "role": "owner"})).status_code == 403
    assert (await admin.put(f"{people}/{tenant_id}", json={"role": "member"})).status_code == 403
    assert (await admin.delete(f"{people}/{tenant_id}")).status_code == 403
    assert (await admin.put(f"{people}/boss", json={"role": "owner"})).status_code == 403
    assert (await admin.put(f"{people}/m", json={"role": "viewer"})).status_code == 200
    assert (await admin.delete(f"{people}/m")).status_code == 204
    assert (await owner.put(f"{people}/boss", json={"role": "owner"})).status_code == 200
    assert (await admin.delete(f"{people}/{tenant_id}")).status_code == 204


async def test_last_owner_stays(stage: Stage) -> None:
    """The last owner neither leaves nor steps down; of two owners who leave at once one stays."""
    tenant_id, owner = await stage.owner()
    people = f"/tenants/{tenant_id}/members"
    assert (await owner.delete(f"{people}/{tenant_id}")).json()["code"] == "failed_precondition"
    assert (await owner.put(f"{people}/{tenant_id}", json={"role": "viewer"})).status_code == 409
    assert (await owner.post(people, json={"user_id": "second", "role": "owner"})).status_code == 201
    answers = await asyncio.gather(
        owner.delete(f"{people}/{tenant_id}"), stage.client("second").delete(f"{people}/second")
    )
    assert Counter(answer.status_code for answer in answers) == {204: 1, 409: 1}
    left, _ = await stage.store.members.list_page(tenant_id, 10, None)
    assert [member.role for member in left] == ["owner"]
    tenant = await stage.store.tenants.get(tenant_id)
    assert tenant is not None
    assert tenant.owners == 1


async def test_anyone_may_leave_and_is_out_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer removes themselves, and nobody else; any replica that has heard of it refuses them."""
    # So that it is not its age by which what a replica has cached is forgotten.
    monkeypatch.setattr("artcafe_registry.directory.PERSON_SECONDS", 3600.0)
    tenant_id, owner = await stage.owner()
    people = f"/tenants/{tenant_id}/members"
    replica = await stage.start_replica()
    for user_id in ("leaver", "stayer"):
        await owner.post(people, json={"user_id": user_id, "role": "viewer"})
    here, there = stage.client("leaver"), stage.client("leaver", replica=replica)
    assert (await here.get("/agents")).status_code == 200
    assert (await there.get("/agents")).status_code == 200
    assert (await here.delete(f"{people}/stayer")).status_code == 403
    assert (await here.delete(f"{people}/leaver")).status_code == 204
    assert (await here.get("/agents")).status_code == 403

    async def refused_there() -> bool:
        return (await there.get("/agents")).status_code == 403

    await until(refused_there)
    assert (await owner.delete(f"{people}/leaver")).status_code == 404


async def test_odd_user_ids_work(stage: Stage) -> None:
    """Ids of people come from elsewhere: slashes, spaces, quotes and other scripts are theirs to have."""
    tenant_id, owner = await stage.owner()
    people = f"/tenants/{tenant_id}/members"
    names = ["auth0|abc", "a/b/c", "ü n", "#platform", "*.>", "x" * 255, "日本", "a'\"b", "..."]
    for name in names:
        added = await owner.post(people, json={"user_id": name, "role": "viewer"})
        assert added.status_code == 201, name
    for name in names:
        path = f"{people}/" + "".join(f"%{byte:02X}" for byte in name.encode())
        assert (await owner.get(path)).json()["user_id"] == name
        assert (await owner.put(path, json={"role": "member"})).json()["role"] == "member", name
        assert (await stage.client(name).get("/agents")).status_code == 200, name
        assert (await owner.delete(path)).status_code == 204, name
        assert (await stage.client(name).get("/agents")).status_code == 403, name
    for bad in ({"user_id": ""}, {"user_id": "x" * 256}, {"role": "member"}, {"user_id": "x", "role": "god"}):
        assert (await owner.post(people, json=bad)).status_code == 400, bad


async def test_nobody_is_called_as_an_address_climbs(stage: Stage) -> None:
    """Whoever has a client remove the member ``..`` would delete the organisation: there is none."""
    tenant_id, owner = await stage.owner()
    admin = await stage.platform_admin()
    for user_id in (".", "..", "a\nb"):
        member = await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": user_id})
        assert member.status_code == 400, user_id
        made = await admin.post("/tenants", json={"name": "x", "owner_user_id": user_id})
        assert made.status_code == 400, user_id


async def test_people_come_in_pages(stage: Stage) -> None:
    """A tenant's people are listed page by page, and adding one twice is refused."""
    tenant_id, owner = await stage.owner()
    people = f"/tenants/{tenant_id}/members"
    for number in range(4):
        body = {"user_id": f"p{number}"}
        assert (await owner.post(people, json=body)).status_code == 201
        assert (await owner.post(people, json=body)).status_code == 409
    first = (await owner.get(people, params={"limit": 3})).json()
    rest = (await owner.get(people, params={"next_token": first["next_token"]})).json()
    found = [member["user_id"] for member in first["members"] + rest["members"]]
    assert found == ["p0", "p1", "p2", "p3", tenant_id]


async def test_memberships_are_told_over_nats(stage: Stage) -> None:
    """Other services learn where a person belongs, as what, and whether the tenant they claim exists."""
    first, second = await stage.tenant("both"), await stage.tenant("both")
    admin = await stage.platform_admin()
    await admin.put(f"/tenants/{second}", json={"status": "suspended"})
    told = await call(stage.bus, GET_MEMBERSHIPS, GetMemberships("both", second))
    assert sorted(told.memberships, key=lambda m: m.tenant_id) == sorted(
        [
            Membership(tenant_id=first, role="owner", tenant_status="active"),
            Membership(tenant_id=second, role="owner", tenant_status="suspended"),
        ],
        key=lambda m: m.tenant_id,
    )
    assert told.claimed_status == "suspended"
    unknown = await call(stage.bus, GET_MEMBERSHIPS, GetMemberships("nobody", "t-nowhere"))
    assert unknown == Memberships(user_id="nobody", memberships=[])
    await stage.store.members.set_platform_roles("biller", ["billing"])
    assert (await call(stage.bus, GET_MEMBERSHIPS, GetMemberships("biller"))).platform_roles == ["billing"]
