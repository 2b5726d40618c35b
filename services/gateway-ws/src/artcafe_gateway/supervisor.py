"""Several gateway processes on one pair of ports: start them, replace those that die, stop them together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

logger = logging.getLogger(__name__)

WORKER_VARIABLE = "ARTCAFE_WORKER"
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 30.0
STABLE_SECONDS = 60.0


async def supervise(workers: int, server_id: str, stop: asyncio.Event) -> None:
    """Keep `workers` processes running until `stop` is set, then end them with SIGTERM and wait."""
    await asyncio.gather(*(_keep(number, server_id, stop) for number in range(1, workers + 1)))


async def _keep(number: int, server_id: str, stop: asyncio.Event) -> None:
    backoff = BACKOFF_FIRST_SECONDS
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        environment = os.environ | {
            WORKER_VARIABLE: str(number),
            "ARTCAFE_SERVER_ID": f"{server_id}-{number}",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "artcafe_gateway", env=environment
        )
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if stop.is_set():
            if not ended.done():
                process.send_signal(signal.SIGTERM)
            await ended
            return
        logger.error("worker_died", extra={"worker": number, "code": process.returncode})
        if asyncio.get_running_loop().time() - started > STABLE_SECONDS:
            backoff = BACKOFF_FIRST_SECONDS
        try:
            async with asyncio.timeout(backoff):
                await stop.wait()
        except TimeoutError:
            backoff = min(BACKOFF_MAX_SECONDS, backoff * 2)
