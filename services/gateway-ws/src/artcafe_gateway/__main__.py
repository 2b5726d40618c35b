"""``python -m artcafe_gateway``: start a gateway, or see to its table."""

from __future__ import annotations

import asyncio
import os

from artcafe_common.doctor import DOCTOR, add_doctor_command, run_doctor
from artcafe_common.service import parser_for, read_config, run_service
from artcafe_common.table_commands import add_table_commands, run_table_command
from artcafe_gateway.config import PREFIX, GatewayConfig
from artcafe_gateway.doctor import checks_of
from artcafe_gateway.store import CONNECTIONS
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
    """Read the command line and do what it says."""
    parser = parser_for("gateway", "The WebSocket gateway of ArtCafe PubSub.", GatewayConfig, PREFIX)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands (none: serve)")
    add_table_commands(commands)
    add_doctor_command(commands)
    arguments = parser.parse_args()
    if arguments.command == DOCTOR:
        config = read_config(GatewayConfig, PREFIX)
        raise SystemExit(run_doctor("gateway", arguments, config, checks_of(config)))
    if arguments.command is not None:
        raise SystemExit(run_table_command("gateway", arguments, [CONNECTIONS]))
    run_service("gateway", arguments, GatewayConfig, PREFIX, _main)


if __name__ == "__main__":
    main()
