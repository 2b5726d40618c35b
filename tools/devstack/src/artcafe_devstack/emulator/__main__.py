"""Serve ministack's DynamoDB and S3 on a local port, durable through a journal; started by the stack."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HEALTH_PATH = "/_ministack/health"
# Where the key is, without which nobody but for its health is answered; not set, everybody is.
KEY_VARIABLE = "ARTCAFE_EMULATOR_KEY"
Application = Callable[..., Awaitable[None]]

_COMPACT_BYTES = 64 * 1024 * 1024
_COMPACT_AT_START_BYTES = 4 * 1024 * 1024
_EXPIRE_SECONDS = 60.0
_CHECK_SECONDS_MAX = 5.0


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="artcafe_devstack.emulator", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, help="where the state is kept; without it nothing is kept")
    parser.add_argument(
        "--expire-seconds", type=float, default=_EXPIRE_SECONDS, help="how often items expire"
    )
    parser.add_argument(
        "--rights", type=Path, help="a folder of policies, to which keys that begin with `rights.` are held"
    )
    arguments = parser.parse_args()
    # ministack reads its settings from the environment when it is imported.
    os.environ.update(
        GATEWAY_PORT=str(arguments.port),
        BIND_HOST="127.0.0.1",
        SERVICES="dynamodb,s3",
        PERSIST_STATE="0",
        S3_PERSIST="0",
        LOG_LEVEL=os.environ.get("LOG_LEVEL", "WARNING"),
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    key = os.environ.pop(KEY_VARIABLE, None)
    asyncio.run(_serve(arguments.port, arguments.folder, arguments.expire_seconds, arguments.rights, key))


async def _serve(
    port: int, folder: Path | None, expire_seconds: float, rights: Path | None, key: str | None
) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack import app as ministack

    # Its lifespan would start schedulers, look for Docker and bind further ports: nothing of that is used
    # here.
    application: Any = _guarded(ministack.app, durable=folder is not None)
    if rights is not None:
        from artcafe_devstack.emulator.rights import Rights, with_rights

        application = with_rights(application, Rights(rights))
    if key is not None:
        from artcafe_devstack.emulator.keyed import with_key

        application = with_key(application, key, HEALTH_PATH)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    config.graceful_timeout = 1
    if folder is None:
        await serve(application, config, shutdown_trigger=stop.wait)
        return

    from artcafe_devstack.emulator.journal import Journal
    from artcafe_devstack.emulator.journaled import JournaledServices

    journal = Journal(folder)
    services = JournaledServices(journal)
    count = services.load()
    if journal.size > _COMPACT_AT_START_BYTES:
        services.compact()
    print(f"emulator: {count} journaled writes done again", file=sys.stderr, flush=True)
    upkeep = asyncio.create_task(_upkeep(services, journal, expire_seconds))
    try:
        await serve(application, config, shutdown_trigger=stop.wait)
    finally:
        upkeep.cancel()
        services.compact()
        journal.close()


async def _upkeep(services: Any, journal: Any, expire_seconds: float) -> None:
    """Remove expired items, and write a snapshot whenever the journal has grown large."""
    pause = min(expire_seconds, _CHECK_SECONDS_MAX)
    waited = 0.0
    while True:
        await asyncio.sleep(pause)
        waited += pause
        if waited >= expire_seconds:
            waited = 0.0
            services.expire()
        if journal.size > _COMPACT_BYTES:
            services.compact()


def _guarded(app: Application, *, durable: bool) -> Application:
    """Answer lifespan messages in place of the application, and refuse what would bypass the journal."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            path = scope.get("path", "")
            if durable and path.startswith("/_ministack/") and path != HEALTH_PATH:
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b"not with a journal\n"})
                return
            await app(scope, receive, send)
            return
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    return wrapped


if __name__ == "__main__":
    main()
