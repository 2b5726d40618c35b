"""The table and the buckets of metering, made by the service itself where ``CREATE_TABLES`` says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from artcafe_common.dynamo import Dynamo
from artcafe_common.tables import care_of, log_change
from artcafe_metering.bucket_care import BucketCare, BucketSpec, specs_of
from artcafe_metering.config import CommandConfig
from artcafe_metering.rolled import USAGE_METRICS

logger = logging.getLogger(__name__)

TABLES_RETRY_SECONDS = 5.0
# What a person has to put right is told often enough so.
TABLES_RETRY_SECONDS_MAX = 60.0
_REASON_MAX_LENGTH = 300


async def keep_made(dynamo: Dynamo, config: CommandConfig) -> None:
    """Make them, each without waiting for the others, and again what gets lost; runs until it is cancelled.

    An emulator that was killed may have forgotten all: where the table is missing, buckets are seen to.
    """
    buckets = [(spec, asyncio.Event()) for spec in specs_of(config)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep_table(dynamo, config, [lost for _, lost in buckets]))
        for spec, lost in buckets:
            tasks.create_task(_keep_bucket(spec, config, lost))


async def _keep_table(dynamo: Dynamo, config: CommandConfig, lost: Iterable[asyncio.Event]) -> None:
    make = partial(_until_made, "table", partial(_make_table, dynamo, config))

    async def make_again() -> None:
        for each in lost:
            each.set()
        await make()

    await make()
    await dynamo.mend(make_again)


async def _keep_bucket(spec: BucketSpec, config: CommandConfig, lost: asyncio.Event) -> None:
    while True:
        lost.clear()
        await _until_made(spec.name, partial(_make_bucket, spec, config))
        await lost.wait()


async def _make_table(dynamo: Dynamo, config: CommandConfig) -> None:
    await dynamo.create_tables([USAGE_METRICS], care_of(config, "metering"))


async def _make_bucket(spec: BucketSpec, config: CommandConfig) -> None:
    await BucketCare(log_change).see_to([spec], endpoint_url=config.aws_endpoint_url, create=True)


async def _until_made(what: str, make: Callable[[], Awaitable[None]]) -> None:
    """Try until it is done: the store may come up after us, and nothing waits for this."""
    pause = TABLES_RETRY_SECONDS
    while True:
        try:
            await make()
            return
        except Exception as error:
            details = {"what": what, "error": type(error).__name__, "reason": str(error)[:_REASON_MAX_LENGTH]}
            logger.warning("create_tables_failed", extra=details)
            await asyncio.sleep(pause)
            pause = min(2 * pause, TABLES_RETRY_SECONDS_MAX)
