"""What the doctor sees from outside: certificates, NATS, and how replicas compare."""

from __future__ import annotations

import io
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from doctor import checks
from doctor.ways import Compose, Kubernetes, WayError, fetch

from artcafe_devstack.ports import free_port
from artcafe_devstack.process import ManagedProcess
from artcafe_devstack.servers import nats_spec


@contextmanager
def _edge(folder: Path, days: int, name: str = "edge") -> Iterator[str]:
    """Serve a health page over TLS with a certificate that is valid for some more days, of a name."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-subj", "/CN=edge", "-addext", f"subjectAltName=DNS:{name}"]
    make += ["-days", str(days), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status":"up","services":{}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Health)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("days", "status"), [(1, "fail"), (10, "warn"), (90, "ok")])
def test_a_certificate_is_told_before_it_expires(tmp_path: Path, days: int, status: str) -> None:
    """The edge's certificate is a fault three days before its end, and to be looked at three weeks before."""
    with _edge(tmp_path, days) as url:
        certificate, health = checks.edge(url)
    assert (certificate.check, certificate.status) == ("certificate", status)
    assert (health.check, health.status) == ("health", "ok")
    assert "valid until" in certificate.detail and bool(certificate.cure) == (status != "ok")


@pytest.mark.parametrize(
    ("name", "known", "reason"),
    [
        ("localhost", True, ""),
        ("localhost", False, "self-signed certificate"),
        ("pubsub.example.test", True, "Hostname mismatch"),
    ],
)
def test_a_certificate_that_clients_refuse_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, known: bool, reason: str
) -> None:
    """Of another name, or by nobody whom this machine knows: a long time until its end is no use then."""
    with _edge(tmp_path, 90, name) as url:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / ("certificate.pem" if known else "none.pem")))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        certificate, health = checks.edge(url.replace("127.0.0.1", "localhost"))
    assert (certificate.status, health.status) == ("warn" if reason else "ok", "ok")
    assert reason in certificate.detail and bool(certificate.cure) == bool(reason)


def test_an_edge_that_is_away_is_a_fault() -> None:
    """By TLS and without, and where its address is not known that is said."""
    port = free_port()
    assert [f.status for f in checks.edge(f"http://127.0.0.1:{port}")] == ["fail"]
    assert [f.status for f in checks.edge(f"https://127.0.0.1:{port}")] == ["fail", "fail"]
    assert [f.status for f in checks.edge(None)] == ["warn"]


