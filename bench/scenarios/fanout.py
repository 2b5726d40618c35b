"""One publisher, many receivers: what one copy of a message costs the servers."""

from __future__ import annotations

from functools import partial

from bench.findings import Finding, Outcome, against, as_details, cost, remarks_on
from bench.lab import CHANNEL_ID, Lab
from bench.stats import spread

# Messages in flight -> at most so many times nats-server's cost, and so many times a bare send's.
LIMITS: dict[int, tuple[float, float | None]] = {1: (0.65, 2.2), 20: (0.6, None)}


def fanout(lab: Lab) -> Outcome:
    """Measure with one message in flight, and with twenty."""
    receivers = lab.effort.receivers
    lab.artcafe().provision(receivers + 1)
    peers = (lab.artcafe(), lab.nats(), lab.bare_send(receivers))
    channels = [lab.sockets(peer, CHANNEL_ID, receivers) for peer in peers]
    findings: list[Finding] = []
    remarks: list[str] = []
    details = {}
    for in_flight, (nats_limit, send_limit) in LIMITS.items():
        lab.report(f"fan-out to {receivers} receivers, {in_flight} in flight")
        samples = lab.rounds(channels, partial(lab.flood, in_flight=in_flight))
        ours, nats, send = (samples[peer.name] for peer in peers)
        what = f"1 to {receivers}, {in_flight} in flight"
        findings += [cost(f"{what}: {peer.title}", samples[peer.name]) for peer in peers]
        findings += [
            Finding(
                what=f"{what}: ArtCafe's other processes",
                value=spread([sample.beside_us for sample in ours]),
                unit="µs CPU/delivery",
            ),
            against(f"{what}: ArtCafe / nats-server", ours, nats, nats_limit),
            against(f"{what}: ArtCafe / bare send()", ours, send, send_limit),
        ]
        remarks += remarks_on(samples)
        details[f"{in_flight} in flight"] = as_details(samples)
    return Outcome(scenario="fanout", findings=findings, details=details, remarks=remarks)
