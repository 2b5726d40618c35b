"""Raw signatures and how they arrive."""

import base64
from collections.abc import Callable
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_auth import signatures
from artcafe_auth.public_keys import PublicKey
from artcafe_auth.signatures import MalformedSignature, Signature, decode_signature, signer_of, usable_keys
from artcafe_common.contracts.registry import AgentKey

from .support import KINDS, key_pair, patient

CHALLENGE = "gWZsIHeVuPN2gAizZp_cu2aJxcGlmeMgKHCWtTHpjb0"


def _signer(kind: str, signature: str, challenge: str = CHALLENGE) -> str | None:
    keys = usable_keys([key_pair(kind).registered])
    return signer_of(keys, decode_signature(signature), challenge)


@pytest.mark.parametrize("kind", KINDS)
def test_signature_of_own_key_is_found(kind: str) -> None:
    """A raw signature names the key that made it."""
    pair = key_pair(kind)
    assert _signer(kind, pair.response(CHALLENGE)) == pair.fingerprint


@pytest.mark.parametrize("kind", ["p256", "p384"])
def test_numbers_side_by_side_are_accepted(kind: str) -> None:
    """ECDSA's r and s may come without DER, as browsers make them."""
    # Several, since the numbers' first bytes differ each time.
    for _ in range(20):
        signature = base64.b64encode(key_pair(kind).sign_side_by_side(CHALLENGE)).decode()
        assert _signer(kind, signature) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_signature_of_something_else_is_not(kind: str) -> None:
    """Another challenge, another key of the kind, a changed bit, half a signature: nobody's."""
    pair = key_pair(kind)
    assert _signer(kind, pair.response(CHALLENGE + "x")) is None
    assert _signer(kind, key_pair(kind, 1).response(CHALLENGE)) is None
    signature = pair.sign(CHALLENGE)
    changed = signature[:-1] + bytes([signature[-1] ^ 1])
    for wrong in (changed, signature[: len(signature) // 2], signature + b"\x00", b"\x00" * 64, b"\x30"):
        assert _signer(kind, base64.b64encode(wrong).decode()) is None


def test_signature_of_another_kind_of_key_is_not() -> None:
    """Each kind's signature is tried with each kind's key, and none fits."""
    for made_by in KINDS:
        for checked_by in KINDS:
            if made_by != checked_by:
                assert _signer(checked_by, key_pair(made_by).response(CHALLENGE)) is None


def test_right_one_of_several_keys_is_named() -> None:
    """An agent with five keys of all kinds is known by whichever signed."""
    pairs = [key_pair(kind) for kind in KINDS] + [key_pair("ed25519", 1)]
    keys = usable_keys([pair.registered for pair in pairs])
    for pair in pairs:
        assert signer_of(keys, pair.sign(CHALLENGE), CHALLENGE) == pair.fingerprint


def test_every_key_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the right one: the time must not tell which of the keys it was."""
    tried = []
    real = signatures.verify

    def count(key: PublicKey, signature: Signature, message: bytes) -> bool:
        tried.append(key)
        return real(key, signature, message)

    monkeypatch.setattr(signatures, "verify", count)
    keys = usable_keys([key_pair("ed25519", number).registered for number in range(4)])
    assert signer_of(keys, key_pair("ed25519", 0).sign(CHALLENGE), CHALLENGE)
    assert len(tried) == 4


def test_keys_that_cannot_be_used_are_left_out() -> None:
    """A key this version does not know does not keep the agent's others from working."""
    good = key_pair().registered
    bad = AgentKey(fingerprint="SHA256:bad", public_key="ssh-dss AAAA")
    assert [fingerprint for fingerprint, _ in usable_keys([bad, good])] == [good.fingerprint]


VARIANTS: dict[str, Callable[[bytes], str]] = {
    "standard": lambda data: base64.b64encode(data).decode(),
    "standard without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "url-safe without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "plus became a space": lambda data: unquote_plus(base64.b64encode(data).decode()),
    "plus became a space, no padding": lambda data: unquote_plus(base64.b64encode(data).decode()).rstrip("="),
    "in lines": lambda data: base64.encodebytes(data).decode(),
    "in lines of another system": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@patient
@given(data=st.binary(min_size=1, max_size=600).filter(lambda data: not data.startswith(b"SSHSIG")))
def test_base64_is_read_in_every_variant(variant: str, data: bytes) -> None:
    """Whatever a client, a shell or an address made of the base64, the bytes are the same."""
    assert decode_signature(VARIANTS[variant](data)) == data


@pytest.mark.parametrize("edge", [b"\xfb\xef\xbe", b"\xff\xff\xfb\xef\xbe\xfb\xef\xbe", b"\x00\x00>"])
def test_pluses_at_the_ends_survive(edge: bytes) -> None:
    """A `+` at the very start or end, turned into a space, is not taken for white space."""
    assert decode_signature(unquote_plus(base64.b64encode(edge).decode())) == edge


@pytest.mark.parametrize("text", ["", "A", "AAAAA", "****", "AA=A", "\u00e9" * 8, "A" * 8193, "\x00AAA"])
def test_what_is_not_base64_is_malformed(text: str) -> None:
    """Anything else is refused in one way."""
    with pytest.raises(MalformedSignature):
        decode_signature(text)


@patient
@given(st.text(max_size=300))
def test_any_text_is_decoded_or_malformed(text: str) -> None:
    """No text raises anything but the refusal."""
    for given_text in (text, "U1NIU0lH" + text, "-----BEGIN SSH SIGNATURE-----" + text):
        try:
            decode_signature(given_text)
        except MalformedSignature:
            continue
