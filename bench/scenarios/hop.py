"""One publisher, one receiver, two gateways: what a message costs and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence

from bench.findings import Finding, Outcome, against, as_details, cost, remarks_on
from bench.lab import Lab, Sample
from bench.peers.artcafe import AcrossGateways
from bench.stats import Spread, paired_ratio, percentile, spread

CHANNEL_ID = "hop"
# The target is 60 µs on a machine where a bare send costs 7 µs: it scales with the machine.
SENDS_LIMIT = 60 / 7
ASGI_LIMIT = 1 / 3
LATENCY_LIMITS = {50.0: 1.5, 99.0: 2.0}


def hop(lab: Lab) -> Outcome:
    """Publish at a steady rate through each peer in turn."""
    lab.artcafe().provision(2)
    peers = (AcrossGateways(lab.artcafe()), lab.nats(), lab.asgi(), lab.bare_send(1))
    channels = [lab.sockets(peer, CHANNEL_ID, 1) for peer in peers]
    lab.report(f"1 to 1 through two processes, {lab.effort.rate:g} messages/s")
    samples = lab.rounds(channels, lab.paced)
    ours, nats, asgi, send = (samples[peer.name] for peer in peers)
    what = f"1 to 1, {lab.effort.rate:g}/s"
    findings = [cost(f"{what}: {peer.title}", samples[peer.name], "µs CPU/message") for peer in peers]
    findings += [
        against(f"{what}: ArtCafe / bare send()", ours, send, SENDS_LIMIT),
        against(f"{what}: ArtCafe / {peers[2].title}", ours, asgi, ASGI_LIMIT),
    ]
    for percent, limit in LATENCY_LIMITS.items():
        for peer in peers[:3]:
            findings.append(
                Finding(
                    what=f"{what}: latency p{percent:g}, {peer.title}",
                    value=_latency(samples[peer.name], percent),
                    unit="ms",
                )
            )
        ratio = paired_ratio(_latencies(ours, percent), _latencies(nats, percent))
        findings.append(
            Finding(
                what=f"{what}: latency p{percent:g}, ArtCafe / nats-server",
                value=ratio,
                unit="x",
                limit=limit,
            )
        )
    return Outcome(
        scenario="hop", findings=findings, details=as_details(samples), remarks=remarks_on(samples)
    )


def _latencies(samples: Sequence[Sample], percent: float) -> list[float]:
    return [percentile(sample.latencies, percent) * 1000 for sample in samples]


def _latency(samples: Sequence[Sample], percent: float) -> Spread:
    return spread(_latencies(samples, percent))
