"""No route lets one tenant at another's things, whatever is asked for and by whom."""

from __future__ import annotations

import re

import httpx
import pytest

from artcafe_common.http import Operation
from artcafe_registry.app import operations
from artcafe_registry.services import Services

from .support import Stage

BODIES: dict[str, dict[str, object]] = {
    "create_agent": {"name": "x", "agent_id": "new"},
    "update_agent": {"name": "stolen"},
    "add_key": {},
    "create_channel": {"name": "x", "channel_id": "new"},
    "update_channel": {"name": "stolen"},
    "put_channel_member": {"role": "both"},
    "publish_message": {"text": "forged"},
    "create_tenant": {"name": "x"},
    "update_tenant": {"name": "stolen"},
    "add_member": {"user_id": "intruder", "role": "owner"},
    "update_member": {"role": "viewer"},
}


def _all_operations() -> list[Operation]:
    # Handlers keep their services and use them in calls only: the table needs none.
    return operations(object.__new__(Services))


ALL = _all_operations()
IN_A_TENANT = [operation for operation in ALL if operation.name not in ("list_tenants", "create_tenant")]


async def _furnished(stage: Stage) -> tuple[str, httpx.AsyncClient]:
    """Make a tenant that has one of everything, all under the same ids in every tenant."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "agent", "agent_id": "agent"})
    await owner.post("/channels", json={"name": "channel", "channel_id": "channel"})
    await owner.put("/channels/channel/members/agent", json={"role": "both"})
    await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": "person", "role": "member"})
    return tenant_id, owner


def _path(operation: Operation, tenant_id: str, fingerprint: str) -> str:
    names = {
        "tenant_id": tenant_id,
        "agent_id": "agent",
        "channel_id": "channel",
        "user_id": "person",
        "fingerprint": fingerprint,
    }
    path = re.sub(r"{(\w+)(?::\w+)?}", lambda found: names[found[1]], operation.path)
    return f"{path}?fingerprint={fingerprint}" if operation.name == "remove_key" else path


async def _call(client: httpx.AsyncClient, operation: Operation, path: str, **headers: str) -> httpx.Response:
    return await client.request(
        operation.method, path, json=BODIES.get(operation.name), headers=headers or None
    )


def _visible(rows: list[dict[str, object]]) -> list[str]:
    return sorted(repr(row) for row in rows)


async def test_every_route_refuses_a_stranger(stage: Stage) -> None:
    """Whoever belongs to B gets 403 on every route of A, by header or by path, and A stays as it was."""
    a, a_owner = await _furnished(stage)
    b, b_owner = await _furnished(stage)
    fingerprint = (await a_owner.get("/agents/agent/keys")).json()["keys"][0]["fingerprint"]
    before = _visible(await stage.rows_with(a))
    for operation in IN_A_TENANT:
        refused = await _call(b_owner, operation, _path(operation, a, fingerprint), **{"X-Tenant-Id": a})
        assert refused.status_code == 403, (operation.name, refused.text)
        assert a not in refused.text
        assert refused.json()["code"] == "permission_denied"
    assert _visible(await stage.rows_with(a)) == before
    assert b


async def test_every_route_refuses_whoever_belongs_nowhere(stage: Stage) -> None:
    """There is no default tenant: somebody without a membership gets 403, with and without naming one."""
    a, a_owner = await _furnished(stage)
    fingerprint = (await a_owner.get("/agents/agent/keys")).json()["keys"][0]["fingerprint"]
    nobody = stage.client("nobody")
    for operation in IN_A_TENANT:
        path = _path(operation, a, fingerprint)
        assert (await _call(nobody, operation, path)).status_code == 403, operation.name
        assert (await _call(nobody, operation, path, **{"X-Tenant-Id": a})).status_code == 403
    assert (await nobody.get("/tenants")).json() == {"tenants": [], "next_token": None}


async def test_every_route_refuses_a_missing_or_bad_token(stage: Stage) -> None:
    """Without a token, with another scheme or a forged token every route answers 401 and no more."""
    a, _ = await _furnished(stage)
    good = stage.issuer.token(a)
    bad = [
        "",
        "Bearer",
        "Bearer x",
        f"Basic {good}",
        f"Bearer {good[:-4]}AAAA",
        f"Bearer {good}.x",
        f"Bearer {stage.issuer.token(a, exp=1)}",
        f"Bearer {stage.issuer.token(a, aud='other')}",
        f"Bearer {stage.issuer.token(a, iss='https://other.test')}",
    ]
    async with httpx.AsyncClient(base_url=stage.replica.url + "/api/v1", timeout=20) as client:
        for operation in ALL:
            refused = await _call(client, operation, _path(operation, a, "SHA256:x"), **{"X-Tenant-Id": a})
            assert refused.status_code == 401, operation.name
            assert refused.headers["www-authenticate"] == "Bearer"
        for authorization in bad:
            refused = await client.get("/agents", headers={"Authorization": authorization, "X-Tenant-Id": a})
            assert refused.status_code == 401, authorization


async def test_same_ids_in_two_tenants_are_two_things(stage: Stage) -> None:
    """What B does to `agent` and `channel` happens to its own and never to A's of the same ids."""
    a, a_owner = await _furnished(stage)
    b, b_owner = await _furnished(stage)
    before = _visible(await stage.rows_with(a))
    assert (await b_owner.put("/agents/agent", json={"name": "B's"})).status_code == 200
    assert (await b_owner.put("/channels/channel", json={"name": "B's"})).status_code == 200
    assert (await b_owner.delete("/channels/channel")).status_code == 204
    assert (await b_owner.delete("/agents/agent")).status_code == 204
    assert (await b_owner.delete(f"/tenants/{b}")).status_code == 204
    assert _visible(await stage.rows_with(a)) == before
    assert (await a_owner.get("/agents/agent")).json()["name"] == "agent"


