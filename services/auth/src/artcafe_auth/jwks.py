"""JSON Web Keys (RFC 7517) as issuers publish them, and those of them that are passed on."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import jwt

from artcafe_common.public_keys import is_sound_ed25519, is_sound_rsa

KEYS_MAX = 100
KEY_ID_MAX_LENGTH = 512

PublicJwk = dict[str, str | list[str] | bool]

# Members that are passed on, by kind: nothing private, nothing this version does not know.
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def public_signing_keys(document: Any) -> list[PublicJwk]:
    """Return those keys of a key set by which signatures can be checked, reduced to what that needs.

    Keys for encryption, shared secrets, keys without a ``kid``, of unknown kinds or damaged are left out.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return []
    keys = []
    for entry in listed[:KEYS_MAX]:
        key = _public_signing_key(entry)
        if key is not None:
            keys.append(key)
    return keys


def _public_signing_key(entry: Any) -> PublicJwk | None:
    if not isinstance(entry, dict):
        return None
    kind, key_id = entry.get("kty"), entry.get("kid")
    if not isinstance(kind, str) or not isinstance(key_id, str):
        return None
    if kind not in _MEMBERS or not 0 < len(key_id) <= KEY_ID_MAX_LENGTH:
        return None
    if entry.get("use", "sig") != "sig" or entry.get("alg", _ALGORITHMS[kind]) != _ALGORITHMS[kind]:
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if kind in _CURVES and entry.get("crv") != _CURVES[kind]:
        return None
    key: PublicJwk = {"kty": kind, "kid": key_id, "use": "sig", "alg": _ALGORITHMS[kind]}
    for member in _MEMBERS[kind]:
        value = entry.get(member)
        if not isinstance(value, str):
            return None
        key[member] = value
    return key if _is_sound(key) else None


def _is_sound(key: PublicJwk) -> bool:
    try:
        if key["kty"] == "RSA":
            numbers = {"exponent": _number(str(key["e"])), "modulus": _number(str(key["n"]))}
            if not is_sound_rsa(**numbers):
                return False
        elif key["kty"] == "OKP" and not is_sound_ed25519(_bytes(str(key["x"]))):
            return False
        jwt.PyJWK(dict(key), str(key["alg"]))
    except (jwt.PyJWTError, binascii.Error, ValueError):
        return False
    return True


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text))


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
