"""The same fan-out at several sizes: does a copy cost more when there are more of them?"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from statistics import median

from bench.findings import Finding, Outcome, as_details, cost, per_delivery, remarks_on
from bench.lab import Lab
from bench.stats import fixed_and_marginal, paired_ratio, spread

CHANNEL_ID = "growth-{}"
# "Flat or falling", with what rounds differ by.
FLAT = 1.1


def growth(lab: Lab) -> Outcome:
    """Measure each size with one message in flight."""
    sizes = lab.effort.growth
    lab.artcafe().provision(sum(sizes) + len(sizes))
    ours: list[list[float]] = []
    findings: list[Finding] = []
    remarks: list[str] = []
    details = {}
    peers = (lab.artcafe(), lab.nats())
    for size in sizes:
        channels = [lab.sockets(peer, CHANNEL_ID.format(size), size) for peer in peers]
        lab.report(f"growth: {size} receivers")
        samples = lab.rounds(channels, partial(lab.flood, in_flight=1))
        findings += [cost(f"1 to {size}: {peer.title}", samples[peer.name]) for peer in peers]
        ours.append(per_delivery(samples["artcafe"]))
        remarks += remarks_on(samples)
        details[str(size)] = as_details(samples)
    findings += [
        Finding(
            what=f"a copy at {size} receivers / at {before}",
            value=paired_ratio(ours[number], ours[number - 1]),
            unit="x",
            limit=FLAT,
        )
        for number, (before, size) in enumerate(pairwise(sizes), 1)
    ]
    fixed, marginal = fixed_and_marginal(
        sizes, [median(values) * size for values, size in zip(ours, sizes, strict=True)]
    )
    findings += [
        Finding(what="what a message costs before its first copy", value=spread([fixed]), unit="µs CPU"),
        Finding(what="what one more receiver adds", value=spread([marginal]), unit="µs CPU"),
    ]
    return Outcome(scenario="growth", findings=findings, details=details, remarks=remarks)
