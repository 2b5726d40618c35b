"""How much of what is stated is kept."""

from typing import Any

import pytest

from artcafe_common.errors import ServiceError
from artcafe_registry.domain.bounds import (
    CAPABILITIES_MAX,
    METADATA_BYTES_MAX,
    bounded_capabilities,
    bounded_metadata,
    check_metadata,
)

LARGEST = {"k": "x" * (METADATA_BYTES_MAX - 8)}
TOO_LARGE = {"k": "x" * (METADATA_BYTES_MAX - 7)}


def nested(depth: int) -> dict[str, Any]:
    """Return metadata of so many levels."""
    found: dict[str, Any] = {}
    for _ in range(depth - 1):
        found = {"k": found}
    return found


def test_metadata_is_bounded_by_its_bytes() -> None:
    """The largest that is kept passes, one byte more is refused in a request and dropped from an agent."""
    assert check_metadata(LARGEST) is LARGEST
    assert bounded_metadata(LARGEST) is LARGEST
    assert bounded_metadata(TOO_LARGE) is None
    assert bounded_metadata(None) is None
    with pytest.raises(ServiceError):
        check_metadata(TOO_LARGE)
    with pytest.raises(ServiceError):
        check_metadata({"k": "é" * (METADATA_BYTES_MAX // 2)})


def test_metadata_of_agents_is_bounded_by_its_depth() -> None:
    """What is nested deeper than everybody can read is dropped."""
    assert bounded_metadata(nested(64)) == nested(64)
    assert bounded_metadata(nested(65)) is None


def test_capabilities_are_bounded_in_number_and_length() -> None:
    """Of what an agent states, empty and endless names are left out, and what is too many."""
    assert bounded_capabilities(None) is None
    assert bounded_capabilities([]) == []
    assert bounded_capabilities(["", "a", "x" * 129, "b"]) == ["a", "b"]
    assert len(bounded_capabilities(["a"] * 1_000) or []) == CAPABILITIES_MAX
