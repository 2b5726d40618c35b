"""The page for the billing team: every line of docs/billing.md works, and its output looks as it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from artcafe_common.bus import Bus
from artcafe_common.contracts.metering import USAGE_BATCH, UsageBatch, UsageRow
from artcafe_common.ids import new_ulid
from artcafe_devstack.process import inherited_environment

pytestmark = pytest.mark.embedded

PAGE = Path(__file__).parents[2] / "docs" / "billing.md"
# The day that the page is about, and the next; the test has usage on another one, which is still kept.
DAY_OF_PAGE, NEXT_OF_PAGE = "2026-11-22", "2026-11-23"


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the console blocks with the output that the page shows."""
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output.strip()


def shape(value: Any) -> Any:
    """Return what is the same in two answers of one kind: names and types, no figures."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def alike(one: Any, other: Any) -> bool:
    """Tell whether two shapes are of one kind: a list may be empty, a figure may be missing."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return one == other or not one or not other or alike(one[0], other[0])
    return one == other or "NoneType" in (one, other)


def form(output: str) -> Any:
    """Return what an output looks like: the shape of JSON, the head of a table, else how lines begin."""
    try:
        return shape(json.loads(output))
    except ValueError:
        first, *lines = output.splitlines()
        if first.isupper() or "," in first:
            return first.split(",") if "," in first else first.split()
        return [line.split()[0] for line in [first, *lines]]


@pytest.fixture
async def day(stack: Any, eventually: Any, admin: Any) -> date:
    """Give a day on which the demo tenant's agents published, as gateways reported it late."""
    found: date = datetime.now(UTC).date() - timedelta(days=1)
    settings = stack.environment("metering")
    bus = await Bus.open(
        settings["NATS_URL"],
        name="test",
        user=settings["NATS_USER"],
        password=settings["NATS_PASSWORD"],
    )
    at = datetime(found.year, found.month, found.day, 9, tzinfo=UTC).timestamp()
    rows = [
        UsageRow("demo", f"agent-{n}", "room", messages=60, deliveries=60, bytes_in=2400, bytes_out=2400)
        for n in range(2)
    ]
    batch = UsageBatch(source=new_ulid(), seq=1, start=at, end=at + 1, rows=rows)
    subject = USAGE_BATCH.subject(source=batch.source)
    await bus.jetstream().publish(subject, msgspec.json.encode(batch))
    await bus.close_gracefully()

    async def counted() -> bool:
        answer = await admin.call("GET", f"/usage/metrics?start_date={found}&end_date={found}", "demo")
        return bool(answer.json()["totals"]["messages"] >= 120)

    await eventually(counted)
    return found


async def test_every_line_of_the_page_works(stack: Any, admin: Any, day: date, tmp_path: Path) -> None:
    """In its order, in one folder: each command ends well, and says what the page says it does."""
    bin_folder = Path(sys.executable).parent
    environment = inherited_environment() | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "TOKEN": admin.token,
        "ARTCAFE": stack.base_url,
        "ARTCAFE_TOKEN": admin.token,
        "ARTCAFE_SERVER": stack.base_url,
        "ARTCAFE_TENANT": "demo",
        "HOME": str(tmp_path),
    }
    seen = 0
    for command, shown in commands(PAGE.read_text()):
        if "one figure changed" in command:
            path = tmp_path / "day.csv"
            path.write_text(path.read_text().replace("120", "121"))
        command = command.replace(DAY_OF_PAGE, f"{day}")
        command = command.replace(NEXT_OF_PAGE, f"{day + timedelta(days=1)}")
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        output = done.stdout.strip()
        assert done.returncode == ("one figure changed" in command), (command, done.stderr)
        assert alike(form(output), form(shown)), (command, output)
        seen += 1
    assert seen >= 10
