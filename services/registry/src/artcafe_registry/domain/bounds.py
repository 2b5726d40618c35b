"""How much of what people and agents state about themselves is kept."""

from __future__ import annotations

from typing import Any

import msgspec

from artcafe_common.errors import invalid
from artcafe_common.json_bounds import DEPTH_MAX, deeper_than

NAME_MAX_LENGTH = 128
TYPE_MAX_LENGTH = 64
DESCRIPTION_MAX_LENGTH = 1_024
CAPABILITIES_MAX = 64
CAPABILITY_MAX_LENGTH = 128
METADATA_BYTES_MAX = 16_384


def check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata, or raise ``invalid_argument`` where it is too large to keep."""
    if _size(metadata) > METADATA_BYTES_MAX:
        raise invalid(f"metadata: larger than {METADATA_BYTES_MAX} bytes")
    return metadata


def bounded_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what an agent stated on its connection, or None where it is too large, or too deep, to keep.

    Whoever reads what was kept decodes it, often from deeper in the program than here.
    """
    if metadata is None:
        return None
    text = msgspec.json.encode(metadata)
    return None if len(text) > METADATA_BYTES_MAX or deeper_than(text, DEPTH_MAX) else metadata


def bounded_capabilities(capabilities: list[str] | None) -> list[str] | None:
    """Return what an agent stated on its connection, without what is too much to keep."""
    if capabilities is None:
        return None
    return [name for name in capabilities if 0 < len(name) <= CAPABILITY_MAX_LENGTH][:CAPABILITIES_MAX]


def _size(metadata: dict[str, Any]) -> int:
    return len(msgspec.json.encode(metadata))
