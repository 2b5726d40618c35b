"""The `artcafe` command line: one module for each noun."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from artcafe_agent.cli import agents, channels, keygen, listen, login, publish, status, tail, tenants, usage
from artcafe_agent.cli.commands import common_options, set_common_defaults
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import EXIT_CODES_HELP, Exit, exit_code
from artcafe_agent.cli.output import Output
from artcafe_agent.errors import ArtcafeError
from artcafe_agent.version import __version__

MODULES = (status, login, keygen, agents, channels, tenants, listen, publish, tail, usage)
ENDLESS = frozenset({listen.listen, tail.tail})  # Ctrl-C is how these end

EXAMPLE = """example:
  artcafe login --email demo@example.com
  artcafe agents create Greeter --id greeter --new-key ./greeter.key
  artcafe listen team.updates &
  artcafe publish team.updates '{"text": "hello"}'"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="artcafe",
        description="Agents, channels and messages of ArtCafe PubSub, from the shell.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
        epilog=f"{EXAMPLE}\n\n{EXIT_CODES_HELP}",
    )
    parser.add_argument("--version", action="version", version=f"artcafe {__version__}")
    set_common_defaults(parser)
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in MODULES:
        module.register(parsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(arguments)
    # What matters is told by the commands themselves; the log is for looking closer.
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.CRITICAL,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        context = Context.of(args)
        result = args.run(context, args)
        sys.stdout.flush()
        return Exit.OK if result is None else result
    except ArtcafeError as error:
        Output(False).error(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return Exit.OK if args.run in ENDLESS else Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, for instance) has enough. Python's own flush at exit must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def run() -> None:
    """Run as a program."""
    sys.exit(main())
