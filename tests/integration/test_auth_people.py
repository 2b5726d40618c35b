"""People sign in at the local issuer, and other services check their tokens by what auth tells them."""

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from artcafe_auth.local_issuer import load_or_create_key
from artcafe_common import rpc
from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import GET_JWKS, GetJwks, Jwks
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.tokens import KeyRing, TokenVerifier
from artcafe_devstack.servers import AwsEndpoint

from .auth_support import LOCAL_ISSUER_URL, ManualClock, command, running_auth, settings

EMAIL, PASSWORD = "ann@example.com", "correct horse"


class World:
    """Auth with its local issuer, and a service that checks tokens; both live by one clock."""

    def __init__(
        self, client: httpx.AsyncClient, bus: Bus, key_file: Path, clock: ManualClock, user_id: str
    ) -> None:
        self.client = client
        self.bus = bus
        self.user_id = user_id
        self._token = ""
        self.private = load_or_create_key(key_file)
        self.clock = clock
        self.verifier = TokenVerifier(KeyRing(self.jwks, self.clock), self.clock)

    async def jwks(self) -> Jwks:
        """Ask auth for the keys, as every service does."""
        return await rpc.call(self.bus, GET_JWKS, GetJwks())

    async def login(self, email: str = EMAIL, password: str = PASSWORD) -> httpx.Response:
        """Sign in."""
        return await self.client.post("/auth/login", json={"email": email, "password": password})

    async def token(self) -> str:
        """Return a good token, the same each time: attempts to sign in are limited."""
        if not self._token:
            self._token = str((await self.login()).json()["access_token"])
        return self._token

    async def forged(
        self, claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, **signing: Any
    ) -> str:
        """Return the good token with changes, signed by the issuer's own key unless told otherwise."""
        good = await self.token()
        payload = jwt.decode(good, options={"verify_signature": False}) | (claims or {})
        payload = {name: value for name, value in payload.items() if value is not None}
        headers = {"kid": jwt.get_unverified_header(good)["kid"]} | (header or {})
        return jwt.encode(
            payload,
            signing.get("key", self.private),
            algorithm=signing.get("algorithm", "ES256"),
            headers={name: value for name, value in headers.items() if value is not None},
        )

    async def is_accepted(self, token: str) -> bool:
        """Tell whether a service takes a token."""
        try:
            await self.verifier.verify(token)
        except ServiceError as error:
            assert error.code == ErrorCode.UNAUTHENTICATED
            return False
        return True


@pytest.fixture
async def world(nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path) -> AsyncIterator[World]:
    """Run auth with its local issuer; Ann was added by the command line before it started."""
    key_file = tmp_path / "key.pem"
    environment = settings(
        nats_url, AUTH_LOCAL_ISSUER_KEY_FILE=str(key_file), **aws_environment.environment()
    )
    added = command(environment, "add-user", "--email", "Ann@Example.com", "--password-stdin", text=PASSWORD)
    assert added.returncode == 0, added.stderr
    bus = await Bus.open(nats_url, name="test")
    try:
        clock = ManualClock(time.time())
        async with running_auth(environment, clock) as client:
            yield World(client, bus, key_file, clock, msgspec.json.decode(added.stdout)["user_id"])
    finally:
        await bus.close_gracefully()


async def test_person_signs_in_and_is_known_to_services(world: World) -> None:
    """The token of a login is accepted by a service that has never seen auth's key before."""
    answer = await world.login(email="ANN@example.com")
    assert answer.status_code == 200
    assert answer.json()["expires_in"] == 3600
    person = await world.verifier.verify(answer.json()["access_token"])
    assert (person.user_id, person.email) == (world.user_id, EMAIL)
    assert person.claimed_tenant_id is None


async def test_wrong_password_and_unknown_person_look_the_same(world: World) -> None:
    """One answer, and about the same time: a hash is computed for both."""
    times = {}
    bodies = set()
    for email in (EMAIL, "nobody@example.com"):
        durations = []
        for _ in range(5):
            answer = await world.login(email=email, password="wrong password")
            assert answer.status_code == 401
            bodies.add((answer.json()["code"], answer.json()["detail"]))
            durations.append(answer.elapsed.total_seconds())
        times[email] = min(durations)
    assert len(bodies) == 1
    # Without the hash the unknown person's answer takes a few milliseconds.
    assert times["nobody@example.com"] > times[EMAIL] / 2


async def test_attempts_to_sign_in_are_limited(world: World) -> None:
    """Guessing ends in 429 with a time to wait."""
    answers = [await world.login(email="bob@example.com", password="wrong password") for _ in range(33)]
    assert [answer.status_code for answer in answers] == [401] * 30 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_tokens_hold_with_thirty_seconds_of_leeway(world: World) -> None:
    """A service whose clock is 29 s off takes a token, one that is 31 s off does not; both ways."""
    now = world.clock.now()
    assert await world.is_accepted(await world.forged({"exp": now - 29}))
    assert not await world.is_accepted(await world.forged({"exp": now - 31}))
    assert await world.is_accepted(await world.forged({"nbf": now + 29}))
    assert not await world.is_accepted(await world.forged({"nbf": now + 31}))


