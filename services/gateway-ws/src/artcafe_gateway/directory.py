"""What the gateway remembers of registry's data: tenants, channels and agents' grants.

Everything here was asked for once and is dropped when registry announces a change, or when the bus was away
and an announcement may have been missed. Nothing is remembered as missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from artcafe_common.allowance import Allowance, Allowances
from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.registry import (
    GET_GRANTS,
    GET_TENANT,
    RESOLVE_CHANNEL,
    Changed,
    ChannelInfo,
    GetGrants,
    GetTenant,
    Grant,
    Limits,
    ResolveChannel,
    TenantInfo,
)
from artcafe_common.errors import ErrorCode, ServiceError
from artcafe_common.quota import TokenBucket
from artcafe_common.rpc import call

CHANNELS_MAX = 200_000
BURST_SECONDS = 2.0

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Tenant:
    """A tenant with its month, and its rate of messages in this process."""

    __slots__ = ("_clock", "bucket", "info", "month")

    def __init__(self, info: TenantInfo, clock: Clock, month: Allowance) -> None:
        self._clock = clock
        self.month = month
        self.bucket: TokenBucket | None = None
        self.info = info
        self.update(info)

    @property
    def limits(self) -> Limits:
        """What its plan allows."""
        return self.info.limits

    def update(self, info: TenantInfo) -> None:
        """Take over what registry says now; the rate goes on unless it changed."""
        rate = info.limits.messages_per_second
        if rate is None:
            self.bucket = None
        elif self.bucket is None or self.bucket.rate != rate:
            self.bucket = TokenBucket(rate, max(1.0, rate * BURST_SECONDS), self._clock.monotonic())
        self.month.update(info.plan, info.limits.messages_per_month)
        self.info = info

    def take_message(self) -> None:
        """Hold one message to the tenant's month and rate; once it is sent it counts in `month`.

        Raises: ServiceError ``resource_exhausted``, with a quota where the month is used up.
        """
        self.month.check()
        if self.bucket is not None and not self.bucket.take(self._clock.monotonic()):
            raise ServiceError(ErrorCode.RESOURCE_EXHAUSTED, "too many messages per second", retry_after=1.0)


class _Remembered(Generic[KeyT, ValueT]):
    """Values by key, asked for once however many wait for the answer to the same question."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: dict[KeyT, ValueT] = {}
        # Key -> question -> who asks it.
        self._asking: dict[KeyT, dict[str, asyncio.Task[ValueT]]] = {}

    def peek(self, key: KeyT) -> ValueT | None:
        return self._known.get(key)

    async def get(self, key: KeyT, ask: Callable[[KeyT], Awaitable[ValueT]], question: str = "get") -> ValueT:
        known = self._known.get(key)
        if known is not None:
            return known
        questions = self._asking.setdefault(key, {})
        asking = questions.get(question)
        if asking is None:
            asking = asyncio.create_task(self._fetch(key, ask, question))
            questions[question] = asking
            # Everyone who waited may have gone.
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asking)

    def forget(self, key: KeyT) -> None:
        self._known.pop(key, None)
        # An answer on its way may be older than the change.
        self._asking.pop(key, None)

    def forget_all(self) -> None:
        self._known.clear()
        self._asking.clear()

    async def _fetch(self, key: KeyT, ask: Callable[[KeyT], Awaitable[ValueT]], question: str) -> ValueT:
        me = asyncio.current_task()
        value: ValueT | None = None
        try:
            value = await ask(key)
            return value
        finally:
            questions = self._asking.get(key, {})
            if questions.get(question) is me:
                del questions[question]
                if not questions:
                    del self._asking[key]
                if value is not None:
                    self._remember(key, value)

    def _remember(self, key: KeyT, value: ValueT) -> None:
        if len(self._known) >= self._capacity:
            self._known.pop(next(iter(self._known)))
        self._known[key] = value


class Directory:
    """Tenants, channels and grants, as this process knows them."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self.months = Allowances(bus, clock)
        self._tenants: dict[str, Tenant] = {}
        self._infos: _Remembered[str, TenantInfo] = _Remembered(CHANNELS_MAX)
        self._channels: _Remembered[tuple[str, str], ChannelInfo] = _Remembered(CHANNELS_MAX)

    async def tenant(self, tenant_id: str) -> Tenant:
        """Return a tenant. Raises: ServiceError ``not_found``, ``unavailable``."""
        info = await self._infos.get(tenant_id, self._ask_tenant)
        # What was on its way when the tenant changed is older than what may be known by now.
        info = self._infos.peek(tenant_id) or info
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = Tenant(info, self._clock, self.months.of(tenant_id))
        elif tenant.info is not info:
            # Every session of the tenant holds this object: they all see the change.
            tenant.update(info)
        await self.months.know(tenant.month)
        return tenant

    async def grants(self, tenant_id: str, agent_id: str) -> dict[str, Grant]:
        """Ask for an agent's member rows, by channel."""
        reply = await call(self._bus, GET_GRANTS, GetGrants(tenant_id, agent_id))
        return {grant.channel_id: grant for grant in reply.grants}

    def uses(self, tenant_id: str) -> bool:
        """Tell whether a tenant has been needed here."""
        return tenant_id in self._tenants

    def known_channel(self, tenant_id: str, channel_id: str) -> ChannelInfo | None:
        """Return a channel where it is known without asking."""
        return self._channels.peek((tenant_id, channel_id))

    async def channel(self, tenant_id: str, channel_id: str, create_for: str | None = None) -> ChannelInfo:
        """Return a channel, created for an agent where the tenant allows it.

        Raises: ServiceError ``not_found``, ``resource_exhausted`` with a quota, ``unavailable``.
        """
        key = (tenant_id, channel_id)
        if create_for is None:
            return await self._channels.get(key, self._ask_channel)

        async def create(_: tuple[str, str]) -> ChannelInfo:
            request = ResolveChannel(tenant_id=tenant_id, channel_id=channel_id, create_for=create_for)
            return await call(self._bus, RESOLVE_CHANNEL, request)

        return await self._channels.get(key, create, "create")

    def forget(self, changed: Changed) -> None:
        """Drop what an announced change makes old."""
        if changed.kind == "tenant":
            self._infos.forget(changed.tenant_id)
        elif changed.kind == "channel" and changed.action != "created":
            # Of a new channel nothing old is known, since nothing is remembered as missing.
            self._channels.forget((changed.tenant_id, changed.id))

    def forget_all(self) -> None:
        """Drop everything: announcements may have been missed."""
        self._infos.forget_all()
        self._channels.forget_all()

    def drop_tenant(self, tenant_id: str) -> None:
        """Free what is kept for a tenant that has no session here any more."""
        self._tenants.pop(tenant_id, None)
        self._infos.forget(tenant_id)

    async def _ask_tenant(self, tenant_id: str) -> TenantInfo:
        return await call(self._bus, GET_TENANT, GetTenant(tenant_id))

    async def _ask_channel(self, key: tuple[str, str]) -> ChannelInfo:
        return await call(self._bus, RESOLVE_CHANNEL, ResolveChannel(tenant_id=key[0], channel_id=key[1]))
