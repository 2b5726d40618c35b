"""Signatures as ``ssh-keygen -Y sign`` and ssh-agents make them (OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f).

Such a signature names what it is for. Only `NAMESPACE` is accepted, so that a signature an agent's key gave
for a file or a git commit opens nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes

from artcafe_auth import public_keys
from artcafe_auth.public_keys import PublicKey
from artcafe_auth.ssh_wire import Reader, WireError, string

NAMESPACE = b"artcafe-agent"
MAGIC = b"SSHSIG"
ARMOR_BEGIN = "-----BEGIN SSH SIGNATURE-----"
ARMOR_END = "-----END SSH SIGNATURE-----"

_VERSION = 1
_USER_PRESENT = 0x01

_MESSAGE_HASHES: Mapping[bytes, str] = {b"sha256": "sha256", b"sha512": "sha512"}
# The legacy ``ssh-rsa`` (SHA-1) is not among them.
_RSA_HASHES: Mapping[bytes, hashes.HashAlgorithm] = {
    b"rsa-sha2-256": hashes.SHA256(),
    b"rsa-sha2-512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class SshSignature:
    """A decoded signature: the key it claims (wire form), and what was signed how."""

    public_key: bytes
    namespace: bytes
    reserved: bytes
    hash_algorithm: bytes
    signature: bytes


def decode(blob: bytes) -> SshSignature:
    """Take a signature's blob apart. Raises: WireError."""
    reader = Reader(blob)
    if reader.take(len(MAGIC)) != MAGIC or reader.uint32() != _VERSION:
        raise WireError("not an SSH signature of version 1")
    decoded = SshSignature(
        public_key=reader.string(),
        namespace=reader.string(),
        reserved=reader.string(),
        hash_algorithm=reader.string(),
        signature=reader.string(),
    )
    reader.end()
    return decoded


def verify(key: PublicKey, signed: SshSignature, message: bytes) -> bool:
    """Tell whether `signed` is this key's signature of a message, made for `NAMESPACE`."""
    if signed.namespace != NAMESPACE or signed.public_key != key.blob:
        return False
    if signed.hash_algorithm not in _MESSAGE_HASHES:
        return False
    digest = hashlib.new(_MESSAGE_HASHES[signed.hash_algorithm], message).digest()
    preimage = MAGIC + b"".join(
        string(part) for part in (signed.namespace, signed.reserved, signed.hash_algorithm, digest)
    )
    try:
        return _verify(key, signed.signature, preimage)
    except WireError:
        return False


def _verify(key: PublicKey, signature: bytes, preimage: bytes) -> bool:
    reader = Reader(signature)
    algorithm = reader.string()
    body = reader.string()
    if key.in_hardware:
        flags, counter = reader.take(1), reader.take(4)
        if not flags[0] & _USER_PRESENT:
            return False
        application = hashlib.sha256(key.application).digest()
        preimage = application + flags + counter + hashlib.sha256(preimage).digest()
    reader.end()
    if key.kind == public_keys.RSA:
        digest = _RSA_HASHES.get(algorithm)
        return digest is not None and public_keys.verify_rsa(key, body, preimage, digest)
    if algorithm != key.kind.encode():
        return False
    if key.kind in public_keys.CURVES:
        numbers = Reader(body)
        r, s = numbers.mpint(), numbers.mpint()
        numbers.end()
        return public_keys.verify_ecdsa_numbers(key, r, s, preimage)
    return public_keys.verify_eddsa(key, body, preimage)
