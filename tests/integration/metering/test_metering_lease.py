"""Leases on real Valkey: who works, and for how long the others are kept from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_devstack.servers import RunningServer
from artcafe_metering.lease import Lease
from artcafe_metering.valkey import Valkey

KEY = "lease:task"
PATIENCE_SECONDS = 30.0


class Job:
    """Something that goes on until it is told to end, or is broken off."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.is_broken_off = False

    async def __call__(self) -> None:
        """Go on."""
        self.begun.set()
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.is_broken_off = True
            raise


@pytest.fixture
async def client(valkey: RunningServer) -> Any:
    """Connect to Valkey as the service does."""
    client = Valkey(valkey.url, 1)
    yield client
    await client.close()


async def test_one_works_and_gives_the_lease_back(client: Valkey, store: Any) -> None:
    """While one is at it nobody else is; at its end the next one may at once."""
    job, other = Job(), Job()
    other.end.set()
    working = asyncio.create_task(Lease(client, "task", 600).work(job))
    await job.begun.wait()
    assert not await Lease(client, "task", 600).work(other)
    assert not other.begun.is_set()
    assert await store.redis.exists(KEY)
    job.end.set()
    assert await working
    assert not await store.redis.exists(KEY)
    assert await Lease(client, "task", 600).work(other)


async def test_a_lease_is_given_back_however_the_work_ends(client: Valkey, store: Any) -> None:
    """An error of the work, and the end of the process's tasks, leave no lease behind."""

    async def fail() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await Lease(client, "task", 600).work(fail)
    assert not await store.redis.exists(KEY)
    job = Job()
    working = asyncio.create_task(Lease(client, "task", 600).work(job))
    await job.begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert job.is_broken_off
    assert not await store.redis.exists(KEY)


async def test_a_lease_is_renewed(client: Valkey, store: Any, until: Any) -> None:
    """Work may take longer than the lease."""
    job = Job()
    working = asyncio.create_task(Lease(client, "task", 6).work(job))
    await job.begun.wait()
    # So that a renewal shows: it brings the time back to what a lease has.
    await store.redis.persist(KEY)

    async def expires() -> bool:
        return bool(await store.redis.ttl(KEY) > 0)

    await until(expires)
    job.end.set()
    assert await working


async def test_a_lost_lease_breaks_the_work_off(client: Valkey, store: Any) -> None:
    """Whoever finds another holder stops, and leaves the lease to it."""
    job = Job()
    working = asyncio.create_task(Lease(client, "task", 1).work(job))
    await job.begun.wait()
    await store.redis.set(KEY, "another")
    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(working, PATIENCE_SECONDS)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert job.is_broken_off
    assert await store.redis.get(KEY) == "another"
