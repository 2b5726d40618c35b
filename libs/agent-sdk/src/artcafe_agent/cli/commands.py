"""How commands are declared: a name, a function, a help with an example, and the options all share."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import TypeAlias

from artcafe_agent.address import DEFAULT_SERVER, SERVER_VARIABLE, default_server
from artcafe_agent.cli.context import AGENT_VARIABLE, KEY_VARIABLE, TENANT_VARIABLE, Context
from artcafe_agent.cli.exits import EXIT_CODES_HELP
from artcafe_agent.http import DEFAULT_TIMEOUT_SECONDS

Command = Callable[[Context, argparse.Namespace], int | None]

# As text: argparse's class is generic to the type checker only.
Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(text: str) -> int:
    """Read a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def seconds(text: str) -> float:
    """Read a time above zero."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def common_options() -> argparse.ArgumentParser:
    """Return the options that stand before or after any command.

    They have no defaults here: an inner parser's would overwrite what was given before the command.
    """
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("options of every command")
    group.add_argument(
        "--server",
        metavar="URL",
        help=f"address of the server (default: ${SERVER_VARIABLE}, else {DEFAULT_SERVER})",
    )
    group.add_argument("--tenant", metavar="ID", help=f"the organisation (default: ${TENANT_VARIABLE})")
    group.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of text"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help=f"how long to wait for the server (default: {DEFAULT_TIMEOUT_SECONDS:g})",
    )
    group.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="log to stderr what the connection does",
    )
    return parser


def set_common_defaults(parser: argparse.ArgumentParser) -> None:
    """Give the common options their defaults, on the outermost parser."""
    parser.set_defaults(
        server=default_server(), tenant=None, json=False, timeout=DEFAULT_TIMEOUT_SECONDS, verbose=False
    )


def add_group(parsers: Parsers, name: str, help: str, example: str, run: Command | None = None) -> Parsers:
    """Declare a command that has commands; ``run`` is what it does without one."""
    parser = parsers.add_parser(
        name,
        help=help,
        description=help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
        epilog=_epilog(example),
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=run is None)


def add_command(
    parsers: Parsers, name: str, run: Command, help: str, example: str, description: str = ""
) -> argparse.ArgumentParser:
    """Declare a command; its arguments are added to what is returned."""
    parser = parsers.add_parser(
        name,
        help=help,
        description="\n\n".join(textwrap.fill(text, 78) for text in (help, description) if text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
        epilog=_epilog(example),
    )
    parser.set_defaults(run=run)
    return parser


def _epilog(example: str) -> str:
    return f"example:\n{textwrap.indent(example, '  ')}\n\n{EXIT_CODES_HELP}"


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name an agent to act as."""
    group = parser.add_argument_group("acting as an agent")
    group.add_argument("--agent", metavar="ID", help=f"the agent (default: ${AGENT_VARIABLE})")
    group.add_argument("--key", metavar="FILE", help=f"its private key (default: ${KEY_VARIABLE})")


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of lists."""
    parser.add_argument(
        "--limit", type=positive, default=100, metavar="N", help="at most so many (default: 100)"
    )
    parser.add_argument("--all", action="store_true", help="all of them, however many")


def add_range(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a range of days."""
    parser.add_argument("--start", dest="start_date", metavar="DATE", help="first day, YYYY-MM-DD (UTC)")
    parser.add_argument("--end", dest="end_date", metavar="DATE", help="last day")
