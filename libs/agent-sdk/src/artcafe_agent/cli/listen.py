"""`artcafe listen`."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_agent_options, add_command
from artcafe_agent.cli.context import AGENT_VARIABLE, Context
from artcafe_agent.cli.output import as_text
from artcafe_agent.cli.watching import add_end_options, tell_break, until_end, watch_as_person
from artcafe_agent.dashboard import DashboardEvent


def register(parsers: Parsers) -> None:
    """Declare the command."""
    parser = add_command(
        parsers,
        "listen",
        listen,
        "Print the messages of channels as they come.",
        "artcafe listen team.updates\n"
        "artcafe listen 'team.*' --agent greeter --key ./greeter.key --tenant acme --json",
        "With --agent the command connects as that agent, which may use the wildcards * and >. An agent has "
        "one connection, so a program that runs as the same agent loses its own. Without --agent you listen "
        "as yourself, and nobody's agent is disturbed. Each message is one line, with --json of JSON. Breaks "
        "of the connection are told on stderr; what is published meanwhile is not seen.",
    )
    parser.add_argument("channels", metavar="CHANNEL", nargs="+")
    add_end_options(parser)
    add_agent_options(parser)


def listen(context: Context, args: argparse.Namespace) -> None:
    """Print messages until interrupted."""
    args.agent = args.agent or os.environ.get(AGENT_VARIABLE)
    watch = _as_agent if args.agent is not None else _as_person
    asyncio.run(until_end(args, lambda: watch(context, args)))


async def _as_agent(context: Context, args: argparse.Namespace) -> None:
    client = context.client(args, stay=True)
    client.on_state_change(tell_break(context))
    async with client:
        subscription = await client.subscribe(*args.channels)
        shown = 0
        async for message in subscription:
            if message.missed:
                context.out.note(
                    f"{message.missed} messages were dropped: they came faster than they are shown"
                )
            _show(
                context,
                {
                    "channel": message.channel,
                    "from": message.sender,
                    "message_id": message.message_id,
                    "timestamp": message.timestamp,
                    "data": message.data,
                },
            )
            shown += 1
            if shown == args.count:
                return


async def _as_person(context: Context, args: argparse.Namespace) -> None:
    shown = 0

    def show(event: DashboardEvent) -> bool:
        nonlocal shown
        if event.get("type") == "channel_message":
            names = {"channel": "channel_id", "from": "from", "message_id": "message_id"}
            names |= {"timestamp": "timestamp", "data": "data"}
            _show(context, {name: event.get(source) for name, source in names.items()})
            shown += 1
        elif event.get("type") == "error":
            context.out.note(f"the server reports: {as_text(str(event.get('message')))}")
        return bool(shown == args.count)

    commands: list[dict[str, object]] = [
        {"type": "subscribe_channel", "channel_id": channel} for channel in args.channels
    ]
    await watch_as_person(context, commands, show)


def _show(context: Context, message: dict[str, Any]) -> None:
    text = "  ".join(as_text(message[name]) for name in ("timestamp", "channel", "from", "data"))
    context.out.line(message, text)
