"""Several gateway processes on one pair of ports: start them, replace those that die, stop them together.

A worker lives as long as its supervisor: it reads a pipe that the supervisor keeps open and that ends with
it, however that ends.
"""

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
    async with asyncio.TaskGroup() as group:
        for number in range(1, workers + 1):
            group.create_task(_keep(number, server_id, stop))


def stop_with_supervisor(stop: asyncio.Event) -> None:
    """Set `stop` in a worker when it is told to end, or when its supervisor has gone."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A signal to the whole group comes twice, by the supervisor again: that is no hurry.
        loop.add_signal_handler(number, stop.set)

    def on_pipe() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            loop.remove_reader(sys.stdin.fileno())
            logger.warning("supervisor_gone")
            stop.set()

    loop.add_reader(sys.stdin.fileno(), on_pipe)


async def _keep(number: int, server_id: str, stop: asyncio.Event) -> None:
    backoff = BACKOFF_FIRST_SECONDS
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        code = await _run_once(number, server_id, stop)
        if stop.is_set():
            return
        logger.error("worker_died", extra={"worker": number, "code": code})
        if asyncio.get_running_loop().time() - started > STABLE_SECONDS:
            backoff = BACKOFF_FIRST_SECONDS
        try:
            async with asyncio.timeout(backoff):
                await stop.wait()
        except TimeoutError:
            backoff = min(BACKOFF_MAX_SECONDS, backoff * 2)


async def _run_once(number: int, server_id: str, stop: asyncio.Event) -> int:
    """Run one worker to its end and return its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "artcafe_gateway",
        stdin=asyncio.subprocess.PIPE,
        env=os.environ | {WORKER_VARIABLE: str(number), "ARTCAFE_SERVER_ID": f"{server_id}-{number}"},
    )
    ended = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.send_signal(signal.SIGTERM)
        return await ended
    finally:
        stopping.cancel()
        if not ended.done():
            # The supervisor is in a hurry: somebody told it twice.
            process.kill()
            await ended
