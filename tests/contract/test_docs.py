"""The documents that are made from the code say what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that makes the documents, called without arguments."""
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["docs"])
    return module


def test_documents_are_up_to_date(
    docs: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in the repository is what the code makes; `make docs` brings it there."""
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    assert docs.main() == 0, capsys.readouterr().err


def test_document_that_is_out_of_date_is_named(
    docs: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checking names the document and changes nothing; making it brings it up to date."""
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    assert docs.main() == 0
    roles = tmp_path / "roles.md"
    made = roles.read_text()
    roles.write_text(made.replace("agents:read", "agents:red"))
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    assert docs.main() == 1
    assert "roles.md" in capsys.readouterr().err
    assert "agents:red" in roles.read_text()
    monkeypatch.setattr(sys, "argv", ["docs"])
    assert docs.main() == 0
    assert roles.read_text() == made


def test_rows_of_tables_are_not_cut_off() -> None:
    """Each has as many cells as its head: a page shows no more, also where the bar stands in code."""
    places = ("*.md", "docs/**/*.md", "*/README.md", "*/*/README.md")
    pages = [page for place in places for page in ROOT.glob(place)]
    rows = 0
    for page in pages:
        cells, fenced = 0, False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") and not fenced else 0
            assert not (cells and found) or found == cells, f"{page.relative_to(ROOT)}:{number}"
            cells, rows = found, rows + bool(found)
    assert rows > 100


def test_services_settings_show_what_is_special_to_them(docs: ModuleType) -> None:
    """A shared setting that a service needs stands among its own as required; a number has its bounds."""
    metering = docs.configuration().split("## metering")[1]
    assert "| `REDIS_URL` | secret | required |" in metering
    assert "| `METERING_HTTP_PORT` | whole number, 1 to 65535 | `8103` |" in metering
    assert "NATS_USER" not in metering