async def test_unchanged_token_is_accepted_when_forged_again(world: World) -> None:
    """What the next tests change one by one is good without the change."""
    assert await world.is_accepted(await world.forged())


async def test_other_claims_are_refused(world: World) -> None:
    """Another issuer, another audience, another use, nobody, for ever: refused, though signed by the key."""
    changes: list[dict[str, Any]] = [
        {"iss": "https://other.example.com"},
        {"iss": LOCAL_ISSUER_URL + "/"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"aud": None, "client_id": "other"},
        {"token_use": "access"},
        {"token_use": None},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
    ]
    accepted = [claims for claims in changes if await world.is_accepted(await world.forged(claims))]
    assert accepted == []


async def test_unsigned_token_is_refused(world: World) -> None:
    """`alg: none` is no algorithm, in any spelling."""
    header, payload, _ = (await world.token()).split(".")
    for algorithm in ("none", "None", "NONE", ""):
        changed = {"alg": algorithm, "kid": world_kid(header), "typ": "JWT"}
        for signature in ("", "AAAA"):
            assert not await world.is_accepted(f"{_encoded(changed)}.{payload}.{signature}")


async def test_public_key_is_no_shared_secret(world: World) -> None:
    """A token signed by HMAC with the published key, in any of its forms, is refused."""
    public = world.private.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (issuer,) = (await world.jwks()).issuers
    secrets = [
        public.public_bytes(serialization.Encoding.PEM, spki),
        public.public_bytes(serialization.Encoding.DER, spki),
        msgspec.json.encode(issuer.keys[0]),
        str(issuer.keys[0]["x"]).encode(),
    ]
    for secret in secrets:
        # Written by hand: the library refuses to sign such a thing.
        header, payload, _ = (await world.token()).split(".")
        changed = _encoded({"alg": "HS256", "kid": world_kid(header), "typ": "JWT"})
        signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signature = signer.sign(f"{changed}.{payload}".encode(), secret)
        encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        assert not await world.is_accepted(f"{changed}.{payload}.{encoded}")


async def test_other_keys_are_refused(world: World) -> None:
    """A stranger's key under the known name, an unknown name, and no name at all."""
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert not await world.is_accepted(await world.forged(key=stranger))
    assert not await world.is_accepted(await world.forged(header={"kid": "other"}))
    assert not await world.is_accepted(await world.forged(header={"kid": None}))
    embedded = {"jwk": msgspec.json.decode(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))}
    assert not await world.is_accepted(await world.forged(key=stranger, header=embedded))


async def test_what_is_no_token_is_refused(world: World) -> None:
    """No text does anything but being refused."""
    for token in ("", "x", "a.b.c", "\u00e9.\u00e9.\u00e9", "e30.e30.", "x" * 20_000):
        assert not await world.is_accepted(token)


async def test_replicas_share_one_key(
    world: World, nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path
) -> None:
    """A second replica on the same key file signs tokens that are checked by what the first one told."""
    environment = settings(
        nats_url, AUTH_LOCAL_ISSUER_KEY_FILE=str(tmp_path / "key.pem"), **aws_environment.environment()
    )
    assert await world.is_accepted(await world.token())
    async with running_auth(environment) as second:
        answer = await second.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
        assert await world.is_accepted(answer.json()["access_token"])


async def test_adding_again_keeps_the_person(
    world: World, nats_url: str, aws_environment: AwsEndpoint, tmp_path: Path
) -> None:
    """`add-user` prints the same id again, sets a new password, and tells what is wrong in one line."""
    environment = settings(
        nats_url, AUTH_LOCAL_ISSUER_KEY_FILE=str(tmp_path / "key.pem"), **aws_environment.environment()
    )
    arguments = ("add-user", "--email", EMAIL)
    kept = command(environment, *arguments)
    assert msgspec.json.decode(kept.stdout) == {"user_id": world.user_id}
    assert (await world.login()).status_code == 200
    changed = command(environment, *arguments, "--password-stdin", text="battery staple\n")
    assert msgspec.json.decode(changed.stdout) == {"user_id": world.user_id}
    assert (await world.login()).status_code == 401
    assert (await world.login(password="battery staple")).status_code == 200
    short = command(environment, *arguments, "--password-stdin", text="short\n")
    assert short.returncode == 1
    assert short.stderr == "add-user: password: at least 8 characters and at most 1024 bytes\n"


def world_kid(header: str) -> str:
    """Return the key's name in a token's header."""
    decoded = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
    return str(msgspec.json.decode(decoded)["kid"])


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()
