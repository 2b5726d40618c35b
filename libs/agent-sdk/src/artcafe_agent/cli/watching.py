"""What `listen` and `tail` share: how long they go on, and events that are not messages."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from artcafe_agent.cli.commands import positive, seconds
from artcafe_agent.cli.context import Context
from artcafe_agent.cli.output import as_text
from artcafe_agent.dashboard import DashboardEvent, DashboardFeed
from artcafe_agent.states import ConnectionState, ReconnectPolicy, StateChange


def add_end_options(parser: argparse.ArgumentParser) -> None:
    """Declare when to stop; without any of them only Ctrl-C does."""
    parser.add_argument("--count", type=positive, metavar="N", help="stop after so many messages")
    parser.add_argument(
        "--for", dest="duration", type=seconds, metavar="SECONDS", help="stop after this time"
    )


async def until_end(args: argparse.Namespace, watch: Callable[[], Awaitable[None]]) -> None:
    """Watch until it ends by itself or the time is over."""
    try:
        async with asyncio.timeout(args.duration) as limit:
            await watch()
    except TimeoutError:
        if not limit.expired():
            raise


def tell_break(context: Context) -> Callable[[StateChange], None]:
    """Return a listener that tells people when the connection is away."""

    def tell(change: StateChange) -> None:
        if change.current is ConnectionState.WAITING:
            context.out.note(f"{as_text(str(change.error))}; next attempt in {change.retry_in:.1f} s")
        elif change.current is ConnectionState.ONLINE and change.previous is not ConnectionState.IDLE:
            context.out.note(f"connected to {context.server}; Ctrl-C ends")

    return tell


async def watch_as_person(
    context: Context,
    commands: list[dict[str, object]],
    show: Callable[[DashboardEvent], bool],
    *,
    stay: bool = True,
) -> None:
    """Show the events of a dashboard socket until ``show`` says that it was enough.

    With ``stay`` breaks are told and mended, else they are errors.
    """
    feed = DashboardFeed(
        context.address,
        context.token,
        context.tenant,
        commands,
        policy=ReconnectPolicy(enabled=stay),
        timeout=context.timeout,
        on_state_change=tell_break(context) if stay else lambda change: None,
    )
    with context.as_person():
        async with aclosing(feed.events()) as events:  # type: ignore[type-var]
            async for event in events:
                if show(event):
                    return
