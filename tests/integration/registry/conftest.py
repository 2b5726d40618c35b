"""Fixtures of the registry's integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from artcafe_devstack.servers import AwsEndpoint

from .support import Stage, staged


@pytest.fixture
async def stage(nats_url: str, aws_environment: AwsEndpoint) -> AsyncIterator[Stage]:
    """Run a registry on a NATS and a store of real servers; each test has its own, empty tables."""
    async with staged(nats_url) as running:
        yield running
