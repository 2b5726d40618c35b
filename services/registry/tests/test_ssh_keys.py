"""Public keys of agents as OpenSSH writes them."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_registry.domain.ssh_keys import check_not_last, check_room, new_key_pair, parse_public_key


def _line(key: PublicKeyTypes) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


ACCEPTED: dict[str, PublicKeyTypes] = {
    "ssh-ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()).public_key(),
    "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "ssh-rsa": rsa.generate_private_key(65537, 2048).public_key(),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted_key_has_openssh_fingerprint(kind: str) -> None:
    """The fingerprint is the SHA-256 of the blob as OpenSSH prints it: base64 without padding."""
    line = _line(ACCEPTED[kind])
    parsed = parse_public_key(f"  {line}  somebody@somewhere with spaces \n")
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    assert parsed.fingerprint == "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    assert (parsed.type, parsed.line) == (kind, line)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_fingerprint_is_what_ssh_keygen_says(kind: str, tmp_path: Path) -> None:
    """OpenSSH itself prints the same fingerprint."""
    assert shutil.which("ssh-keygen"), "ssh-keygen is missing: install the package openssh-client"
    path = tmp_path / "key.pub"
    path.write_text(_line(ACCEPTED[kind]) + "\n")
    printed = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout
    assert printed.split()[1] == parse_public_key(path.read_text()).fingerprint


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _number(value: int) -> bytes:
    return _string(value.to_bytes(value.bit_length() // 8 + 1))


def _written(kind: str, *fields: bytes) -> str:
    """Return a line that nobody's tool would write."""
    return f"{kind} {base64.b64encode(_string(kind.encode()) + b''.join(fields)).decode()}"


REFUSED = {
    "neutral point": _written("ssh-ed25519", _string(b"\x01" + bytes(31))),
    "point of order 4": _written("ssh-ed25519", _string(bytes(32))),
    "neutral point, spelt otherwise": _written("ssh-ed25519", _string(b"\xee" + b"\xff" * 31)),
    "number beyond the field": _written("ssh-ed25519", _string(b"\xff" * 32)),
    "even modulus": _written("ssh-rsa", _number(65537), _number(2**2047)),
    "even exponent": _written("ssh-rsa", _number(65536), _number(2**2047 + 1)),
    "exponent of one": _written("ssh-rsa", _number(1), _number(2**2047 + 1)),
    "huge exponent": _written("ssh-rsa", _number(2**2000 + 1), _number(2**2047 + 1)),
    "short RSA": _line(rsa.generate_private_key(65537, 1024).public_key()),
    "other curve": _line(ec.generate_private_key(ec.SECP521R1()).public_key()),
    "point written in short": _written(
        "ecdsa-sha2-nistp256", _string(b"nistp256"), _string(b"\x02" + bytes(31) + b"\x01")
    ),
    "empty": "",
    "type alone": "ssh-ed25519",
    "no base64": "ssh-ed25519 ????",
    "cut short": _line(ACCEPTED["ssh-ed25519"])[:-8],
    "type of another key": _line(ACCEPTED["ssh-rsa"]).replace("ssh-rsa", "ssh-ed25519"),
    "two lines": "\n".join([_line(ACCEPTED["ssh-ed25519"])] * 2),
    "options": f'command="sh" {_line(ACCEPTED["ssh-ed25519"])}',
    "certificate": _line(ACCEPTED["ssh-ed25519"]).replace(
        "ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1
    ),
    "too long": _line(ACCEPTED["ssh-ed25519"]) + " " + "x" * 5_000,
    "not ASCII": "ssh-ed25519 ÄÖÜ",
    "DSA": "ssh-dss AAAAB3NzaC1kc3M=",
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_key_is_an_invalid_argument(what: str) -> None:
    """Whatever is not an accepted key on one line is refused, and the detail does not repeat it."""
    with pytest.raises(ServiceError) as refused:
        parse_public_key(REFUSED[what])
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT
    assert refused.value.detail.startswith("public_key: ")
    assert len(refused.value.detail) < 120


def test_new_pair_belongs_together() -> None:
    """The private key of a new pair is an OpenSSH PEM of the returned public key; each pair is another."""
    parsed, pem = new_key_pair()
    private = serialization.load_ssh_private_key(pem.encode(), None)
    assert _line(private.public_key()) == parsed.line
    assert parse_public_key(parsed.line) == parsed
    assert new_key_pair()[0] != parsed


def test_number_of_keys_is_bounded_on_both_sides() -> None:
    """Four keys leave room for one more and five do not; one key stays."""
    check_room(4)
    check_not_last(2)
    for check, count in ((check_room, 5), (check_not_last, 1)):
        with pytest.raises(ServiceError) as refused:
            check(count)
        assert refused.value.code == ErrorCode.FAILED_PRECONDITION
