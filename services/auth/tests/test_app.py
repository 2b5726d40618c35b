"""The HTTP side: routes, bodies, headers, and the document that describes them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from artcafe_auth.agents import AgentProofs
from artcafe_auth.app import create_auth_app
from artcafe_auth.handlers import Handlers
from artcafe_auth.issuers import Issuer
from artcafe_auth.limits import RateLimits
from artcafe_auth.local_issuer import LocalIssuer, load_or_create_key
from artcafe_auth.passwords import Passwords
from artcafe_auth.people import LocalPeople, add_user
from artcafe_auth.providers import Provider, Providers, SignInEndpoints
from artcafe_common.contracts.registry import AgentInfo, GetAgent
from artcafe_common.errors import not_found
from artcafe_common.health import Readiness

from .support import ManualClock, MemoryOneTimeStore, MemoryUserStore, key_pair
from .test_providers import FakeFetcher


async def _registry(request: GetAgent) -> AgentInfo:
    if request.agent_id != "a1":
        raise not_found("agent")
    return AgentInfo(
        tenant_id=request.tenant_id,
        agent_id="a1",
        name="",
        tenant_status="active",
        keys=[key_pair().registered],
    )


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[LocalPeople]:
    """Make the local issuer with one person."""
    clock, store, passwords = ManualClock(), MemoryUserStore(), Passwords()
    await add_user(store, passwords, clock, "ann@example.com", "correct horse")
    issuer = LocalIssuer(
        load_or_create_key(tmp_path / "key.pem"), url="http://localhost", audience="artcafe", token_seconds=60
    )
    limits = RateLimits(address_rate=0, agent_rate=0, login_rate=0, clock=clock)
    yield LocalPeople(store, passwords, issuer, limits, clock)
    passwords.close()


async def _client(people: LocalPeople | None, **rates: int) -> httpx.AsyncClient:
    clock = ManualClock()
    limits = RateLimits(**({"address_rate": 0, "agent_rate": 0, "login_rate": 0} | rates), clock=clock)
    listed = Issuer(
        issuer="https://id.example.com", audiences=("client",), client_id="dashboard", user_prefix="id:"
    )
    provider = Provider(listed, FakeFetcher(), clock, allow_http=False)
    provider.endpoints = SignInEndpoints("https://id.example.com/authorize", "https://id.example.com/token")
    unlisted = Issuer(issuer="https://machines.example.com", audiences=("client",))
    providers = Providers([provider, Provider(unlisted, FakeFetcher(), clock, allow_http=False)], None, 300)
    handlers = Handlers(AgentProofs(MemoryOneTimeStore(), _registry, limits, clock), providers, people)
    app = create_auth_app(handlers, Readiness("auth", "test", "0"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://auth/api/v1")


@pytest.fixture
async def client(people: LocalPeople) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of auth with the local issuer on."""
    async with await _client(people) as made:
        yield made


async def test_challenge_and_verify(client: httpx.AsyncClient) -> None:
    """The exchange as the protocol writes it; nothing of it may be kept by a cache."""
    named = {"tenant_id": "t1", "agent_id": "a1"}
    asked = await client.post("/auth/agent/challenge", json=named)
    assert asked.status_code == 200
    challenge = asked.json()
    assert set(challenge) == {"challenge", "expires_at", "tenant_id", "agent_id"}
    assert challenge["expires_at"] == "2026-09-21T14:18:20.000Z"
    proof = named | {"challenge": challenge["challenge"]}
    proof["response"] = key_pair().response(challenge["challenge"])
    verified = await client.post("/auth/agent/verify", json=proof)
    assert verified.status_code == 200
    assert verified.json() | {"ticket": ""} == named | {"valid": True, "ticket": "", "expires_in": 60}
    assert asked.headers["cache-control"] == verified.headers["cache-control"] == "no-store"
    again = await client.post("/auth/agent/verify", json=proof)
    assert again.status_code == 401
    assert again.headers["content-type"] == "application/problem+json"
    assert again.json()["code"] == "unauthenticated"


async def test_older_agents_ask_with_a_header(client: httpx.AsyncClient) -> None:
    """The other route gives the same object, with only the tenant's header; without it the answer says so."""
    asked = await client.get("/agents/a1/challenge", headers={"X-Tenant-Id": "t1"})
    challenge = asked.json()
    assert set(challenge) == {"challenge", "expires_at", "tenant_id", "agent_id"}
    assert (challenge["tenant_id"], challenge["agent_id"]) == ("t1", "a1")
    proof = {"agent_id": "a1", "challenge": challenge["challenge"]}
    proof["response"] = key_pair().response(challenge["challenge"])
    verified = await client.post("/auth/agent/verify", json=proof)
    assert verified.json()["tenant_id"] == "t1"
    refused = await client.get("/agents/a1/challenge")
    assert refused.status_code == 400
    assert "X-Tenant-Id" in refused.json()["detail"]


