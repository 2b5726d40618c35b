"""SSH signatures, against the real ssh-keygen in both directions."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from artcafe_auth import public_keys, sshsig
from artcafe_auth.public_keys import parse_public_key
from artcafe_auth.signatures import MalformedSignature, decode_signature, verify
from artcafe_auth.ssh_wire import string

from .support import KINDS, KeyPair, key_pair

MESSAGE = b"gWZsIHeVuPN2gAizZp_cu2aJxcGlmeMgKHCWtTHpjb0"
NAMESPACE = "artcafe-agent"


@pytest.fixture(scope="module")
def ssh_keygen() -> str:
    """Return the real ssh-keygen."""
    found = shutil.which("ssh-keygen")
    if found is None:
        pytest.fail("ssh-keygen is missing: apt-get install openssh-client")
    return found


def _sign(ssh_keygen: str, pair: KeyPair, folder: Path, *options: str, namespace: str = NAMESPACE) -> str:
    key_file = folder / "key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(pair.openssh_file())
    command = [ssh_keygen, "-Y", "sign", "-n", namespace, "-f", str(key_file), *options]
    return subprocess.run(command, input=MESSAGE, capture_output=True, check=True, timeout=60).stdout.decode()


def _is_accepted(ssh_keygen: str, signature: str, line: str, folder: Path) -> bool:
    (folder / "signers").write_text(f"agent {line}\n")
    (folder / "signature").write_text(signature)
    command = [ssh_keygen, "-Y", "verify", "-n", NAMESPACE, "-I", "agent"]
    command += ["-f", str(folder / "signers"), "-s", str(folder / "signature")]
    return subprocess.run(command, input=MESSAGE, capture_output=True, timeout=60).returncode == 0


def _armored(blob: bytes) -> str:
    return f"{sshsig.ARMOR_BEGIN}\n{base64.encodebytes(blob).decode()}{sshsig.ARMOR_END}\n"


def _verify(pair_line: str, signature: str) -> bool:
    return verify(parse_public_key(pair_line), decode_signature(signature), MESSAGE)


@pytest.mark.parametrize("hash_algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", KINDS)
def test_signature_of_ssh_keygen_is_accepted(
    kind: str, hash_algorithm: str, ssh_keygen: str, tmp_path: Path
) -> None:
    """What `ssh-keygen -Y sign` writes is accepted for its key and for no other."""
    pair = key_pair(kind)
    signature = _sign(ssh_keygen, pair, tmp_path, "-O", f"hashalg={hash_algorithm}")
    assert _verify(pair.line, signature)
    assert not _verify(key_pair(kind, 1).line, signature)
    assert not verify(parse_public_key(pair.line), decode_signature(signature), MESSAGE + b"x")


def test_signature_is_accepted_however_it_travels(ssh_keygen: str, tmp_path: Path) -> None:
    """Armored, as one line of base64, with other line ends, url-safe, or with pluses turned into spaces."""
    pair = key_pair("rsa")
    armored = _sign(ssh_keygen, pair, tmp_path)
    body = armored.replace(sshsig.ARMOR_BEGIN, "").replace(sshsig.ARMOR_END, "").replace("\n", "")
    url_safe = body.replace("+", "-").replace("/", "_").rstrip("=")
    for signature in (armored, armored.replace("\n", "\r\n"), armored.strip(), body, url_safe):
        assert _verify(pair.line, signature)
        assert _verify(pair.line, unquote_plus(signature))


@pytest.mark.parametrize("namespace", ["file", "git", "artcafe-agent2", "artcafe"])
def test_signature_for_something_else_is_refused(namespace: str, ssh_keygen: str, tmp_path: Path) -> None:
    """A signature the key gave for a file or a commit opens nothing."""
    signature = _sign(ssh_keygen, key_pair(), tmp_path, namespace=namespace)
    assert not _verify(key_pair().line, signature)


def test_armor_must_be_whole(ssh_keygen: str, tmp_path: Path) -> None:
    """A signature without its last line, or with something behind it, is malformed."""
    armored = _sign(ssh_keygen, key_pair(), tmp_path)
    for wrong in (armored.replace(sshsig.ARMOR_END, ""), armored + "more", armored[: len(armored) // 2]):
        with pytest.raises(MalformedSignature):
            decode_signature(wrong)


def _parts(
    pair: KeyPair,
    algorithm: bytes,
    body: bytes,
    *,
    version: int = 1,
    hash_algorithm: bytes = b"sha512",
    public_key: bytes | None = None,
    after: bytes = b"",
) -> str:
    blob = public_key if public_key is not None else base64.b64decode(pair.line.split()[1])
    made = sshsig.MAGIC + version.to_bytes(4)
    for part in (blob, NAMESPACE.encode(), b"", hash_algorithm, string(algorithm) + string(body)):
        made += string(part)
    return _armored(made + after)


def _preimage(hash_algorithm: str = "sha512", reserved: bytes = b"") -> bytes:
    digest = hashlib.new(hash_algorithm, MESSAGE).digest()
    parts = (NAMESPACE.encode(), reserved, hash_algorithm.encode(), digest)
    return sshsig.MAGIC + b"".join(string(part) for part in parts)


def test_rsa_with_sha1_is_refused() -> None:
    """The legacy algorithm is not accepted, though the signature itself would hold."""
    private = key_pair("rsa").private
    assert isinstance(private, rsa.RSAPrivateKey)
    right = private.sign(_preimage(), padding.PKCS1v15(), hashes.SHA512())
    old = private.sign(_preimage(), padding.PKCS1v15(), hashes.SHA1())
    assert _verify(key_pair("rsa").line, _parts(key_pair("rsa"), b"rsa-sha2-512", right))
    assert not _verify(key_pair("rsa").line, _parts(key_pair("rsa"), b"ssh-rsa", old))
    assert not _verify(key_pair("rsa").line, _parts(key_pair("rsa"), b"ssh-rsa", right))


def test_other_hash_of_the_message_is_refused() -> None:
    """Only the two hashes of the format are accepted."""
    for name, accepted in (("sha256", True), ("sha512", True), ("sha1", False), ("md5", False)):
        body = key_pair().private.sign(_preimage(name))  # type: ignore[call-arg]
        signature = _parts(key_pair(), b"ssh-ed25519", body, hash_algorithm=name.encode())
        assert _verify(key_pair().line, signature) is accepted


def test_algorithm_must_be_the_keys() -> None:
    """A signature that names another algorithm than the key's is refused."""
    body = key_pair().private.sign(_preimage())  # type: ignore[call-arg]
    assert _verify(key_pair().line, _parts(key_pair(), b"ssh-ed25519", body))
    assert not _verify(key_pair().line, _parts(key_pair(), b"ssh-rsa", body))


