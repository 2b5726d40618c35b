"""What CI does on a machine that lacks something: the rest, and it says loudly what was left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from artcafe_devstack.repository import repository_root


def test_what_is_not_run_is_said(tmp_path: Path) -> None:
    """Without hadolint, kubectl and an engine the three checks that need them are named, one by one."""
    script = tmp_path / "checkout" / ".ci" / "run"
    script.parent.mkdir(parents=True)
    shutil.copy(repository_root() / ".ci" / "run", script)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text("#!/bin/sh\n")
    (programs / "make").chmod(0o755)
    for name in ("bash", "sh", "dirname", "id"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    environment = {"PATH": str(programs), "ARTCAFE_CHROMIUM": "/bin/false"}
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("!!! NOT RUN: ")]
    assert [line.removeprefix("!!! NOT RUN: the ") for line in said] == [
        "checks of the Kubernetes manifests.",
        "check of the Dockerfiles.",
        "tests of the container images and of compose.yaml.",
    ]
