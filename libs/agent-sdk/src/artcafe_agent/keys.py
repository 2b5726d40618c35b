"""The SSH keys that agents prove themselves with.

Accepted are what the server accepts: Ed25519, ECDSA on P-256 and P-384, and RSA of 2048 bits and more, in
OpenSSH's own format or PEM (PKCS#1, PKCS#8, SEC 1).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from artcafe_agent.errors import KeyFormatError

logger = logging.getLogger("artcafe_agent.keys")

RSA_MINIMUM_BITS = 2048
RSA_DEFAULT_BITS = 3072

KeyKind = Literal["ed25519", "ecdsa-p256", "ecdsa-p384", "rsa"]
SupportedKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVE_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
}


class AgentKey:
    """A private key, and what the server needs to know of it."""

    def __init__(self, private_key: SupportedKey, comment: str = "") -> None:
        self._private_key = private_key
        self._comment = comment

    def __repr__(self) -> str:
        return f"<AgentKey {self.algorithm} {self.fingerprint}>"

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str | None = None) -> AgentKey:
        """Read a private key file.

        Raises:
            KeyFormatError: It cannot be read, needs a password, or holds a key the server does not accept.
        """
        place = Path(path).expanduser()
        try:
            data = place.read_bytes()
            mode = place.stat().st_mode
        except OSError as problem:
            raise KeyFormatError(f"private key {place}: {problem.strerror or problem}") from problem
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            logger.warning("private key %s can be read by others: chmod 600 it", place)
        try:
            return cls.from_bytes(data, password)
        except KeyFormatError as problem:
            raise KeyFormatError(f"private key {place}: {problem}") from problem

    @classmethod
    def from_bytes(cls, data: bytes | str, password: str | None = None) -> AgentKey:
        """Read a private key from the text of its file.

        Raises:
            KeyFormatError: It is no private key, needs a password, or is one the server does not accept.
        """
        text = data.encode() if isinstance(data, str) else data
        if b"PRIVATE KEY-----" not in text:
            public = text.lstrip().startswith((b"ssh-", b"ecdsa-", b"-----BEGIN PUBLIC"))
            raise KeyFormatError(
                f"it is {'a public' if public else 'no private'} key, a private one is needed"
            )
        load = (
            serialization.load_ssh_private_key
            if b"BEGIN OPENSSH PRIVATE KEY" in text
            else serialization.load_pem_private_key
        )
        try:
            loaded = load(text, password.encode() if password is not None else None)
        except TypeError:
            what = "it needs its password" if password is None else "it has no password, but one was given"
            raise KeyFormatError(what) from None
        except (ValueError, UnsupportedAlgorithm) as problem:
            # The library's text may quote what it could not parse: it is kept out of ours.
            raise KeyFormatError("it is damaged, of an unknown kind, or the password is wrong") from problem
        return cls(_supported(loaded))

    @classmethod
    def generate(
        cls, kind: KeyKind = "ed25519", *, bits: int = RSA_DEFAULT_BITS, comment: str = ""
    ) -> AgentKey:
        """Make a new key; ``bits`` is for RSA only.

        Raises:
            KeyFormatError: An RSA key of fewer than 2048 bits was asked for, or an unknown kind.
        """
        key: SupportedKey
        if kind == "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        elif kind == "ecdsa-p256":
            key = ec.generate_private_key(ec.SECP256R1())
        elif kind == "ecdsa-p384":
            key = ec.generate_private_key(ec.SECP384R1())
        elif kind == "rsa":
            _check_rsa(bits)
            key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        else:
            raise KeyFormatError(f"unknown kind of key: {kind}")
        return cls(key, comment)

    @property
    def public_key(self) -> str:
        """The public key as OpenSSH's one-liner."""
        line = self._private_key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return f"{line.decode()} {self._comment}".rstrip()

    @property
    def algorithm(self) -> str:
        """The first word of the public key, such as ``ssh-ed25519``."""
        return self.public_key.split(" ", 1)[0]

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it: ``SHA256:`` and base64 without padding."""
        return fingerprint(self.public_key)

    def private_bytes(self) -> bytes:
        """Return the private key in OpenSSH's format, unencrypted."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )

    def sign(self, challenge: str) -> str:
        """Return the signature over a challenge, in base64.

        Ed25519 as it is; RSA with PKCS #1 v1.5 and SHA-256; ECDSA in DER, with SHA-256 on P-256 and
        SHA-384 on P-384.
        """
        message = challenge.encode()
        key = self._private_key
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            signature = key.sign(message, ec.ECDSA(_CURVE_HASHES[key.curve.name]()))
        else:
            signature = key.sign(message)
        return base64.b64encode(signature).decode()


def fingerprint(public_key: str) -> str:
    """Return the fingerprint of an OpenSSH public key line.

    Raises:
        KeyFormatError: It is not such a line.
    """
    words = public_key.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        raise KeyFormatError("not an OpenSSH public key") from None
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def _supported(key: object) -> SupportedKey:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, rsa.RSAPrivateKey):
        _check_rsa(key.key_size)
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVE_HASHES:
        return key
    raise KeyFormatError("only Ed25519, ECDSA on P-256 or P-384, and RSA keys are accepted")


def _check_rsa(bits: int) -> None:
    if bits < RSA_MINIMUM_BITS:
        raise KeyFormatError(f"RSA keys need at least {RSA_MINIMUM_BITS} bits, not {bits}")
