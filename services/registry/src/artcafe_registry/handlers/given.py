"""What a client gave of a body whose fields are all optional."""

from __future__ import annotations

from typing import Any

import msgspec

from artcafe_registry.domain.bounds import check_metadata


def given_fields(body: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that were given, with metadata checked for size. Raises: ServiceError."""
    given = {
        name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET
    }
    if "metadata" in given:
        check_metadata(given["metadata"])
    return given
