"""Sign manifests: an Ed25519 key in a file, and JSON Web Signatures in compact form (RFC 7515, 8037).

What former keys have signed stays genuine, so their public halves are told beside that of the key in use.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

Jwk = dict[str, str]


class _Published(msgspec.Struct):
    """A public key in a file; whatever else stands there is not told to anybody."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str


class _PublishedSet(msgspec.Struct):
    keys: list[_Published]


class Signer:
    """Signs with one key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.jwk = _jwk(key.public_key())

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """Read the key, or make one that its owner alone may read; replicas that share the file share it.

        Raises: OSError, ValueError where the file is no use.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            _make(path)
            text = path.read_bytes()
        key = load_pem_private_key(text, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
        return cls(key)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes for one purpose: the same on every replica, and no help in finding the key."""
        return HKDF(SHA256(), 32, None, purpose.encode()).derive(self._key.private_bytes_raw())

    def sign(self, payload: Any) -> str:
        """Return a payload, as JSON, with its signature."""
        header = {"alg": "EdDSA", "kid": self.jwk["kid"], "typ": "artcafe-export+jws"}
        signed = f"{_base64url(msgspec.json.encode(header))}.{_base64url(msgspec.json.encode(payload))}"
        return f"{signed}.{_base64url(self._key.sign(signed.encode()))}"


def retired_keys(folder: Path) -> list[Jwk]:
    """Return the public keys in the files `*.json` of a folder, as `/usage/export/keys.json` has told them.

    Raises: OSError, ValueError with the name of the file that is no use.
    """
    found: dict[str, Jwk] = {}
    for path in sorted(each for each in folder.iterdir() if each.suffix == ".json"):
        try:
            for published in msgspec.json.decode(path.read_bytes(), type=_PublishedSet).keys:
                jwk = _jwk(Ed25519PublicKey.from_public_bytes(_decoded(published.x)))
                if jwk["kid"] != published.kid:
                    raise ValueError("a key of another id")
                found[published.kid] = jwk
        except (ValueError, msgspec.MsgspecError):
            raise ValueError(path.name) from None
    return list(found.values())


def _jwk(key: Ed25519PublicKey) -> Jwk:
    x = _base64url(key.public_bytes_raw())
    # RFC 7638: the hash of these members in this order.
    thumbprint = msgspec.json.encode({"crv": "Ed25519", "kty": "OKP", "x": x})
    kid = _base64url(hashlib.sha256(thumbprint).digest())
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig"}


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Replicas in containers have the same number of a process; only the owner may read it.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all, and the first of several replicas wins.
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
