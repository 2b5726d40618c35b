"""What every HTTP request goes through, whatever answers it."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artcafe_common.ids import new_ulid
from artcafe_common.log import request_id_var

REQUEST_ID_HEADER = "X-Request-Id"

_REQUEST_ID_RE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STATE_KEY = "artcafe.request_id"


class RequestMiddleware:
    """Give each request its id, known while it is worked on and told in the answer.

    A client's own id is kept if it is harmless. Nobody on the way is to store an answer unless it
    says so. ``/agents/`` is ``/agents``: a redirect would name this process's own address, not the edge's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID_RE.fullmatch(given) else new_ulid()
        scope[_STATE_KEY] = request_id
        path: str = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope["path"] = path.rstrip("/") or "/"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        token = request_id_var.set(request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id_var.reset(token)


def request_id_of(scope: Any) -> str:
    """Return the id of a request."""
    return str(scope.get(_STATE_KEY, ""))
