"""The commands beside serving: back up, restore, reconcile, and put back what was put aside."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.doctor import DOCTOR, add_doctor_command, run_doctor
from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.log import setup_logging
from artcafe_common.streams import USAGE
from artcafe_common.table_commands import add_table_commands
from artcafe_metering.backup_folder import backups_in, made_at
from artcafe_metering.backups import BackupError, Backups, restore
from artcafe_metering.config import MeteringConfig
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.doctor import checks_of
from artcafe_metering.generation import settle_restored
from artcafe_metering.intake import open_seconds
from artcafe_metering.objects import Bucket
from artcafe_metering.reconcile import Reconciler
from artcafe_metering.reconciled import Reconciled
from artcafe_metering.requeue import requeue
from artcafe_metering.streams import CONSUMER
from artcafe_metering.valkey import Valkey

NATS_SECONDS = 10.0
REQUEUE = "requeue-dead"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the commands; without one the service is run."""
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    add_table_commands(commands)
    add_doctor_command(commands)
    commands.add_parser("backup", help="make a backup of Valkey in METERING_BACKUP_DIR")
    restoring = commands.add_parser("restore", help="replace what is in Valkey by a backup")
    restoring.add_argument(
        "file", type=Path, nargs="?", help="the backup; default: the last one in METERING_BACKUP_DIR"
    )
    restoring.add_argument("--force", action="store_true", help="also where Valkey is not empty")
    reconciling = commands.add_parser("reconcile", help="recount a closed day from the batches in the stream")
    reconciling.add_argument(
        "--date", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD", help="the day, UTC"
    )
    restoring.add_argument("--host", help="name of this machine as Valkey sees it")
    requeueing = commands.add_parser(
        REQUEUE, help="list the usage that was put aside in USAGE_DEAD and, with --yes, put it back"
    )
    requeueing.add_argument("--yes", action="store_true", help="put back what can be read; each counts once")


def run_command(config: MeteringConfig, arguments: argparse.Namespace) -> int:
    """Run a command and return the exit status."""
    if arguments.command == DOCTOR:
        return run_doctor("metering", arguments, config, checks_of(config))
    setup_logging("metering", config.server_id, "WARNING")
    commands = {"backup": _backup, "restore": _restore, "reconcile": _reconcile, REQUEUE: _requeue}
    command = commands[arguments.command]
    try:
        return asyncio.run(command(config, arguments))
    except (BackupError, ServiceError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1


def backup_folder(config: MeteringConfig) -> Path:
    """Return where backups are. Raises: BackupError where that is not set."""
    if config.backup_dir is None:
        raise BackupError("METERING_BACKUP_DIR is not set")
    return Path(config.backup_dir)


async def _backup(config: MeteringConfig, _: argparse.Namespace) -> int:
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
        path = await backups.make(print)
        print(f"{path}: {path.stat().st_size} bytes")
    return 0


async def _restore(config: MeteringConfig, arguments: argparse.Namespace) -> int:
    path: Path | None = arguments.file
    if path is None:
        path = next(reversed(backups_in(backup_folder(config))), None)
    if path is None:
        raise BackupError(f"there is no backup in {config.backup_dir}")
    clock = SystemClock()
    started = clock.now()
    await restore(config.redis_url.reveal(), path, print, host=arguments.host, force=arguments.force)
    valkey = Valkey(config.redis_url.reveal(), 1)
    try:
        await settle_restored(valkey, _made_at(path), started, clock.now())
    finally:
        await valkey.close()
    await _start_over(config)
    return 0


def _made_at(path: Path) -> float:
    try:
        return made_at(path).timestamp()
    except ValueError:
        # It was given another name.
        return path.stat().st_mtime


async def _reconcile(config: MeteringConfig, arguments: argparse.Namespace) -> int:
    valkey = Valkey(config.redis_url.reveal(), 1)
    try:
        async with asyncio.timeout(NATS_SECONDS):
            bus = await _open_bus(config)
        try:
            counters = ValkeyCounters(valkey)
            reconciled = Reconciled(valkey, config.retention())
            reconciler = Reconciler(bus, valkey, counters, SystemClock(), reconciled)
            outcome = await reconciler.compare(arguments.date, print)
        finally:
            await bus.close_gracefully()
    except TimeoutError:
        raise unavailable("message bus") from None
    finally:
        await valkey.close()
    print(f"{outcome.day}: {outcome.batches} batches of {outcome.comparison.tenants} tenants recounted")
    for each in outcome.differences:
        print(f"{each.tenant_id}: counted {each.counted}, recounted {each.recounted}")
        for by, parts in each.parts.items():
            for part in parts.named:
                print(f"  {by} {part.name}: counted {part.counted}, recounted {part.recounted}")
            if parts.number > len(parts.named):
                print(f"  and {parts.number - len(parts.named)} more {by}s")
    print("no difference" if not outcome.differences else f"{len(outcome.differences)} tenants differ")
    return 1 if outcome.differences else 0


async def _requeue(config: MeteringConfig, arguments: argparse.Namespace) -> int:
    try:
        async with asyncio.timeout(NATS_SECONDS):
            bus = await _open_bus(config)
    except (NatsError, TimeoutError):
        raise unavailable("message bus") from None
    try:
        now = SystemClock().now()
        oldest = now - open_seconds(config.hours_in_valkey())
        left = await requeue(bus.jetstream(timeout=NATS_SECONDS), oldest, now, print, really=arguments.yes)
    finally:
        await bus.close_gracefully()
    return 1 if left else 0


async def _open_bus(config: MeteringConfig) -> Bus:
    password = config.nats_password.reveal() if config.nats_password else None
    return await Bus.open(config.nats_url, name="metering", user=config.nats_user, password=password)


async def _start_over(config: MeteringConfig) -> None:
    """Let the stream be read from its beginning: what was counted since the backup is counted again."""
    assert USAGE.name is not None and CONSUMER.durable_name is not None
    try:
        async with asyncio.timeout(NATS_SECONDS):
            bus = await _open_bus(config)
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
