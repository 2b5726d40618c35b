"""Lists that the server gives page by page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from artcafe_agent.cli.context import Context
from artcafe_agent.cli.output import table

LARGEST_PAGE = 100


def show_list(
    context: Context,
    args: argparse.Namespace,
    noun: str,
    columns: Sequence[str],
    *segments: str,
    query: Mapping[str, str | int | None] | None = None,
) -> None:
    """Fetch and print a list; ``noun`` is its name in the answer."""
    rows: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        left = LARGEST_PAGE if args.all else args.limit - len(rows)
        page = context.call(
            "GET", *segments, query={**(query or {}), "limit": min(left, LARGEST_PAGE), "next_token": token}
        )
        rows += page.get(noun, [])
        token = page.get("next_token")
        if token is None or (not args.all and len(rows) >= args.limit):
            break
    context.out.result({noun: rows, "next_token": token}, table(rows, columns) if rows else f"no {noun}")
    if token is not None:
        context.out.note(f"there are more {noun}: use --all or a higher --limit")
