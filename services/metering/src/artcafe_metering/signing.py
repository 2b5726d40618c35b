"""Sign manifests: an Ed25519 key in a file, and JSON Web Signatures in compact form (RFC 7515, 8037)."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


class Signer:
    """Signs with one key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.jwk = {"kty": "OKP", "crv": "Ed25519", "x": _base64url(public)}
        # RFC 7638: the hash of these members in this order.
        thumbprint = msgspec.json.encode({"crv": "Ed25519", "kty": "OKP", "x": self.jwk["x"]})
        self.jwk |= {"kid": _base64url(hashlib.sha256(thumbprint).digest()), "alg": "EdDSA", "use": "sig"}

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

    def sign(self, payload: Any) -> str:
        """Return a payload, as JSON, with its signature."""
        header = {"alg": "EdDSA", "kid": self.jwk["kid"], "typ": "artcafe-export+jws"}
        signed = f"{_base64url(msgspec.json.encode(header))}.{_base64url(msgspec.json.encode(payload))}"
        return f"{signed}.{_base64url(self._key.sign(signed.encode()))}"


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
