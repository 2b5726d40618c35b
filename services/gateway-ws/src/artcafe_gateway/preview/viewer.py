"""One dashboard's preview: what of its messages it is shown, and what it is told of the rest.

Every message that was wanted is shown or counted, by the reason why it was not shown. Nothing waits for a
socket: while it takes no more, messages are left out, and what is to be told is told when it reads again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from artcafe_common.clock import Clock, rfc3339
from artcafe_common.quota import TokenBucket
from artcafe_gateway import metrics, wire
from artcafe_gateway.connection import Connection
from artcafe_gateway.frames import event
from artcafe_gateway.preview.breaker import Breaker, State
from artcafe_gateway.preview.relief import Relief
from artcafe_gateway.preview.wanted import Wanted

NOTICE_SECONDS = 1.0
# A ping that is not answered for so long says that nobody reads, before the socket's buffers are full.
PING_SECONDS = 5.0
# One write; between two it is looked whether the socket takes more.
WRITE_BYTES = 65_536
BATCH_MESSAGES = 50
UNTOLD_MAX = 64

# Why a message was not shown.
SAMPLE = "sample"
RATE_LIMIT = "rate_limit"
TENANT_RATE_LIMIT = "tenant_rate_limit"
SLOW_DASHBOARD = "slow_dashboard"
OVERLOAD = "overload"
TAP_CLOSED = "tap_closed"
COUNTS_ONLY = "counts_only"
_LEFT_OUT = {
    reason: metrics.PREVIEW_DROPPED.labels(reason)
    for reason in (SAMPLE, RATE_LIMIT, TENANT_RATE_LIMIT, SLOW_DASHBOARD, OVERLOAD, TAP_CLOSED, COUNTS_ONLY)
}

_STATES = {state: metrics.PREVIEW_STATES.labels(state) for state in State}


class Viewer:
    """A preview; it lasts as long as its session, whatever it is changed to.

    `rests` is why it is shown nothing more for now, empty while it may be shown something.
    """

    def __init__(
        self, tenant_id: str, user_id: str, connection: Connection, clock: Clock, bucket: TokenBucket
    ) -> None:
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.connection = connection
        self.wanted = Wanted()
        self.by_message = False
        self.bucket = bucket
        self.data_bytes = 0
        self.rests = ""
        self.state = State.CLOSED
        # Of what is watched now, for the record.
        self.started_at = 0.0
        self.shown = self.left_out = self.shown_bytes = 0
        self._clock = clock
        self._breaker = Breaker(clock)
        self._out: list[bytes] = []
        self._left: Counter[str] = Counter()
        # How many of these were presence, which the platform itself tells.
        self._left_presence: Counter[str] = Counter()
        self._left_since = self._noticed_at = clock.monotonic()
        self._relieved = False
        self._untold: deque[bytes] = deque(maxlen=UNTOLD_MAX)
        # How many were wanted, and how many of these the breaker was asked for: each n-th is chosen.
        self._seen = self._asked = 0
        # Messages wanted since the last notice, presence apart, and each second before it: what passes by a
        # closed tap.
        self._matched = 0
        self._pace = self._unseen = 0.0
        # Whether the tap was closed since the last notice, so that this time says nothing of the pace.
        self._deaf = False

    def change(self, wanted: Wanted, data_bytes: int) -> None:
        """Show something else from now on."""
        self.wanted = wanted
        self.by_message = wanted.by_message
        self.data_bytes = data_bytes
        self.started_at = self._clock.now()
        self.shown = self.left_out = self.shown_bytes = 0
        self._seen = self._matched = 0
        self._pace = 0.0
        self.rests = self._resting()

    def takes(self, frame: bytes, now: float, tenant_bucket: TokenBucket, presence: bool = False) -> bool:
        """Tell whether a message of a wanted channel is shown; else it is counted where it was wanted."""
        if self.by_message and not self.wanted.takes(frame):
            return False
        self._matched += not presence
        chosen = self._seen % self.wanted.sample == 0
        self._seen += 1
        if not chosen:
            self._leave(SAMPLE, 1, presence)
            return False
        if not self.rests:
            if self.connection.blocked:
                self.rests = SLOW_DASHBOARD
            elif not self._breaker_takes():
                self._leave(SLOW_DASHBOARD, 1, presence)
                return False
            elif not self.bucket.take(now):
                self.rests = RATE_LIMIT
            elif not tenant_bucket.take(now):
                self.rests = TENANT_RATE_LIMIT
            else:
                return True
        self._leave(self.rests, 1, presence)
        return False

    def passed(self, count: int, presence: bool = False) -> None:
        """Count messages of wanted channels that came while this preview rested."""
        every = self.wanted.sample
        chosen = -(-(self._seen + count) // every) - -(-self._seen // every)
        self._seen += count
        self._matched += 0 if presence else count
        self._leave(self.rests or RATE_LIMIT, chosen, presence)
        self._leave(SAMPLE, count - chosen, presence)

    def show(self, text: bytes) -> None:
        """Send a message with the next `flush`."""
        self._out.append(text)

    def flush(self) -> None:
        """Send what is to be shown, as far as the socket takes it."""
        if not self._out:
            return
        texts, self._out = self._out, []
        while texts:
            count, size = _portion(texts)
            if self.connection.blocked:
                self.rests = SLOW_DASHBOARD
                self._leave(SLOW_DASHBOARD, len(texts))
                return
            portion, texts = texts[:count], texts[count:]
            self.connection.write(_batch(portion) if self.wanted.batch else _frames(portion))
            self.shown += count
            self.shown_bytes += size
            metrics.PREVIEW_SHOWN.inc(count)

    def tick(self, relief: Relief) -> None:
        """Look after the breaker, and send what is due; to be called some times a second."""
        now = self._clock.monotonic()
        connection = self.connection
        unanswered = connection.ping_unanswered and now - connection.pinged_at > PING_SECONDS
        self._breaker.tick(connection.blocked or unanswered)
        state = self._breaker.state if relief is Relief.NONE else State.OPEN
        # What ends is told with the reason for which it began.
        reason = SLOW_DASHBOARD if relief is Relief.NONE and not self._relieved else OVERLOAD
        self._relieved = relief is not Relief.NONE
        if state is not self.state:
            self._untold.append(
                event(
                    "topic_preview_state",
                    state=state,
                    previous=self.state,
                    reason=reason,
                    timestamp=rfc3339(self._clock.now()),
                )
            )
            self.state = state
            _STATES[state].inc()
        self.rests = self._resting()
        self.flush()
        self.tell_states()
        if now - self._noticed_at >= NOTICE_SECONDS:
            self.tell_left()

    def unseen(self, seconds: float) -> None:
        """Count what passes by while the tap is closed, by what came before: an estimate."""
        self._deaf = True
        self._unseen += self._pace * seconds
        whole = int(self._unseen)
        self._unseen -= whole
        self._leave(TAP_CLOSED, whole)

    def tell_states(self) -> None:
        """Tell of every change of state, where the dashboard reads."""
        while self._untold and not self.connection.blocked:
            self.connection.send(self._untold.popleft())

    def tell_left(self) -> None:
        """Tell what was left out since it was last told, where the dashboard reads."""
        now = self._clock.monotonic()
        passed = now - self._noticed_at
        if passed > 0 and not self._deaf:
            self._pace = self._matched / passed
        self._deaf = False
        self._matched = 0
        self._noticed_at = now
        if not self._left or self.connection.blocked:
            return
        window = round((now - self._left_since) * 1000)
        for reason, count in self._left.items():
            more: dict[str, Any] = {"estimated": True} if reason == TAP_CLOSED else {}
            if self._left_presence[reason]:
                more["presence"] = self._left_presence[reason]
            self.connection.send(
                event("topic_preview_dropped", count=count, reason=reason, window_ms=window, **more)
            )
        self._left.clear()
        self._left_presence.clear()

    def _resting(self) -> str:
        if self.wanted.counts_only:
            return COUNTS_ONLY
        if self.state is not State.OPEN:
            return ""
        return OVERLOAD if self._relieved else SLOW_DASHBOARD

    def _breaker_takes(self) -> bool:
        one_in = self._breaker.one_in
        if one_in == 1:
            return True
        self._asked += 1
        return one_in > 0 and self._asked % one_in == 1

    def _leave(self, reason: str, count: int, presence: bool = False) -> None:
        if count:
            if not self._left:
                self._left_since = self._clock.monotonic()
            self._left[reason] += count
            if presence:
                self._left_presence[reason] += count
            self.left_out += count
            _LEFT_OUT[reason].inc(count)


def _portion(texts: list[bytes]) -> tuple[int, int]:
    """Return how many texts go into one write, at least one, and their bytes."""
    count = size = 0
    for text in texts[:BATCH_MESSAGES]:
        if count and size + len(text) > WRITE_BYTES:
            break
        count += 1
        size += len(text)
    return count, size


def _frames(texts: Iterable[bytes]) -> bytes:
    return b"".join([wire.text_frame(text) for text in texts])


def _batch(texts: Iterable[bytes]) -> bytes:
    return wire.text_frame(b'{"type":"topic_preview_batch","messages":[%b]}' % b",".join(texts))
