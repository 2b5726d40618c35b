"""What is measured; each module has one scenario, a function from the lab to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.findings import Outcome
from bench.lab import Lab
from bench.scenarios.agents import agents
from bench.scenarios.fanout import fanout
from bench.scenarios.growth import growth
from bench.scenarios.hop import hop
from bench.scenarios.preview import preview
from bench.scenarios.rest import rest

# In this order, since the idle connections of one would be in the way of another.
SCENARIOS: Mapping[str, Callable[[Lab], Outcome]] = {
    "fanout": fanout,
    "hop": hop,
    "preview": preview,
    "rest": rest,
    "agents": agents,
    "growth": growth,
}
