"""The commands ``create-tables`` and ``check-tables`` that every service has, each for its own tables.

They need the settings of the store and nothing else, so that they run before anything of the platform does,
and with rights that no service has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from botocore.exceptions import BotoCoreError, ClientError

from artcafe_common.config import ConfigError, SharedConfig, describe, load
from artcafe_common.dynamo import Dynamo
from artcafe_common.errors import ServiceError
from artcafe_common.service import EXIT_CONFIG
from artcafe_common.tables import Tables, TableSpec, care_of

CREATE, CHECK = "create-tables", "check-tables"
TABLE_COMMANDS = frozenset({CREATE, CHECK})

EXIT_FAILED = 1
# There are differences: `create-tables` could not mend them, or `check-tables` has found them.
EXIT_DIFFERENT = 3

# What a service keeps beside its tables: makes it (`create-tables`) or only looks, and returns what differs.
More = Callable[[bool], Awaitable[list[str]]]


class TablesConfig(SharedConfig, frozen=True, kw_only=True):
    """What these commands need: nothing of NATS."""

    nats_url: Annotated[str, describe("NATS servers, separated by commas; not used")] = ""


def add_table_commands(commands: Any) -> None:
    """Declare the commands among those of a service (`argparse`'s subparsers)."""
    commands.add_parser(
        CREATE,
        help="make this service's tables, and what is missing of them; ends with 3 where something is left",
        description="Make the tables of this service with their indexes, expiry, point-in-time recovery and"
        " tags, in production protected from deletion, and whatever of that an existing table lacks. It may"
        " be run again at any time, and never removes or changes what is there.",
    )
    commands.add_parser(
        CHECK,
        help="tell how the tables differ from what this service declares; ends with 3 where they do",
        description="Compare the tables of this service with what it declares; a line for each difference.",
    )


def read_tables_config() -> TablesConfig:
    """Return the settings of the store, or end the process with a line for each problem."""
    try:
        # No variable has this prefix: those of the service are not looked at.
        return load(TablesConfig, "TABLES_", os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"configuration: {problem}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None


def run_table_command(
    service: str,
    arguments: argparse.Namespace,
    specs: Sequence[TableSpec],
    config: SharedConfig | None = None,
    more: More | None = None,
) -> int:
    """Carry out the command that was chosen and return the exit status."""
    config = config or read_tables_config()
    create = arguments.command == CREATE
    try:
        left = asyncio.run(_run(service, config, specs, create, more))
    except ClientError as error:
        print(f"{arguments.command}: {error.response['Error'].get('Message') or error}", file=sys.stderr)
        return EXIT_FAILED
    except (BotoCoreError, OSError, ServiceError) as error:
        print(f"{arguments.command}: {str(error) or type(error).__name__}", file=sys.stderr)
        return EXIT_FAILED
    for line in left:
        print(line, flush=True)
    if not left:
        print(f"{service}: {len(specs)} {'table' if len(specs) == 1 else 'tables'} as declared")
        return 0
    print(f"{service}: {len(left)} {'difference' if len(left) == 1 else 'differences'}")
    return EXIT_DIFFERENT


async def _run(
    service: str, config: SharedConfig, specs: Sequence[TableSpec], create: bool, more: More | None
) -> list[str]:
    async with Dynamo.connect(
        region=config.aws_region, endpoint_url=config.aws_endpoint_url, prefix=config.table_prefix
    ) as dynamo:
        tables = Tables(dynamo.client, dynamo.prefix, care_of(config, service), _say)
        found = await (tables.ensure(specs) if create else tables.check(specs))
    return [*map(str, found), *(await more(create) if more else [])]


def _say(table: str, what: str) -> None:
    print(f"{table}: {what}", flush=True)
