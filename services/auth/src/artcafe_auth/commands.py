"""The command line of auth: serve, add a person to the local issuer, see to the tables."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from artcafe_auth.config import PREFIX, AuthConfig
from artcafe_auth.doctor import checks_of
from artcafe_auth.passwords import Passwords
from artcafe_auth.people import add_user
from artcafe_auth.server import connect_store, run
from artcafe_auth.store import TABLES, DynamoUserStore
from artcafe_common.clock import SystemClock
from artcafe_common.doctor import DOCTOR, add_doctor_command, run_doctor
from artcafe_common.errors import ServiceError
from artcafe_common.log import setup_logging
from artcafe_common.service import parser_for, read_config, run_service
from artcafe_common.table_commands import TABLE_COMMANDS, add_table_commands, run_table_command
from artcafe_common.tables import care_of

SUMMARY = "Serve auth: proofs of agents, keys of people's tokens, and on one machine their sign-in."
EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = parser_for("auth", SUMMARY, AuthConfig, PREFIX)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands (none: serve)")
    adding = commands.add_parser("add-user", help="add a person to the local issuer, or set their password")
    adding.add_argument("--email", required=True)
    adding.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add_table_commands(commands)
    add_doctor_command(commands)
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        _serve(chosen)
        return
    if chosen.command in TABLE_COMMANDS:
        raise SystemExit(run_table_command("auth", chosen, TABLES))
    config = read_config(AuthConfig, PREFIX)
    if chosen.command == DOCTOR:
        raise SystemExit(run_doctor("auth", chosen, config, checks_of(config)))
    setup_logging("auth", config.server_id, "WARNING")
    try:
        asyncio.run(_add_user(config, chosen))
    except ServiceError as error:
        print(f"{chosen.command}: {error.detail}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None


def _serve(chosen: argparse.Namespace) -> None:
    run_service("auth", chosen, AuthConfig, PREFIX, run)


async def _add_user(config: AuthConfig, chosen: argparse.Namespace) -> None:
    if not config.local_issuer:
        raise SystemExit("add-user: the local issuer is off (AUTH_LOCAL_ISSUER)")
    password = sys.stdin.readline().rstrip("\r\n") if chosen.password_stdin else None
    async with connect_store(config) as dynamo:
        if config.create_tables:
            await dynamo.create_tables(TABLES, care_of(config, "auth"))
        user = await add_user(DynamoUserStore(dynamo), Passwords(), SystemClock(), chosen.email, password)
    print(msgspec.json.encode({"user_id": user.user_id}).decode())