@pytest.mark.parametrize(("statuses", "found"), [((503, 200), "ok"), ((503, 503), "fail")])
def test_a_platform_that_is_down_for_a_moment_only_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], found: str
) -> None:
    """It is asked once more, and only then is told what is down."""
    left = iter(statuses)

    def answer(url: str, **_: Any) -> bytes:
        if (status := next(left)) == 200:
            return b'{"status":"up","services":{}}'
        body = io.BytesIO(b'{"status":"down","services":{"auth":{"status":"down"}}}')
        raise HTTPError(url, status, "", Message(), body)

    monkeypatch.setattr(checks, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(checks, "fetch", answer)
    (health,) = checks.edge("http://127.0.0.1:1")
    assert (health.check, health.status) == ("health", found)
    assert ("auth down" in health.detail) == (found == "fail")
    assert list(left) == []


class _Frozen:
    """One replica, whose doctor says that it does not answer, and may open too few files."""

    edge: str | None = None
    wanted: tuple[int, str] | None = None

    def replicas(self, service: str) -> list[str]:
        """Return its name."""
        return ["auth-1"]

    def absent(self, service: str) -> list[str]:
        """Return nothing: it runs."""
        return []

    def declared(self, service: str) -> tuple[int, str] | None:
        """Return how many there should be."""
        return self.wanted

    def examine(self, service: str, replica: str) -> str:
        """Return its report."""
        findings = [
            {
                "check": "service",
                "status": "fail",
                "detail": "is silent",
                "cure": "restart",
                "kind": "silent",
            },
            {"check": "files", "status": "warn", "detail": "too few", "cure": "raise it", "kind": "files"},
            {"check": "nats", "status": "fail", "detail": "is away", "cure": "start nats"},
        ]
        return json.dumps({"version": "1.0", "clock_offset": None, "findings": findings})

    def nats_page(self, server: str, path: str) -> Any:
        """Nobody asks for this here."""
        raise NotImplementedError

    def start(self, service: str) -> str:
        """Return a cure."""
        return f"start {service}"

    def wake(self, service: str, replica: str) -> str:
        """Return a cure."""
        return f"kill {service} {replica}"

    def more_files(self) -> str:
        """Return a cure."""
        return "ulimit"


def test_a_cure_is_that_of_where_the_service_runs() -> None:
    """A replica does not know what runs it: who asks it does, and has the commands."""
    findings, _ = checks.service(_Frozen(), "auth")
    assert [f.cure for f in findings] == ["kill auth auth-1", "ulimit", "start nats"]


@pytest.mark.parametrize(
    ("wanted", "status", "cure"), [(1, "", ""), (2, "fail", "start auth"), (0, "warn", "set HERE to 1")]
)
def test_replicas_are_compared_with_what_is_declared(wanted: int, status: str, cure: str) -> None:
    """Fewer than declared are a fault; more are gone after the next start, unless that is changed."""
    way = _Frozen()
    way.wanted = (wanted, "HERE")
    found = [(f.status, f.cure) for f in checks.service(way, "auth")[0] if f.check == "replicas"]
    assert found == ([(status, cure)] if status else [])


class _Servers:
    """NATS servers by the ports of their pages."""

    edge: str | None = None

    def __init__(self, **monitors: int) -> None:
        self._monitors = monitors

    def replicas(self, service: str) -> list[str]:
        """Return the names of the servers."""
        return list(self._monitors)

    def absent(self, service: str) -> list[str]:
        """Return nothing: they all run."""
        return []

    def declared(self, service: str) -> tuple[int, str] | None:
        """Nobody asks for this here."""
        raise NotImplementedError

    def examine(self, service: str, replica: str) -> str:
        """Nobody asks for this here."""
        raise NotImplementedError

    def nats_page(self, server: str, path: str) -> Any:
        """Return a page."""
        return json.loads(fetch(f"http://127.0.0.1:{self._monitors[server]}{path}"))

    def start(self, service: str) -> str:
        """Return a cure."""
        return "start it"

    def wake(self, service: str, replica: str) -> str:
        """Return a cure."""
        return f"restart {replica}"

    def more_files(self) -> str:
        """Nobody asks for this here."""
        raise NotImplementedError


@contextmanager
def _nats(folder: Path, *, config: str | None, jetstream: bool = True) -> Iterator[int]:
    folder.mkdir()
    monitor = free_port()
    file = None
    if config is not None:
        file = folder / "nats.conf"
        file.write_text(config)
    spec = nats_spec(folder, free_port(), config=file, monitor=monitor)
    if not jetstream:
        spec = replace(spec, argv=[word for word in spec.argv if word != "--jetstream"])
    process = ManagedProcess(spec)
    process.start()
    try:
        process.wait_ready()
        yield monitor
    finally:
        process.stop()


def test_a_nats_that_acknowledges_too_early_is_a_fault(tmp_path: Path) -> None:
    """A server as it is without our configuration acknowledges what it will write within two minutes."""
    with _nats(tmp_path / "a", config=None) as early:
        (sync,) = (f for f in checks.nats(_Servers(nats=early)) if f.check == "sync")
    assert sync.status == "fail" and "every 120 s" in sync.detail and "sync_interval: always" in sync.cure
    with _nats(tmp_path / "b", config="jetstream { sync_interval: always }\n") as careful:
        found = checks.nats(_Servers(nats=careful))
    assert [f.status for f in found] == ["ok"] * len(found) and "sync" in {f.check for f in found}


def test_servers_that_are_no_cluster_are_a_fault(tmp_path: Path) -> None:
    """Several servers that do not know each other keep different streams; without JetStream, none."""
    config = "jetstream { sync_interval: always }\n"
    with _nats(tmp_path / "a", config=config) as one, _nats(tmp_path / "b", config=config) as two:
        (cluster,) = (f for f in checks.nats(_Servers(a=one, b=two)) if f.check == "cluster")
        assert cluster.status == "fail" and "2 servers run" in cluster.detail
        findings = checks.nats(_Servers(a=one, gone=free_port()))
        assert [f.status for f in findings if (f.where, f.check) == ("gone", "server")] == ["fail"]
    with _nats(tmp_path / "c", config=None, jetstream=False) as none:
        assert "jetstream" in {f.check for f in checks.nats(_Servers(nats=none)) if f.status == "fail"}
    assert [f.status for f in checks.nats(_Servers())] == ["fail"]


class _Replicas(_Frozen):
    """Replicas that have found something about what one of them does for all, each something else."""

    def __init__(self, **findings: tuple[str, str]) -> None:
        self._findings = findings

    def replicas(self, service: str) -> list[str]:
        """Return their names."""
        return list(self._findings)

    def examine(self, service: str, replica: str) -> str:
        """Return the report of one."""
        status, detail = self._findings[replica]
        shared = {"check": "backups", "status": status, "detail": detail, "kind": "shared", "cure": "look"}
        own = {"check": "backups", "status": "ok", "detail": f"room of {replica}"}
        return json.dumps({"version": "1.0", "clock_offset": None, "findings": [own, shared]})


@pytest.mark.parametrize("holds", ["ok", "warn", "fail"])
def test_what_one_replica_does_for_all_is_judged_once(holds: str) -> None:
    """Of three replicas one makes the backups: that the others have none, or old ones, is no fault."""
    way = _Replicas(m1=("fail", "old"), m2=(holds, "young"), m3=("fail", "old"))
    findings, _ = checks.service(way, "metering")
    rooms, last = findings[:-1], findings[-1]
    assert [(f.where, f.detail) for f in rooms] == [(f"m{n}", f"room of m{n}") for n in (1, 2, 3)]
    assert (last.where, last.status) == ("metering", holds)
    assert last.detail == ("old" if holds == "fail" else "young")


def _stand_in(folder: Path, name: str, arguments: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program first in the path that prints this when it is asked so, else a report and a config."""
    report = json.dumps({"version": "1.0", "clock_offset": None, "findings": [], "services": {}})
    (folder / "answer").write_text(answer)
    program = folder / name
    program.write_text(
        f'#!/bin/sh\nif [ "$*" = "{arguments}" ]; then cat {folder}/answer; else echo \'{report}\'; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _container(service: str, number: int, state: str, code: int = 0, labels: str = "") -> dict[str, Any]:
    name = f"artcafe-{service}-{number}"
    return {"Name": name, "Service": service, "State": state, "ExitCode": code, "Labels": labels}


def test_a_container_that_does_not_run_is_told_beside_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended, starts again and again or is frozen is a fault; what somebody ran once is none."""
    rows = [
        _container("auth", 1, "running"),
        _container("gateway-ws", 1, "running"),
        _container("gateway-ws", 2, "exited", 137),
        _container("gateway-ws", 3, "restarting", 2),
        _container("gateway-ws", 4, "exited", 1, "a=b,com.docker.compose.oneoff=True"),
        _container("registry", 1, "exited"),
        _container("nats", 1, "paused"),
    ]
    asked = "compose ps --all --format json"
    _stand_in(tmp_path, "docker", asked, "\n".join(map(json.dumps, rows)), monkeypatch)
    way = Compose()
    found = {name: checks.service(way, name)[0] for name in ("auth", "gateway-ws", "registry", "metering")}
    assert found["auth"] == []
    ((gateway,), (registry,), (metering,)) = (found[n] for n in ("gateway-ws", "registry", "metering"))
    assert (gateway.check, gateway.status) == ("replicas", "fail")
    assert (
        gateway.detail == "artcafe-gateway-ws-2 is exited with 137; artcafe-gateway-ws-3 is restarting with 2"
    )
    assert "docker compose up" in gateway.cure
    assert (registry.status, registry.detail) == ("fail", "none runs; artcafe-registry-1 is exited")
    assert (metering.status, metering.detail) == ("fail", "none runs")
    assert [f.detail for f in checks.nats(way)] == ["none runs; artcafe-nats-1 is paused"]

    stopped = [row | {"State": "exited"} for row in rows]
    (tmp_path / "answer").write_text("\n".join(map(json.dumps, stopped)))
    with pytest.raises(WayError, match="runs nothing here"):
        Compose()


def _pod(service: str, number: int, phase: str = "Running", /, **state: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase}
    if state:
        status["containerStatuses"] = [{"name": service, "state": state}]
    else:
        reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        status["conditions"] = [{"type": "Initialized", "status": "True"}, reason]
    labels = {"app.kubernetes.io/name": service}
    return {
        "kind": "Pod",
        "metadata": {"name": f"{service}-{number}", "labels": labels},
        "status": status,
    }


def _workload(kind: str, service: str, wanted: int, ready: int) -> dict[str, Any]:
    status = {"readyReplicas": ready} if ready else {}
    labels = {"app.kubernetes.io/name": service}
    about = {"name": service, "labels": labels}
    return {"kind": kind, "metadata": about, "spec": {"replicas": wanted}, "status": status}


def test_a_pod_that_does_not_run_is_told_beside_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending, without its image or ended: each is named, and how many are ready of those that are wanted."""
    runs: dict[str, Any] = {"running": {}}
    pulling: dict[str, Any] = {"waiting": {"reason": "ImagePullBackOff"}}
    evicted, going = _pod("auth", 2, "Failed", terminated={}), _pod("auth", 3, "Pending", **pulling)
    going["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    items = [
        *(_pod("auth", 1, **runs), evicted, going, _workload("Deployment", "auth", 1, 1)),
        *(_pod("metering", 1, **runs), _pod("metering", 2, "Pending", **pulling)),
        *(_pod("metering", 3, terminated={"exitCode": 2}), _workload("Deployment", "metering", 3, 1)),
        *(_pod("nats", 0, **runs), _pod("nats", 1, "Pending"), _workload("StatefulSet", "nats", 3, 0)),
        # A new release without an image, while the old one has all of its pods.
        *(_pod("registry", 1, **runs), _pod("registry", 2, "Pending", **pulling)),
        _workload("Deployment", "registry", 1, 1),
        # The pods are not even there: a quota, say.
        *(_pod("gateway-ws", 1, **runs), _workload("Deployment", "gateway-ws", 2, 1)),
    ]
    asked = "--namespace artcafe get pods,deployments,statefulsets --output json"
    _stand_in(tmp_path, "kubectl", asked, json.dumps({"items": items}), monkeypatch)
    way = Kubernetes("artcafe", None)
    assert way.absent("auth") == [] and way.replicas("auth") == ["auth-1"]
    assert way.replicas("metering") == ["metering-1"]
    (finding,) = checks.service(way, "metering")[0]
    assert (finding.check, finding.status) == ("replicas", "fail")
    assert finding.detail == "1 of 3 are ready; metering-2: ImagePullBackOff; metering-3: ended with 2"
    assert way.absent("nats") == ["0 of 3 are ready", "nats-1: Pending, Unschedulable"]
    assert "describe pods" in finding.cure
    assert way.absent("registry") == ["registry-2: ImagePullBackOff"]
    assert way.absent("gateway-ws") == ["1 of 2 are ready"]


def _report(where: str, version: str = "1.0", offset: float | None = 0.0) -> checks.Report:
    return {"where": where, "version": version, "clock_offset": offset, "findings": []}


def test_versions_and_clocks_are_compared() -> None:
    """An upgrade that was not finished, and a machine whose clock is off, are seen by comparing only."""
    same = checks.compared([_report("auth"), _report("registry", offset=0.4)])
    assert [(f.check, f.status) for f in same] == [("versions", "ok"), ("clocks", "ok")]
    mixed = checks.compared(
        [_report("auth"), _report("registry", "1.1", 2.5), _report("metering", offset=None)]
    )
    assert [(f.check, f.status) for f in mixed] == [("versions", "warn"), ("clocks", "warn")]
    apart = checks.compared([_report("auth"), _report("registry", offset=-11.0)])
    assert [(f.check, f.status) for f in apart] == [("versions", "ok"), ("clocks", "fail")]
    assert mixed[0].detail == "1.0: auth, metering; 1.1: registry"
    assert checks.compared([]) == []
