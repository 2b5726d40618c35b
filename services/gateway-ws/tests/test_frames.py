"""What commands are, and what is answered to what is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from artcafe_common.errors import ErrorCode, Quota, ServiceError
from artcafe_gateway.frames import (
    Publish,
    Subscribe,
    agent_decoder,
    error_event,
    event,
    names_of,
    undecodable,
)


def answer_to(payload: bytes) -> tuple[ServiceError, Any]:
    """Decode a frame that is no command and return what is answered."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as caught:
        agent_decoder.decode(payload)
    return undecodable(payload, caught.value)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_called_so(payload: bytes) -> None:
    """Anything but a JSON object gets one clear error and no id."""
    error, command_id = answer_to(payload)
    assert (error.code, error.detail, command_id) == (
        ErrorCode.INVALID_ARGUMENT,
        "not a JSON object",
        None,
    )


@pytest.mark.parametrize(
    ("payload", "detail", "command_id"),
    [
        (b'{"id":7}', "a frame needs a type", 7),
        (b'{"type":null,"id":"x"}', "a frame needs a type", "x"),
        (b'{"type":"dance","id":"x"}', "unknown type 'dance'", "x"),
        (b'{"type":"dance","id":{"a":1}}', "unknown type 'dance'", None),
        (b'{"type":"dance","id":true}', "unknown type 'dance'", None),
    ],
)
def test_an_unknown_type_is_named_and_the_id_echoed(
    payload: bytes, detail: str, command_id: str | int | None
) -> None:
    """The answer goes to the command's id where it has a usable one."""
    error, found = answer_to(payload)
    assert (error.detail, found) == (detail, command_id)


def test_a_long_type_is_cut_in_the_answer() -> None:
    """A client cannot have its own megabyte sent back."""
    error, _ = answer_to(json.dumps({"type": "x" * 10_000}).encode())
    assert len(error.detail) < 100


def test_a_wrong_field_is_named() -> None:
    """A command with a field of the wrong type says which one."""
    error, command_id = answer_to(b'{"type":"subscribe","id":1,"channels":"room"}')
    assert "$.channels" in error.detail
    assert command_id == 1


def test_fields_of_newer_clients_are_ignored() -> None:
    """A field that this version does not know is no error."""
    command = agent_decoder.decode(b'{"type":"publish","channel":"c","data":[1, 2],"shiny":true}')
    assert isinstance(command, Publish)
    assert bytes(command.data) == b"[1, 2]"


def test_the_channels_of_a_subscription_are_all_found() -> None:
    """`channel`, `subject` and `channels` name what is meant, and nothing is an error."""
    assert names_of(Subscribe(channel="a", channels=["b", "c"])) == ["a", "b", "c"]
    assert names_of(Subscribe(subject="a")) == ["a"]
    with pytest.raises(ServiceError):
        names_of(Subscribe())


def test_an_error_says_it_twice_and_tells_of_quota_and_retry() -> None:
    """Older clients read ``error``, newer ones ``message``; a quota says where it stands."""
    quota = Quota(resource="connections", current=5, limit=5, plan="free")
    error = ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "full", retry_after=2.0, quota=quota)
    assert json.loads(error_event(error, 0)) == {
        "type": "error",
        "id": 0,
        "code": "resource_exhausted",
        "message": "full",
        "error": "full",
        "retry_after": 2.0,
        "resource": "connections",
        "current": 5,
        "limit": 5,
        "plan": "free",
    }


def test_raw_data_goes_into_an_event_unchanged() -> None:
    """What a client sent as data is not encoded anew."""
    assert event("x", data=msgspec.Raw(b'{"a" : 1.50}')) == b'{"type":"x","data":{"a" : 1.50}}'
