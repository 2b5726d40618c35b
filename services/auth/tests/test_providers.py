"""Keeping the keys of issuers, with documents that a test makes."""

import asyncio
from typing import Any

import pytest

from artcafe_auth import providers as module
from artcafe_auth.fetcher import FetchError
from artcafe_auth.issuers import Issuer
from artcafe_auth.providers import ON_DEMAND_SECONDS, STALE_SECONDS, Provider, Providers
from artcafe_common.contracts.auth import IssuerKeys
from artcafe_common.errors import ErrorCode, ServiceError

from .support import ManualClock

A, B = "https://a.example", "https://b.example"


def _key(name: str) -> dict[str, str]:
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"  # RFC 8037, appendix A.2
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": name, "use": "sig", "alg": "EdDSA"}


class FakeFetcher:
    """Documents by address; counts how often each is fetched."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.fetched: list[str] = []
        self.gate: asyncio.Event | None = None

    def issuer(self, issuer: str, *keys: str) -> None:
        """Publish an issuer's documents."""
        self.documents[f"{issuer}/.well-known/openid-configuration"] = {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/keys",
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
        }
        self.documents[f"{issuer}/keys"] = {"keys": [_key(name) for name in keys]}

    def of(self, issuer: str) -> int:
        """Return how often an issuer's keys were fetched."""
        return self.fetched.count(f"{issuer}/keys")

    async def get(self, url: str) -> Any:
        """Return a document."""
        self.fetched.append(url)
        if self.gate is not None:
            await self.gate.wait()
        found = self.documents.get(url)
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise FetchError("status 404")
        return found


class World:
    """Two issuers and a clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fetcher = FakeFetcher()
        self.fetcher.issuer(A, "a1")
        self.fetcher.issuer(B, "b1")

    def provider(self, issuer: str = A, **fields: Any) -> Provider:
        """Make a provider."""
        listed = Issuer(issuer=issuer, audiences=("client",), **fields)
        return Provider(listed, self.fetcher, self.clock, allow_http=False)

    def providers(self, local: IssuerKeys | None = None) -> Providers:
        """Make both."""
        return Providers([self.provider(A), self.provider(B)], local, 300)


@pytest.fixture
def world() -> World:
    """Make a world."""
    return World()


async def _kids(providers: Providers) -> dict[str, list[Any]]:
    jwks = await providers.jwks()
    return {issuer.issuer: [key["kid"] for key in issuer.keys] for issuer in jwks.issuers}


async def test_first_question_is_answered_with_keys(world: World) -> None:
    """Who asks while auth has just started waits for the first fetch."""
    providers = world.providers()
    assert await _kids(providers) == {A: ["a1"], B: ["b1"]}
    rules = (await providers.jwks()).issuers[0]
    assert rules.audiences == ["client"]
    assert rules.algorithms == ["RS256", "ES256", "EdDSA"]


async def test_prefixes_are_told_to_those_who_check_tokens(world: World) -> None:
    """Services learn each issuer's prefix and tenants, and what the issuer without one must not use."""
    local = IssuerKeys(issuer="local", keys=[], audiences=[], algorithms=[])
    listed = [world.provider(A, user_prefix="a:", tenants=("t1",)), world.provider(B, user_prefix="b:")]
    told = (await Providers(listed, local, 300).jwks()).issuers
    assert [(rules.user_prefix, rules.foreign_prefixes, rules.tenants) for rules in told] == [
        ("a:", [], ["t1"]),
        ("b:", [], []),
        ("", ["a:", "b:"], []),
    ]


async def test_rotation_is_seen_on_demand(world: World) -> None:
    """A key that appears at the issuer is known to who asks, at most so many seconds later."""
    providers = world.providers()
    await providers.jwks()
    world.fetcher.issuer(A, "a2")
    world.clock.move(ON_DEMAND_SECONDS - 1)
    assert (await _kids(providers))[A] == ["a1"]
    world.clock.move(2)
    assert (await _kids(providers))[A] == ["a2"]


async def test_questions_do_not_make_fetches(world: World) -> None:
    """A thousand questions, one after the other or at once, make one fetch in ten seconds."""
    providers = world.providers()
    await asyncio.gather(*(providers.jwks() for _ in range(500)))
    for _ in range(500):
        await providers.jwks()
    assert world.fetcher.of(A) == 1
    world.clock.move(ON_DEMAND_SECONDS + 1)
    await asyncio.gather(*(providers.jwks() for _ in range(500)))
    assert world.fetcher.of(A) == 2


async def test_questions_do_not_make_fetches_of_an_issuer_that_is_down(world: World) -> None:
    """Failures count as tries: an issuer that is down is not asked more often."""
    world.fetcher.documents[f"{A}/keys"] = FetchError("status 503")
    providers = world.providers()
    for _ in range(100):
        await providers.jwks()
    assert world.fetcher.of(A) == 1


