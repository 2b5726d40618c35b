"""What the registry looks at when somebody asks how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from artcafe_common.doctor import Check, Surroundings
from artcafe_registry.config import RegistryConfig
from artcafe_registry.store import TABLES

# Its own connections, those of the edge, and room.
FILES = 1024


def checks_of(config: RegistryConfig) -> Callable[[Surroundings], Mapping[str, Check]]:
    """Return the checks, by name."""

    def checks(around: Surroundings) -> Mapping[str, Check]:
        common = around.common(config.http_host, config.http_port, TABLES, FILES)
        return common | {"state": around.state_folder}

    return checks
