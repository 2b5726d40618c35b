"""What the runbook names is there."""

from __future__ import annotations

import re

from .manifests import ROOT, Manifests

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
CHAPTER = RUNBOOK.partition("\n## Kubernetes\n")[2]
_KINDS = {
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "job": "Job",
    "service": "Service",
    "ingress": "Ingress",
}


def test_commands_name_what_is_there(built: dict[str, Manifests]) -> None:
    """Every workload, claim and policy that a person is told to type or look at exists."""
    names = {
        (each["kind"], each["metadata"]["name"]) for manifests in built.values() for each in manifests.objects
    }
    told = re.findall(r"\b(deployment|statefulset|job|service)/([a-z-]+)|\bget (ingress) ([a-z-]+)", CHAPTER)
    assert len(told) > 10
    for one, name, other, named in told:
        assert (_KINDS[one or other], name or named) in names, (one, name)
    policies = {each["metadata"]["name"] for m in built.values() for each in m.of("NetworkPolicy")}
    table = CHAPTER.partition("### Who may reach whom\n")[2].partition("\n### ")[0]
    shown = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall("`(.*?)`", row)
    }
    # Of the local one it is told in words.
    assert shown == policies - {"default-deny", "ministack"}
    for claim, server in re.findall(r"`(data)-(nats|valkey)-0`", CHAPTER):
        templates = built["production"].get("StatefulSet", server)["spec"]["volumeClaimTemplates"]
        assert templates[0]["metadata"]["name"] == claim
    secrets = CHAPTER.partition("### Rotate secrets\n")[2].partition("\n## ")[0]
    rotated = set(re.findall(r"^\| `([a-z-]+)`", secrets, re.MULTILINE))
    assert rotated == {"nats-passwords", "valkey", "registry-cursor-key", "metering-signing-key"}


def test_lines_of_logs_that_are_told_of_are_written() -> None:
    """An event that the runbook says to look for is one that a service logs."""
    sources = [*ROOT.glob("libs/common/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    text = "\n".join(path.read_text() for path in sources)
    alerts = RUNBOOK.partition("\n## Alerts\n")[2]
    told = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", alerts))
    assert len(told) > 8
    for event in told:
        assert f'"{event}"' in text, event


def test_files_are_copied_into_folders_that_are_there() -> None:
    """A pod that has made no backup has no folder for them, and `kubectl cp` makes none."""
    for block in re.findall(r"```sh\n(.*?)```", CHAPTER, re.DOTALL):
        for folder in re.findall(r"\bk cp \S+ \"?\$pod:(\S+)/", block):
            assert f'k exec "$pod" -- mkdir -p {folder}' in block.partition("k cp ")[0], folder
    assert "k cp " in CHAPTER


def test_who_installs_is_told_of_the_class_of_claims(manifests: Manifests) -> None:
    """No claim names one, since names differ: the cluster's default has to be there."""
    claims = [
        claim["spec"]
        for each in manifests.of("StatefulSet")
        for claim in each["spec"].get("volumeClaimTemplates", [])
    ]
    claims += [
        volume["ephemeral"]["volumeClaimTemplate"]["spec"]
        for pod in manifests.pods()
        for volume in pod.spec.get("volumes", [])
        if "ephemeral" in volume
    ]
    assert claims and not [claim for claim in claims if "storageClassName" in claim]
    assert "default StorageClass" in CHAPTER.partition("### Install")[0]


def test_nothing_is_told_to_be_changed_that_the_next_apply_takes_back() -> None:
    """Claims are not applied again; all else stands in the overlay."""
    assert set(re.findall(r"\b(?:k|kubectl) (?:edit|scale|patch|set \w+) (\w+)", RUNBOOK)) <= {"pvc"}