async def test_issuer_that_is_down_keeps_its_keys_for_a_day(world: World) -> None:
    """Old keys serve on for a bounded time, and come back with the issuer."""
    providers = world.providers()
    await providers.jwks()
    world.fetcher.documents[f"{A}/keys"] = FetchError("ClientConnectorError")
    world.clock.move(STALE_SECONDS - 1)
    assert await _kids(providers) == {A: ["a1"], B: ["b1"]}
    world.clock.move(ON_DEMAND_SECONDS + 1)
    assert await _kids(providers) == {A: [], B: ["b1"]}
    with pytest.raises(ServiceError):
        await providers.check()
    world.fetcher.issuer(A, "a2")
    world.clock.move(ON_DEMAND_SECONDS + 1)
    assert await _kids(providers) == {A: ["a2"], B: ["b1"]}
    await providers.check()


async def test_no_keys_at_all_is_unavailable(world: World) -> None:
    """Auth that could reach nobody yet does not say that there are no keys."""
    world.fetcher.documents.clear()
    with pytest.raises(ServiceError) as caught:
        await world.providers().jwks()
    assert caught.value.code == ErrorCode.UNAVAILABLE


async def test_local_issuer_is_there_while_others_are_down(world: World) -> None:
    """One issuer's failure does not touch the others."""
    world.fetcher.documents.clear()
    local = IssuerKeys(
        issuer="http://local", keys=[{"kid": "l"}], audiences=["artcafe"], algorithms=["ES256"]
    )
    assert await _kids(world.providers(local)) == {A: [], B: [], "http://local": ["l"]}


async def test_slow_issuer_holds_up_nobody_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is served the old keys, and the fetch goes on to its end."""
    providers = world.providers()
    await providers.jwks()
    monkeypatch.setattr(module, "ON_DEMAND_WAIT_SECONDS", 0.05)
    world.fetcher.issuer(A, "a2")
    world.fetcher.gate = asyncio.Event()
    world.clock.move(ON_DEMAND_SECONDS + 1)
    async with asyncio.timeout(30):
        assert (await _kids(providers))[A] == ["a1"]
    world.fetcher.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await _kids(providers))[A] == ["a2"]


@pytest.mark.parametrize("broken", [{"keys": []}, {"keys": [{"kty": "oct"}]}, [], None, "keys"])
async def test_document_without_keys_changes_nothing(world: World, broken: Any) -> None:
    """An issuer that publishes nothing usable for a while is treated like one that is down."""
    provider = world.provider()
    assert await provider.refresh()
    world.fetcher.documents[f"{A}/keys"] = broken
    assert not await provider.refresh()
    assert [key["kid"] for key in provider.keys] == ["a1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": B},
        {"issuer": A + "/"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://a.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
    ],
)
async def test_wrong_discovery_gives_no_keys(world: World, changes: dict[str, Any]) -> None:
    """A discovery document that speaks of another issuer, or leads away from https, is not followed."""
    world.fetcher.documents[f"{A}/.well-known/openid-configuration"] |= changes
    provider = world.provider()
    assert not await provider.refresh()
    assert provider.keys == []


async def test_bug_in_one_fetch_does_not_end_the_keeping(world: World) -> None:
    """An exception nobody thought of is one failed fetch."""
    provider = world.provider()
    world.fetcher.documents[f"{A}/keys"] = KeyError("oops")
    assert not await provider.refresh()
    world.fetcher.issuer(A, "a1")
    assert await provider.refresh()


async def test_stated_key_address_needs_no_discovery(world: World) -> None:
    """With `jwks_url` nothing else is fetched, unless a dashboard is to sign in there."""
    provider = world.provider(jwks_url=f"{B}/keys")
    assert await provider.refresh()
    assert world.fetcher.fetched == [f"{B}/keys"]
    signing_in = world.provider(jwks_url=f"{B}/keys", client_id="dashboard")
    assert await signing_in.refresh()
    assert signing_in.endpoints.authorization == f"{A}/authorize"
    world.fetcher.documents.pop(f"{A}/.well-known/openid-configuration")
    assert await signing_in.refresh()
    assert signing_in.endpoints.authorization == f"{A}/authorize"


async def test_keys_are_fetched_regularly_until_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs to ask; a failing issuer is tried again sooner, and the end leaves no task."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    world.fetcher.documents[f"{B}/keys"] = FetchError("status 500")
    providers = Providers([world.provider(A), world.provider(B)], None, 3600)
    running = asyncio.create_task(providers.run())
    async with asyncio.timeout(30):
        while world.fetcher.of(B) < 5:
            await asyncio.sleep(0.005)
    assert world.fetcher.of(A) == 1
    world.fetcher.gate = asyncio.Event()
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait([running])
    assert asyncio.all_tasks() == {asyncio.current_task()}
