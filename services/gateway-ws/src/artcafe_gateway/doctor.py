"""What a gateway looks at when somebody asks how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from artcafe_common.doctor import Check, Findings, Surroundings
from artcafe_common.streams import PRESENCE, USAGE
from artcafe_gateway.config import GatewayConfig
from artcafe_gateway.store import CONNECTIONS
from artcafe_gateway.worker import OTHER_FILES


def checks_of(config: GatewayConfig) -> Callable[[Surroundings], Mapping[str, Check]]:
    """Return the checks, by name."""

    def checks(around: Surroundings) -> Mapping[str, Check]:
        async def streams(found: Findings) -> None:
            for stream in (USAGE, PRESENCE):
                await around.stream(stream.name or "", found)

        files = config.max_connections + OTHER_FILES
        common = around.common(config.http_host, config.http_port, [CONNECTIONS], files)
        return common | {"streams": streams, "state": around.state_folder}

    return checks
