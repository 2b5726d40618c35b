"""Write the pinned requirement files from what the packages of the workspace declare.

Usage: `make requirements` (keeps the pins there are), `make requirements UPGRADE=1` (takes the newest
versions). `python requirements/compile.py --check` only checks the files as they are.

All files come from one resolution, `dev.txt`, so that a package has the same version wherever it is
installed. The emulator alone is resolved by itself: it lives in an environment of its own, because its
botocore pin and aioboto3's exclude each other. The files hold versions and hashes and no address: where
packages come from is the business of the machine that installs them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
OLDEST_PYTHON = "3.11"

DEPLOYABLES = {
    "auth.txt": "services/auth",
    "gateway-ws.txt": "services/gateway-ws",
    "registry.txt": "services/registry",
    "metering.txt": "services/metering",
    "agent-sdk.txt": "libs/agent-sdk",
}
# Where the workspace's own packages are that others depend on.
OWN = {"artcafe-common": "libs/common", "artcafe-agent": "libs/agent-sdk"}
STACK = [*DEPLOYABLES.values(), "tools/devstack"]
# What builds the workspace's own packages for an editable installation.
BUILD_TOOLS = ["hatchling", "editables"]
# What builds them for a container image, where they are installed as they are.
IMAGE_BUILD_TOOLS = ["hatchling"]
DEV_TOOLS = [
    "axe-playwright-python",
    "httpx",
    "hypothesis",
    "mypy",
    "playwright",
    "pytest",
    "pytest-asyncio",
    "pytest-xdist",
    "pyyaml",
    "ruff",
    "types-aioboto3[dynamodb,s3]==15.5.0",
    "types-pyyaml",
    "uv",
    "uvicorn[standard]",
]
EMULATOR = ["ministack==1.5.33"]

_ADDRESS = re.compile(r"://|--(?:extra-)?index-url|--find-links|--trusted-host|^\s*-[if]\s| @ ")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;.*| \\)*$", re.MULTILINE)


def main() -> int:
    """Compile the files, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="check the files and change nothing")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    if not arguments.check:
        _compile_all(upgrade=arguments.upgrade)
    problems = list(problems_in(HERE))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def problems_in(folder: Path) -> Iterable[str]:
    """Yield what is wrong with the files of a folder: an address, a missing hash, versions that differ."""
    seen: dict[str, tuple[str, str]] = {}
    for file in sorted(folder.glob("*.txt")):
        text = file.read_text()
        for number, line in enumerate(text.splitlines(), 1):
            if _ADDRESS.search(line):
                yield f"{file.name}:{number} holds an address: {line.strip()}"
        for name, version in _PIN.findall(text):
            known = seen.setdefault(name.lower(), (version, file.name))
            if file.name != "emulator.txt" and known[1] != "emulator.txt" and known[0] != version:
                yield f"{name} is {version} in {file.name} and {known[0]} in {known[1]}"
        for block in re.split(r"\n(?=\S)", text.strip()):
            if "==" in block and "--hash=sha256:" not in block:
                yield f"{file.name}: no hash for {block.split()[0]}"


def requirements_of(folder: str) -> set[str]:
    """Return what a package of the workspace needs, through other packages of the workspace too."""
    declared = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = set()
    for requirement in declared:
        name = re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0]
        if name in OWN:
            needed |= requirements_of(OWN[name])
        else:
            needed.add(requirement)
    return needed


def _compile_all(*, upgrade: bool) -> None:
    stack = set().union(*(requirements_of(folder) for folder in STACK), BUILD_TOOLS)
    _compile("dev.txt", stack | set(DEV_TOOLS), upgrade=upgrade)
    _compile("stack.txt", stack, like="dev.txt")
    _compile("build.txt", IMAGE_BUILD_TOOLS, like="dev.txt")
    for file, folder in DEPLOYABLES.items():
        _compile(file, requirements_of(folder), like="dev.txt")
    _compile("emulator.txt", EMULATOR, upgrade=upgrade)


def _compile(
    file: str, requirements: Iterable[str], *, like: str | None = None, upgrade: bool = False
) -> None:
    """Resolve requirements for every supported Python, with the versions of another file if given."""
    target = HERE / file
    print(f"{file} ...", flush=True)
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(sorted(requirements)) + "\n")
        output = Path(folder) / file
        if target.exists() and not upgrade and like is None:
            output.write_text(target.read_text())  # uv keeps the versions it finds in its output
        if like is not None:
            pins = Path(folder) / "pins.txt"
            pins.write_text("\n".join(_without_hashes((HERE / like).read_text())) + "\n")
            command += ["--constraint", str(pins)]
        subprocess.run([*command, "--output-file", str(output), str(source)], check=True)
        target.write_text(output.read_text())


def _without_hashes(text: str) -> Iterable[str]:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(("--hash", "#")):
            yield line.rstrip("\\ ")


if __name__ == "__main__":
    sys.exit(main())
