"""The commands beside serving: back up and restore."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.log import setup_logging
from artcafe_common.streams import USAGE
from artcafe_metering.backups import BackupError, Backups, backups_in, restore
from artcafe_metering.config import MeteringConfig
from artcafe_metering.objects import Bucket
from artcafe_metering.streams import CONSUMER

NATS_SECONDS = 10.0


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the commands; without one the service is run."""
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    commands.add_parser("backup", help="make a backup of Valkey in METERING_BACKUP_DIR")
    restoring = commands.add_parser("restore", help="replace what is in Valkey by a backup")
    restoring.add_argument(
        "file", type=Path, nargs="?", help="the backup; default: the last one in METERING_BACKUP_DIR"
    )
    restoring.add_argument("--force", action="store_true", help="also where Valkey is not empty")
    restoring.add_argument("--host", help="name of this machine as Valkey sees it")


def run_command(config: MeteringConfig, arguments: argparse.Namespace) -> int:
    """Run a command and return the exit status."""
    setup_logging("metering", config.server_id, "WARNING")
    command = _backup if arguments.command == "backup" else _restore
    try:
        asyncio.run(command(config, arguments))
    except BackupError as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def backup_folder(config: MeteringConfig) -> Path:
    """Return where backups are. Raises: BackupError where that is not set."""
    if config.backup_dir is None:
        raise BackupError("METERING_BACKUP_DIR is not set")
    return Path(config.backup_dir)


async def _backup(config: MeteringConfig, _: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        bucket = None
        if config.backup_bucket:
            connecting = Bucket.connect(
                config.backup_bucket, region=config.aws_region, endpoint_url=config.aws_endpoint_url
            )
            bucket = await stack.enter_async_context(connecting)
        backups = Backups(
            config.redis_url.reveal(),
            backup_folder(config),
            bucket,
            SystemClock(),
            kept_hours=config.backup_kept_hours,
        )
        path = await backups.make()
        print(f"{path}: {path.stat().st_size} bytes")


async def _restore(config: MeteringConfig, arguments: argparse.Namespace) -> None:
    path: Path | None = arguments.file
    if path is None:
        path = next(reversed(backups_in(backup_folder(config))), None)
    if path is None:
        raise BackupError(f"there is no backup in {config.backup_dir}")
    await restore(config.redis_url.reveal(), path, print, host=arguments.host, force=arguments.force)
    await _start_over(config)


async def _start_over(config: MeteringConfig) -> None:
    """Let the stream be read from its beginning: what was counted since the backup is counted again."""
    password = config.nats_password.reveal() if config.nats_password else None
    assert USAGE.name is not None and CONSUMER.durable_name is not None
    try:
        async with asyncio.timeout(NATS_SECONDS):
            bus = await Bus.open(config.nats_url, name="metering", user=config.nats_user, password=password)
        try:
            await bus.jetstream().delete_consumer(USAGE.name, CONSUMER.durable_name)
        except NotFoundError:
            print("there was no consumer: metering reads the stream from its beginning")
            return
        finally:
            await bus.close_gracefully()
    except (NatsError, TimeoutError) as error:
        raise BackupError(
            f"Valkey is restored, but NATS does not answer ({type(error).__name__}). To count what came "
            f"after the backup run `nats consumer rm {USAGE.name} {CONSUMER.durable_name}`"
        ) from None
    print("metering reads the stream from its beginning: what came after the backup is counted again")
