"""Errors as HTTP sees them: problem details (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from artcafe_common.errors import RENDERINGS, ServiceError

MEDIA_TYPE = "application/problem+json"

_encode = msgspec.json.Encoder().encode


def problem(
    error: ServiceError, instance: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Render an error; `instance` is the id of the request, by which its log lines are found.

    `status` where HTTP has a more exact one than the error's own; `headers` to be sent with it.
    """
    rendering = RENDERINGS[error.code]
    status = status or error.http_status
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": "Plan limit reached" if error.quota else rendering.title,
        "status": status,
        "code": error.code,
        "detail": error.detail,
        "instance": instance,
    }
    sent = dict(headers or {})
    if error.quota:
        body |= msgspec.structs.asdict(error.quota)
    if error.retry_after is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(_encode(body), status, sent, MEDIA_TYPE)
