"""`artcafe status`."""

from __future__ import annotations

import argparse

from artcafe_agent.cli.commands import Parsers, add_command
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.exits import Exit
from artcafe_agent.cli.output import table
from artcafe_agent.errors import UnexpectedAnswer
from artcafe_agent.http import api_error


def register(parsers: Parsers) -> None:
    """Declare the command."""
    add_command(
        parsers,
        "status",
        status,
        "Show the health of the server and its services.",
        "artcafe status --server https://pubsub.example.com",
        "Needs no login. Ends with 5 when a service that matters is down.",
    )


def status(context: Context, args: argparse.Namespace) -> int:
    """Show the health of the platform."""
    answer = context.ask("GET", "health")
    health = answer.json()
    services = health.get("services") if isinstance(health, dict) else None
    if not isinstance(services, dict):
        if answer.status >= 400:
            raise api_error(answer)
        raise UnexpectedAnswer(f"{context.server} answers, but not as an ArtCafe server")
    rows = [
        {
            "service": name,
            "status": report.get("status"),
            "down": [each["name"] for each in report.get("dependencies", []) if each.get("status") != "up"],
        }
        for name, report in services.items()
    ]
    text = f"{context.server} is {health.get('status')}\n\n{table(rows, ('service', 'status', 'down'))}"
    context.out.result(health, text)
    return Exit.OK if answer.status < 400 and health.get("status") == "up" else Exit.UNAVAILABLE
