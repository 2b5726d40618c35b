"""Alerts and the dashboard ask for metrics that the services have, and every alert is explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"

for module in ("artcafe_common", "artcafe_auth", "artcafe_registry", "artcafe_gateway", "artcafe_metering"):
    import_module(f"{module}.metrics")

# What Prometheus says of each target, and the kubelet of volumes: labels that may be asked for.
_OF_OTHERS = {
    "up": set[str](),
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
}
# What scraping puts to each series (deploy/monitoring/prometheus.yaml, k8s/monitoring).
_OF_SCRAPING = {"job", "service", "instance", "namespace", "pod"}
_WORDS = {
    *(
        "sum",
        "min",
        "max",
        "by",
        "rate",
        "increase",
        "changes",
        "absent",
        "time",
        "offset",
        "unless",
        "and",
        "or",
        "on",
        "bool",
    ),
    *("histogram_quantile", "min_over_time", "max_over_time", "vector", "label_values", "without"),
}


def _known() -> dict[str, set[str]]:
    """Return the names of all series of a process with their labels."""
    found: dict[str, set[str]] = dict(_OF_OTHERS)
    for collector in set(REGISTRY._names_to_collectors.values()):
        labels = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
            for ending in endings.get(family.type, [""]):
                extra = {"le"} if ending == "_bucket" else set()
                found[family.name + ending] = labels | extra
    return found


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return board


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    yield from _of_dashboard()
    board = _dashboard()
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def _of_dashboard() -> Iterator[tuple[str, str]]:
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


EXPRESSIONS = list(_expressions())


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_metric_exists_with_its_labels(where: str, expression: str) -> None:
    """A name that no service has would be an alert that never fires, and a panel that is always empty."""
    known = _known()
    # Series with a selector; what is left without one is a word of the language, or a label.
    selected = re.findall(r"([a-z_]+)\{([^}]*)\}", expression)
    assert selected
    for name, selector in selected:
        assert name in known, f"{where}: there is no metric {name}"
        for label, value in re.findall(r'([a-z_]+)[=!]~?"([^"]*)"', selector):
            assert label in known[name] | _OF_SCRAPING, f"{where}: {name} has no label {label}"
            if label in ("outcome", "dependency"):
                for each in value.split("|"):
                    assert _in_code(each), f"{where}: nothing is ever called {each}"
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|by \([^)]*\)", "", expression)
    for word in re.findall(r"[a-z_]{2,}", bare):
        named = {name for name, _ in selected}
        # The variable of the dashboard is a label's name.
        assert word in named | _WORDS | {"service"}, f"{where}: {word} has no selector"
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        for label in labels.split(", "):
            possible = set.union(*(known[name] for name, _ in selected))
            assert label in possible | _OF_SCRAPING, f"{where}: nothing has the label {label}"


def test_every_metric_is_on_the_dashboard() -> None:
    """What a service measures is seen without knowing its name: the runbook says to look there first."""
    shown = {name for _, expression in _of_dashboard() for name in re.findall(r"[a-z_]+", expression)}
    endings = r"_(bucket|count|sum)$"
    ours = {re.sub(endings, "", name) for name in _known() if name.startswith("artcafe_")}
    assert ours - {re.sub(endings, "", name) for name in shown} == set()


def _in_code(word: str) -> bool:
    sources = [*ROOT.glob("libs/common/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    return any(f'"{word}"' in path.read_text() for path in sources)


def test_every_alert_is_explained() -> None:
    """Each says how urgent it is and what has happened, and leads to what to do, which no other alert had."""
    names = [rule["alert"] for rule in _rules()]
    assert len(names) == len(set(names))
    runbook = (ROOT / "docs" / "operations.md").read_text()
    explained = re.findall(r"^### (ArtCafe\w+)$", runbook, re.MULTILINE)
    assert sorted(explained) == sorted(names)
    for rule in _rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        section = runbook.partition(f"### {rule['alert']}\n")[2].partition("\n#")[0]
        assert "**Cause:**" in section and "**Cure:**" in section, rule["alert"]


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_played(rule: dict[str, Any]) -> None:
    """There is a case for which it fires, and one for which it does not though there is what it looks at."""
    asked = set(re.findall(r"([a-z_]+)\{", rule["expr"]))
    fires, silent = False, False
    for case in yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]:
        series = {each["series"].partition("{")[0] for each in case["input_series"]}
        for played in case["alert_rule_test"]:
            if played["alertname"] == rule["alert"]:
                fires |= bool(played["exp_alerts"])
                silent |= not played["exp_alerts"] and asked <= series
    assert fires, "it is never seen to fire"
    assert silent, "it is never seen to be silent"


def test_both_ways_of_scraping_name_things_alike() -> None:
    """With and without the operator the job is artcafe, and `service` says which one it is."""
    plain = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    (job,) = plain["scrape_configs"]
    assert job["job_name"] == "artcafe"
    assert job["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "service"}]
    asked = {name: each["port"] for each in job["dns_sd_configs"] for name in each["names"]}
    assert asked == {"auth": 8101, "registry": 8102, "metering": 8103, "gateway-ws": 8104}
    compose = yaml.safe_load(re.sub(r"![a-z]+", "", (ROOT / "compose.yaml").read_text()))
    assert asked.keys() <= compose["services"].keys()
    operator = yaml.safe_load((ROOT / "k8s" / "monitoring" / "pods.yaml").read_text())["spec"]
    assert operator["jobLabel"] == "app.kubernetes.io/part-of"
    (endpoint,) = operator["podMetricsEndpoints"]
    (relabeling,) = endpoint["relabelings"]
    assert relabeling["targetLabel"] == "service"
    (chosen,) = operator["selector"]["matchExpressions"]
    assert set(chosen["values"]) == asked.keys()


def test_the_autoscalers_metric_is_made_of_one_that_exists() -> None:
    """The adapter's rule takes the gateways' sockets, of which the autoscaler has the name."""
    values = yaml.safe_load((ROOT / "k8s" / "monitoring" / "adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    name = rule["seriesQuery"].partition("{")[0]
    assert name in _known()
    assert (
        f"metric: {{ name: {name} }}"
        in (ROOT / "k8s" / "overlays" / "production" / "autoscaling.yaml").read_text()
    )


def test_the_adapter_is_told_where_prometheus_is() -> None:
    """By itself it asks one in another namespace; the operator gives what it runs this name, too."""
    values = yaml.safe_load((ROOT / "k8s" / "monitoring" / "adapter-values.yaml").read_text())
    assert values["prometheus"] == {"url": "http://prometheus-operated.monitoring.svc", "port": 9090}


def test_the_dashboard_can_be_laid_out() -> None:
    """No panel lies on another one, and each has a number of its own."""
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24
