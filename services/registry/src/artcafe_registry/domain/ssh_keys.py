"""Public keys of agents as OpenSSH writes them: which are accepted, their fingerprints, new pairs."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from artcafe_common.errors import ErrorCode, ServiceError, invalid
from artcafe_common.public_keys import RSA_BITS_MAX, RSA_BITS_MIN, is_sound_ed25519, is_sound_rsa

KEYS_MAX = 5
KEY_LINE_MAX_LENGTH = 4_096

KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ssh-rsa")


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """An accepted key in one spelling: type and blob, without options or comment."""

    type: str
    fingerprint: str
    line: str


def parse_public_key(text: str) -> ParsedKey:
    """Read an OpenSSH one-liner. Raises: ServiceError ``invalid_argument``."""
    words = text.strip().split()
    if len(text) > KEY_LINE_MAX_LENGTH or "\n" in text.strip() or len(words) < 2:
        raise invalid("public_key: expected one line as in an OpenSSH .pub file")
    if words[0] not in KEY_TYPES:
        raise invalid(f"public_key: the type must be one of {', '.join(KEY_TYPES)}")
    try:
        key = serialization.load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError, binascii.Error, UnicodeError):
        # Not implemented is a point of a curve that is written in short.
        raise invalid("public_key: not a valid OpenSSH public key") from None
    if isinstance(key, RSAPublicKey):
        numbers = key.public_numbers()
        if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            raise invalid(f"public_key: RSA keys have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")
        if not is_sound_rsa(exponent=numbers.e, modulus=numbers.n):
            raise invalid("public_key: an RSA key of these numbers is not safe")
    elif isinstance(key, Ed25519PublicKey):
        if not is_sound_ed25519(key.public_bytes_raw()):
            raise invalid("public_key: anybody can sign for this Ed25519 key")
    elif not isinstance(key, EllipticCurvePublicKey):
        raise invalid(f"public_key: the type must be one of {', '.join(KEY_TYPES)}")
    return _parsed(key)


def new_key_pair() -> tuple[ParsedKey, str]:
    """Make an Ed25519 pair; return the public key and the private one as an OpenSSH PEM."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return _parsed(private.public_key()), pem.decode()


def check_room(keys: int) -> None:
    """Raise unless an agent with so many keys may have one more."""
    if keys >= KEYS_MAX:
        raise ServiceError(ErrorCode.FAILED_PRECONDITION, f"an agent has at most {KEYS_MAX} keys")


def check_not_last(keys: int) -> None:
    """Raise if one of so many keys may not be taken away."""
    if keys <= 1:
        raise ServiceError(
            ErrorCode.FAILED_PRECONDITION, "an agent keeps at least one key: add the new one first"
        )


def _parsed(key: RSAPublicKey | Ed25519PublicKey | EllipticCurvePublicKey) -> ParsedKey:
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    kind, blob = line.split(" ")
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    return ParsedKey(kind, "SHA256:" + base64.b64encode(digest).decode().rstrip("="), line)
