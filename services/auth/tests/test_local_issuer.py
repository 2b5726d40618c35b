"""Tokens of the local issuer, and its key file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from artcafe_auth.local_issuer import KeyFileError, LocalIssuer, load_or_create_key, public_jwk
from artcafe_common.contracts.auth import GetJwks, Jwks
from artcafe_common.errors import ServiceError
from artcafe_common.tokens import KeyRing, TokenVerifier

from .support import ManualClock

URL = "http://127.0.0.1:8080/api/v1/auth"


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    """Make an issuer with a fresh key."""
    key = load_or_create_key(tmp_path / "key.pem")
    return LocalIssuer(key, url=URL, audience="artcafe", token_seconds=3600)


def test_token_says_who_until_when(issuer: LocalIssuer) -> None:
    """The claims are the ones of the protocol, and the header names the key."""
    token = issuer.token("01H", "ann@example.com", 1_790_000_000.9)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": issuer.jwk["kid"], "typ": "JWT"}
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "iss": URL,
        "sub": "01H",
        "aud": "artcafe",
        "email": "ann@example.com",
        "token_use": "id",
        "iat": 1_790_000_000,
        "exp": 1_790_003_600,
    }


async def test_token_holds_with_thirty_seconds_of_leeway(issuer: LocalIssuer) -> None:
    """A service whose clock is 29 s off takes it, one that is 31 s off does not."""
    clock = ManualClock()

    async def fetch() -> Jwks:
        assert GetJwks() is not None
        return Jwks(issuers=[issuer.rules()])

    verifier = TokenVerifier(KeyRing(fetch, clock), clock)
    token = issuer.token("01H", "ann@example.com", clock.now())
    clock.move(3600 + 29)
    person = await verifier.verify(token)
    assert (person.user_id, person.email) == ("01H", "ann@example.com")
    clock.move(2)
    with pytest.raises(ServiceError, match="expired"):
        await verifier.verify(token)


def test_key_id_is_the_thumbprint() -> None:
    """The name is that of RFC 7638: here of a key whose thumbprint another implementation computed."""
    # The P-256 key of RFC 7517, appendix A.1.
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(jwt.utils.base64url_decode(b"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4")),
        int.from_bytes(jwt.utils.base64url_decode(b"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM")),
        ec.SECP256R1(),
    )
    jwk = public_jwk(numbers.public_key())
    assert jwk["x"] == "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
    assert jwk["kid"] == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
    assert "d" not in jwk


def test_key_file_is_for_its_owner_and_stays(tmp_path: Path) -> None:
    """The file has mode 0600 from the start, and the next start finds the same key."""
    path = tmp_path / "folder" / "key.pem"
    first = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert load_or_create_key(path).private_numbers() == first.private_numbers()


def test_replicas_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    """Of many that find no file one makes the key, and all use it."""
    for attempt in range(10):
        path = tmp_path / str(attempt) / "key.pem"
        with ThreadPoolExecutor(8) as threads:
            keys = list(threads.map(load_or_create_key, [path] * 8))
        assert len({key.private_numbers().private_value for key in keys}) == 1
        assert list(path.parent.iterdir()) == [path]


def test_unusable_key_file_is_named(tmp_path: Path) -> None:
    """A file that is no P-256 key is an error with its name, and is left as it is."""
    path = tmp_path / "key.pem"
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"garbage", other):
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match=str(path)):
            load_or_create_key(path)
        assert path.read_bytes() == content
    with pytest.raises(KeyFileError):
        load_or_create_key(tmp_path / "key.pem" / "below-a-file")


def test_readable_key_file_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Others who may read the key are worth a warning."""
    path = tmp_path / "key.pem"
    load_or_create_key(path)
    assert not caplog.records
    path.chmod(0o644)
    load_or_create_key(path)
    assert [record.getMessage() for record in caplog.records] == ["key_file_readable_by_others"]
