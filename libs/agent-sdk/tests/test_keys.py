"""Keys, as OpenSSH sees them."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from artcafe_agent import AgentKey, KeyFormatError, fingerprint
from artcafe_agent.keys import KeyKind

SSH_KEYGEN = shutil.which("ssh-keygen")
KINDS: list[KeyKind] = ["ed25519", "ecdsa-p256", "ecdsa-p384", "rsa"]
NONE = serialization.NoEncryption()


@pytest.fixture(scope="module", params=KINDS)
def key(request: pytest.FixtureRequest) -> AgentKey:
    """Give one key of each kind."""
    kind: KeyKind = request.param
    return AgentKey.generate(kind, bits=2048, comment="made for a test")


def write(path: Path, content: bytes | str) -> Path:
    """Write a key file as OpenSSH wants it: for its owner only."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def ssh_keygen(*arguments: str | Path) -> str:
    """Run ssh-keygen, which is part of every OpenSSH client, and return what it prints."""
    assert SSH_KEYGEN is not None, "ssh-keygen is missing: install openssh-client"
    return subprocess.run([SSH_KEYGEN, *arguments], check=True, capture_output=True, text=True).stdout


def test_fingerprint_and_public_key_are_those_of_ssh_keygen(key: AgentKey, tmp_path: Path) -> None:
    """OpenSSH reads the private key and comes to the same public key and fingerprint."""
    file = write(tmp_path / "key", key.private_bytes())
    assert ssh_keygen("-lf", file).split()[1] == key.fingerprint
    assert ssh_keygen("-yf", file).split()[:2] == key.public_key.split()[:2]
    assert fingerprint(key.public_key) == key.fingerprint
    assert key.public_key.endswith(" made for a test")
    assert key.algorithm == key.public_key.split()[0]


@pytest.mark.parametrize("arguments", [["ed25519"], ["ecdsa", "-b", "256"], ["ecdsa", "-b", "384"], ["rsa"]])
@pytest.mark.parametrize("form", [[], ["-m", "PEM"], ["-m", "PKCS8"]])
def test_keys_of_ssh_keygen_are_read(arguments: list[str], form: list[str], tmp_path: Path) -> None:
    """OpenSSH's own keys work in each format that it writes."""
    file = tmp_path / "key"
    ssh_keygen("-q", "-t", *arguments, *form, "-N", "", "-f", file)
    assert AgentKey.load(file).fingerprint == ssh_keygen("-lf", file).split()[1]


def test_signature_verifies(key: AgentKey) -> None:
    """Each kind signs as the server verifies: raw, in base64, over the UTF-8 challenge."""
    public = serialization.load_ssh_public_key(key.public_key.encode())
    signature = base64.b64decode(key.sign("challenge é"), validate=True)
    message = "challenge é".encode()
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, message)
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        digest = hashes.SHA256() if public.curve.name == "secp256r1" else hashes.SHA384()
        public.verify(signature, message, ec.ECDSA(digest))


def test_key_is_the_same_after_writing_and_reading(key: AgentKey, tmp_path: Path) -> None:
    """From a path, from bytes and from text."""
    file = write(tmp_path / "key", key.private_bytes())
    for read in (
        AgentKey.load(file),
        AgentKey.load(str(file)),
        AgentKey.from_bytes(key.private_bytes()),
        AgentKey.from_bytes(key.private_bytes().decode()),
    ):
        assert read.fingerprint == key.fingerprint


def test_path_may_begin_with_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People write ~ in configuration files, where no shell expands it."""
    key = AgentKey.generate()
    write(tmp_path / "key", key.private_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert AgentKey.load("~/key").fingerprint == key.fingerprint


def test_encrypted_key_needs_its_password() -> None:
    """The error says what is missing; the right password opens it."""
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(KeyFormatError, match="needs its password"):
        AgentKey.from_bytes(pem)
    with pytest.raises(KeyFormatError, match="password is wrong"):
        AgentKey.from_bytes(pem, "wrong")
    assert AgentKey.from_bytes(pem, "secret").algorithm == "ssh-ed25519"
    with pytest.raises(KeyFormatError, match="has no password"):
        AgentKey.from_bytes(AgentKey.generate().private_bytes(), "secret")


def pem_of(private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey) -> bytes:
    """Return a key that was not made by us as PEM."""
    return private_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, NONE)


def test_keys_the_server_would_refuse_are_refused_here() -> None:
    """Weak RSA, other curves and other algorithms fail before anything is sent."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(KeyFormatError, match="at least 2048 bits, not 1024"):
        AgentKey.from_bytes(pem_of(weak))
    for other in (ec.generate_private_key(ec.SECP521R1()), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(KeyFormatError, match="only Ed25519"):
            AgentKey.from_bytes(pem_of(other))
    with pytest.raises(KeyFormatError, match="only Ed25519"):
        AgentKey.from_bytes(pem_of(dsa.generate_private_key(2048)))
    with pytest.raises(KeyFormatError, match="2048"):
        AgentKey.generate("rsa", bits=1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ssh-ed25519 AAAA me", "a public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n", "a public key"),
        ("", "no private key"),
        ("hello", "no private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
    ],
)
def test_what_is_no_private_key_is_told_apart(content: str, message: str, tmp_path: Path) -> None:
    """The error names the file and what is wrong with it, never its content."""
    file = write(tmp_path / "key", content)
    with pytest.raises(KeyFormatError, match=message) as caught:
        AgentKey.load(file)
    assert str(file) in str(caught.value)
    assert "AAAA" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The commonest mistake has a clear error."""
    with pytest.raises(KeyFormatError, match="No such file"):
        AgentKey.load(tmp_path / "nothing")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_key_that_others_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It works, as in containers that mount it so, but it is said."""
    file = write(tmp_path / "key", AgentKey.generate().private_bytes())
    AgentKey.load(file)
    assert caplog.records == []
    file.chmod(0o644)
    AgentKey.load(file)
    assert "can be read by others" in caplog.text


def test_key_never_shows_its_private_half() -> None:
    """What ends up in logs and tracebacks is the fingerprint."""
    key = AgentKey.generate()
    assert repr(key) == f"<AgentKey ssh-ed25519 {key.fingerprint}>"


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 %%%"])
def test_fingerprint_of_what_is_no_key(line: str) -> None:
    """A line that is no public key has no fingerprint."""
    with pytest.raises(KeyFormatError):
        fingerprint(line)
