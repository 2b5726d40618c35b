"""The public keys of agents: OpenSSH's one-liners, and what checks a signature by them.

Accepted are Ed25519, ECDSA on P-256 and P-384, RSA from 2048 bits, and the two kinds of hardware keys; of all
of them only keys that somebody can hold alone (`artcafe_common.public_keys`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from artcafe_auth.ssh_wire import Reader, WireError
from artcafe_common.public_keys import is_sound_ed25519, is_sound_rsa

LINE_MAX_LENGTH = 8192

ED25519 = "ssh-ed25519"
RSA = "ssh-rsa"
ECDSA_P256 = "ecdsa-sha2-nistp256"
ECDSA_P384 = "ecdsa-sha2-nistp384"
SK_ED25519 = "sk-ssh-ed25519@openssh.com"
SK_ECDSA_P256 = "sk-ecdsa-sha2-nistp256@openssh.com"

Verifier = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class UnusableKey(ValueError):
    """A line is no public key that an agent may have."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve as SSH names it, and the hash that goes with it (RFC 5656, section 6.2.1)."""

    name: bytes
    curve: ec.EllipticCurve
    digest: hashes.HashAlgorithm

    @property
    def size(self) -> int:
        """The bytes of one coordinate."""
        return (self.curve.key_size + 7) // 8


CURVES: Mapping[str, Curve] = {
    ECDSA_P256: Curve(b"nistp256", ec.SECP256R1(), hashes.SHA256()),
    ECDSA_P384: Curve(b"nistp384", ec.SECP384R1(), hashes.SHA384()),
    SK_ECDSA_P256: Curve(b"nistp256", ec.SECP256R1(), hashes.SHA256()),
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its kind (the first word of its line), its wire form, and what verifies.

    `application` is what a hardware key signs for (``ssh:`` as a rule), and empty for other keys.
    """

    kind: str
    blob: bytes
    verifier: Verifier
    application: bytes = b""

    @property
    def in_hardware(self) -> bool:
        """Whether the private key lives in a security key, which signs more than what it is given."""
        return self.kind in (SK_ED25519, SK_ECDSA_P256)


def parse_public_key(line: str) -> PublicKey:
    """Read an OpenSSH public key line (kind, base64, comment). Raises: UnusableKey."""
    words = line.split(None, 2) if len(line) <= LINE_MAX_LENGTH else []
    if len(words) < 2:
        raise UnusableKey("not an OpenSSH public key")
    try:
        blob = base64.b64decode(words[1], validate=True)
        key = _read(blob)
    except (binascii.Error, ValueError):
        raise UnusableKey("not an OpenSSH public key that is supported") from None
    if key.kind != words[0]:
        raise UnusableKey("the two names of its kind differ")
    return key


def verify_eddsa(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Check an Ed25519 signature."""
    assert isinstance(key.verifier, ed25519.Ed25519PublicKey)
    try:
        key.verifier.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def verify_rsa(key: PublicKey, signature: bytes, message: bytes, digest: hashes.HashAlgorithm) -> bool:
    """Check an RSA signature with PKCS #1 v1.5 padding."""
    assert isinstance(key.verifier, rsa.RSAPublicKey)
    try:
        key.verifier.verify(signature, message, padding.PKCS1v15(), digest)
    except InvalidSignature:
        return False
    return True


def verify_ecdsa(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Check an ECDSA signature in DER, with the hash of the key's curve."""
    assert isinstance(key.verifier, ec.EllipticCurvePublicKey)
    try:
        key.verifier.verify(signature, message, ec.ECDSA(CURVES[key.kind].digest))
    except InvalidSignature:
        return False
    return True


def verify_ecdsa_numbers(key: PublicKey, r: int, s: int, message: bytes) -> bool:
    """Check an ECDSA signature that is given as its two numbers."""
    return verify_ecdsa(key, encode_dss_signature(r, s), message)


def _read(blob: bytes) -> PublicKey:
    reader = Reader(blob)
    kind = reader.string().decode("ascii")
    application = b""
    verifier: Verifier
    if kind in (ED25519, SK_ED25519):
        point = reader.string()
        if not is_sound_ed25519(point):
            raise WireError("no point that is a key")
        verifier = ed25519.Ed25519PublicKey.from_public_bytes(point)
    elif kind in CURVES:
        curve = CURVES[kind]
        if reader.string() != curve.name:
            raise WireError("another curve than the kind says")
        verifier = ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, reader.string())
    elif kind == RSA:
        verifier = _rsa(exponent=reader.mpint(), modulus=reader.mpint())
    else:
        raise WireError("unknown kind")
    if kind in (SK_ED25519, SK_ECDSA_P256):
        application = reader.string()
    reader.end()
    return PublicKey(kind, blob, verifier, application)


def _rsa(*, exponent: int, modulus: int) -> rsa.RSAPublicKey:
    if not is_sound_rsa(exponent=exponent, modulus=modulus):
        raise WireError("an RSA key of these numbers is not accepted")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()
