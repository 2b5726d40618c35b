"""The README's first agent: its commands and its program work for somebody who has nothing but `make run`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from artcafe_devstack.process import inherited_environment

pytestmark = pytest.mark.embedded

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "127.0.0.1:8080"
PASTED = "--- pasted ---"


def blocks(heading: str) -> list[tuple[str, str]]:
    """Return the code blocks of one section, each with its language."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


class Terminal:
    """A shell in the folder of the checkout, into which the README's blocks are pasted."""

    def __init__(self, folder: Path, server: str, name: str) -> None:
        self._screen = folder / name
        # Nothing of ours on the path: what `make run` installed is found in the way that the README says.
        environment = inherited_environment() | {
            "PATH": os.defpath,
            "HOME": str(folder),
            "ARTCAFE_SERVER": server,
        }
        with self._screen.open("wb") as screen:
            self._shell = subprocess.Popen(
                ["/bin/bash", "-e"],
                stdin=subprocess.PIPE,
                stdout=screen,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, with all that runs in it."""
        os.killpg(self._shell.pid, signal.SIGTERM)
        self._shell.communicate(timeout=60)

    @property
    def shown(self) -> str:
        """What is on its screen."""
        return self._screen.read_text()

    def paste(self, block: str) -> None:
        """Paste a block, and a line that tells when it is done."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{block}echo '{PASTED}'\n")
        self._shell.stdin.flush()

    async def shows(self, text: str, times: int = 1) -> bool:
        """Tell whether a text is there so often; the shell has ended if a command failed."""
        assert self._shell.poll() is None, self.shown
        assert self.shown.count(text) >= times, self.shown
        return True


async def test_first_agent_works_as_printed(stack: Any, eventually: Any, tmp_path: Path) -> None:
    """Each block as it is printed, but for the address: the agent says that it is connected, and answers."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    kinds, texts = zip(*blocks("An agent in five lines"), strict=True)
    assert kinds == ("sh", "python", "sh", "sh", "sh")
    register, program, start, watch, send = texts
    login = f"artcafe login --email {stack.demo['email']}\n"
    assert login in register and f"http://{ADDRESS}" in README.read_text()
    # This is no terminal, at which the password would be asked for.
    (tmp_path / "password").write_text(stack.demo["password"])
    register = register.replace(login, f"{login.strip()} --password-stdin < password\n")
    (tmp_path / "scout.py").write_text(program.replace(f"ws://{ADDRESS}", stack.socket_url(None)))
    with ExitStack() as desk:
        second = desk.enter_context(Terminal(tmp_path, stack.base_url, "second"))
        second.paste(register)
        await eventually(lambda: second.shows(PASTED))
        second.paste(start)
        await eventually(lambda: second.shows(f"connected as scout to {stack.base_url}\n"))

        third = desk.enter_context(Terminal(tmp_path, stack.base_url, "third"))
        third.paste(watch)
        await eventually(lambda: third.shows(f"connected to {stack.base_url}"))
        third.paste(send)
        await eventually(lambda: third.shows(PASTED, times=2))
        await eventually(lambda: third.shows('{"seen": {"n": 1}}'))
        assert re.search(r"^scout +Scout +online", third.shown, re.MULTILINE), third.shown
        assert "this month" in third.shown
        third.paste("artcafe tenants members list\nartcafe agents delete scout\n")
        await eventually(lambda: third.shows("deleted scout"))
        assert f"owner  {stack.demo['email']}" in third.shown
