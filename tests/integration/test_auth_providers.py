"""Auth keeps the keys of OpenID Connect issuers: here a real server that tests start, change and stop."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from prometheus_client import REGISTRY

from artcafe_auth import providers
from artcafe_auth.providers import ON_DEMAND_SECONDS, STALE_SECONDS
from artcafe_common import rpc
from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, Jwks
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.tokens import UNKNOWN_KEY_PAUSE_SECONDS, KeyRing, Person, TokenVerifier
from artcafe_devstack.ports import free_port
from artcafe_devstack.servers import AwsEndpoint

from .auth_support import ManualClock, running_auth, settings

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

CLIENT_ID = "dashboard"


class IdentityProvider:
    """A small OpenID Connect issuer."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}/pool"
        self.keys: dict[str, PrivateKey] = {}
        self.extra: list[dict[str, Any]] = []
        self.fetches = 0
        self.gate: asyncio.Event | None = None
        self.body: bytes | None = None
        self.redirect: str | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve."""
        app = web.Application()
        app.router.add_get("/pool/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/pool/keys", self._keys)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Be down."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def rotate(self, name: str, key: PrivateKey | None = None) -> None:
        """Publish this key and no other any more."""
        self.keys = {name: key or ec.generate_private_key(ec.SECP256R1())}

    def token(self, name: str, now: float, **claims: Any) -> str:
        """Return a token signed by a published key."""
        key = self.keys[name]
        algorithm = "EdDSA"
        if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        payload = {"iss": self.issuer, "sub": "ann", "aud": CLIENT_ID, "exp": now + 600, "token_use": "id"}
        payload = {n: v for n, v in (payload | claims).items() if v is not None}
        return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": name})

    async def _discovery(self, _: web.Request) -> web.Response:
        base = self.issuer
        return web.json_response(
            {
                "issuer": base,
                "jwks_uri": f"{base}/keys",
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
            }
        )

    async def _keys(self, _: web.Request) -> web.Response:
        self.fetches += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.redirect is not None:
            raise web.HTTPFound(self.redirect)
        if self.body is not None:
            headers = {"Content-Encoding": "gzip"} if self.body.startswith(b"\x1f\x8b") else {}
            return web.Response(body=self.body, content_type="application/json", headers=headers)
        keys = [_jwk(name, key) for name, key in self.keys.items()]
        return web.json_response({"keys": [*self.extra, *keys]})


def _jwk(name: str, key: PrivateKey) -> dict[str, Any]:
    text: Any
    if isinstance(key, rsa.RSAPrivateKey):
        text = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        text = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())
    else:
        text = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())
    made: dict[str, Any] = json.loads(text)
    made.pop("key_ops", None)
    return made | {"kid": name, "use": "sig"}


class World:
    """Auth with issuers, and a service that checks tokens; both live by one clock."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.clock = ManualClock(time.time())
        self.asked = 0
        self.verifier = self.service()
        self.client: httpx.AsyncClient

    def service(self) -> TokenVerifier:
        """Return what a service that just started checks tokens with."""
        return TokenVerifier(KeyRing(self.jwks, self.clock), self.clock)

    async def jwks(self) -> Jwks:
        """Ask auth for the keys, as every service does."""
        self.asked += 1
        return await rpc.call(self.bus, GET_JWKS, GetJwks())

    async def code(self, token: str) -> str:
        """Return what becomes of a token: `ok`, or the code of its refusal."""
        try:
            await self.verifier.verify(token)
        except ServiceError as error:
            return error.code
        return "ok"

    def wait_for_next_question(self) -> None:
        """Let so much time pass that auth and services may ask again."""
        self.clock.move(max(ON_DEMAND_SECONDS, UNKNOWN_KEY_PAUSE_SECONDS) + 1)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, an issuer's answer is waited for."""
    monkeypatch.setattr(providers, "ON_DEMAND_WAIT_SECONDS", 30.0)


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """Run an issuer with one key."""
    made = IdentityProvider()
    made.rotate("first")
    await made.start()
    yield made
    if made.gate is not None:
        made.gate.set()
    await made.stop()


@asynccontextmanager
async def running_world(
    nats_url: str, aws: AwsEndpoint, folder: Path, *providers: IdentityProvider, **fields: Any
) -> AsyncIterator[World]:
    """Run auth with these issuers, and no local one."""
    listed = [
        {"issuer": provider.issuer, "audiences": [CLIENT_ID], "client_id": CLIENT_ID} | fields
        for provider in providers
    ]
    # All but the first: their people are not the first one's.
    for number, issuer in enumerate(listed[1:], start=1):
        issuer["user_prefix"] = f"p{number}:"
    (folder / "issuers.json").write_text(json.dumps(listed))
    environment = settings(
        nats_url,
        AUTH_LOCAL_ISSUER="false",
        AUTH_ISSUERS_FILE=str(folder / "issuers.json"),
        AWS_ENDPOINT_URL=aws.url,
    )
    bus = await Bus.open(nats_url, name="test")
    try:
        world = World(bus)
        async with running_auth(environment, world.clock) as client:
            world.client = client
            yield world
    finally:
        await bus.close_gracefully()


