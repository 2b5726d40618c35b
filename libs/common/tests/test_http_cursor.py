"""Page tokens: sealed to a tenant and a list."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.http import CursorBox

BOX = CursorBox(bytes(range(32)))
POSITION = {"after": "secret-agent"}


def _refused(token: str, tenant_id: str = "t", route: str = "agents", box: CursorBox = BOX) -> bool:
    with pytest.raises(ServiceError) as refused:
        box.open(token, tenant_id, route)
    return refused.value.code == ErrorCode.INVALID_ARGUMENT


def test_token_opens_where_it_was_sealed() -> None:
    """The position comes back, and the token neither shows it nor is the same twice."""
    tokens = {BOX.seal(POSITION, "t", "agents") for _ in range(10)}
    assert len(tokens) == 10
    for token in tokens:
        assert token is not None
        assert BOX.open(token, "t", "agents") == POSITION
        assert b"secret" not in base64.urlsafe_b64decode(token + "==")


def test_end_of_a_list_has_no_token() -> None:
    """No position, no token, and no token opens to no position."""
    assert BOX.seal(None, "t", "agents") is None
    assert BOX.open(None, "t", "agents") is None


def test_token_is_refused_anywhere_else() -> None:
    """Another tenant, also one whose name begins alike, another list and another key refuse it."""
    token = BOX.seal(POSITION, "t", "agents")
    assert token is not None
    assert _refused(token, tenant_id="t1")
    assert _refused(token, tenant_id="")
    assert _refused(token, route="channels")
    assert _refused(token, box=CursorBox(os.urandom(32)))


def test_every_altered_bit_is_noticed() -> None:
    """A token in which any bit was turned over is refused."""
    token = BOX.seal(POSITION, "t", "agents")
    assert token is not None
    sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        assert _refused(base64.urlsafe_b64encode(altered).decode().rstrip("="))


@given(st.text(max_size=200))
def test_invented_token_is_refused(text: str) -> None:
    """Whatever a client makes up is an invalid argument and nothing worse."""
    assert _refused(text)


def test_huge_token_is_refused() -> None:
    """A token longer than any real one is refused without being looked at."""
    assert _refused("A" * 1_000_000)
