"""What the alerts fire for, played by Prometheus's own tool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .manifests import ROOT

MONITORING = ROOT / "deploy" / "monitoring"


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's tool for rules."""
    beside = Path(sys.prefix) / "bin" / "promtool"
    found = shutil.which("promtool") or (str(beside) if beside.is_file() else None)
    if found is None:
        pytest.fail("promtool is missing: run `make promtool`")
    return found


@pytest.mark.parametrize(
    "command", [("test", "rules", "alerts.test.yaml"), ("check", "config", "prometheus.yaml")]
)
def test_alerts_fire_when_they_should(promtool: str, command: tuple[str, ...]) -> None:
    """Each example fires what it says and nothing else, and Prometheus takes the configuration."""
    done = subprocess.run(
        [promtool, *command], cwd=MONITORING, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_speaks_promql(promtool: str, tmp_path: Path) -> None:
    """Prometheus can read every expression of the dashboard."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [
        target["expr"].replace("$__rate_interval", "5m").replace("$service", ".*")
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(expressions) > 40
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = tmp_path / "board.yaml"
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
