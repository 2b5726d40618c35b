"""Results of requests that carried an ``Idempotency-Key``, kept for a day, in DynamoDB."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

from artcafe_common.dynamo import ConditionFailed, Item
from artcafe_registry.store.tables import Tables

KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of the first request with a key.

    `request` names what was asked for and the key it came with; `digest` is of its body. `state` is
    ``started`` until the message is on its way. Times are epoch seconds.
    """

    tenant_id: str
    request: str
    digest: str
    message_id: str
    accepted_at: float
    state: Literal["started", "done"] = "started"
    tried_at: float


class ReplayStore:
    """Reads and writes results."""

    def __init__(self, tables: Tables) -> None:
        self._table = tables.replays

    async def claim(self, replay: Replay) -> Replay | None:
        """Write a first request; return None, or the earlier one with the same key where there is one."""
        item: Item = {
            **_key(replay),
            "digest": replay.digest,
            "message_id": replay.message_id,
            "accepted_at": replay.accepted_at,
            "state": replay.state,
            "tried_at": replay.tried_at,
            "expires_at": int(replay.accepted_at) + KEPT_SECONDS,
        }
        try:
            # The table's own time to live may be days late.
            await self._table.put(
                item,
                "attribute_not_exists(#request) OR #expires_at <= :now",
                {"now": int(replay.accepted_at)},
            )
        except ConditionFailed as error:
            if error.item is None:
                raise
            earlier = _replay(error.item)
            # Its own answer may have been lost on the way: then what stands there is what it wrote.
            return None if earlier.message_id == replay.message_id else earlier
        return None

    async def take_over(self, replay: Replay, now: float) -> bool:
        """Try a request again that somebody started and did not finish; False where another was faster."""
        try:
            await self._table.update(
                _key(replay),
                "SET #tried_at = :now",
                {"now": now, "seen": replay.tried_at, "started": "started"},
                "#tried_at = :seen AND #state = :started",
                returns="NONE",
            )
        except ConditionFailed:
            return False
        return True

    async def finish(self, replay: Replay) -> None:
        """Note that the message is on its way."""
        await self._table.update(_key(replay), "SET #state = :done", {"done": "done"}, returns="NONE")

    async def forget(self, replay: Replay) -> None:
        """Remove a request that was refused after all, so that it can be made again.

        One that somebody has taken over meanwhile stays: they may have sent it.
        """
        with contextlib.suppress(ConditionFailed):
            await self._table.delete(
                _key(replay),
                "#tried_at = :seen AND #state = :started",
                {"seen": replay.tried_at, "started": "started"},
            )


def _key(replay: Replay) -> dict[str, str]:
    return {"tenant_id": replay.tenant_id, "request": replay.request}


def _replay(item: Item) -> Replay:
    return Replay(
        tenant_id=item["tenant_id"],
        request=item["request"],
        digest=item["digest"],
        message_id=item["message_id"],
        accepted_at=item["accepted_at"],
        state=item["state"],
        tried_at=item["tried_at"],
    )
