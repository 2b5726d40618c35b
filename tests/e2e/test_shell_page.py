"""The page for those who have nothing but a shell: its whole agent works, and ends where it must."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artcafe_agent.keys import AgentKey
from artcafe_devstack.process import inherited_environment

pytestmark = pytest.mark.embedded

PAGE = Path(__file__).parents[2] / "docs" / "agents-with-a-shell.md"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"  # python3 with websockets first


class ShellAgent:
    """The page's agent, as a process with all that it starts."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        script = folder / "agent.sh"
        script.write_text(re.findall(r"```sh\n(#!/bin/sh\n.*?)```", PAGE.read_text(), re.DOTALL)[0])
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                ["/bin/sh", str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=inherited_environment() | {"PATH": PATH},
                start_new_session=True,
            )

    async def ended(self) -> str:
        """Wait until it has ended by itself, as one that failed, and return what it said."""
        assert await asyncio.to_thread(self.process.wait, 60) > 0
        return self.err.read_text()

    def kill(self) -> None:
        """End whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Give a function that runs the page's agent with arguments."""
    running: list[ShellAgent] = []

    def start(*arguments: str) -> ShellAgent:
        running.append(ShellAgent(tmp_path, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.kill()


def key_file(folder: Path, key: AgentKey) -> str:
    """Write a private key as ssh-keygen wants it."""
    file = folder / "agent.key"
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes())
    return str(file)


async def test_agent_answers_with_the_id_of_the_envelope(
    tenant: Any, run: Any, tmp_path: Path, eventually: Any
) -> None:
    """Whatever stands in the data: other ids, other types, quotes."""
    agent, other = await tenant.create_agent(), await tenant.agent()
    shell = run(
        tenant.stack.base_url, tenant.tenant_id, agent, key_file(tmp_path, tenant.keys[agent]), "room"
    )
    published: set[str] = set()

    async with await other.subscribe("room.replies") as replies:
        for data in (
            {"message_id": "a lie"},
            {"x": 1, "message_id": 'br"oken'},
            {"type": "error", "message": '","message_id":"a lie"}'},
        ):

            async def answered(data: dict[str, Any] = data) -> bool:
                sent = await other.publish("room", data)
                published.add(sent.message_id)
                with contextlib.suppress(TimeoutError):  # it may not have subscribed yet
                    while (reply := await replies.get(timeout=5.0)).data["seen"] != sent.message_id:
                        assert reply.data["seen"] in published
                    return True
                return False

            await eventually(answered)
    assert shell.process.poll() is None, shell.err.read_text()


async def test_wrong_key_ends_it_with_the_answer(tenant: Any, run: Any, tmp_path: Path) -> None:
    """At the call that is refused, whose answer is shown."""
    agent = await tenant.create_agent()
    key = key_file(tmp_path, AgentKey.generate())
    shell = run(tenant.stack.base_url, tenant.tenant_id, agent, key, "room")
    said = await shell.ended()
    assert "401" in said
    assert '"code":"unauthenticated"' in said
    assert "the connection has ended" not in said


@pytest.mark.parametrize("missing", ["server", "key"])
async def test_nothing_is_done_without(
    missing: str, tenant: Any, run: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    """It ends at once where the server does not answer, or the key is not there."""
    agent = await tenant.create_agent()
    key = key_file(tmp_path, tenant.keys[agent]) if missing == "server" else str(tmp_path / "none")
    server = f"http://127.0.0.1:{unused_tcp_port}" if missing == "server" else tenant.stack.base_url
    said = await run(server, tenant.tenant_id, agent, key, "room").ended()
    assert ("curl: (7)" if missing == "server" else str(tmp_path / "none")) in said
    assert "the connection has ended" not in said


async def test_reason_of_the_end_is_told(tenant: Any, run: Any, tmp_path: Path, eventually: Any) -> None:
    """A newer connection of the same agent ends it, and it says so."""
    agent = await tenant.create_agent()
    key = key_file(tmp_path, tenant.keys[agent])
    shell = run(tenant.stack.base_url, tenant.tenant_id, agent, key, "room")

    async def online() -> bool:
        answer = await tenant.call("GET", f"/agents/{agent}")
        return bool(answer.json()["status"] == "online")

    await eventually(online)
    await tenant.connect(agent)
    assert "Connection closed: 4006" in await shell.ended()
