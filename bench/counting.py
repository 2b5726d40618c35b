"""``python -m bench.counting``: which share of a gateway's CPU time at full load goes into counting usage.

The whole embedded stack under the loads of the fan-out and of the hop. A signal looks into the gateway after
every few milliseconds of its CPU time and notes whether it is at work for usage: counting a message, adding
up what was delivered (also finding out how many bytes), closing spans, storing them in the counter file,
encoding and sending batches. The acknowledgement of NATS, one a batch, is not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from artcafe_devstack.devstack import DevStack
from bench.generator import Generator
from bench.metering import RESULTS
from bench.peers.artcafe import ArtCafe
from bench.processes import cpu_seconds, machine_facts, split_cores

TARGET_PERCENT = 3.0
GATEWAY = "gateway-1"
FLOOD_SECONDS = 5.0
SAMPLED = Path(__file__).parent / "sampled"


@dataclass(frozen=True, slots=True)
class Load:
    """One publisher to so many receivers, with so many messages under way."""

    receivers: int
    in_flight: int

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"1 to {self.receivers}, {self.in_flight} in flight"


LOADS = (Load(200, 20), Load(200, 1), Load(1, 20))


@dataclass(frozen=True, slots=True)
class Share:
    """What was seen under one load."""

    load: Load
    samples: int
    # By function, the innermost that is at work for usage.
    functions: dict[str, int]
    cpu_seconds: float
    messages: int

    @property
    def usage(self) -> int:
        """The samples that are usage's."""
        return sum(self.functions.values())

    @property
    def percent(self) -> float:
        """The share of usage."""
        return 100 * self.usage / self.samples

    @property
    def error(self) -> float:
        """Twice the standard error of the share, in percent."""
        part = self.usage / self.samples
        return float(200 * (part * (1 - part) / self.samples) ** 0.5)


def measure(folder: Path, load: Load, seconds: float) -> Share:
    """Run one load on a stack of its own."""
    samples = folder / "samples.json"
    settings = {
        "auth": {"AUTH_ADDRESS_RATE": "0"},
        GATEWAY: {"PYTHONPATH": str(SAMPLED), "BENCH_SAMPLES": str(samples)},
    }
    core, generator_core = split_cores()
    with (
        Generator(generator_core, spin=core != generator_core) as generator,
        DevStack(folder, gateways=2, env=settings) as stack,
    ):
        peer = ArtCafe(stack)
        generator.open("publisher", [peer.publisher("fan")])
        generator.open("receivers", peer.receivers("fan", load.receivers))
        generator.flood("publisher", "receivers", load.in_flight, 1.0)
        before, cpu_before = Counter(json.loads(samples.read_text())), cpu_seconds(stack.pids[GATEWAY])
        messages = 0
        for _ in range(max(1, round(seconds / FLOOD_SECONDS))):
            # Between these the generator answers pings.
            messages += generator.flood("publisher", "receivers", load.in_flight, FLOOD_SECONDS).count
        after, cpu_after = Counter(json.loads(samples.read_text())), cpu_seconds(stack.pids[GATEWAY])
    functions = after - before
    return Share(load, functions.pop("all"), dict(functions), cpu_after - cpu_before, messages)


def main() -> int:
    """Measure, print a table and keep a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.counting", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each load")
    parser.add_argument("--only", type=int, choices=range(len(LOADS)), help="one load, by number")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args()
    os.sched_setaffinity(0, {split_cores()[0]})
    print(f"counting: share of the gateway's CPU time, target {TARGET_PERCENT:g} %")
    shares = []
    for load in LOADS if options.only is None else LOADS[options.only : options.only + 1]:
        with tempfile.TemporaryDirectory(prefix="artcafe-bench-") as folder:
            share = measure(Path(folder), load, options.seconds)
        shares.append(share)
        met = "met" if share.percent <= TARGET_PERCENT else "NOT MET"
        per_message = 1e6 * share.cpu_seconds / share.messages
        print(
            f"  {load.name:26} {share.percent:5.2f} ± {share.error:.2f} % of {share.samples} samples"
            f"   {per_message:8.1f} µs/message   {met}",
            flush=True,
        )
        for name, count in sorted(share.functions.items(), key=lambda each: -each[1]):
            print(f"      {100 * count / share.samples:5.2f} %  {name}", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / time.strftime("counting-%Y%m%dT%H%M%SZ.json", time.gmtime())
    found = {"facts": machine_facts(), "shares": [asdict(each) for each in shares]}
    path.write_text(json.dumps(found, indent=1))
    print(f"kept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
