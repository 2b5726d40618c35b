"""The whole benchmark, with small numbers, on real servers."""

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 600


def test_quick_run_measures_every_scenario(tmp_path: Path) -> None:
    """It ends well, and every finding is a number."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    outcomes = json.loads(path.read_text())["outcomes"]
    assert [outcome["scenario"] for outcome in outcomes] == [
        "fanout",
        "hop",
        "preview",
        "rest",
        "agents",
        "growth",
    ]
    for outcome in outcomes:
        for finding in outcome["findings"]:
            assert math.isfinite(finding["value"]["median"]), finding
            assert finding["what"] in done.stdout
