"""One publisher, one receiver, two gateways: what a message costs, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bench.findings import Finding, Outcome, against, as_details, cost, remarks_on
from bench.lab import Channel, Lab, Sample
from bench.peers.artcafe import AcrossGateways
from bench.stats import paired_ratio, percentile, spread

CHANNEL_ID = "hop"
IN_FLIGHT = 20
# At most 60 µs on a machine where a bare send costs 7 µs: the limit goes with the machine.
SENDS_LIMIT = 60 / 7
ASGI_LIMIT = 1 / 3
LATENCY_LIMITS = {50.0: 1.5, 99.0: 2.0}


def hop(lab: Lab) -> Outcome:
    """Publish as fast as twenty messages in flight allow, then at a steady rate."""
    lab.artcafe().provision(2)
    ours, nats, asgi, send = AcrossGateways(lab.artcafe()), lab.nats(), lab.asgi(), lab.bare_send(1)
    peers = (ours, nats, asgi, send)
    channels = [lab.sockets(peer, CHANNEL_ID, 1) for peer in peers]
    loads: dict[str, Callable[[Channel], Sample]] = {
        f"1 to 1, {IN_FLIGHT} in flight": partial(lab.flood, in_flight=IN_FLIGHT),
        f"1 to 1, {lab.effort.rate:g}/s": lab.paced,
    }
    findings: list[Finding] = []
    remarks: list[str] = []
    details = {}
    for what, load in loads.items():
        lab.report(f"{what}, through two processes")
        samples = lab.rounds(channels, load)
        findings += [cost(f"{what}: {peer.title}", samples[peer.name], "µs CPU/message") for peer in peers]
        findings += [
            against(f"{what}: ArtCafe / bare send()", samples["artcafe"], samples["send"], SENDS_LIMIT),
            against(f"{what}: ArtCafe / {asgi.title}", samples["artcafe"], samples["asgi"], ASGI_LIMIT),
        ]
        for percent, limit in LATENCY_LIMITS.items() if load == lab.paced else ():
            latencies = {name: _latencies(of_peer, percent) for name, of_peer in samples.items()}
            findings += [
                Finding(
                    what=f"{what}: latency p{percent:g}, {peer.title}",
                    value=spread(latencies[peer.name]),
                    unit="ms",
                )
                for peer in (ours, nats, asgi)
            ]
            ratio = paired_ratio(latencies["artcafe"], latencies["nats"])
            compared = f"{what}: latency p{percent:g}, ArtCafe / nats-server"
            findings.append(Finding(what=compared, value=ratio, unit="x", limit=limit))
        remarks += remarks_on(samples)
        details[what] = as_details(samples)
    return Outcome(scenario="hop", findings=findings, details=details, remarks=remarks)


def _latencies(samples: Sequence[Sample], percent: float) -> list[float]:
    return [percentile(sample.latencies, percent) * 1000 for sample in samples]
