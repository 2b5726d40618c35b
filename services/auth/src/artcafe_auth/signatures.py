"""Agents' signatures over a challenge: how they arrive, and which of the agent's keys made one.

Two forms are accepted, both in base64. *Raw*: over the UTF-8 bytes of the challenge, RSA with PKCS #1 v1.5
and SHA-256, Ed25519, or ECDSA with the curve's hash, in DER or as r and s side by side. *SSHSIG*: what
``ssh-keygen -Y sign -n artcafe-agent`` writes, armored or its blob alone (see `sshsig`).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives import hashes

from artcafe_auth import public_keys, sshsig
from artcafe_auth.public_keys import PublicKey, UnusableKey, parse_public_key
from artcafe_auth.sshsig import SshSignature
from artcafe_common.contracts.registry import AgentKey

logger = logging.getLogger(__name__)

# An SSHSIG of an RSA key of 8192 bits, armored, has some 3 000 characters.
SIGNATURE_MAX_LENGTH = 8192
KEYS_MAX = 5

# In an address `+` may have become a space; both alphabets of RFC 4648 are read as one.
_NORMAL = str.maketrans({" ": "+", "-": "+", "_": "/", "\r": None, "\n": None, "\t": None})

Signature = bytes | SshSignature


class MalformedSignature(ValueError):
    """The text is no signature in any accepted form."""


def decode_signature(text: str) -> Signature:
    """Return a raw signature's bytes, or an SSHSIG taken apart. Raises: MalformedSignature."""
    if not 0 < len(text) <= SIGNATURE_MAX_LENGTH:
        raise MalformedSignature("empty or too long")
    body, armored = _unarmored(text)
    try:
        blob = _base64(body)
        if armored or blob.startswith(sshsig.MAGIC):
            return sshsig.decode(blob)
    except ValueError:
        raise MalformedSignature("not base64, or not an SSH signature") from None
    return blob


def usable_keys(keys: Sequence[AgentKey]) -> list[tuple[str, PublicKey]]:
    """Return (fingerprint, key) of each key that can be used; others are reported and left out."""
    usable = []
    for key in keys[:KEYS_MAX]:
        try:
            usable.append((key.fingerprint, parse_public_key(key.public_key)))
        except UnusableKey:
            logger.warning("agent_key_unusable", extra={"fingerprint": key.fingerprint})
    return usable


def signer_of(keys: Iterable[tuple[str, PublicKey]], signature: Signature, challenge: str) -> str | None:
    """Return the fingerprint of the key that signed the challenge, or None.

    All keys are tried, also after the right one was found, so that the time does not tell which it was.
    """
    message = challenge.encode()
    found = None
    for fingerprint, key in keys:
        if verify(key, signature, message):
            found = fingerprint
    return found


def verify(key: PublicKey, signature: Signature, message: bytes) -> bool:
    """Tell whether a key made a signature of a message, in either form."""
    if isinstance(signature, SshSignature):
        return sshsig.verify(key, signature, message)
    if key.in_hardware:
        # What a security key signs is never the message alone.
        return False
    if key.kind == public_keys.RSA:
        return public_keys.verify_rsa(key, signature, message, hashes.SHA256())
    if key.kind in public_keys.CURVES:
        return _verify_raw_ecdsa(key, signature, message)
    return public_keys.verify_eddsa(key, signature, message)


def _verify_raw_ecdsa(key: PublicKey, signature: bytes, message: bytes) -> bool:
    size = public_keys.CURVES[key.kind].size
    if len(signature) == 2 * size:
        r, s = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
        if public_keys.verify_ecdsa_numbers(key, r, s, message):
            return True
    # Also then: DER can have any length up to its longest.
    return public_keys.verify_ecdsa(key, signature, message)


def _unarmored(text: str) -> tuple[str, bool]:
    stripped = text.strip("\r\n\t ")
    if not stripped.startswith(sshsig.ARMOR_BEGIN):
        return text, False
    body, end, rest = stripped.removeprefix(sshsig.ARMOR_BEGIN).partition(sshsig.ARMOR_END)
    if not end or rest:
        raise MalformedSignature("its last line is missing")
    return body, True


def _base64(text: str) -> bytes:
    plain = text.translate(_NORMAL).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
