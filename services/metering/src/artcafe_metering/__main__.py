"""Start the metering service."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from artcafe_common import __version__, rpc
from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import GET_MONTH
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import serve_http
from artcafe_common.http.server import listening_socket
from artcafe_common.remote import remote_access
from artcafe_common.service import EXIT_CONFIG, parser_for, read_config, run_service
from artcafe_common.usage import UsageCounter, UsageReporter
from artcafe_metering.adjustments import AdjustmentsApi
from artcafe_metering.app import create_usage_app
from artcafe_metering.backups import Backups
from artcafe_metering.commandline import add_commands, run_command
from artcafe_metering.config import PREFIX, MeteringConfig
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.exporting import Rows
from artcafe_metering.exports import ExportsApi
from artcafe_metering.handlers import UsageApi
from artcafe_metering.intake import Intake
from artcafe_metering.layers import LayeredCounters
from artcafe_metering.ledger import Ledger
from artcafe_metering.manifests import Manifests
from artcafe_metering.objects import Bucket
from artcafe_metering.reconcile import Reconciler
from artcafe_metering.rolled import USAGE_METRICS, Rolled
from artcafe_metering.roller import Roller
from artcafe_metering.signing import Signer
from artcafe_metering.tenants import RemoteTenants
from artcafe_metering.valkey import Valkey

logger = logging.getLogger(__name__)

SERVICE = "metering"
LAST_BATCH_SECONDS = 3.0
TABLES_RETRY_SECONDS = 5.0


async def serve(config: MeteringConfig, stop: asyncio.Event) -> None:
    """Run until `stop` is set; then finish requests and rounds in flight, and give back what is left."""
    clock = SystemClock()
    valkey = _valkey(config)
    signer = _signer(config)
    retention = config.retention()
    bound = listening_socket(config.http_host, config.http_port)
    bus = await _open_bus(config, stop)
    if bus is None:
        bound.close()
        return
    try:
        ledger = Ledger(valkey, retention, wait_for_disk=config.waitaof)
        intake = Intake(bus, ledger, clock, retention, config.rounds)
        counter = UsageCounter(clock)
        reporter = UsageReporter(bus, counter)
        readiness = _readiness(config, bus, ledger, intake)

        async def health(_: GetHealth) -> Health:
            return await readiness.report()

        async with AsyncExitStack() as stack:
            dynamo = await stack.enter_async_context(
                Dynamo.connect(
                    region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
                )
            )
            rolled = Rolled(dynamo)
            counters = ValkeyCounters(valkey)
            layered, tenants = LayeredCounters(counters, rolled, clock), RemoteTenants(bus)
            api = UsageApi(layered, tenants, clock, retention)
            operations = [
                *api.operations(),
                *AdjustmentsApi(rolled, clock, retention).operations(),
            ]
            buckets: list[tuple[Bucket, int | None]] = []
            if signer is not None:
                bucket = None
                if config.export_bucket:
                    bucket = await stack.enter_async_context(_bucket(config, config.export_bucket))
                    buckets.append((bucket, None))
                rows, manifests = Rows(counters, rolled), Manifests(dynamo, signer)
                exports = ExportsApi(rows, layered, manifests, signer, bucket, tenants, clock, retention)
                operations += exports.operations()
            app = create_usage_app(operations, readiness, remote_access(bus, clock), counter)
            backups = None
            if config.backup_dir:
                bucket = None
                if config.backup_bucket:
                    bucket = await stack.enter_async_context(_bucket(config, config.backup_bucket))
                    buckets.append((bucket, -(-config.backup_kept_hours // 24)))
                backups = Backups(
                    config.redis_url.reveal(),
                    Path(config.backup_dir),
                    bucket,
                    clock,
                    kept_hours=config.backup_kept_hours,
                )
            roller = Roller(valkey, counters, rolled, clock, retention, intake.backlog)
            await stack.enter_async_context(rpc.serve(bus, GET_MONTH, api.month, queue=SERVICE))
            await stack.enter_async_context(rpc.serve(bus, health_endpoint(SERVICE), health, queue=SERVICE))
            async with asyncio.TaskGroup() as tasks:
                reporting = tasks.create_task(reporter.run())
                tasks.create_task(intake.run(stop))
                background = [tasks.create_task(_roll(roller, dynamo, buckets, config.create_tables))]
                reconciler = Reconciler(bus, valkey, counters, clock)
                background.append(tasks.create_task(reconciler.run()))
                if backups is not None:
                    interval = 60.0 * config.backup_interval_minutes
                    background.append(tasks.create_task(backups.run(valkey, interval)))
                await serve_http(app.asgi, bound, stop)
                readiness.drain()
                for task in (*background, reporting):
                    task.cancel()
                await reporter.finish(LAST_BATCH_SECONDS)
    finally:
        await valkey.close()
        await bus.close_gracefully()


def main() -> None:
    """Read the command line and run."""
    parser = parser_for(SERVICE, "The metering service of ArtCafe PubSub.", MeteringConfig, PREFIX)
    add_commands(parser)
    arguments = parser.parse_args()
    if arguments.command is not None:
        sys.exit(run_command(read_config(MeteringConfig, PREFIX), arguments))
    run_service(SERVICE, arguments, MeteringConfig, PREFIX, serve)


def _signer(config: MeteringConfig) -> Signer | None:
    path = config.signing_key_path()
    if path is None:
        return None
    try:
        return Signer.from_file(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not an Ed25519 key in PEM"
        print(f"configuration: METERING_SIGNING_KEY_FILE is no use: {path}: {reason}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


def _bucket(config: MeteringConfig, name: str) -> AbstractAsyncContextManager[Bucket]:
    return Bucket.connect(name, region=config.aws_region, endpoint_url=config.aws_endpoint_url)


async def _roll(
    roller: Roller, dynamo: Dynamo, buckets: Sequence[tuple[Bucket, int | None]], create: bool
) -> None:
    while create:
        try:
            await dynamo.create_tables([USAGE_METRICS])
            for bucket, expire_days in buckets:
                await bucket.create(expire_days)
            break
        except Exception as error:
            # The store may come up after us, and counting does not need it.
            logger.warning("create_tables_failed", extra={"error": type(error).__name__})
            await asyncio.sleep(TABLES_RETRY_SECONDS)
    await roller.run()


def _valkey(config: MeteringConfig) -> Valkey:
    try:
        # Two more than there are rounds, for the checks whether Valkey is there.
        return Valkey(config.redis_url.reveal(), config.rounds + 2)
    except ValueError:
        # Without what it is: there is a password in it.
        print("configuration: REDIS_URL is not valid: no address of Valkey", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


async def _open_bus(config: MeteringConfig, stop: asyncio.Event) -> Bus | None:
    password = config.nats_password.reveal() if config.nats_password else None
    opening = asyncio.create_task(
        Bus.open(config.nats_url, name=SERVICE, user=config.nats_user, password=password)
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if opening.done():
        return opening.result()
    opening.cancel()
    return None


def _readiness(config: MeteringConfig, bus: Bus, ledger: Ledger, intake: Intake) -> Readiness:
    async def nats() -> None:
        if not bus.is_connected:
            raise unavailable("message bus")

    async def stream() -> None:
        if not intake.healthy:
            raise unavailable("usage stream")

    readiness = Readiness(SERVICE, config.server_id, __version__)
    readiness.add("nats", nats)
    readiness.add("valkey", ledger.ready)
    readiness.add("stream", stream)
    return readiness


if __name__ == "__main__":
    main()
