"""Public keys that are none: well-formed, and yet anybody can sign for them, or checking one is an attack."""

from __future__ import annotations

RSA_BITS_MIN = 2048
# A verification costs the square of its size: nobody may choose it at will.
RSA_BITS_MAX = 8192
RSA_EXPONENT_MIN = 3
RSA_EXPONENT_MAX = 2**32

_FIELD = 2**255 - 19
_SIGN_BIT = 1 << 255
# The y of a point of order 8; that of its opposite side is the field's rest. Its double has the order 4.
_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_LOW_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


def is_sound_ed25519(point: bytes) -> bool:
    """Tell whether the 32 bytes of an Ed25519 public key are neither of low order nor oddly written.

    For a point whose order divides 8 anybody can make a signature that holds for any message.
    A y that is not below the field's prime is another spelling of one that is (RFC 8032, section 5.1.3).
    """
    if len(point) != 32:
        return False
    y = int.from_bytes(point, "little") & ~_SIGN_BIT
    return y < _FIELD and y not in _LOW_ORDER


def is_sound_rsa(*, exponent: int, modulus: int) -> bool:
    """Tell whether an RSA key has a usual size and exponent, and can be the product of two odd primes."""
    return (
        RSA_BITS_MIN <= modulus.bit_length() <= RSA_BITS_MAX
        and RSA_EXPONENT_MIN <= exponent <= RSA_EXPONENT_MAX
        and modulus % 2 == exponent % 2 == 1
    )
