"""Run a command of the metering service (`backup`, `restore`, ...) with the settings of a stack's folder."""

import os
import sys
from pathlib import Path

from artcafe_devstack.process import StackError
from artcafe_devstack.stack import Stack, StackOptions


def main() -> int:
    """Become the command; return an exit status only where there is no stack."""
    folder = Path(os.environ.get("ARTCAFE_STATE") or ".artcafe")
    try:
        environment = metering_environment(folder)
    except StackError as error:
        print(f"artcafe: {error}", file=sys.stderr)
        return 1
    argv = [sys.executable, "-m", "artcafe_metering", *sys.argv[1:]]
    os.execve(sys.executable, argv, {**os.environ, **environment})


def metering_environment(folder: Path) -> dict[str, str]:
    """Return the settings of metering in the stack that runs in a folder.

    Raises:
        StackError: none does.
    """
    stack = Stack(StackOptions(folder), lambda _: None)
    stack.state.running()
    stack.ports, stack.secrets = stack.state.read("ports.json"), stack.state.secrets()
    return stack.environment("metering", "metering")


if __name__ == "__main__":
    sys.exit(main())