def test_two_numbers_of_an_ecdsa_signature_are_all_there_is() -> None:
    """Nothing may stand behind them: a signature has one form."""
    pair = key_pair("p256")
    assert isinstance(pair.private, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(pair.private.sign(_preimage(), ec.ECDSA(hashes.SHA256())))
    body = string(b"\x00" + r.to_bytes(32)) + string(b"\x00" + s.to_bytes(32))
    assert _verify(pair.line, _parts(pair, b"ecdsa-sha2-nistp256", body))
    assert not _verify(pair.line, _parts(pair, b"ecdsa-sha2-nistp256", body + b"x"))
    assert not _verify(pair.line, _parts(pair, b"ecdsa-sha2-nistp256", body + string(b"")))


def test_malformed_blobs_are_refused() -> None:
    """Another version, something behind the end, or half of it is malformed."""
    body = key_pair().private.sign(_preimage())  # type: ignore[call-arg]
    for wrong in (
        _parts(key_pair(), b"ssh-ed25519", body, version=2),
        _parts(key_pair(), b"ssh-ed25519", body, after=b"x"),
        _armored(b"SSHSIG\x00\x00"),
        _armored(b"NOTSIG"),
    ):
        with pytest.raises(MalformedSignature):
            decode_signature(wrong)


def test_embedded_key_must_be_the_agents() -> None:
    """A stranger's signature that claims the agent's key, or brings its own, is refused, and the reverse."""
    stranger, agent = key_pair("ed25519", 1), key_pair()
    own = agent.private.sign(_preimage())  # type: ignore[call-arg]
    assert _verify(agent.line, _parts(agent, b"ssh-ed25519", own))
    assert not _verify(agent.line, _parts(stranger, b"ssh-ed25519", own))
    body = stranger.private.sign(_preimage())  # type: ignore[call-arg]
    assert not _verify(agent.line, _parts(stranger, b"ssh-ed25519", body))
    assert not _verify(agent.line, _parts(agent, b"ssh-ed25519", body))


class _SecurityKey:
    """Signs as a hardware key does: over the application, its flags, a counter and the message's hash."""

    def __init__(self, kind: str) -> None:
        pair = key_pair("ed25519" if kind == public_keys.SK_ED25519 else "p256", 7)
        self.kind = kind
        self.private = pair.private
        tail = base64.b64decode(pair.line.split()[1])
        name = pair.line.split()[0].encode()
        self.blob = string(kind.encode()) + tail[len(string(name)) :] + string(b"ssh:")
        self.line = f"{kind} {base64.b64encode(self.blob).decode()}"

    def sign(self, *, flags: int = 1, application: bytes = b"ssh:", after: bytes = b"") -> str:
        counter = (41).to_bytes(4)
        signed = hashlib.sha256(application).digest() + bytes([flags]) + counter
        signed += hashlib.sha256(_preimage()).digest()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            body = self.private.sign(signed)
        else:
            assert isinstance(self.private, ec.EllipticCurvePrivateKey)
            r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
            body = string(b"\x00" + r.to_bytes(32)) + string(b"\x00" + s.to_bytes(32))
        signature = string(self.kind.encode()) + string(body) + bytes([flags]) + counter + after
        made = sshsig.MAGIC + (1).to_bytes(4)
        for part in (self.blob, NAMESPACE.encode(), b"", b"sha512", signature):
            made += string(part)
        return _armored(made)


@pytest.mark.parametrize("kind", [public_keys.SK_ED25519, public_keys.SK_ECDSA_P256])
def test_hardware_key_is_accepted_when_touched(kind: str, ssh_keygen: str, tmp_path: Path) -> None:
    """A hardware key's signature holds, in ssh-keygen's eyes too, if somebody touched it."""
    key = _SecurityKey(kind)
    assert _verify(key.line, key.sign())
    assert _is_accepted(ssh_keygen, key.sign(), key.line, tmp_path)
    assert not _verify(key.line, key.sign(flags=0))
    assert not _verify(key.line, key.sign(flags=4))
    assert not _verify(key.line, key.sign(application=b"webauthn:"))
    assert not _verify(key.line, key.sign(after=b"x"))


def test_hardware_key_does_not_sign_raw() -> None:
    """A raw signature by the private half of a hardware key is not what such a key makes."""
    key = _SecurityKey(public_keys.SK_ED25519)
    raw = key.private.sign(MESSAGE)  # type: ignore[call-arg]
    assert not _verify(key.line, base64.b64encode(raw).decode())
