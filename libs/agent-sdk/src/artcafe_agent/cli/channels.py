"""`artcafe channels`."""

from __future__ import annotations

import argparse
from typing import Any

from artcafe_agent.cli.agents import json_object
from artcafe_agent.cli.commands import Parsers, add_command, add_group, add_page_options
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.output import record
from artcafe_agent.cli.pages import show_list

COLUMNS = ("channel_id", "name", "access", "delivery", "description")
MEMBER_COLUMNS = ("agent_id", "role", "auto_subscribe", "created_at")


def register(parsers: Parsers) -> None:
    """Declare the commands."""
    channels = add_group(
        parsers,
        "channels",
        "Channels of an organisation, and who may use them.",
        'artcafe channels create "Team updates" --id team.updates\nartcafe channels list',
    )

    parser = add_command(channels, "list", list_channels, "List channels.", "artcafe channels list --all")
    add_page_options(parser)

    parser = add_command(channels, "get", get, "Show one channel.", "artcafe channels get team.updates")
    parser.add_argument("channel_id", metavar="CHANNEL")

    parser = add_command(
        channels,
        "create",
        create,
        "Create a channel.",
        'artcafe channels create "Team updates" --id team.updates --access members',
        "An open channel is for every agent of the organisation, except where a member row says otherwise; a "
        "channel of members is for agents with a member row only.",
    )
    parser.add_argument("name", metavar="NAME", help="what people call it")
    parser.add_argument("--id", dest="channel_id", metavar="ID", help="derived from the name when missing")
    parser.add_argument("--description", metavar="TEXT")
    parser.add_argument("--access", choices=("open", "members"))
    parser.add_argument("--delivery", choices=("live", "durable"))
    parser.add_argument("--metadata", metavar="JSON", help="an object")

    parser = add_command(
        channels, "delete", delete, "Delete a channel.", "artcafe channels delete team.updates"
    )
    parser.add_argument("channel_id", metavar="CHANNEL")

    members = add_group(
        channels,
        "members",
        "What single agents may do in a channel.",
        "artcafe channels members add team.updates greeter --role subscriber\n"
        "artcafe channels members list team.updates",
    )
    parser = add_command(
        members, "list", list_members, "List member rows.", "artcafe channels members list team.updates"
    )
    parser.add_argument("channel_id", metavar="CHANNEL")
    add_page_options(parser)
    parser = add_command(
        members,
        "add",
        add_member,
        "Say what an agent may do in a channel.",
        "artcafe channels members add team.updates greeter --role subscriber",
    )
    parser.add_argument("channel_id", metavar="CHANNEL")
    parser.add_argument("agent_id", metavar="AGENT")
    parser.add_argument("--role", choices=("subscriber", "publisher", "both"), default="both")
    parser.add_argument("--auto-subscribe", action="store_true", help="the agent subscribes by connecting")
    parser = add_command(
        members,
        "remove",
        remove_member,
        "Take an agent's member row away.",
        "artcafe channels members remove team.updates greeter",
    )
    parser.add_argument("channel_id", metavar="CHANNEL")
    parser.add_argument("agent_id", metavar="AGENT")


def list_channels(context: Context, args: argparse.Namespace) -> None:
    """List channels."""
    show_list(context, args, "channels", COLUMNS, "channels")


def get(context: Context, args: argparse.Namespace) -> None:
    """Show one channel."""
    channel = context.call("GET", "channels", args.channel_id)
    context.out.result(channel, _channel_text(channel))


def create(context: Context, args: argparse.Namespace) -> None:
    """Create a channel."""
    body: dict[str, Any] = {"name": args.name}
    for field in ("channel_id", "description", "access", "delivery"):
        if (value := getattr(args, field)) is not None:
            body[field] = value
    if args.metadata is not None:
        body["metadata"] = json_object(args.metadata, "--metadata")
    reply = context.call("POST", "channels", body=body)
    context.out.result(reply, _channel_text(reply.get("channel", reply)))


def delete(context: Context, args: argparse.Namespace) -> None:
    """Delete a channel."""
    context.call("DELETE", "channels", args.channel_id)
    context.out.result({"deleted": args.channel_id}, f"deleted {args.channel_id}")


def list_members(context: Context, args: argparse.Namespace) -> None:
    """List the member rows of a channel."""
    show_list(context, args, "members", MEMBER_COLUMNS, "channels", args.channel_id, "members")


def add_member(context: Context, args: argparse.Namespace) -> None:
    """Write an agent's member row."""
    body = {"role": args.role, "auto_subscribe": args.auto_subscribe}
    row = context.call("PUT", "channels", args.channel_id, "members", args.agent_id, body=body)
    context.out.result(row, f"{args.agent_id} is {args.role} of {args.channel_id}")


def remove_member(context: Context, args: argparse.Namespace) -> None:
    """Delete an agent's member row."""
    context.call("DELETE", "channels", args.channel_id, "members", args.agent_id)
    context.out.result({"removed": args.agent_id}, f"removed {args.agent_id} from {args.channel_id}")


def _channel_text(channel: dict[str, Any]) -> str:
    return record({name: value for name, value in channel.items() if name != "id"})
