"""Tokens, and fakes of auth and registry, for the tests of what is done with them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from artcafe_common.contracts.auth import IssuerKeys, Jwks
from artcafe_common.contracts.registry import Membership, Memberships, TenantStatus
from artcafe_common.errors import ErrorCode, ServiceError

from .support import FrozenClock

ISSUER = "https://issuer.test/pool"
AUDIENCE = "artcafe"

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = Ed25519PrivateKey.generate()
OTHER_KEY = Ed25519PrivateKey.generate()


def jwk(text: str, key_id: str) -> dict[str, Any]:
    """Return a public key as an issuer publishes it."""
    return {**json.loads(text), "kid": key_id, "use": "sig"}


KEYS = [
    jwk(RSAAlgorithm.to_jwk(RSA_KEY.public_key()), "rsa"),
    jwk(ECAlgorithm.to_jwk(EC_KEY.public_key()), "ec"),
    jwk(OKPAlgorithm.to_jwk(ED_KEY.public_key()), "ed"),
]


def issuer_keys(**changes: Any) -> IssuerKeys:
    """Return an issuer as auth tells of it."""
    return IssuerKeys(
        **{
            "issuer": ISSUER,
            "keys": KEYS,
            "audiences": [AUDIENCE],
            "algorithms": ["RS256", "ES256", "EdDSA"],
            "tenant_claims": True,
            **changes,
        }
    )


class Auth:
    """Auth as a key ring sees it: what it says, whether it is there, how often it was asked."""

    def __init__(self, *issuers: IssuerKeys) -> None:
        self.issuers = list(issuers) or [issuer_keys()]
        self.asked = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def fetch(self) -> Jwks:
        """Answer as auth would."""
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Jwks(issuers=self.issuers)


class Registry:
    """Registry as an access check sees it."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Membership]] = {}
        self.platform_roles: dict[str, list[str]] = {}
        self.tenants: dict[str, TenantStatus] = {}

    async def memberships(self, user_id: str, claimed_tenant_id: str | None) -> Memberships:
        """Answer as registry would."""
        return Memberships(
            user_id=user_id,
            memberships=self.rows.get(user_id, []),
            platform_roles=self.platform_roles.get(user_id, []),
            claimed_status=self.tenants.get(claimed_tenant_id or ""),
        )


def claims_of(clock: FrozenClock, **changes: Any) -> dict[str, Any]:
    """Return a token's claims; one that is changed to None is left out."""
    claims = {"sub": "person-1", "iss": ISSUER, "aud": AUDIENCE, "exp": clock.now() + 3600, **changes}
    return {name: value for name, value in claims.items() if value is not None}


def make_token(
    claims: dict[str, Any],
    key: Any = ED_KEY,
    algorithm: str = "EdDSA",
    key_id: str | None = "ed",
    **header: Any,
) -> str:
    """Return a token, by default one that holds."""
    if key_id is not None:
        header["kid"] = key_id
    return sign({"typ": "JWT", "alg": algorithm, **header}, claims, key, algorithm)


def sign(header: Any, claims: Any, key: Any, algorithm: str) -> str:
    """Return a token with any header and claims, also such as the library would refuse to make."""
    content = b".".join(
        base64url(part if isinstance(part, bytes) else json_bytes(part)) for part in (header, claims)
    )
    signature = jwt.get_algorithm_by_name(algorithm).sign(content, key)
    return (content + b"." + base64url(signature)).decode()


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value).encode()


def base64url(value: bytes) -> bytes:
    """Return base64 without padding, as tokens have it."""
    return base64.urlsafe_b64encode(value).rstrip(b"=")


async def refused(work: Awaitable[object], code: ErrorCode = ErrorCode.UNAUTHENTICATED) -> ServiceError:
    """Return the error that some work ends in; fail where it is another one, or none."""
    with pytest.raises(ServiceError) as caught:
        await work
    assert caught.value.code == code
    return caught.value


async def turns() -> None:
    """Let what was started go on."""
    for _ in range(5):
        await asyncio.sleep(0)
