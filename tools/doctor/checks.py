"""The checks: replicas by their own doctors, NATS and the edge from outside, and all of them side by side."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.error
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from doctor.findings import FAIL, OK, WARN, Finding
from doctor.ways import Way, WayError, fetch

# Tokens are taken within 30 seconds of their time.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 10.0
CERTIFICATE_WARN_DAYS, CERTIFICATE_FAIL_DAYS = 21, 3
ANSWER_SECONDS = 10
# Longer than one look at the suite's health is told to all who ask.
LOOK_AGAIN_SECONDS = 1.2
# On fewer servers an acknowledged message may be lost with one of them.
REPLICAS_WANTED = 3
_GRAVITY = (OK, WARN, FAIL)

Report = dict[str, Any]


def service(way: Way, name: str) -> tuple[list[Finding], list[Report]]:
    """Ask every replica of a service; return what was found and the reports."""
    try:
        replicas, absent = way.replicas(name), way.absent(name)
    except WayError as error:
        return [Finding(name, "replicas", FAIL, str(error), way.start(name))], []
    findings = absences(way, name, replicas, absent) + _number(way, name, len(replicas), len(absent))
    reports: list[Report] = []
    shared: list[Finding] = []
    for replica in replicas:
        where = name if len(replicas) == 1 else replica
        try:
            report: Report = json.loads(way.examine(name, replica))
        except (WayError, ValueError) as error:
            text = str(error) if isinstance(error, WayError) else "its doctor prints no report"
            findings.append(Finding(where, "doctor", FAIL, text, way.start(name)))
            continue
        reports.append(report | {"where": where})
        for each in report["findings"]:
            of_all = each.get("kind") == "shared"
            finding = Finding(name if of_all else where, *_fields(each, way, name, replica))
            (shared if of_all else findings).append(finding)
    return findings + best_of(shared), reports


def absences(way: Way, name: str, replicas: Collection[str], absent: Sequence[str]) -> list[Finding]:
    """Say what does not run of a service, beside what does."""
    if replicas and not absent:
        return []
    text = "; ".join(absent if replicas else ["none runs", *absent])
    return [Finding(name, "replicas", FAIL, text, way.start(name))]


def best_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding of each check: what one of the replicas does for all is as well as the best says."""
    best: dict[str, Finding] = {}
    for finding in findings:
        known = best.get(finding.check)
        if known is None or _GRAVITY.index(finding.status) < _GRAVITY.index(known.status):
            best[finding.check] = finding
    return list(best.values())


def _number(way: Way, name: str, running: int, absent: int) -> list[Finding]:
    """Compare how many replicas there are with what is declared; those that do not run are told already."""
    try:
        declared = way.declared(name)
    except WayError as error:
        return [Finding(name, "replicas", WARN, f"how many are to run cannot be told: {error}")]
    if declared is None:
        return []
    wanted, where = declared
    if 0 < running + absent < wanted:
        return [Finding(name, "replicas", FAIL, f"{running} of {wanted} run", way.start(name))]
    if running > wanted:
        text = f"{running} run, {wanted} are declared: the next start takes the others away"
        return [Finding(name, "replicas", WARN, text, f"set {where} to {running}")]
    return []


def _fields(found: Mapping[str, str], way: Way, name: str, replica: str) -> tuple[str, str, str, str]:
    """Return a finding of a replica; it does not know by what it is run, and what is done there."""
    cure = found.get("cure", "")
    match found.get("kind"):
        case "silent":
            cure = way.wake(name, replica)
        case "files":
            cure = way.more_files()
    return found["check"], found["status"], found["detail"], cure


def compared(reports: Iterable[Report]) -> list[Finding]:
    """Compare what all replicas say: versions and clocks."""
    listed = list(reports)
    findings: list[Finding] = []
    versions: dict[str, list[str]] = {}
    for report in listed:
        versions.setdefault(report["version"], []).append(report["where"])
    if len(versions) == 1:
        findings.append(Finding("all", "versions", OK, f"{next(iter(versions))} everywhere"))
    elif versions:
        text = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(versions.items()))
        findings.append(Finding("all", "versions", WARN, text, "finish the upgrade, or roll it back"))
    offsets = [r["clock_offset"] for r in listed if r.get("clock_offset") is not None]
    if len(offsets) > 1:
        spread = max(offsets) - min(offsets)
        status = FAIL if spread > SKEW_FAIL_SECONDS else WARN if spread > SKEW_WARN_SECONDS else OK
        cure = "" if status == OK else "set the machines' clocks by NTP"
        findings.append(Finding("all", "clocks", status, f"within {spread:.1f} s of each other", cure))
    return findings


def nats(way: Way) -> list[Finding]:
    """Look at the NATS servers: whether they are one cluster, and what they do with what they acknowledge."""
    servers = way.replicas("nats")
    findings = [replace(f, check="servers") for f in absences(way, "nats", servers, way.absent("nats"))]
    sizes: dict[str, int] = {}
    for server in servers:
        where = "nats" if len(servers) == 1 else server
        try:
            about, streams = way.nats_page(server, "/varz"), way.nats_page(server, "/jsz?streams=1&config=1")
        except (WayError, OSError, ValueError) as error:
            cure = way.wake("nats", server)
            findings.append(Finding(where, "server", FAIL, f"cannot be asked: {error}", cure))
            continue
        findings.append(Finding(where, "server", OK, f"version {about['version']}, up {about['uptime']}"))
        findings += _jetstream(where, about, streams)
        if meta := streams.get("meta_cluster"):
            sizes[where] = meta.get("cluster_size", 0)
            if not meta.get("leader"):
                cure = "more than half of the servers must run"
                findings.append(Finding(where, "cluster", FAIL, "has no leader", cure))
        if about.get("slow_consumers"):
            text = f"cut off {about['slow_consumers']} clients that did not keep up"
            findings.append(Finding(where, "clients", WARN, text, "see which service logs nats_lost"))
    if len(servers) > 1 or sizes:
        agreed = set(sizes.values()) == {len(servers)}
        text = f"{len(servers)} servers run, their cluster has {sorted(set(sizes.values())) or 'none'}"
        cure = "" if agreed else "see whether they reach each other (NATS_PEERS, the routes' password)"
        findings.append(Finding("nats", "cluster", OK if agreed else FAIL, text, cure))
    return findings


