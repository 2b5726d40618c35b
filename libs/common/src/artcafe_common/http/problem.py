"""Errors as HTTP sees them: problem details (RFC 9457)."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.responses import Response

from artcafe_common.errors import RENDERINGS, ServiceError

MEDIA_TYPE = "application/problem+json"

_encode = msgspec.json.Encoder().encode


def problem(error: ServiceError, instance: str) -> Response:
    """Render an error; `instance` is the id of the request, by which its log lines are found."""
    rendering = RENDERINGS[error.code]
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": "Plan limit reached" if error.quota else rendering.title,
        "status": error.http_status,
        "code": error.code,
        "detail": error.detail,
        "instance": instance,
    }
    headers: dict[str, str] = {}
    if error.quota:
        body |= msgspec.structs.asdict(error.quota)
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encode(body), error.http_status, headers, MEDIA_TYPE)
