"""What auth looks at when somebody asks how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from artcafe_auth.config import AuthConfig
from artcafe_auth.store import TABLES
from artcafe_common.doctor import Check, Surroundings

# Its own connections, those of the edge, and room.
FILES = 1024


def checks_of(config: AuthConfig) -> Callable[[Surroundings], Mapping[str, Check]]:
    """Return the checks, by name."""
    return lambda around: around.common(config.http_host, config.http_port, TABLES, FILES)
