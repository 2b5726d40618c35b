"""`artcafe tail`."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_command, seconds
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.output import as_text
from artcafe_agent.cli.watching import add_end_options, until_end, watch_as_person
from artcafe_agent.dashboard import DashboardEvent

ASIDE = frozenset({"topic_preview_dropped", "topic_preview_state", "error"})


def register(parsers: Parsers) -> None:
    """Declare the command."""
    parser = add_command(
        parsers,
        "tail",
        tail,
        "Show the live traffic of an organisation, as its dashboard does.",
        "artcafe tail\nartcafe tail 'team.>' jobs --rate 5",
        "A preview: the server limits its rate and says on stderr how many messages it left out. To receive "
        "every message use `artcafe listen`.",
    )
    parser.add_argument(
        "patterns", metavar="PATTERN", nargs="*", help="channels, with * and > (default: all)"
    )
    parser.add_argument("--rate", type=seconds, metavar="N", help="at most so many messages a second")
    add_end_options(parser)


def tail(context: Context, args: argparse.Namespace) -> None:
    """Show live traffic until interrupted."""
    asyncio.run(until_end(args, lambda: _tail(context, args)))


async def _tail(context: Context, args: argparse.Namespace) -> None:
    command: dict[str, object] = {"type": "subscribe_topic_preview", "patterns": args.patterns or [">"]}
    if args.rate is not None:
        command["max_rate"] = args.rate
    shown = 0

    def show(event: DashboardEvent) -> bool:
        nonlocal shown
        for message in messages_of(event):
            context.out.line(message, preview_text(message))
            shown += 1
            if shown == args.count:
                return True
        if event.get("type") in ASIDE:
            context.out.note(aside_text(event))
        return False

    await watch_as_person(context, [command], show)


def messages_of(event: DashboardEvent) -> list[dict[str, Any]]:
    """Return the previewed messages of an event: none, one, or a batch."""
    if event.get("type") == "topic_preview_message":
        return [event]
    if event.get("type") == "topic_preview_batch":
        return [each for each in event.get("messages", []) if isinstance(each, dict)]
    return []


def preview_text(message: dict[str, Any]) -> str:
    """Return a previewed message as one line: time, channel, sender, size, data."""
    path = message.get("path") or {}
    parts = (message.get("timestamp"), message.get("topic"), path.get("publisher"))
    line = "  ".join(as_text(part) for part in parts)
    return f"{line}  {message.get('size', 0)} B  {as_text(message.get('data'))}"


def aside_text(event: DashboardEvent) -> str:
    """Return what the server says about the preview itself."""
    if event["type"] == "topic_preview_dropped":
        return f"{event.get('count')} messages left out ({as_text(event.get('reason'))})"
    if event["type"] == "topic_preview_state":
        return f"preview: {as_text(event.get('state'))}"
    return f"the server reports: {as_text(event.get('message'))}"