async def test_unknown_agents_get_challenges_too(client: httpx.AsyncClient) -> None:
    """The answers for a known and an unknown agent differ in nothing but what was asked."""
    answers = [
        await client.post("/auth/agent/challenge", json={"tenant_id": "t1", "agent_id": agent_id})
        for agent_id in ("a1", "x1")
    ]
    lengths = {(answer.status_code, len(answer.content), tuple(answer.headers)) for answer in answers}
    assert len(lengths) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/auth/agent/challenge", {"tenant_id": "t1"}),
        ("/auth/agent/challenge", {"tenant_id": "t1", "agent_id": "a1", "more": 1}),
        ("/auth/agent/challenge", {"tenant_id": "t1", "agent_id": "a.b"}),
        ("/auth/agent/challenge", {"tenant_id": "t1", "agent_id": None}),
        ("/auth/agent/challenge", []),
        ("/auth/agent/verify", {"tenant_id": "t1", "agent_id": "a1", "challenge": "c"}),
        ("/auth/agent/verify", {"agent_id": "a1", "challenge": "c", "response": "r" * 20_000}),
        ("/auth/login", {"email": "ann@example.com"}),
        ("/auth/login", {"email": "ann", "password": "correct horse"}),
    ],
)
async def test_wrong_bodies_are_told(client: httpx.AsyncClient, path: str, body: Any) -> None:
    """Missing, unknown and ill-formed fields are `invalid_argument`."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_argument"


async def test_large_body_is_refused(client: httpx.AsyncClient) -> None:
    """No body of auth's is large."""
    answer = await client.post("/auth/login", content=b" " * 100_000)
    assert answer.status_code == 400


async def test_limit_says_when_to_come_back() -> None:
    """A rate limit is 429 with `Retry-After`, by the address that the edge tells."""
    async with await _client(None, address_rate=2) as client:
        body = {"tenant_id": "t1", "agent_id": "a1"}
        for _ in range(2):
            answer = await client.post("/auth/agent/challenge", json=body, headers={"X-Real-IP": "192.0.2.1"})
            assert answer.status_code == 200
        answer = await client.post("/auth/agent/challenge", json=body, headers={"X-Real-IP": "192.0.2.1"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "30"
        answer = await client.post("/auth/agent/challenge", json=body, headers={"X-Real-IP": "192.0.2.2"})
        assert answer.status_code == 200


async def test_login(client: httpx.AsyncClient, people: LocalPeople) -> None:
    """A person gets a bearer token whose key is in the published set."""
    right = {"email": "ann@example.com", "password": "correct horse"}
    answer = await client.post("/auth/login", json=right)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type", "expires_in"}
    assert answer.json()["token_type"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"
    wrong = await client.post("/auth/login", json=right | {"password": "wrong horse"})
    unknown = await client.post("/auth/login", json=right | {"email": "bob@example.com"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() | {"instance": ""} == unknown.json() | {"instance": ""}
    assert (await client.get("/auth/jwks.json")).json() == {"keys": [people.issuer.jwk]}


async def test_config_tells_how_to_sign_in(client: httpx.AsyncClient) -> None:
    """A dashboard learns the issuers it may sign in at, and whether e-mail and password work."""
    assert (await client.get("/auth/config")).json() == {
        "issuers": [
            {
                "issuer": "https://id.example.com",
                "client_id": "dashboard",
                "scopes": ["openid", "email"],
                "user_prefix": "id:",
                "authorization_endpoint": "https://id.example.com/authorize",
                "token_endpoint": "https://id.example.com/token",
            }
        ],
        "local_login": True,
        "login_path": "/api/v1/auth/login",
    }


async def test_without_a_local_issuer_there_is_no_login() -> None:
    """Login says where to go instead, and no keys are published."""
    async with await _client(None) as client:
        answer = await client.post("/auth/login", json={"email": "ann@example.com", "password": "x"})
        assert answer.status_code == 409
        assert (await client.get("/auth/jwks.json")).json() == {"keys": []}
        assert (await client.get("/auth/config")).json()["local_login"] is False


async def test_openapi_document_is_served(client: httpx.AsyncClient) -> None:
    """Every route is described."""
    document = json.loads((await client.get("/auth/openapi.json")).content)
    assert set(document["paths"]) == {
        "/api/v1/auth/agent/challenge",
        "/api/v1/auth/agent/verify",
        "/api/v1/agents/{agent_id}/challenge",
        "/api/v1/auth/login",
        "/api/v1/auth/jwks.json",
        "/api/v1/auth/config",
    }