@pytest.fixture
async def world(
    nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path, provider: IdentityProvider
) -> AsyncIterator[World]:
    """Run auth with the issuer."""
    async with running_world(nats_url, aws_environment, tmp_path, provider) as made:
        yield made


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
async def test_tokens_of_each_algorithm_are_accepted(
    world: World, provider: IdentityProvider, kind: str
) -> None:
    """RSA, ECDSA and Ed25519 keys are passed on so that services can use them."""
    made: dict[str, PrivateKey] = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    provider.rotate(kind, made[kind])
    world.wait_for_next_question()
    person = await world.verifier.verify(provider.token(kind, world.clock.now(), email="ann@example.com"))
    assert isinstance(person, Person)
    assert (person.user_id, person.email) == ("ann", "ann@example.com")


async def test_id_and_access_tokens_are_accepted(
    nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path, provider: IdentityProvider
) -> None:
    """Cognito's access tokens name their client in `client_id`; other uses are refused."""
    uses = {"token_uses": ["id", "access"]}
    async with running_world(nats_url, aws_environment, tmp_path, provider, **uses) as world:
        now = world.clock.now()
        access = {"aud": None, "client_id": CLIENT_ID, "token_use": "access"}
        assert await world.code(provider.token("first", now)) == "ok"
        assert await world.code(provider.token("first", now, **access)) == "ok"
        assert await world.code(provider.token("first", now, token_use="refresh")) == "unauthenticated"
        assert await world.code(provider.token("first", now, aud="other")) == "unauthenticated"


@pytest.mark.parametrize("believed", [True, False])
async def test_tenant_claims_are_believed_only_where_listed(
    nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path, provider: IdentityProvider, believed: bool
) -> None:
    """What an issuer says of tenants counts if the operator said so."""
    async with running_world(nats_url, aws_environment, tmp_path, provider, tenant_claims=believed) as world:
        token = provider.token("first", world.clock.now(), **{"custom:tenant_id": "t1"})
        person = await world.verifier.verify(token)
        assert person.claimed_tenant_id == ("t1" if believed else None)


async def test_same_subject_of_two_issuers_is_two_people(
    nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path, provider: IdentityProvider
) -> None:
    """What auth tells of prefixes is what services go by."""
    other = IdentityProvider()
    other.rotate("other")
    await other.start()
    try:
        async with running_world(nats_url, aws_environment, tmp_path, provider, other) as world:
            now = world.clock.now()
            first = await world.verifier.verify(provider.token("first", now))
            second = await world.verifier.verify(other.token("other", now))
            assert (first.user_id, second.user_id) == ("ann", "p1:ann")
            assert await world.code(provider.token("first", now, sub="p1:ann")) == "unauthenticated"
    finally:
        await other.stop()


async def test_keys_are_rotated_without_a_restart(world: World, provider: IdentityProvider) -> None:
    """A new key is known as soon as a token brings its name; the old one is gone."""
    old = provider.token("first", world.clock.now())
    assert await world.code(old) == "ok"
    provider.rotate("second")
    world.wait_for_next_question()
    assert await world.code(provider.token("second", world.clock.now())) == "ok"
    assert await world.code(old) == ErrorCode.UNAUTHENTICATED


async def test_first_tokens_of_a_new_key_are_all_accepted(world: World, provider: IdentityProvider) -> None:
    """Of many requests that bring the new name at once none is refused while the first one asks."""
    assert await world.code(provider.token("first", world.clock.now())) == "ok"
    provider.rotate("second")
    world.wait_for_next_question()
    token = provider.token("second", world.clock.now())
    outcomes = await asyncio.gather(*(world.code(token) for _ in range(50)))
    assert set(outcomes) == {"ok"}


async def test_invented_key_names_make_no_fetches(world: World, provider: IdentityProvider) -> None:
    """Hundreds of tokens with ever new key names ask auth once, and the issuer once."""
    good = provider.token("first", world.clock.now())
    assert await world.code(good) == "ok"
    world.wait_for_next_question()
    fetches, asked = provider.fetches, world.asked
    stranger = ec.generate_private_key(ec.SECP256R1())
    payload = jwt.decode(good, options={"verify_signature": False})
    for number in range(300):
        token = jwt.encode(payload, stranger, algorithm="ES256", headers={"kid": f"invented-{number}"})
        assert await world.code(token) == ErrorCode.UNAUTHENTICATED
    # Services that just started ask too, and auth answers them from what it has.
    for _ in range(20):
        await world.service().verify(good)
    assert provider.fetches - fetches <= 1
    assert world.asked - asked <= 1 + 20
    assert await world.code(good) == "ok"


async def test_issuer_that_is_down_locks_nobody_out(world: World, provider: IdentityProvider) -> None:
    """Its keys serve on for a day, also for services that start meanwhile; then no longer."""
    assert await world.code(provider.token("first", world.clock.now())) == "ok"
    await provider.stop()
    world.clock.move(STALE_SECONDS - 60)
    token = provider.token("first", world.clock.now())
    assert await world.code(token) == "ok"
    await world.service().verify(token)
    world.clock.move(120)
    with pytest.raises(ServiceError) as caught:
        await world.service().verify(token)
    assert caught.value.code == ErrorCode.UNAVAILABLE
    await provider.start()
    world.wait_for_next_question()
    await world.service().verify(token)


