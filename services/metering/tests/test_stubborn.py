"""When a batch is given up, and when the server is at fault."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from artcafe_metering.stubborn import TRIES_MAX, Stubborn, is_servers_own


@pytest.mark.parametrize(
    "answer",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("MISCONF Errors writing to the AOF file"),
        ResponseError("BUSY Valkey is busy running a script"),
        ResponseError("user_script:9: OOM command not allowed when used memory > 'maxmemory'. script: x"),
    ],
)
def test_a_server_in_trouble_is_no_batchs_fault(answer: ResponseError) -> None:
    """Full, read-only, busy or without its disk: that passes."""
    assert is_servers_own(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "user_script:36: WRONGTYPE stats:m:202601:{OOM}, script: x",
        "hash value is not an integer",
    ],
)
def test_a_key_that_is_spoilt_is_not_the_servers(answer: str) -> None:
    """What one key is tells nothing of the others, whatever it is called."""
    assert not is_servers_own(ResponseError(answer))


def test_a_batch_is_given_up_after_so_many_tries_between_which_others_were_applied() -> None:
    """Tries while nothing else is counted do not matter, and one that succeeds after all is forgotten."""
    cases = Stubborn()
    for _ in range(5 * TRIES_MAX):
        cases.refused("s1", 1, {"t1": "WRONGTYPE"})
    assert not cases.given_up("s1", 1)
    for _ in range(TRIES_MAX - 1):
        cases.applied()
        assert not cases.given_up("s1", 1)
        cases.refused("s1", 1, {"t1": "WRONGTYPE", "t2": "other"})
    assert cases.given_up("s1", 1) == {"t1": "WRONGTYPE", "t2": "other"}
    assert not cases.given_up("s1", 2)
    cases.done("s1", 1)
    assert not cases.given_up("s1", 1)
