"""Keys of agents over REST: rotation, bounds, and sessions that end with their key."""

from __future__ import annotations

import asyncio
from collections import Counter

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from artcafe_common.contracts.auth import Revoked
from artcafe_common.contracts.registry import GET_AGENT, GetAgent
from artcafe_common.rpc import call

from .support import Stage


def _line(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


async def test_generated_private_key_fits_its_public_key(stage: Stage) -> None:
    """The private key that was returned once is one that OpenSSH's format reads, of the listed public key."""
    _, owner = await stage.owner()
    created = (await owner.post("/agents", json={"name": "a", "agent_id": "a"})).json()
    private = serialization.load_ssh_private_key(created["private_key"].encode(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert public.decode() == created["agent"]["keys"][0]["public_key"]
    assert b"PRIVATE" not in (await owner.get("/agents/a/keys")).content


async def test_own_public_key_is_taken_and_no_private_key_returned(stage: Stage) -> None:
    """An agent made with a key has that key, without its comment, and no private key is made."""
    _, owner = await stage.owner()
    line = _line(ec.generate_private_key(ec.SECP256R1()))
    created = (await owner.post("/agents", json={"name": "a", "public_key": f"{line} me@home"})).json()
    assert created["private_key"] is None
    (key,) = created["agent"]["keys"]
    assert key["public_key"] == line
    assert key["type"] == "ecdsa-sha2-nistp256"
    assert key["fingerprint"].startswith("SHA256:")


async def test_rotation_adds_then_removes(stage: Stage) -> None:
    """A new key stands beside the old one until that is taken away; auth is told of both steps."""
    tenant_id, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    old = (await owner.get("/agents/a/keys")).json()["keys"][0]["fingerprint"]
    added = await owner.post("/agents/a/keys", json={"name": "second"})
    assert added.status_code == 201
    new = added.json()["key"]["fingerprint"]
    known = (await call(stage.bus, GET_AGENT, GetAgent(tenant_id, "a"))).keys
    assert [key.fingerprint for key in known] == [old, new]
    assert (await owner.delete(f"/agents/a/keys/{old}")).status_code == 204
    known = (await call(stage.bus, GET_AGENT, GetAgent(tenant_id, "a"))).keys
    assert [key.fingerprint for key in known] == [new]
    assert stage.revoked == [
        Revoked(tenant_id=tenant_id, reason="key_revoked", agent_id="a", fingerprint=old)
    ]
    assert await stage.store.pending.all() == []


async def test_last_key_stays(stage: Stage) -> None:
    """The only key cannot be taken away, not even by two removals at the same moment."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    await owner.post("/agents/a/keys", json={})
    both = [key["fingerprint"] for key in (await owner.get("/agents/a/keys")).json()["keys"]]
    answers = await asyncio.gather(*(owner.delete(f"/agents/a/keys/{key}") for key in both))
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    assert len((await owner.get("/agents/a/keys")).json()["keys"]) == 1
    (left,) = (await owner.get("/agents/a/keys")).json()["keys"]
    refused = await owner.delete(f"/agents/a/keys/{left['fingerprint']}")
    assert refused.json()["code"] == "failed_precondition"


async def test_ten_keys_at_once_make_five(stage: Stage) -> None:
    """However many are added at the same moment, an agent has five keys at most."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    answers = await asyncio.gather(*(owner.post("/agents/a/keys", json={}) for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {201: 4, 409: 6}
    keys = (await owner.get("/agents/a/keys")).json()["keys"]
    assert len({key["fingerprint"] for key in keys}) == 5


async def test_same_key_twice_is_refused(stage: Stage) -> None:
    """A key that the agent has is not added again, also with another comment; another agent may have it."""
    _, owner = await stage.owner()
    line = _line(ec.generate_private_key(ec.SECP384R1()))
    await owner.post("/agents", json={"name": "a", "agent_id": "a", "public_key": line})
    again = await owner.post("/agents/a/keys", json={"public_key": f"{line} other comment"})
    assert again.status_code == 409
    assert again.json()["code"] == "already_exists"
    assert (await owner.post("/agents", json={"name": "b", "public_key": line})).status_code == 201


async def test_weak_or_foreign_keys_are_refused(stage: Stage) -> None:
    """Short RSA keys, other curves and what is no public key at all are refused."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    weak = _line(rsa.generate_private_key(65537, 1024))
    curve = _line(ec.generate_private_key(ec.SECP521R1()))
    good = _line(rsa.generate_private_key(65537, 2048))
    private = (await owner.post("/agents", json={"name": "b"})).json()["private_key"]
    for line in (
        weak,
        curve,
        private,
        "",
        "ssh-ed25519",
        f"{good}\n{good}",
        f'command="x" {good}',
        "x" * 9_000,
    ):
        refused = await owner.post("/agents/a/keys", json={"public_key": line})
        assert refused.status_code == 400, line[:40]
    assert (await owner.post("/agents/a/keys", json={"public_key": good})).status_code == 201


async def test_key_is_removed_by_query_with_and_without_encoding(stage: Stage) -> None:
    """A fingerprint's `+` and `/` work in the query however the client writes them."""
    _, owner = await stage.owner()
    await owner.post("/agents", json={"name": "a", "agent_id": "a"})
    while True:
        key = (await owner.post("/agents/a/keys", json={})).json()["key"]["fingerprint"]
        odd = "+" in key and "/" in key
        # Once as it is, where a plus sign reads as a space; once percent-encoded.
        answer = (
            await owner.request("DELETE", f"/agents/a/keys?fingerprint={key}")
            if odd
            else await owner.delete("/agents/a/keys", params={"fingerprint": key})
        )
        assert answer.status_code == 204, key
        if odd:
            break
    assert (await owner.delete("/agents/a/keys", params={"fingerprint": "SHA256:no"})).status_code == 404
    assert (await owner.get("/agents/ghost/keys")).status_code == 404
    assert (await owner.post("/agents/ghost/keys", json={})).status_code == 404