def _jetstream(where: str, about: Mapping[str, Any], streams: Mapping[str, Any]) -> list[Finding]:
    config = streams.get("config") or {}
    if streams.get("disabled") or not config:
        return [Finding(where, "jetstream", FAIL, "is off", "start it with deploy/nats/nats.conf")]
    at_once = config.get("sync_always", False)
    listed = [
        s for account in streams.get("account_details") or [] for s in account.get("stream_detail") or []
    ]
    alone = sorted(
        {s["name"] for s in listed if s.get("config", {}).get("num_replicas", 1) < REPLICAS_WANTED}
    )
    every = f"every {config.get('sync_interval', 0) / 1e9:.0f} s"
    text = f"writes to disk {'before it acknowledges' if at_once else every}"
    if at_once or (listed and not alone):
        findings = [Finding(where, "sync", OK, text)]
    else:
        cure = (
            "set sync_interval: always in deploy/nats/nats.conf, or three servers and NATS_STREAM_REPLICAS=3"
        )
        lost = (
            f"{text}, and {', '.join(alone) or 'a stream'} is on one server: what it acknowledged can be lost"
        )
        findings = [Finding(where, "sync", FAIL, lost, cure)]
    size = (streams.get("meta_cluster") or {}).get("cluster_size", 1)
    if size >= REPLICAS_WANTED and alone:
        text = f"{', '.join(alone)} on fewer than {REPLICAS_WANTED} of {size} servers"
        findings.append(
            Finding(where, "streams", WARN, text, "set NATS_STREAM_REPLICAS=3 and restart the services")
        )
    used, limit = about.get("jetstream", {}).get("stats", {}).get("storage", 0), config.get("max_storage", 0)
    if limit > 0:
        share = used / limit
        status = WARN if share > 0.8 else OK
        cure = "give its disk more room, then restart it" if status == WARN else ""
        findings.append(
            Finding(where, "storage", status, f"{share:.0%} of {limit / 2**30:.1f} GB used", cure)
        )
    return findings


def edge(url: str | None) -> list[Finding]:
    """Look at the platform as its clients do."""
    if url is None:
        return [Finding("edge", "address", WARN, "is not known", "give it: --edge https://...")]
    parts = urlsplit(url)
    findings = _certificate(parts.hostname or "", parts.port or 443) if parts.scheme == "https" else []
    try:
        # Whose certificate it is, is looked at above; here it is about what is behind it.
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        try:
            health = json.loads(fetch(f"{url}/health", context=unchecked))
        except urllib.error.HTTPError:
            # What took a moment too long is no fault; until then the answer is the same.
            time.sleep(LOOK_AGAIN_SECONDS)
            health = json.loads(fetch(f"{url}/health", context=unchecked))
    except urllib.error.HTTPError as error:
        try:
            health = json.loads(error.read())
            down = [name for name, each in health["services"].items() if each["status"] == "down"]
        except (ValueError, KeyError, TypeError, AttributeError):
            down = []
        text = f"{url}/health answers {error.code}" + (f": {', '.join(down)} down" if down else "")
        findings.append(Finding("edge", "health", FAIL, text, "see to the services that are down"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        findings.append(Finding("edge", "health", FAIL, f"{url} does not answer: {reason}", "start the edge"))
    else:
        findings.append(Finding("edge", "health", OK, f"{url}: {health['status']}"))
    return findings


def _certificate(host: str, port: int) -> list[Finding]:
    try:
        pem = ssl.get_server_certificate((host, port), timeout=ANSWER_SECONDS)
        until = _end_of(pem)
    except (TimeoutError, OSError, ssl.SSLError, ValueError) as error:
        return [Finding("edge", "certificate", FAIL, f"cannot be read: {error}", "see whether the edge runs")]
    days = (until - datetime.now(UTC)).total_seconds() / 86_400
    text = f"valid until {until:%Y-%m-%d} ({days:.0f} days)"
    cure = "put a new certificate in place and recreate the edge: see the runbook"
    if days < CERTIFICATE_FAIL_DAYS:
        return [
            Finding("edge", "certificate", FAIL, text if days > 0 else f"expired on {until:%Y-%m-%d}", cure)
        ]
    if days < CERTIFICATE_WARN_DAYS:
        return [Finding("edge", "certificate", WARN, text, cure)]
    if reason := _distrust(host, port):
        cure = "it must be of this name and come with its whole chain; or clients are given who has signed it"
        return [Finding("edge", "certificate", WARN, f"{text}, but is not trusted here: {reason}", cure)]
    return [Finding("edge", "certificate", OK, text)]


def _distrust(host: str, port: int) -> str | None:
    """Return why a client on this machine refuses the certificate; None where it takes it, or by address."""
    with suppress(ValueError):
        # What runs here is found by its address, for which nobody is given a certificate.
        ip_address(host)
        return None
    try:
        with (
            socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection,
            ssl.create_default_context().wrap_socket(connection, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError as error:
        return str(error)


def _end_of(pem: str) -> datetime:
    """Return until when a certificate is valid. Raises: ValueError, OSError where openssl is missing."""
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate"], input=pem, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.strip())
    text = done.stdout.strip().partition("=")[2]
    return datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
