"""Public keys as OpenSSH writes them."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from artcafe_auth import public_keys
from artcafe_auth.public_keys import UnusableKey, parse_public_key
from artcafe_auth.ssh_wire import string

from .support import KINDS, KeyPair, key_pair, patient


@pytest.mark.parametrize("kind", KINDS)
def test_every_accepted_kind_is_read(kind: str) -> None:
    """A line is read with its comment and without; the wire form is what stands in it."""
    pair = key_pair(kind)
    for line in (pair.line, " ".join(pair.line.split()[:2]), pair.line + " and more\n"):
        key = parse_public_key(line)
        assert key.kind == line.split()[0]
        assert key.blob == base64.b64decode(line.split()[1])
        assert not key.in_hardware


@pytest.mark.parametrize(
    "arguments", [["-t", "ed25519"], ["-t", "ecdsa", "-b", "384"], ["-t", "rsa", "-b", "3072"]]
)
def test_keys_of_ssh_keygen_are_read(arguments: list[str], tmp_path: Path) -> None:
    """What the real ssh-keygen writes is read."""
    command = ["ssh-keygen", "-q", *arguments, "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True, timeout=60)
    parse_public_key((tmp_path / "key.pub").read_text())


def test_hardware_keys_are_read() -> None:
    """The two kinds of hardware keys carry what they sign for."""
    point = base64.b64decode(key_pair("p256").line.split()[1])[-65:]
    blobs = {
        public_keys.SK_ED25519: string(base64.b64decode(key_pair().line.split()[1])[-32:]),
        public_keys.SK_ECDSA_P256: string(b"nistp256") + string(point),
    }
    for kind, middle in blobs.items():
        blob = string(kind.encode()) + middle + string(b"ssh:")
        key = parse_public_key(f"{kind} {base64.b64encode(blob).decode()}")
        assert key.in_hardware
        assert key.application == b"ssh:"


def _line(kind: str, blob: bytes) -> str:
    return f"{kind} {base64.b64encode(blob).decode()}"


ED25519 = key_pair().line.split()
ED25519_BLOB = base64.b64decode(ED25519[1])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 ????",
        "ssh-ed25519 AAAA",
        f"ssh-rsa {ED25519[1]}",
        _line("ssh-ed25519", ED25519_BLOB + b"x"),
        _line("ssh-ed25519", ED25519_BLOB[:-1]),
        _line("ssh-ed25519-cert-v01@openssh.com", string(b"ssh-ed25519-cert-v01@openssh.com") + b"x"),
        _line("ecdsa-sha2-nistp256", string(b"ecdsa-sha2-nistp256") + string(b"nistp384") + string(b"\x04")),
        _line(
            "ecdsa-sha2-nistp256", string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x04" * 65)
        ),
        key_pair("p521").line,
        "ssh-ed25519 " + "A" * 10_000,
        "ssh-ed25519 \u00e9\u00e9\u00e9\u00e9",
    ],
    # Some lines hold a key made here, and test processes must agree on the names of tests.
    ids=range(13),
)
def test_other_lines_are_refused(line: str) -> None:
    """Unknown kinds, damaged keys, certificates, and two names that differ are no keys."""
    with pytest.raises(UnusableKey):
        parse_public_key(line)


@pytest.mark.parametrize(("exponent", "bits"), [(65537, 1024), (2**40 + 1, 2048), (65537, 16384)])
def test_rsa_keys_of_other_sizes_are_refused(exponent: int, bits: int) -> None:
    """Short keys are weak, and very long ones cost whoever checks their signatures."""
    if bits == 1024:
        line = KeyPair(rsa.generate_private_key(65537, 1024)).line
    else:
        numbers = (exponent, 2 ** (bits - 1) + 1)
        parts = [string(b"\x00" + n.to_bytes((n.bit_length() + 7) // 8)) for n in numbers]
        line = _line("ssh-rsa", string(b"ssh-rsa") + b"".join(parts))
    with pytest.raises(UnusableKey):
        parse_public_key(line)


@pytest.mark.parametrize("kind", [public_keys.ED25519, public_keys.SK_ED25519])
@pytest.mark.parametrize("point", [b"\x01" + bytes(31), bytes(32), b"\xee" + b"\xff" * 31, b"\xff" * 32])
def test_keys_that_anybody_can_sign_for_are_refused(kind: str, point: bytes) -> None:
    """A point of low order, however it is spelt, is nobody's key: also where it was registered before."""
    rest = string(b"ssh:") if kind == public_keys.SK_ED25519 else b""
    with pytest.raises(UnusableKey):
        parse_public_key(_line(kind, string(kind.encode()) + string(point) + rest))


@pytest.mark.parametrize(("exponent", "modulus"), [(65537, 2**2047), (1, 2**2047 + 1), (2**33, 2**2047 + 1)])
def test_rsa_keys_of_odd_numbers_are_refused(exponent: int, modulus: int) -> None:
    """An even modulus, and an exponent that no tool chooses, are no key."""
    parts = [string(b"\x00" + n.to_bytes((n.bit_length() + 7) // 8)) for n in (exponent, modulus)]
    with pytest.raises(UnusableKey):
        parse_public_key(_line("ssh-rsa", string(b"ssh-rsa") + b"".join(parts)))


@patient
@given(st.binary(max_size=200), st.sampled_from(["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", ""]))
def test_any_bytes_are_a_key_or_refused(data: bytes, kind: str) -> None:
    """No bytes raise anything but the refusal."""
    for blob in (data, string(kind.encode()) + data):
        try:
            parse_public_key(_line(kind or "x", blob))
        except UnusableKey:
            continue
