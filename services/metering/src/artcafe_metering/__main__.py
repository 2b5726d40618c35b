"""Start the metering service."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

from artcafe_common import __version__, rpc
from artcafe_common.bus import Bus
from artcafe_common.clock import SystemClock
from artcafe_common.contracts.metering import GET_MONTHS
from artcafe_common.contracts.platform import GetHealth, Health, health_endpoint
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import unavailable
from artcafe_common.health import Readiness
from artcafe_common.http import CallLimits, CursorBox, serve_http
from artcafe_common.remote import remote_access
from artcafe_common.service import EXIT_CONFIG, parser_for, read_config, run_service
from artcafe_common.starting import Starting, bind, cancel_all
from artcafe_common.table_commands import TABLE_COMMANDS, More, run_table_command
from artcafe_common.usage import UsageReporter, open_usage_counter
from artcafe_metering.adjustments import AdjustmentsApi
from artcafe_metering.app import create_usage_app
from artcafe_metering.backups import Backups
from artcafe_metering.bucket_care import BucketCare, specs_of
from artcafe_metering.commandline import add_commands, run_command
from artcafe_metering.config import PREFIX, CommandConfig, MeteringConfig
from artcafe_metering.counters import ValkeyCounters
from artcafe_metering.exporting import Rows
from artcafe_metering.exports import ExportsApi
from artcafe_metering.generation import Generation
from artcafe_metering.handlers import UsageApi
from artcafe_metering.intake import Intake
from artcafe_metering.keeping import KeptByPlan
from artcafe_metering.layers import LayeredCounters
from artcafe_metering.ledger import Ledger
from artcafe_metering.making import keep_made
from artcafe_metering.manifests import Manifests
from artcafe_metering.objects import Bucket
from artcafe_metering.reconcile import Reconciler
from artcafe_metering.reconciled import Reconciled, ReconciliationApi
from artcafe_metering.rolled import USAGE_METRICS, Rolled
from artcafe_metering.roller import Roller
from artcafe_metering.signing import Jwk, Signer, retired_keys
from artcafe_metering.tenants import RemoteTenants, limits_of
from artcafe_metering.valkey import Valkey
from artcafe_metering.watching import Watch

logger = logging.getLogger(__name__)

SERVICE = "metering"
LAST_BATCH_SECONDS = 3.0
CURSOR_KEY_BYTES = 32


async def serve(config: MeteringConfig, stop: asyncio.Event) -> None:
    """Run until `stop` is set; then finish requests and rounds in flight, and give back what is left."""
    clock = SystemClock()
    valkey = _valkey(config)
    signer, retired = _signer(config), _retired(config)
    cursors = CursorBox(signer.derive("next_token") if signer else os.urandom(CURSOR_KEY_BYTES))
    retention = config.retention()
    bound = bind(PREFIX, "HTTP", config.http_host, config.http_port)
    bus = await Starting(SERVICE, config, bound, stop).open_bus()
    if bus is None:
        bound.close()
        return
    try:
        counter = open_usage_counter(config, clock)
        reporter = UsageReporter(bus, counter)
        async with AsyncExitStack() as stack:
            dynamo = await stack.enter_async_context(
                Dynamo.connect(
                    region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
                )
            )
            rolled = Rolled(dynamo)
            generation = Generation(valkey, bus.jetstream(), rolled, clock)
            ledger = Ledger(valkey, retention, generation, wait_for_disk=config.waitaof)
            intake = Intake(
                bus, ledger, clock, config.hours_in_valkey(), config.rounds, config.nats_stream_replicas
            )
            readiness = _readiness(config, bus, ledger, intake, dynamo)

            async def health(_: GetHealth) -> Health:
                return await readiness.report()

            counters = ValkeyCounters(valkey)
            layered = LayeredCounters(counters, rolled, clock, generation.since)
            tenants = RemoteTenants(bus)
            reconciled = Reconciled(valkey, retention)
            keeping = KeptByPlan(dynamo, tenants, retention, config.hours_by_plan(), config.days_by_plan())
            api = UsageApi(layered, tenants, clock, keeping, cursors)
            operations = [
                *api.operations(),
                *AdjustmentsApi(rolled, layered, tenants, clock, keeping).operations(),
                *ReconciliationApi(reconciled, layered, tenants, clock, retention).operations(),
            ]
            if signer is not None:
                bucket = None
                if config.export_bucket:
                    bucket = await stack.enter_async_context(_bucket(config, config.export_bucket))
                rows, manifests = Rows(counters, rolled), Manifests(dynamo, signer)
                exports = ExportsApi(
                    rows,
                    layered,
                    manifests,
                    signer,
                    bucket,
                    tenants,
                    clock,
                    keeping,
                    config.exports_per_hour,
                    cursors,
                    retired,
                )
                operations += exports.operations()
            limits = CallLimits(partial(limits_of, tenants), counter, clock)
            app = create_usage_app(operations, readiness, remote_access(bus, clock), limits)
            backups = None
            if config.backup_dir:
                bucket = None
                if config.backup_bucket:
                    bucket = await stack.enter_async_context(_bucket(config, config.backup_bucket))
                backups = Backups(
                    config.redis_url.reveal(),
                    Path(config.backup_dir),
                    bucket,
                    clock,
                    kept_hours=config.backup_kept_hours,
                )
            roller = Roller(
                valkey, counters, rolled, clock, retention, intake.backlog, keeping, generation.since
            )
            await stack.enter_async_context(rpc.serve(bus, GET_MONTHS, api.months, queue=SERVICE))
            await stack.enter_async_context(rpc.serve(bus, health_endpoint(SERVICE), health, queue=SERVICE))
            async with asyncio.TaskGroup() as tasks:
                reporting = tasks.create_task(reporter.run())
                tasks.create_task(intake.run(stop))
                background = [
                    tasks.create_task(generation.run()),
                    tasks.create_task(ledger.watch()),
                    tasks.create_task(roller.run()),
                ]
                if config.create_tables:
                    background.append(tasks.create_task(keep_made(dynamo, config)))
                watch = Watch(valkey, bus.jetstream(), config.nats_stream_replicas)
                background.append(tasks.create_task(watch.run()))
                reconciler = Reconciler(bus, valkey, counters, clock, reconciled)
                background.append(tasks.create_task(reconciler.run()))
                if backups is not None:
                    interval = 60.0 * config.backup_interval_minutes
                    background.append(tasks.create_task(backups.run(valkey, interval)))
                await serve_http(app.asgi, bound, stop)
                readiness.drain()
                await cancel_all((*background, reporting))
                await reporter.finish(LAST_BATCH_SECONDS)
    finally:
        await valkey.close()
        await bus.close_gracefully()


def main() -> None:
    """Read the command line and run."""
    parser = parser_for(SERVICE, "The metering service of ArtCafe PubSub.", MeteringConfig, PREFIX)
    add_commands(parser)
    arguments = parser.parse_args()
    if arguments.command in TABLE_COMMANDS:
        command_config = read_config(CommandConfig, PREFIX)
        buckets = _see_to_buckets(command_config)
        sys.exit(run_table_command(SERVICE, arguments, [USAGE_METRICS], command_config, buckets))
    if arguments.command is not None:
        sys.exit(run_command(read_config(MeteringConfig, PREFIX), arguments))
    run_service(SERVICE, arguments, MeteringConfig, PREFIX, serve)


def _see_to_buckets(config: CommandConfig) -> More:
    async def see_to(create: bool) -> list[str]:
        care = BucketCare(lambda bucket, what: print(f"{bucket}: {what}", flush=True))
        return await care.see_to(specs_of(config), endpoint_url=config.aws_endpoint_url, create=create)

    return see_to


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


def _retired(config: MeteringConfig) -> list[Jwk]:
    folder = config.retired_keys_path()
    try:
        return retired_keys(folder) if folder is not None else []
    except OSError as error:
        problem = f"{folder}: {error.strerror}"
    except ValueError as error:
        problem = f"{folder}/{error}: no set of public keys of exports"
    print(f"configuration: METERING_RETIRED_KEYS is no use: {problem}", file=sys.stderr)
    raise SystemExit(EXIT_CONFIG)


def _bucket(config: MeteringConfig, name: str) -> AbstractAsyncContextManager[Bucket]:
    return Bucket.connect(name, region=config.aws_region, endpoint_url=config.aws_endpoint_url)


def _valkey(config: MeteringConfig) -> Valkey:
    try:
        # Two more than there are rounds, for the checks whether Valkey is there.
        return Valkey(config.redis_url.reveal(), config.rounds + 2)
    except ValueError:
        # Without what it is: there is a password in it.
        print("configuration: REDIS_URL is not valid: no address of Valkey", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


def _readiness(config: MeteringConfig, bus: Bus, ledger: Ledger, intake: Intake, dynamo: Dynamo) -> Readiness:
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
    # Counting does without it; to look is also how a table that got lost is noticed.
    readiness.add("dynamodb", lambda: dynamo.ping(USAGE_METRICS), required=False)
    return readiness


if __name__ == "__main__":
    main()
