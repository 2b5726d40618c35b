"""A lease in Valkey: of all processes one does a piece of work, and another one when that one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from artcafe_common.errors import ServiceError, unavailable
from artcafe_common.ids import new_ulid
from artcafe_common.starting import cancel_all
from artcafe_metering.valkey import Valkey

# In the time of a lease it is renewed so often.
RENEWALS = 3
# May be sent twice: it takes a free lease, and prolongs one's own.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """The right to do what `name` stands for; a process that is gone loses it after `seconds`."""

    def __init__(self, valkey: Valkey, name: str, seconds: float) -> None:
        self._valkey = valkey
        self._name = f"lease:{name}"
        self._seconds = seconds

    async def work(self, job: Callable[[], Awaitable[None]]) -> bool:
        """Do a job and tell True, or False where another process is at it.

        The lease is renewed while the job goes on, and given back at its end, whatever ends it.

        Raises: what the job raises; ServiceError ``unavailable`` where Valkey is away at the beginning, or
        where the lease was lost to another process, which breaks the job off.
        """
        token = new_ulid()
        working: asyncio.Future[None] | None = None
        try:
            if not await self._hold(token):
                return False
            working = asyncio.ensure_future(job())
            while not working.done():
                await asyncio.wait([working], timeout=self._seconds / RENEWALS)
                if not working.done() and not await self._still_held(token):
                    raise unavailable(self._name)
            working.result()
            return True
        finally:
            if working is not None:
                await cancel_all([working])
            # Where Valkey is away it goes by itself.
            with suppress(ServiceError):
                await self._valkey.read([("EVAL", _GIVE_BACK, 1, self._name, token)])

    async def _hold(self, token: str) -> bool:
        milliseconds = int(1000 * self._seconds)
        (held,) = await self._valkey.read([("EVAL", _HOLD, 1, self._name, token, milliseconds)])
        return bool(held)

    async def _still_held(self, token: str) -> bool:
        try:
            return await self._hold(token)
        except ServiceError:
            # Nobody else can have it before Valkey is back.
            return True
