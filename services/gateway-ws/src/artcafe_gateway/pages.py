"""The dashboard's pages: static files of this package, served with what keeps a page from being misused."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from artcafe_common.bus import Bus
from artcafe_common.contracts.auth import GET_JWKS, GetJwks
from artcafe_common.errors import ServiceError
from artcafe_common.log import Repeats
from artcafe_common.rpc import call

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "dashboard"
PREFIX = "/dashboard/"
INDEX = "index.html"
# Where in the index its modules are named.
MODULES = b"<!-- modules -->"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ORIGINS_FRESH_SECONDS = 60.0
ORIGINS_WAIT_SECONDS = 1.0

_HEADERS = {
    # Each file is asked for again, and answered 304 while it is the same: nobody stays with an old one.
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Origins = Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is served."""

    body: bytes
    media_type: str
    etag: str


def load_pages(folder: Path = FOLDER) -> dict[str, Page]:
    """Read all files of the dashboard, by their path within it.

    The index names all modules, so that a browser asks for them at once instead of import by import.
    """
    bodies = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}
    preloads = "\n    ".join(
        f'<link rel="modulepreload" href="{PREFIX}{name}">' for name in bodies if name.endswith(".js")
    )
    bodies[INDEX] = bodies[INDEX].replace(MODULES, preloads.encode())
    return {name: _page(name, body) for name, body in bodies.items()}


def page_routes(pages: dict[str, Page], origins: Origins) -> list[BaseRoute]:
    """Return the routes of the dashboard; `origins` are those where people sign in."""

    async def index(request: Request) -> Response:
        policy = content_security_policy(await origins())
        return _answer(request, pages[INDEX], {"Content-Security-Policy": policy})

    async def file(request: Request) -> Response:
        # Only what was read at the start is ever served, so no path leads out of the folder.
        page = pages.get(request.path_params["path"])
        if page is None or request.path_params["path"] == INDEX:
            raise HTTPException(404, "no such file")
        # An image that is opened by itself is a document, too.
        return _answer(
            request, page, {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
        )

    return [Route("/", index), Route(PREFIX + "{path:path}", file)]


def content_security_policy(origins: Sequence[str] = ()) -> str:
    """Return the policy of the page: everything from its own origin, requests also to where people sign in.

    `'self'` covers the sockets of the same host (CSP 3), so no other host is reachable for a script.
    """
    connect = " ".join(["'self'", *sorted({origin for url in origins if (origin := origin_of(url))})])
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            f"connect-src {connect}",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            # Text never becomes markup or code, not by mistake either.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def origin_of(url: str) -> str | None:
    """Return the origin of an http or https address; None for anything that could not stand in a policy."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    host = parts.hostname or ""
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not host.replace("-", "").replace(".", "").isalnum()
    ):
        return None
    return f"{parts.scheme}://{host}{port}"


class SignInOrigins:
    """Where people sign in, as auth tells it; the last answer holds while auth is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: tuple[str, ...] = ()
        self._asked_at: float | None = None
        self._repeats = Repeats()

    async def __call__(self) -> Sequence[str]:
        """Return the addresses; asks auth at most once a minute."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at >= ORIGINS_FRESH_SECONDS:
            try:
                async with asyncio.timeout(ORIGINS_WAIT_SECONDS):
                    answer = await call(self._bus, GET_JWKS, GetJwks())
            except (ServiceError, TimeoutError):
                # The page is worth showing all the same: it says itself that signing in does not work now.
                if (held_back := self._repeats.due("unknown")) is not None:
                    logger.warning("sign_in_origins_unknown", extra={"held_back": held_back})
            else:
                self._asked_at = now
                self._known = tuple(url for issuer in answer.issuers for url in issuer.sign_in_urls)
        return self._known


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix in MEDIA_TYPES)


def _page(name: str, body: bytes) -> Page:
    return Page(body, MEDIA_TYPES[Path(name).suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(request: Request, page: Page, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "ETag": page.etag}
    if page.etag in _etags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(page.body, headers={**headers, "Content-Type": page.media_type})


def _etags(header: str) -> list[str]:
    """Return the tags a client has; an edge that compresses makes them weak (RFC 9110, section 13.1.2)."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]
