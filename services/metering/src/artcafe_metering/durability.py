"""Wait until what was written is on Valkey's disk.

`WAITAOF` is the command for that, but with ``appendfsync everysec`` some releases answer it before the
fsync: whenever their buffer is empty they take everything written for synced (Redis before 8.0, see
redis/redis#13793; Valkey 9.1.2 does so too). In that mode its answer is therefore not relied on. What can
be relied on is that the server starts an fsync when a second has passed since the last, unless one is
running, and tells of one that runs (`aof_pending_bio_fsync`). Hence two looks: the first finds none
running, and so does the second, a second and a bit later. Between them an fsync was started that covers
everything written before, and it has ended. The second look is two questions: a server that stood still in
between (a stopped process, a machine that was moved) answers one before it gets to starting the fsync that is
due, and the next one after it.

With ``appendfsync always`` an answer is not sent before the fsync, and nothing needs to be waited for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from redis.exceptions import ResponseError

from artcafe_common.errors import unavailable
from artcafe_metering.valkey import WHAT, Command, WriteSession

logger = logging.getLogger(__name__)

# The server looks ten times a second whether a second has passed.
LOOK_AGAIN_SECONDS = 1.2
GIVE_UP_SECONDS = 8.0
WAITAOF_TIMEOUT_MS = 3_000

Mode = Literal["always", "everysec"]

CONFIRM: Command = ("WAITAOF", 1, 0, WAITAOF_TIMEOUT_MS)
LOOK: Command = ("INFO", "persistence")
ASK_MODE: Command = ("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite")


def mode_of(answer: Any) -> Mode:
    """Return the mode from the answer to `ASK_MODE`; where that is not told, the one that needs more care.

    Raises: ServiceError ``unavailable`` where the server leaves syncing to chance.
    """
    if isinstance(answer, ResponseError):
        return "everysec"
    settings = dict(zip(answer[::2], answer[1::2], strict=True))
    mode = settings.get(b"appendfsync")
    if mode == b"no" or settings.get(b"no-appendfsync-on-rewrite") == b"yes":
        logger.error("valkey_does_not_sync", extra={"appendfsync": str(mode)})
        raise unavailable(WHAT)
    return "always" if mode == b"always" else "everysec"


async def on_disk(session: WriteSession, mode: Mode, confirmation: Any) -> None:
    """Return when all that was written before `confirmation`, the session's answer to `CONFIRM`, is on disk.

    Raises: ServiceError ``unavailable`` where that cannot be said: the append-only file is off, or the disk
    does not keep up.
    """
    if isinstance(confirmation, ResponseError):
        logger.error("valkey_keeps_no_aof", extra={"answer": str(confirmation)})
        raise unavailable(WHAT)
    if confirmation[0] < 1:
        raise unavailable(WHAT)
    if mode == "always":
        return
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            quiet = False
            while not quiet:
                quiet = await _quiet_twice(session)
    except TimeoutError:
        logger.error("valkey_disk_too_slow")
        raise unavailable(WHAT) from None


async def _quiet_twice(session: WriteSession) -> bool:
    if await _fsync_runs(session):
        await asyncio.sleep(LOOK_AGAIN_SECONDS / 20)
        return False
    await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return not await _fsync_runs(session) and not await _fsync_runs(session)


async def keeps_a_log(session: WriteSession) -> None:
    """Raise ``unavailable`` unless the server writes what it is told to an append-only file."""
    await _fsync_runs(session)


async def _fsync_runs(session: WriteSession) -> bool:
    (answer,) = await session.send([LOOK])
    if isinstance(answer, ResponseError):
        raise unavailable(WHAT)
    fields = dict(line.split(b":", 1) for line in answer.splitlines() if b":" in line)
    if fields.get(b"aof_enabled") != b"1" or fields.get(b"aof_last_write_status") != b"ok":
        raise unavailable(WHAT)
    return fields.get(b"aof_pending_bio_fsync") != b"0"
