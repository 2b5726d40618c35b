"""What a person is shown."""

import json
from pathlib import Path

from bench.findings import Finding, Outcome
from bench.report import save, table
from bench.stats import Spread

OUTCOME = Outcome(
    scenario="fanout",
    findings=[
        Finding(what="load: ArtCafe", value=Spread(5.0, 4.0, 6.0), unit="µs"),
        Finding(what="load: <other>", value=Spread(10.0, 9.0, 11.0), unit="µs"),
        Finding(what="load: ArtCafe / other", value=Spread(0.5, 0.4, 0.6), unit="x", limit=0.65),
        Finding(what="memory", value=Spread(17.0, 17.0, 17.0), unit="KiB", limit=16.0),
    ],
    remarks=["something"],
)


def test_table_tells_which_targets_are_met() -> None:
    """One glance at the last column is enough."""
    lines = [" ".join(line.split()) for line in table([OUTCOME], judged=True).splitlines()]
    assert lines[4] == "load: ArtCafe / other 0.50 (0.40-0.60) x target <= 0.65 met"
    assert lines[5] == "memory 17.00 KiB target <= 16 NOT MET"
    assert "note: something" in lines[6]


def test_a_quick_run_is_not_judged() -> None:
    """Numbers from small loads show that it works, not whether it is good."""
    lines = table([OUTCOME], judged=False).splitlines()
    assert not [line for line in lines if line.lower().endswith("met")]


def test_everything_is_kept_in_a_file_with_a_drawing(tmp_path: Path) -> None:
    """The file has findings and facts; the drawing compares servers and escapes their names."""
    path = save([OUTCOME], {"cores": 2}, tmp_path / "results")
    content = json.loads(path.read_text())
    assert content["facts"] == {"cores": 2}
    assert [finding["met"] for finding in content["outcomes"][0]["findings"]] == [None, None, True, False]
    drawing = path.with_suffix(".svg").read_text()
    assert drawing.count("<rect") == 2
    assert "&lt;other&gt;" in drawing