def _fetched_at(provider: IdentityProvider) -> float | None:
    labels = {"issuer": provider.issuer}
    return REGISTRY.get_sample_value("artcafe_auth_keys_fetched_timestamp_seconds", labels)


async def test_auth_that_starts_while_an_issuer_is_down_locks_nobody_out(
    nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path, provider: IdentityProvider
) -> None:
    """Services keep the keys of an issuer that a new auth cannot reach; a new service says `unavailable`."""
    other = IdentityProvider()
    other.rotate("other")
    await other.start()
    async with running_world(nats_url, aws_environment, tmp_path, provider, other) as world:
        token = provider.token("first", world.clock.now())
        assert await world.code(token) == "ok"
        ring = world.verifier
    await provider.stop()
    try:
        async with running_world(nats_url, aws_environment, tmp_path, provider, other) as restarted:
            world.bus = restarted.bus
            world.clock.move(400)
            assert await world.code(other.token("other", world.clock.now())) == "ok"
            assert await world.code(token) == "ok"
            assert world.verifier is ring
            restarted.verifier = restarted.service()
            assert await restarted.code(token) == ErrorCode.UNAVAILABLE
            assert await restarted.code(other.token("other", restarted.clock.now())) == "ok"
            # Whoever looks after it is told: of the one that was never reached there is a figure, too.
            assert _fetched_at(provider) == 0
            assert _fetched_at(other) == pytest.approx(restarted.clock.now(), abs=3600)
    finally:
        await other.stop()


async def test_frozen_issuer_holds_up_nobody(
    world: World, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An issuer that takes requests and never answers costs a new service a short time, others none."""
    token = provider.token("first", world.clock.now())
    assert await world.code(token) == "ok"
    provider.gate = asyncio.Event()
    world.wait_for_next_question()
    # Who waits longer than five seconds for auth gets no answer.
    monkeypatch.setattr(providers, "ON_DEMAND_WAIT_SECONDS", 0.5)
    await asyncio.gather(*(world.service().verify(token) for _ in range(5)))
    monkeypatch.setattr(providers, "ON_DEMAND_WAIT_SECONDS", 30.0)
    started = time.monotonic()
    assert await world.code(token) == "ok"
    assert time.monotonic() - started < 4.5


@pytest.mark.parametrize("wrong", ["huge", "zipped", "not json", "no keys", "redirect", "deep"])
async def test_wrong_documents_change_nothing(world: World, provider: IdentityProvider, wrong: str) -> None:
    """Megabytes, what may unfold to them, HTML, no keys, a redirect, deep nesting: the known keys stay."""
    token = provider.token("first", world.clock.now())
    assert await world.code(token) == "ok"
    fetches = provider.fetches
    # Keys that would be taken, if it were not for what is wrong.
    other = IdentityProvider()
    other.rotate("other")
    published = json.dumps({"keys": [_jwk(name, key) for name, key in other.keys.items()]}).encode()
    bodies = {
        "huge": published + b" " * 2_000_000,
        "zipped": gzip.compress(published),
        "not json": b"<html>",
        "no keys": b'{"keys":[]}',
        "deep": b"[" * 200_000,
    }
    provider.body = bodies.get(wrong)
    if wrong == "redirect":
        await other.start()
        provider.redirect = f"{other.issuer}/keys"
    world.wait_for_next_question()
    await world.service().verify(token)
    assert provider.fetches == fetches + 1
    assert other.fetches == 0
    await other.stop()


async def test_only_usable_keys_are_passed_on(world: World, provider: IdentityProvider) -> None:
    """A shared secret, a key for encryption, a private key or a nameless one never reaches a service."""
    leaked = _jwk("leaked", ec.generate_private_key(ec.SECP256R1())) | {"d": "secret"}
    provider.extra = [
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        _jwk("encryption", rsa.generate_private_key(65537, 2048)) | {"use": "enc"},
        {name: value for name, value in leaked.items() if name != "kid"},
        leaked,
    ]
    world.wait_for_next_question()
    (issuer,) = (await world.jwks()).issuers
    assert [key["kid"] for key in issuer.keys] == ["leaked", "first"]
    assert not any("d" in key or "k" in key for key in issuer.keys)


async def test_dashboard_learns_where_to_sign_in(world: World, provider: IdentityProvider) -> None:
    """The issuer's endpoints come from its own discovery document."""
    assert (await world.client.get("/auth/config")).json() == {
        "issuers": [
            {
                "issuer": provider.issuer,
                "client_id": CLIENT_ID,
                "scopes": ["openid", "email"],
                "authorization_endpoint": f"{provider.issuer}/authorize",
                "token_endpoint": f"{provider.issuer}/token",
            }
        ],
        "local_login": False,
        "login_path": None,
    }
