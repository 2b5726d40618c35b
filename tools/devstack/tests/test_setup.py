"""The choice of an interpreter, and the Makefile's help."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from artcafe_devstack.repository import repository_root

_SCRIPT = repository_root() / "tools" / "devstack" / "find-python.sh"
_GOOD, _TOO_OLD, _WITHOUT_VENV = 0, 3, 4


def _find(folder: Path, interpreters: dict[str, int], python: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the script where only some interpreters exist, each answering the check with a status."""
    for name, status in interpreters.items():
        (folder / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["/bin/sh", str(_SCRIPT)],
        env={"PATH": str(folder), "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_interpreter_that_will_do_is_taken(tmp_path: Path) -> None:
    """Versions go before the plain name, and one that cannot make environments is passed over."""
    found = _find(
        tmp_path, {"python3": _GOOD, "python3.12": _GOOD, "python3.13": _WITHOUT_VENV, "python3.11": _GOOD}
    )
    assert (found.returncode, found.stdout) == (0, "python3.12\n")


@pytest.mark.parametrize(
    ("interpreters", "words"),
    [
        ({}, "Python 3.11 or newer is needed and none was found"),
        ({"python3": _TOO_OLD}, "Python 3.11 or newer is needed and none was found"),
        ({"python3": _WITHOUT_VENV}, "python3 cannot make virtual environments"),
        ({"python3.13": 127}, "Python 3.11 or newer is needed and none was found"),
    ],
)
def test_what_is_missing_is_one_clear_line(tmp_path: Path, interpreters: dict[str, int], words: str) -> None:
    """Without a good interpreter there is one line, and nothing that could be taken for a program's name."""
    found = _find(tmp_path, interpreters)
    assert (found.returncode, found.stdout) == (1, "")
    assert words in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [(_TOO_OLD, "is too old"), (_WITHOUT_VENV, "cannot make virtual environments"), (127, "is not a Python")],
)
def test_the_named_interpreter_is_taken_or_refused(tmp_path: Path, status: int, words: str) -> None:
    """Whoever names one gets that one or the reason, never silently another."""
    refused = _find(tmp_path, {"mine": status, "python3": _GOOD}, "mine")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert words in refused.stderr
    taken = _find(tmp_path, {"mine": _GOOD, "python3.13": _GOOD}, "mine")
    assert taken.stdout == "mine\n"


def test_the_real_check_accepts_this_interpreter() -> None:
    """What the tests run on is good enough for the product."""
    found = subprocess.run(
        ["/bin/sh", str(_SCRIPT)], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip()


def test_make_without_a_goal_shows_every_public_target() -> None:
    """A newcomer types `make` and sees what there is, whatever letters and digits a name is made of."""
    public = re.findall(r"^(\S+):.*## ", (repository_root() / "Makefile").read_text(), re.MULTILINE)
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=repository_root(), capture_output=True, text=True, check=True
    ).stdout
    assert {"setup", "run", "test", "k8s-check"} <= set(public)
    assert [line.split()[1] for line in shown.splitlines()] == public
