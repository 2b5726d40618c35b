"""Keys that are well-formed and yet nobody's."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artcafe_common.public_keys import is_sound_ed25519, is_sound_rsa

# The list of libsodium (`ge25519_has_small_order`), without the sign bit.
LOW_ORDER_POINTS = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]
UNSOUND_RSA = [
    (65537, 2**2047),
    (65537, 2**2046 + 1),
    (65537, 2**8192 + 1),
    (65536, 2**2047 + 1),
    (0, 2**2047 + 1),
    (1, 2**2047 + 1),
    (2**32 + 1, 2**2047 + 1),
    (2**2000 + 1, 2**2047 + 1),
]


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=bytes.hex)
def test_point_of_low_order_is_no_key(point: bytes) -> None:
    """None of the eight points of low order is accepted, in none of its spellings, with either sign bit."""
    assert not is_sound_ed25519(point)
    assert not is_sound_ed25519(point[:31] + bytes([point[31] ^ 0x80]))


@pytest.mark.parametrize("point", [b"", b"\x02" * 31, b"\x02" * 33, b"\xff" * 32])
def test_what_is_no_point_is_no_key(point: bytes) -> None:
    """Another length, or a number beyond the field, is refused."""
    assert not is_sound_ed25519(point)


def test_keys_that_are_made_are_sound() -> None:
    """No key that somebody can hold is refused."""
    for _ in range(200):
        assert is_sound_ed25519(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


@pytest.mark.parametrize(("exponent", "modulus"), UNSOUND_RSA)
def test_unsound_rsa_key_is_refused(exponent: int, modulus: int) -> None:
    """Even numbers, and sizes or exponents that nobody's key has, are refused."""
    assert not is_sound_rsa(exponent=exponent, modulus=modulus)


@pytest.mark.parametrize("exponent", [3, 17, 65537, 2**32 - 1])
@pytest.mark.parametrize("bits", [2048, 8192])
def test_usual_rsa_key_is_sound(exponent: int, bits: int) -> None:
    """What OpenSSH and others make is accepted."""
    assert is_sound_rsa(exponent=exponent, modulus=2 ** (bits - 1) + 1)
