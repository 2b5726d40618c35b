"""What the tests of auth share: a clock they move, keys of every kind, stores in memory."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import HealthCheck, settings

from artcafe_auth.store import Kind, LocalUser, OneTime
from artcafe_common.contracts.registry import AgentKey

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# On a busy machine how long an example takes says nothing about the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KINDS = ("ed25519", "p256", "p384", "rsa")


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.time = now
        self.uptime = 1000.0

    def now(self) -> float:
        """Return the wall time."""
        return self.time

    def monotonic(self) -> float:
        """Return the monotonic time."""
        return self.uptime

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
        self.uptime += seconds


@dataclass(frozen=True)
class KeyPair:
    """An agent's key."""

    private: PrivateKey

    @property
    def line(self) -> str:
        """The public key as OpenSSH writes it."""
        public = self.private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return f"{public.decode()} agent@example"

    @property
    def fingerprint(self) -> str:
        """The fingerprint as OpenSSH prints it."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def registered(self) -> AgentKey:
        """The key as registry tells it."""
        return AgentKey(fingerprint=self.fingerprint, public_key=self.line)

    def openssh_file(self) -> bytes:
        """The private key as ssh-keygen reads it."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )

    def sign(self, message: str) -> bytes:
        """Sign as agents do: raw, ECDSA in DER."""
        data = message.encode()
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            digest = hashes.SHA256() if self.private.curve.key_size == 256 else hashes.SHA384()
            return self.private.sign(data, ec.ECDSA(digest))
        return self.private.sign(data)

    def sign_side_by_side(self, message: str) -> bytes:
        """Sign with ECDSA, r and s side by side."""
        assert isinstance(self.private, ec.EllipticCurvePrivateKey)
        size = self.private.curve.key_size // 8
        r, s = decode_dss_signature(self.sign(message))
        return r.to_bytes(size) + s.to_bytes(size)

    def response(self, message: str) -> str:
        """Sign and encode as agents do."""
        return base64.b64encode(self.sign(message)).decode()


@cache
def key_pair(kind: str = "ed25519", number: int = 0) -> KeyPair:
    """Return a key of a kind, the same one for the same number."""
    if kind == "ed25519":
        return KeyPair(ed25519.Ed25519PrivateKey.generate())
    if kind == "rsa":
        return KeyPair(rsa.generate_private_key(65537, 2048))
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return KeyPair(ec.generate_private_key(curves[kind]))


class MemoryOneTimeStore:
    """`OneTimeStore` in memory."""

    def __init__(self) -> None:
        self.records: dict[tuple[Kind, str], OneTime] = {}
        self.taken = 0

    async def add(self, kind: Kind, secret: str, record: OneTime) -> None:
        """Keep a record under a secret."""
        self.records[kind, secret] = record

    async def take(self, kind: Kind, secret: str) -> OneTime | None:
        """Remove and return a record."""
        self.taken += 1
        return self.records.pop((kind, secret), None)


class MemoryUserStore:
    """`UserStore` in memory."""

    def __init__(self) -> None:
        self.users: dict[str, LocalUser] = {}

    async def find(self, email: str) -> LocalUser | None:
        """Return the person with an e-mail address in lower case."""
        return self.users.get(email)

    async def save(self, user: LocalUser, now: float) -> LocalUser:
        """Add a person, or give an existing one the password."""
        known = self.users.get(user.email)
        kept = LocalUser(user.email, known.user_id if known else user.user_id, user.password)
        self.users[user.email] = kept
        return kept
