"""The environment of each container is what its program takes: one wrong name would stop its start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from artcafe_common.config import FILE_SUFFIX, settings_of

from .manifests import ROOT, SERVICES, Manifests

# What the AWS client takes by itself; elsewhere the role of the pod gives it.
_OF_OTHERS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting(manifests: Manifests, service: str) -> None:
    """No variable is misspelt, shared ones included, and none belongs to another service."""
    _, config, prefix = SERVICES[service]
    known = {setting.variable for setting in settings_of(config, prefix)}
    known |= {f"{s.variable}{FILE_SUFFIX}" for s in settings_of(config, prefix) if s.secret}
    for pod in manifests.pods():
        for container in pod.containers:
            if container["name"] == service:
                assert manifests.environment(pod, container).keys() <= known | _OF_OTHERS


@pytest.mark.parametrize("service", SERVICES)
def test_the_program_takes_its_settings(
    manifests: Manifests, secrets: dict[str, dict[str, str]], service: str, tmp_path: Path
) -> None:
    """Started with exactly what the manifest gives it, files included, it finds its configuration good."""
    module, _, _ = SERVICES[service]
    pod = manifests.pod(service)
    (container,) = pod.containers
    files = manifests.files(pod, container, secrets)
    environment = {}
    for name, value in manifests.environment(pod, container).items():
        if value in files:
            # Where a file is in the pod, there is none here.
            path = tmp_path / value.replace("/", "_")
            path.write_text(files[value])
            environment[name] = str(path)
        else:
            folders = [mount["mountPath"] for mount in container["volumeMounts"]]
            mounted = value in folders or not value.startswith("/etc/")
            assert mounted, f"{name}: nothing is mounted at {value}"
            environment[name] = value
    done = subprocess.run(
        [sys.executable, "-m", module, "--check-config"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "configuration: ok"), done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_written_goes_where_writing_is_allowed(manifests: Manifests, service: str) -> None:
    """The root file system is read-only: folders of settings lie in volumes."""
    pod = manifests.pod(service)
    (container,) = pod.containers
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    for name, value in manifests.environment(pod, container).items():
        if re.search("_DIR$", name):
            assert any(value == path or value.startswith(f"{path}/") for path in writable), name


def test_the_edge_is_given_all_that_its_site_needs(manifests: Manifests, tmp_path: Path) -> None:
    """Each variable of the template is set, by the manifest or by the script, which then starts nginx."""
    template = (ROOT / "edge" / "templates" / "artcafe.conf.template").read_text()
    needed = set(re.findall(r"\$\{(EDGE_[A-Z_]+)\}", template))
    pod = manifests.pod("edge")
    (container,) = pod.containers
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(
        "search artcafe.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n"
    )
    files = manifests.files(pod, container, {})
    script = files["/etc/artcafe/edge/start.sh"]
    # Instead of the image's entrypoint: tell what it would be started with.
    assert script.count("exec /docker-entrypoint.sh nginx ") == 1
    script = script.replace("exec /docker-entrypoint.sh nginx ", "env; echo COMMAND: ")
    done = subprocess.run(
        ["sh", "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "RESOLV_CONF": str(resolver),
            **manifests.environment(pod, container),
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    given = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
    assert needed <= given.keys()
    assert given["EDGE_RESOLVER"] == "resolver 10.96.0.10 [fd00::a] valid=1s ipv6=off;"
    assert "worker_rlimit_nofile 65536;" in done.stdout
    services = {
        (each["metadata"]["name"], port["port"])
        for each in manifests.of("Service")
        for port in each["spec"]["ports"]
    }
    for name in needed:
        if name.endswith("_SERVERS"):
            match = re.fullmatch(
                r"server ([a-z-]+)\.artcafe\.svc\.cluster\.local:(\d+) resolve .*", given[name]
            )
            assert match and (match[1], int(match[2])) in services, given[name]
    assert files["/etc/nginx/templates/artcafe.conf.template"] == template
    assert files["/etc/nginx/nginx.conf"] == (ROOT / "deploy" / "edge" / "nginx.conf").read_text()
    for service in ("auth", "registry", "metering", "gateway-ws", "gateway-http"):
        # nginx asks for the pods behind a name.
        assert manifests.get("Service", service)["spec"]["clusterIP"] == "None"