async def test_lists_show_a_tenants_own_things_only(stage: Stage) -> None:
    """Every list of B is B's, also where A's id is a prefix of B's or the other way round."""
    a, a_owner = await stage.owner()
    await a_owner.post("/agents", json={"name": "A's", "agent_id": "a-agent"})
    await a_owner.post("/channels", json={"name": "A's", "channel_id": "a-channel"})
    _, b_owner = await _furnished(stage)
    listed = [
        (await b_owner.get(path)).text
        for path in ("/agents", "/channels", "/channels/channel/members", "/tenants")
    ]
    assert all(a not in text and "a-agent" not in text and "a-channel" not in text for text in listed)


@pytest.mark.parametrize(
    "tenant_id", ["", "..", "a b", "T*", "T>", "a.b", "x" * 65, "#platform", "%23person"]
)
async def test_malformed_tenant_is_refused(stage: Stage, tenant_id: str) -> None:
    """What is no tenant's id is refused before anything is looked up, in the header as in the path."""
    person = stage.client("nobody")
    refused = await person.get("/agents", headers={"X-Tenant-Id": tenant_id})
    assert refused.status_code == 400 if tenant_id else 403


async def test_person_of_two_tenants_must_choose(stage: Stage) -> None:
    """Somebody in two tenants names the one they mean; a third one is refused as ever."""
    first = await stage.tenant("both")
    second = await stage.tenant("both")
    third = await stage.tenant("other")
    person = stage.client("both")
    assert (await person.get("/agents")).status_code == 400
    await person.post("/agents", json={"name": "a", "agent_id": "a"}, headers={"X-Tenant-Id": first})
    assert (await person.get("/agents/a", headers={"X-Tenant-Id": first})).status_code == 200
    assert (await person.get("/agents/a", headers={"X-Tenant-Id": second})).status_code == 404
    assert (await person.get("/agents/a", headers={"X-Tenant-Id": third})).status_code == 403


async def test_page_token_works_only_where_it_was_given(stage: Stage) -> None:
    """A token of A's list says nothing, and is refused in B's, in another list of A's and when altered."""
    a, a_owner = await stage.owner()
    b, b_owner = await stage.owner()
    for owner in (a_owner, b_owner):
        for number in range(3):
            await owner.post("/agents", json={"name": "x", "agent_id": f"secret{number}"})
            await owner.post("/channels", json={"name": "x", "channel_id": f"secret{number}"})
    token = (await a_owner.get("/agents?limit=1")).json()["next_token"]
    assert "secret" not in token
    assert a not in token
    good = await a_owner.get("/agents", params={"limit": 1, "next_token": token})
    assert [agent["agent_id"] for agent in good.json()["agents"]] == ["secret1"]
    flipped = ("A" if token[20] != "A" else "B").join((token[:20], token[21:]))
    for client, path, bad in (
        (b_owner, "/agents", token),
        (a_owner, "/channels", token),
        (a_owner, f"/tenants/{a}/members", token),
        (a_owner, "/tenants", token),
        (a_owner, "/agents", flipped),
        (a_owner, "/agents", token[:-1]),
        (a_owner, "/agents", token + "A"),
        (a_owner, "/agents", ""),
    ):
        refused = await client.get(path, params={"next_token": bad})
        assert refused.status_code == 400, (path, bad)
        assert refused.json()["code"] == "invalid_argument"
    assert b


async def test_claimed_tenant_counts_only_where_it_exists(stage: Stage) -> None:
    """A trusted issuer's claim opens a tenant with the claimed role, and none that is not there."""
    tenant_id, _ = await _furnished(stage)
    viewer = stage.client("claimer", claims={"custom:tenant_id": tenant_id, "role": "viewer"})
    assert (await viewer.get("/agents")).status_code == 200
    assert (await viewer.post("/agents", json={"name": "x"})).status_code == 403
    stranger = stage.client("claimer2", claims={"tenant_id": "t-nowhere", "role": "owner"})
    assert (await stranger.get("/agents")).status_code == 403


async def test_membership_row_outranks_a_claim(stage: Stage) -> None:
    """Where the registry knows a role, a token that claims a higher one is not believed."""
    tenant_id, owner = await stage.owner()
    await owner.post(f"/tenants/{tenant_id}/members", json={"user_id": "v", "role": "viewer"})
    viewer = stage.client("v", claims={"tenant_id": tenant_id, "role": "owner"})
    assert (await viewer.get("/agents")).status_code == 200
    assert (await viewer.post("/agents", json={"name": "x"})).status_code == 403
