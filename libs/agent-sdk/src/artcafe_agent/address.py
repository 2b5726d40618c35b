"""Where a server is: one address, from which every URL is made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from artcafe_agent.errors import ConfigurationError

DEFAULT_SERVER = "http://127.0.0.1:8080"
SERVER_VARIABLE = "ARTCAFE_SERVER"

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}
# What people paste as "the address": the paths of the sockets and of the API, which are not part of it.
_KNOWN_SUFFIX = re.compile(r"(?:/api/v1)?(?:/ws(?:/agent(?:/[^/]*)?|/dashboard)?)?/*$")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def default_server() -> str:
    """Return the server named by the environment, or the one on this machine."""
    return os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of an ArtCafe server: host, port, TLS or not, and the path it is mounted under."""

    secure: bool
    host: str  # with port, as it stands in a URL
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Read ``http``, ``https``, ``ws`` or ``wss`` URLs; a path to a socket or to the API is taken off.

        Raises:
            ConfigurationError: It is not such a URL, or holds a password or a query.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as problem:
            raise ConfigurationError(f"{url!r} is not a server address: {problem}") from None
        if parts.scheme not in _SECURE or not parts.hostname:
            raise ConfigurationError(f"{url!r} is not a server address; write it like {DEFAULT_SERVER}")
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigurationError("a server address holds no user name, password, query or fragment")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if port is not None:
            host = f"{host}:{port}"
        return cls(_SECURE[parts.scheme], host, _KNOWN_SUFFIX.sub("", parts.path))

    def __str__(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.host}{self.prefix}"

    def api(self, *segments: str, query: Mapping[str, str | int | None] | None = None) -> str:
        """Return the URL of an API route; each segment is one piece of the path, whatever it contains."""
        return f"{self}/api/v1/{_path(segments)}{_query(query)}"

    def socket(self, *segments: str, query: Mapping[str, str | int | None] | None = None) -> str:
        """Return the URL of a socket, below ``/ws``."""
        scheme = "wss" if self.secure else "ws"
        return f"{scheme}://{self.host}{self.prefix}/ws/{_path(segments)}{_query(query)}"


def check_id(value: str, name: str) -> str:
    """Return a tenant's or agent's id.

    Raises:
        ConfigurationError: It does not follow the grammar of ids.
    """
    if not _ID.fullmatch(value):
        raise ConfigurationError(f"{name} {value!r} is not an id: 1 to 64 letters, digits, '_' and '-'")
    return value


def _path(segments: tuple[str, ...]) -> str:
    # A segment of dots would be resolved away by proxies; quote() leaves dots alone.
    return "/".join(
        quote(part, safe="") if part.strip(".") else part.replace(".", "%2E") for part in segments
    )


def _query(query: Mapping[str, str | int | None] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"?{urlencode(given, quote_via=quote, safe='')}" if given else ""
