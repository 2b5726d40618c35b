"""`artcafe tenants`."""

from __future__ import annotations

import argparse
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command, add_group, add_page_options
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import UsageError
from artcafe_agent.cli.output import record
from artcafe_agent.cli.pages import LARGEST_PAGE, show_list

COLUMNS = ("tenant_id", "name", "plan", "status", "agents", "channels", "role")
MEMBER_COLUMNS = ("user_id", "role", "email", "created_at")
TENANT_HELP = "default: --tenant, else the only one you belong to"
ROLES = ("owner", "admin", "member", "viewer", "billing")


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    tenants = add_group(
        parsers,
        "tenants",
        "Organisations, and the people in them.",
        "artcafe tenants list\nartcafe tenants get acme",
    )

    parser = add_command(tenants, "list", list_tenants, "List your organisations.", "artcafe tenants list")
    add_page_options(parser)

    parser = add_command(tenants, "get", get, "Show one organisation.", "artcafe tenants get acme")
    parser.add_argument("tenant_id", metavar="TENANT", nargs="?", help=TENANT_HELP)

    parser = add_command(
        tenants, "create", create, "Create an organisation.", "artcafe tenants create Acme --id acme"
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--id", dest="tenant_id", metavar="ID", help="chosen by the server when missing")
    parser.add_argument("--plan", help="platform administrators only")
    parser.add_argument("--owner", metavar="USER", help="platform administrators only: the first owner")
    parser.add_argument(
        "--auto-create-channels",
        action=argparse.BooleanOptionalAction,
        help="whether agents create channels by using them",
    )

    parser = add_command(
        tenants,
        "delete",
        delete,
        "Delete an organisation with all that belongs to it.",
        "artcafe tenants delete acme --yes",
    )
    parser.add_argument("tenant_id", metavar="TENANT")
    parser.add_argument("--yes", action="store_true", help="needed: nothing of it can be brought back")

    members = add_group(
        tenants,
        "members",
        "People of an organisation.",
        "artcafe tenants members list acme\n"
        "artcafe tenants members add 4be0643f-1d98-573b-97cd-ca98a65347dd --role viewer --tenant acme",
    )
    parser = add_command(members, "list", list_members, "List people.", "artcafe tenants members list acme")
    parser.add_argument("tenant_id", metavar="TENANT", nargs="?", help=TENANT_HELP)
    add_page_options(parser)
    parser = add_command(
        members,
        "add",
        add_member,
        "Add a person.",
        "artcafe tenants members add 4be0643f-1d98-573b-97cd-ca98a65347dd --role viewer --tenant acme",
    )
    parser.add_argument(
        "user_id", metavar="USER", help="the `sub` of the person's token, after their issuer's prefix"
    )
    parser.add_argument("--role", choices=ROLES, default="member")
    parser.add_argument("--email", help="for people to read")
    parser = add_command(
        members,
        "remove",
        remove_member,
        "Take a person out.",
        "artcafe tenants members remove 4be0643f-1d98-573b-97cd-ca98a65347dd --tenant acme",
    )
    parser.add_argument("user_id", metavar="USER")


def list_tenants(context: Context, args: argparse.Namespace) -> None:
    """List organisations."""
    show_list(context, args, "tenants", COLUMNS, "tenants")


def get(context: Context, args: argparse.Namespace) -> None:
    """Show one organisation."""
    tenant = context.call("GET", "tenants", _tenant(context, args.tenant_id))
    context.out.result(tenant, _tenant_text(tenant))


def create(context: Context, args: argparse.Namespace) -> None:
    """Create an organisation."""
    body: dict[str, Any] = {"name": args.name}
    given = {
        "tenant_id": args.tenant_id,
        "plan": args.plan,
        "owner_user_id": args.owner,
        "auto_create_channels": args.auto_create_channels,
    }
    body |= {name: value for name, value in given.items() if value is not None}
    reply = context.call("POST", "tenants", body=body)
    context.out.result(reply, _tenant_text(reply.get("tenant", reply)))


def delete(context: Context, args: argparse.Namespace) -> None:
    """Delete an organisation."""
    if not args.yes:
        raise UsageError(f"this deletes {args.tenant_id} for good; add --yes if that is meant")
    context.call("DELETE", "tenants", args.tenant_id)
    context.out.result({"deleted": args.tenant_id}, f"deleted {args.tenant_id}")


def list_members(context: Context, args: argparse.Namespace) -> None:
    """List people."""
    show_list(
        context, args, "members", MEMBER_COLUMNS, "tenants", _tenant(context, args.tenant_id), "members"
    )


def add_member(context: Context, args: argparse.Namespace) -> None:
    """Add a person."""
    body = {"user_id": args.user_id, "role": args.role}
    if args.email is not None:
        body["email"] = args.email
    tenant_id = _tenant(context)
    reply = context.call("POST", "tenants", tenant_id, "members", body=body)
    context.out.result(reply, f"{args.user_id} is {args.role} of {tenant_id}")


def remove_member(context: Context, args: argparse.Namespace) -> None:
    """Take a person out."""
    tenant_id = _tenant(context)
    context.call("DELETE", "tenants", tenant_id, "members", args.user_id)
    context.out.result({"removed": args.user_id}, f"removed {args.user_id} from {tenant_id}")


def _tenant(context: Context, named: str | None = None) -> str:
    """Return the organisation that is named, else the only one that the person belongs to."""
    if tenant_id := named or context.tenant:
        return tenant_id
    mine: list[str] = []
    token: str | None = None
    while len(mine) < 2:
        page = context.call("GET", "tenants", query={"limit": LARGEST_PAGE, "next_token": token})
        # A platform administrator is shown all of them, with another role where they do not belong.
        mine += [each["tenant_id"] for each in page.get("tenants", []) if each.get("role") in ROLES]
        if (token := page.get("next_token")) is None:
            break
    if len(mine) != 1:
        raise UsageError(f"you belong to {'several organisations' if mine else 'none'}: --tenant is needed")
    return mine[0]


def _tenant_text(tenant: dict[str, Any]) -> str:
    shown = {name: value for name, value in tenant.items() if name not in ("id", "limits")}
    limits = tenant.get("limits") or {}
    return record(
        {
            **shown,
            **{f"limit {name}": "unlimited" if limits[name] is None else limits[name] for name in limits},
        }
    )
