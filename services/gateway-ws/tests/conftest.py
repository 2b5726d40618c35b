"""Fixtures of the gateway's unit tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The tests are no package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_fakes import FakeBus, FakeClock, House


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that stands still until it is moved."""
    return FakeClock()


@pytest.fixture
async def bus() -> FakeBus:
    """Give a NATS in memory."""
    return FakeBus()


@pytest.fixture
async def house(bus: FakeBus, clock: FakeClock) -> House:
    """Give a gateway's parts without sockets."""
    return House(bus, clock)
