"""`make backup` and `make restore FROM=...` on the running stack."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artcafe_devstack.process import inherited_environment


@pytest.mark.embedded
async def test_a_restored_valkey_comes_to_what_was_counted(tenant: Any, stack: Any, eventually: Any) -> None:
    """What came after the backup is counted again from the stream, and what was before it is not."""
    # The folder that make takes from ARTCAFE_STATE.
    folder = Path(stack.environment("metering")["METERING_BACKUP_DIR"]).parents[1]
    agent = await tenant.agent()

    async def publish(number: int) -> None:
        for each in range(number):
            await agent.publish("room", each)

    async def counted(number: int) -> None:
        async def fits() -> bool:
            answer = await tenant.call("GET", "/usage/current")
            return answer.status_code == 200 and bool(answer.json()["usage"]["messages"] == number)

        await eventually(fits)

    async def run(*arguments: str) -> str:
        # What the Makefile's targets run.
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "artcafe_devstack.metering", *arguments],
            env=inherited_environment() | {"ARTCAFE_STATE": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    await publish(5)
    await counted(5)
    told = await run("backup")
    assert told.startswith("Valkey makes a snapshot\n")
    made = re.search(r"^(/\S+valkey-\d+T\d+Z\.rdb): \d+ bytes$", told, re.MULTILINE)
    assert made is not None, told
    await publish(3)
    await counted(8)
    told = await run("restore", "--force", made[1])
    assert "100 %" in told
    assert "restored:" in told
    await counted(8)
    await publish(1)
    await counted(9)
