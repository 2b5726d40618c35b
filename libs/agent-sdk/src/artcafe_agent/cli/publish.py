"""`artcafe publish`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import uuid
from typing import Any

from artcafe_agent.cli.commands import Parsers, add_agent_options, add_command
from artcafe_agent.cli.context import AGENT_VARIABLE, Context
from artcafe_agent.cli.exits import UsageError
from artcafe_agent.cli.watching import watch_as_person
from artcafe_agent.dashboard import DashboardEvent
from artcafe_agent.errors import Unreachable


def register(parsers: Parsers) -> None:
    """Declare the command."""
    parser = add_command(
        parsers,
        "publish",
        publish,
        "Publish one message.",
        'artcafe publish team.updates \'{"text": "hello"}\'\n'
        "date +'\"%s\"' | artcafe publish clock - --agent greeter --key ./greeter.key --tenant acme",
        "With --agent the message comes from that agent; a program that runs as the same agent loses its "
        "connection for the moment. Without --agent it comes from you; an object is sent again with the same "
        "idempotency key if no answer came, and published once.",
    )
    parser.add_argument("channel", metavar="CHANNEL")
    parser.add_argument("data", metavar="JSON", help="any JSON value; - reads it from the standard input")
    add_agent_options(parser)


def publish(context: Context, args: argparse.Namespace) -> None:
    """Publish one message and print its id."""
    data = _data(args.data)
    args.agent = args.agent or os.environ.get(AGENT_VARIABLE)
    if args.agent is not None:
        message_id = asyncio.run(_as_agent(context, args, data))
    else:
        message_id = _as_person(context, args, data)
    context.out.result({"channel": args.channel, "message_id": message_id}, message_id)


async def _as_agent(context: Context, args: argparse.Namespace, data: Any) -> str:
    async with context.client(args, stay=False) as client:
        published = await client.publish(args.channel, data)
        return published.message_id if published is not None else ""


def _as_person(context: Context, args: argparse.Namespace, data: Any) -> str:
    if not isinstance(data, dict):
        # REST takes objects only.
        return asyncio.run(_by_socket(context, args, data))
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    call = ("POST", "channels", args.channel, "messages")
    try:
        reply = context.call(*call, body=data, headers=headers)
    except Unreachable:
        reply = context.call(*call, body=data, headers=headers)
    return str(reply.get("message_id", ""))


async def _by_socket(context: Context, args: argparse.Namespace, data: Any) -> str:
    command = {"type": "publish_channel", "channel_id": args.channel, "data": data}
    answer: DashboardEvent = {}

    def take(event: DashboardEvent) -> bool:
        answer.update(event)
        return event.get("type") == "published"

    async with asyncio.timeout(context.timeout):
        await watch_as_person(context, [command], take, stay=False)
    return str(answer.get("message_id", ""))


def _data(text: str) -> Any:
    source = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(source)
    except ValueError as problem:
        raise UsageError(f"the message is not JSON ({problem}); text needs quotes: '\"hello\"'") from None
