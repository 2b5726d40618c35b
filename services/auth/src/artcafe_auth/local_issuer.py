"""A small issuer of people's tokens, for one machine: signs with a key of its own, which lies in a file."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
import tempfile
from pathlib import Path

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from artcafe_common.contracts.auth import IssuerKeys

logger = logging.getLogger(__name__)

ALGORITHM = "ES256"
TOKEN_USE = "id"
COORDINATE_BYTES = 32


class KeyFileError(Exception):
    """The key file cannot be read or written, or holds no key for this issuer."""


class LocalIssuer:
    """Makes tokens, and tells by which rules they are checked."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, *, url: str, audience: str, token_seconds: int
    ) -> None:
        self._key = key
        self._url = url
        self._audience = audience
        self.token_seconds = token_seconds
        self.jwk = public_jwk(key.public_key())

    def token(self, user_id: str, email: str, now: float) -> str:
        """Return a token that speaks for a person from `now` (epoch seconds) on."""
        claims = {
            "iss": self._url,
            "sub": user_id,
            "aud": self._audience,
            "email": email,
            "token_use": TOKEN_USE,
            "iat": int(now),
            "exp": int(now) + self.token_seconds,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self.jwk["kid"]})

    def rules(self) -> IssuerKeys:
        """Return the issuer as the other services check its tokens."""
        return IssuerKeys(
            issuer=self._url,
            keys=[dict(self.jwk)],
            audiences=[self._audience],
            algorithms=[ALGORITHM],
            token_uses=[TOKEN_USE],
        )


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return a P-256 key as a JSON Web Key, named by its thumbprint (RFC 7638)."""
    numbers = key.public_numbers()
    required = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(COORDINATE_BYTES)),
        "y": _base64url(numbers.y.to_bytes(COORDINATE_BYTES)),
    }
    # The thumbprint is over these members in just this order, without white space.
    thumbprint = _base64url(hashlib.sha256(msgspec.json.encode(required)).digest())
    return required | {"kid": thumbprint, "alg": ALGORITHM, "use": "sig"}


def load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in a file; where there is none, make one that only its owner can read.

    Replicas that start at once end up with the same key. Raises: KeyFileError.
    """
    try:
        if not path.exists():
            _create(path)
        data = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        logger.warning("key_file_readable_by_others", extra={"path": str(path)})
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: not a PEM private key without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"{path}: not a key on P-256")
    return key


def _create(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Created with mode 0600, and given its name only when it is whole and on the disk.
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
        logger.info("key_file_created", extra={"path": str(path)})
    except FileExistsError:
        # Another replica was first: its key counts. `link` never replaces a file, as `rename` would.
        logger.info("key_file_found", extra={"path": str(path)})
    finally:
        os.unlink(name)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
