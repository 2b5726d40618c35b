"""The command line: serve, or prepare what serving needs."""

from __future__ import annotations

import argparse
import asyncio
import sys

from artcafe_common.config import ConfigError
from artcafe_common.doctor import DOCTOR, add_doctor_command, run_doctor
from artcafe_common.errors import ServiceError
from artcafe_common.log import setup_logging
from artcafe_common.roles import PlatformRole
from artcafe_common.service import EXIT_CONFIG, parser_for, read_config, run_service
from artcafe_common.table_commands import TABLE_COMMANDS, add_table_commands, run_table_command
from artcafe_registry.bootstrap import FirstTenant, bootstrap
from artcafe_registry.config import PREFIX, CommandConfig, RegistryConfig
from artcafe_registry.doctor import checks_of
from artcafe_registry.domain.plans import PLANS
from artcafe_registry.platform_roles import change_platform_roles
from artcafe_registry.process import run
from artcafe_registry.store import TABLES

EXIT_FAILED = 1
PLATFORM_ROLES = "platform-roles"


def main(argv: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    arguments = _parser().parse_args(argv)
    if arguments.command is None:
        _serve(arguments)
        return
    if arguments.command in TABLE_COMMANDS:
        raise SystemExit(run_table_command("registry", arguments, TABLES))
    if arguments.command == DOCTOR:
        full = read_config(RegistryConfig, PREFIX)
        raise SystemExit(run_doctor("registry", arguments, full, checks_of(full)))
    config = read_config(CommandConfig, PREFIX)
    setup_logging("registry", config.server_id, config.log_level)
    try:
        if arguments.command == PLATFORM_ROLES:
            roles = asyncio.run(
                change_platform_roles(config, arguments.user_id, arguments.give, arguments.take)
            )
            print(f"{arguments.user_id}: {', '.join(roles) or 'no role on the platform'}")
            return
        asyncio.run(bootstrap(config, _first_tenant(arguments)))
        print(f"tenant {arguments.tenant_id}: ok")
    except ServiceError as error:
        print(f"{arguments.command}: {error.detail}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None


def _serve(arguments: argparse.Namespace) -> None:
    try:
        # Checked before anything is started, and by --check-config.
        read_config(RegistryConfig, PREFIX).cursor_key_bytes()
    except ConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None
    run_service("registry", arguments, RegistryConfig, PREFIX, run)


def _parser() -> argparse.ArgumentParser:
    parser = parser_for(
        "registry",
        "The registry of ArtCafe PubSub: tenants, people, agents, keys, channels and grants. Without a"
        " command it serves.",
        RegistryConfig,
        PREFIX,
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    add_table_commands(commands)
    add_doctor_command(commands)
    first = commands.add_parser(
        "bootstrap", help="make a tenant and its owner where they are missing, and end"
    )
    first.add_argument("--tenant-id", required=True)
    first.add_argument("--tenant-name", required=True)
    first.add_argument("--plan", choices=sorted(PLANS), default="free")
    first.add_argument(
        "--owner-user-id", required=True, help="the `sub` of the owner's tokens, after their issuer's prefix"
    )
    first.add_argument("--owner-email", default="", help="shown beside the owner in the list of people")
    first.add_argument(
        "--platform-admin", action="store_true", help="make the owner an administrator of the platform too"
    )
    first.add_argument(
        "--auto-create-channels", action="store_true", help="let agents create channels by using them"
    )
    roles = commands.add_parser(
        PLATFORM_ROLES, help="tell a person's roles on the whole platform, give some or take them, and end"
    )
    roles.add_argument(
        "--user-id", required=True, help="the `sub` of the person's tokens, after their issuer's prefix"
    )
    for option in ("--give", "--take"):
        roles.add_argument(
            option, action="append", choices=sorted(PlatformRole), default=[], help="may be repeated"
        )
    return parser


def _first_tenant(arguments: argparse.Namespace) -> FirstTenant:
    return FirstTenant(
        tenant_id=arguments.tenant_id,
        name=arguments.tenant_name,
        plan=arguments.plan,
        owner_user_id=arguments.owner_user_id,
        owner_email=arguments.owner_email,
        platform_admin=arguments.platform_admin,
        auto_create_channels=arguments.auto_create_channels,
    )


if __name__ == "__main__":
    main()
