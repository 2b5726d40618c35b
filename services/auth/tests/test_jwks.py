"""Which of an issuer's keys are passed on."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from artcafe_auth.jwks import KEYS_MAX, public_signing_keys

from .support import key_pair, patient


def _jwk(kind: str, **changes: Any) -> dict[str, Any]:
    public: Any = key_pair(kind).private.public_key()
    made: dict[str, Any]
    if isinstance(public, rsa.RSAPublicKey):
        made = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public))
        algorithm = "RS256"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        made = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(public))
        algorithm = "ES256"
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey)
        made = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(public))
        algorithm = "EdDSA"
    made.pop("key_ops", None)
    return made | {"kid": kind, "use": "sig", "alg": algorithm} | changes


def _kept(*entries: Any) -> list[Any]:
    return public_signing_keys({"keys": list(entries)})


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
def test_public_signing_key_is_kept(kind: str) -> None:
    """What is needed to check a signature is passed on, also where use and algorithm are not stated."""
    expected = _jwk(kind)
    assert _kept(expected) == [expected]
    bare = {name: value for name, value in expected.items() if name not in ("use", "alg")}
    assert _kept(bare) == [expected]
    assert _kept(expected | {"key_ops": ["verify"], "x5c": ["..."], "x5t": "..."}) == [expected]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "key",
        {},
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"},
        _jwk("rsa", use="enc"),
        _jwk("rsa", alg="RSA-OAEP"),
        _jwk("rsa", alg="HS256"),
        _jwk("rsa", alg="none"),
        _jwk("rsa", key_ops=["encrypt"]),
        _jwk("rsa", key_ops="verify"),
        _jwk("rsa", kid=None),
        _jwk("rsa", kid=""),
        _jwk("rsa", kid=7),
        _jwk("rsa", kid="x" * 513),
        _jwk("rsa", kty="EC"),
        _jwk("rsa", kty=["RSA"]),
        _jwk("rsa", n=""),
        _jwk("rsa", n="\u00e9"),
        _jwk("rsa", n=base64.urlsafe_b64encode(b"\xff" * 128).decode()),
        _jwk("rsa", n=base64.urlsafe_b64encode(b"\xff" * 2048).decode()),
        _jwk("rsa", n=base64.urlsafe_b64encode(b"\xff" * 255 + b"\xfe").decode()),
        _jwk("rsa", e="AQ"),
        _jwk("ed25519", x=base64.urlsafe_b64encode(b"\x01" + bytes(31)).decode().rstrip("=")),
        _jwk("rsa", e=65537),
        _jwk("rsa", e=""),
        _jwk("p256", crv="P-521"),
        _jwk("p256", x=_jwk("p256")["y"]),
        _jwk("p256", y=None),
        _jwk("p384"),
        _jwk("ed25519", crv="Ed448"),
        _jwk("ed25519", x="AAAA"),
    ],
)
def test_other_entries_are_left_out(entry: Any) -> None:
    """Shared secrets, keys for encryption, nameless, weak or damaged ones do not harm the others."""
    good = _jwk("ed25519", kid="good")
    assert _kept(entry, good) == [good]


def test_private_parts_are_never_passed_on() -> None:
    """An issuer that publishes its private key by mistake does not have it spread by us."""
    leaked = _jwk("p256", d="secret")
    (kept,) = _kept(leaked)
    assert "d" not in kept


@pytest.mark.parametrize("document", [None, [], "", 7, {}, {"keys": None}, {"keys": {}}, {"keys": []}])
def test_other_documents_have_no_keys(document: Any) -> None:
    """What is no key set has no keys."""
    assert public_signing_keys(document) == []


def test_number_of_keys_is_bounded() -> None:
    """A key set of thousands is not worth checking."""
    entries = [_jwk("ed25519", kid=str(number)) for number in range(KEYS_MAX + 20)]
    assert len(_kept(*entries)) == KEYS_MAX


_values = st.one_of(st.none(), st.text(max_size=8), st.integers(), st.lists(st.text(max_size=3), max_size=2))


@patient
@given(
    st.dictionaries(
        st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y"]),
        st.one_of(_values, st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB"])),
    )
)
def test_any_entry_is_kept_or_left_out(entry: dict[str, Any]) -> None:
    """Nothing an issuer can write raises."""
    for kind in ("RSA", "EC", "OKP"):
        _kept(entry, {"kty": kind, "kid": "k", "crv": "P-256" if kind == "EC" else "Ed25519"} | entry)
