"""HTTP calls with the standard library: JSON in, JSON out, problem details as `ApiError`.

Calls block. `in_thread` runs one beside an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, TypeVar

import msgspec
from msgspec import UNSET

from artcafe_agent.errors import ApiError, UnexpectedAnswer, Unreachable
from artcafe_agent.version import USER_AGENT

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 10.0
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
LONGEST_DETAIL = 200  # characters of an answer that is no problem document

_CODES = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "already_exists",
    429: "resource_exhausted",
    503: "unavailable",
    504: "deadline_exceeded",
}
_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, whatever its status."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """Return the decoded body; None where there is none.

        Raises:
            UnexpectedAnswer: The body is not JSON.
        """
        if not self.body:
            return None
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            raise UnexpectedAnswer(f"HTTP {self.status} without JSON: is this an ArtCafe server?") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Followed redirects would carry credentials to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def request(
    method: str,
    url: str,
    *,
    body: Any = UNSET,
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Make one HTTP call; ``body`` is sent as JSON; ``timeout`` bounds the whole call.

    Raises:
        Unreachable: No answer came, or not in time.
    """
    deadline = time.monotonic() + timeout
    # Every call closes its connection: the server need not keep it for us.
    given = {"Accept": "application/json", "User-Agent": USER_AGENT, **(headers or {})}
    data = None
    if body is not UNSET:  # null is a body too
        data = msgspec.json.encode(body)
        given["Content-Type"] = "application/json"
    call = urllib.request.Request(url, data=data, headers=given, method=method)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if tls is not None:
        handlers.append(urllib.request.HTTPSHandler(context=tls))
    opener = urllib.request.build_opener(*handlers)
    try:
        try:
            response = opener.open(call, timeout=timeout)
        except urllib.error.HTTPError as refusal:
            response = refusal
        with response:
            received = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, received, _read(response, deadline))
    except (OSError, http.client.HTTPException) as problem:
        raise Unreachable(_place(url), _why(problem)) from problem


def download(
    url: str,
    into: BinaryIO,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
) -> Mapping[str, str]:
    """Write the body of an answer of any size into a file; return the answer's headers, in lower case.

    ``timeout`` bounds each wait, not the whole.

    Raises:
        ApiError: The server refused.
        Unreachable: No answer came, or it broke off.
    """
    given = {"User-Agent": USER_AGENT, **(headers or {})}
    opener = urllib.request.build_opener(_NoRedirect())
    try:
        try:
            response = opener.open(urllib.request.Request(url, headers=given), timeout=timeout)
        except urllib.error.HTTPError as refusal:
            with refusal:
                received = {name.lower(): value for name, value in refusal.headers.items()}
                deadline = time.monotonic() + timeout
                raise api_error(Answer(refusal.status or 0, received, _read(refusal, deadline))) from None
        with response:
            # Not read1(): it takes a chunked body that breaks off for one that has ended.
            while chunk := response.read(CHUNK_BYTES):
                into.write(chunk)
            return {name.lower(): value for name, value in response.headers.items()}
    except (OSError, http.client.HTTPException) as problem:
        raise Unreachable(_place(url), _why(problem)) from problem


def request_json(
    method: str,
    url: str,
    *,
    body: Any = UNSET,
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    tls: ssl.SSLContext | None = None,
) -> Any:
    """Make one HTTP call and return the decoded answer.

    Raises:
        ApiError: The server refused.
        Unreachable: No answer came.
        UnexpectedAnswer: What came is not JSON.
    """
    answer = request(method, url, body=body, headers=headers, timeout=timeout, tls=tls)
    if 200 <= answer.status < 300:
        return answer.json()
    raise api_error(answer)


def api_error(answer: Answer) -> ApiError:
    """Return the error that a refusing answer stands for (RFC 9457, or whatever a proxy sent instead)."""
    problem: dict[str, Any] = {}
    try:
        decoded = answer.json()
    except UnexpectedAnswer:
        decoded = None
    if isinstance(decoded, dict):
        problem = decoded
        detail = str(problem.get("detail") or problem.get("title") or "")
    elif 300 <= answer.status < 400:
        detail = f"HTTP {answer.status}: the server is elsewhere, at {answer.headers.get('location', '?')}"
    else:
        detail = f"HTTP {answer.status} from something that is not an ArtCafe service"
    return ApiError(
        answer.status,
        str(problem.get("code") or _CODES.get(answer.status) or f"http_{answer.status}"),
        detail[:LONGEST_DETAIL],
        request_id=str(problem.get("instance") or ""),
        retry_after=_seconds(answer.headers.get("retry-after")),
        extra={name: value for name, value in problem.items() if name not in _STANDARD_MEMBERS},
    )


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking function beside the event loop.

    In a daemon thread: the loop's own executor is joined when the loop ends, which would hold up Ctrl-C
    until a silent server's deadline.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            set_outcome(value)

    def report(set_outcome: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, set_outcome, value)

    def work() -> None:
        try:
            result = function()
        except BaseException as problem:
            report(outcome.set_exception, problem)
        else:
            report(outcome.set_result, result)

    threading.Thread(target=work, name="artcafe-http", daemon=True).start()
    return await outcome


def _read(response: Any, deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_ANSWER_BYTES:
            raise OSError(f"the answer is larger than {LARGEST_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return b"".join(chunks)


def _why(problem: Exception) -> str:
    reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason) or type(reason).__name__


def _place(url: str) -> str:
    # Without the query, which may hold a signature.
    return url.split("?", 1)[0]


def _seconds(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0
