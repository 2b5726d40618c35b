"""How much of its monthly messages each tenant has used: known in memory to every process that takes them.

A process counts what it accepts itself, and asks metering once a second for the tenants in which something
happened, so that it knows within seconds what others have accepted. `Allowance.used` is never more than was
really accepted: nobody is refused too early, and where one process accepts all of a tenant's messages, not
one is too many. While metering is away each process goes on from what it knew. How far a tenant can get
beyond its limit is in docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from artcafe_common.bus import Bus
from artcafe_common.clock import Clock
from artcafe_common.contracts.metering import GET_MONTHS, GetMonths
from artcafe_common.errors import ServiceError, quota_error
from artcafe_common.log import Repeats
from artcafe_common.rpc import call

logger = logging.getLogger(__name__)

RESOURCE = "messages_per_month"
# Percentages of the limit that are told of when they are reached.
THRESHOLDS = (80, 100)
ASK_SECONDS = 1.0
ANSWER_SECONDS = 1.0
# So long a tenant's first user waits for the first answer; without one it goes on from zero.
FIRST_SECONDS = 1.5
TENANTS_PER_QUESTION = 500
_UNSETTLED = -1

# Gets the allowance and the percentage (of `THRESHOLDS`, or 0) that it has risen or fallen to.
Listener = Callable[["Allowance", int], None]


class Allowance:
    """One tenant's messages in the running month, as this process knows them."""

    __slots__ = (
        "__weakref__",
        "_allowances",
        "asked",
        "level",
        "limit",
        "plan",
        "settled",
        "tenant_id",
        "used",
        "watchers",
    )

    def __init__(self, tenant_id: str, allowances: Allowances) -> None:
        self.tenant_id = tenant_id
        self.plan = ""
        self.limit = math.inf
        # Whoever accepts a message adds it here.
        self.used = 0
        # The threshold that was told of last.
        self.level = 0
        # How many want to hear of it although nothing is accepted here.
        self.watchers = 0
        # What `used` was when metering last answered.
        self.settled = _UNSETTLED
        self.asked = asyncio.Event()
        self._allowances = allowances

    @property
    def month(self) -> str:
        """The running month, ``YYYY-MM`` in UTC."""
        return self._allowances.month

    def update(self, plan: str, limit: int | None) -> None:
        """Go on with what the plan says now; `limit` is messages per month, None where there is none."""
        self.plan = plan
        new = math.inf if limit is None else limit
        if new != self.limit:
            self.limit = new
            self.settled = _UNSETTLED

    def check(self) -> None:
        """Raise ServiceError ``resource_exhausted`` with the quota where the month is used up."""
        if self.used >= self.limit:
            # The month may have ended since this was last looked at.
            self._allowances.turn()
            if self.used >= self.limit:
                raise quota_error(RESOURCE, self.used, int(self.limit), self.plan)

    def reached(self) -> int:
        """Return the highest threshold that is reached; 0 for none."""
        return max((each for each in THRESHOLDS if 100 * self.used >= each * self.limit), default=0)


class Allowances:
    """The allowances of the tenants that this process serves; one is forgotten when nobody holds it."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._known: WeakValueDictionary[str, Allowance] = WeakValueDictionary()
        self._listeners: list[Listener] = []
        self._new = asyncio.Event()
        self._repeats = Repeats(clock=clock)
        # Of the running month, epoch seconds.
        self._begins = self._ends = -math.inf
        self.month = ""
        self.turn()

    def of(self, tenant_id: str) -> Allowance:
        """Return the allowance of a tenant: for all who ask, the same one."""
        allowance = self._known.get(tenant_id)
        if allowance is None:
            allowance = self._known[tenant_id] = Allowance(tenant_id, self)
        return allowance

    def on_level(self, listener: Listener) -> None:
        """Call a function when a tenant reaches a threshold, and when it is below one again."""
        self._listeners.append(listener)

    async def know(self, allowance: Allowance) -> None:
        """Wait until metering was asked about a tenant for the first time, but not for long."""
        if allowance.limit == math.inf or allowance.asked.is_set():
            return
        self._new.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await allowance.asked.wait()

    def turn(self) -> None:
        """Begin a new month where the last one has ended, or the clock was put back to before it began."""
        now = self._clock.now()
        if self._begins <= now < self._ends:
            return
        self.month, self._begins, self._ends = _month_of(now)
        for allowance in self._known.values():
            allowance.used = 0
            allowance.settled = _UNSETTLED

    async def run(self) -> None:
        """Keep up with metering until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + ASK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._new.wait()
            self._new.clear()
            # However many new tenants come, those that are known have their turn.
            early = loop.time() < due
            if not early:
                due = loop.time() + ASK_SECONDS
            await self.refresh(fresh_only=early)

    async def refresh(self, *, fresh_only: bool = False) -> None:
        """Ask metering where something happened (or only for those never asked for); tell of thresholds."""
        self.turn()
        due = [
            allowance
            for allowance in self._known.values()
            if (not allowance.asked.is_set() if fresh_only else _is_due(allowance))
        ]
        limited = [allowance for allowance in due if allowance.limit != math.inf]
        try:
            for first in range(0, len(limited), TENANTS_PER_QUESTION):
                await self._ask(limited[first : first + TENANTS_PER_QUESTION])
        except ServiceError as error:
            held_back = self._repeats.due(error.code)
            if held_back is not None:
                logger.warning("months_not_known", extra={"code": error.code, "held_back": held_back})
        for allowance in due:
            allowance.asked.set()
            if allowance.limit == math.inf:
                allowance.settled = allowance.used
            self._tell(allowance)

    async def _ask(self, allowances: Sequence[Allowance]) -> None:
        month, before = self.month, [allowance.used for allowance in allowances]
        request = GetMonths(month=month, tenant_ids=[allowance.tenant_id for allowance in allowances])
        reply = await call(self._bus, GET_MONTHS, request, timeout=ANSWER_SECONDS)
        self.turn()
        if self.month != month:
            return
        for allowance, used in zip(allowances, before, strict=True):
            # Metering does not have what was accepted in the last moments, neither here nor elsewhere.
            counted = reply.messages.get(allowance.tenant_id, 0)
            allowance.used = max(allowance.used, counted)
            allowance.settled = max(used, counted)

    def _tell(self, allowance: Allowance) -> None:
        level, before = allowance.reached(), allowance.level
        allowance.level = level
        rising = [each for each in THRESHOLDS if before < each <= level]
        for percent in rising or ([level] if level < before else []):
            for listener in self._listeners:
                listener(allowance, percent)


def _is_due(allowance: Allowance) -> bool:
    return allowance.used != allowance.settled or allowance.watchers > 0


def _month_of(now: float) -> tuple[str, float, float]:
    """Return the month in which an epoch time lies, when it begins and when it ends."""
    moment = datetime.fromtimestamp(now, UTC)
    first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return f"{moment:%Y-%m}", first.timestamp(), following.timestamp()
