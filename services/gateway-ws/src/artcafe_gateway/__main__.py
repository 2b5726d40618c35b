"""``python -m artcafe_gateway``: start a gateway."""

from __future__ import annotations

import asyncio
import os

from artcafe_common.service import parser_for, run_service
from artcafe_gateway.config import PREFIX, GatewayConfig
from artcafe_gateway.supervisor import WORKER_VARIABLE, stop_with_supervisor, supervise
from artcafe_gateway.worker import run_worker


async def _main(config: GatewayConfig, stop: asyncio.Event) -> None:
    if WORKER_VARIABLE in os.environ:
        stop_with_supervisor(stop)
    elif config.workers > 1:
        await supervise(config.workers, config.server_id, stop)
        return
    await run_worker(config, stop)


def main() -> None:
    """Read the command line and run."""
    parser = parser_for("gateway", "The WebSocket gateway of ArtCafe PubSub.", GatewayConfig, PREFIX)
    run_service("gateway", parser.parse_args(), GatewayConfig, PREFIX, _main)


if __name__ == "__main__":
    main()
