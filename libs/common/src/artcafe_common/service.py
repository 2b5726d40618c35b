"""The start and end of a service's process: command line, configuration, logging, signals."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from artcafe_common import __version__
from artcafe_common.config import ConfigError, ConfigT, load, settings_of
from artcafe_common.log import setup_logging

logger = logging.getLogger(__name__)

EXIT_CRASH = 1
EXIT_CONFIG = 2


class StartError(Exception):
    """A service cannot start; the text says in one line why."""


Main = Callable[[ConfigT, asyncio.Event], Awaitable[None]]


def read_config(config: type[ConfigT], prefix: str) -> ConfigT:
    """Return the configuration, or end the process with a line for each problem."""
    try:
        return load(config, prefix, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


def parser_for(service: str, summary: str, config: type[ConfigT], prefix: str) -> argparse.ArgumentParser:
    """Return the command line that every service has; a service may add commands of its own."""
    lines = ["settings (environment):"]
    for setting in settings_of(config, prefix):
        default = "required" if setting.required else f"default {setting.default!r}"
        lines.append(f"  {setting.variable}: {setting.description} ({default})")
    parser = argparse.ArgumentParser(
        prog=f"python -m artcafe_{service}",
        description=summary,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check-config", action="store_true", help="read the configuration, say whether it is good, and end"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def run_service(
    service: str,
    arguments: argparse.Namespace,
    config_type: type[ConfigT],
    prefix: str,
    main: Main[ConfigT],
) -> None:
    """Run a service until SIGTERM or SIGINT; `main` returns soon after the event it is given is set.

    Ends the process with status 2 where the configuration is no good, 1 where `main` raised.
    """
    config = read_config(config_type, prefix)
    if arguments.check_config:
        print("configuration: ok")
        return
    setup_logging(service, config.server_id, config.log_level)
    asyncio.run(_run(service, config, main))


async def _run(service: str, config: ConfigT, main: Main[ConfigT]) -> None:
    stop = asyncio.Event()
    running = asyncio.ensure_future(main(config, stop))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stop, running)
    logger.info("service_starting", extra={"version": __version__, "pid": os.getpid()})
    try:
        await running
    except asyncio.CancelledError:
        # A second signal: whoever sent it does not want to wait.
        logger.warning("service_stopped_at_once")
    except StartError as error:
        # A fault of whoever runs it, not of the program: no stack.
        print(f"cannot start: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CRASH) from None
    except Exception:
        # In the log with its stack, where whoever looks for the reason finds it.
        logger.exception("service_crashed")
        raise SystemExit(EXIT_CRASH) from None
    logger.info("service_stopped")


def _on_signal(stop: asyncio.Event, running: asyncio.Future[None]) -> None:
    if stop.is_set():
        running.cancel()
    stop.set()
