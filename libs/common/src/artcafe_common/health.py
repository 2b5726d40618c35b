"""Readiness of a process: what it depends on, and whether that is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from artcafe_common import metrics
from artcafe_common.contracts.platform import Dependency, Health

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS = 1.5

Check = Callable[[], Awaitable[None]]


class Readiness:
    """The checks of one process; each raises where its dependency is away."""

    def __init__(self, service: str, server_id: str, version: str) -> None:
        self._service = service
        self._server_id = server_id
        self._version = version
        self._checks: dict[str, tuple[Check, bool]] = {}
        self._draining = False

    def add(self, name: str, check: Check, *, required: bool = True) -> None:
        """Add a dependency; one that is not required is shown but does not make the process unready."""
        self._checks[name] = (check, required)

    def drain(self) -> None:
        """Report `draining` from now on, so that no new work is sent here."""
        self._draining = True

    async def report(self) -> Health:
        """Run all checks side by side and return the report."""
        dependencies = list(
            await asyncio.gather(
                *(self._run(name, check, required) for name, (check, required) in self._checks.items())
            )
        )
        for dependency in dependencies:
            metrics.DEPENDENCY_UP.labels(dependency.name).set(dependency.status == "up")
        down = any(d.status == "down" and d.required for d in dependencies)
        status: Literal["up", "down", "draining"] = "draining" if self._draining else "down" if down else "up"
        return Health(
            service=self._service,
            server_id=self._server_id,
            version=self._version,
            status=status,
            dependencies=dependencies,
        )

    async def _run(self, name: str, check: Check, required: bool) -> Dependency:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await check()
        except Exception as error:
            # The kind of failure, not its text: this is shown to anyone who may ask for health.
            return Dependency(name=name, status="down", required=required, detail=type(error).__name__)
        return Dependency(name=name, status="up", required=required)
