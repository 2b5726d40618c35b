"""The manifests of exports: signed, numbered per tenant, and each with the hash of the one before.

They are items of `usage-metrics`, which do not expire: `<tenant>#manifest` / `<number>` is the chain, and
`<tenant>#export` / `<export_id>` finds one by its id. Both are written in one transaction on the condition
that the number is new, so that of two exports which end at once one goes behind the other.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from dataclasses import dataclass
from typing import Any

import msgspec

from artcafe_common.dynamo import Dynamo, TransactionFailed
from artcafe_common.errors import unavailable
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_metering.signing import Signer

# Each replica may have eight exports of a tenant, which may end at once: one after the other gets its number.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Link:
    """A manifest in its chain; `sha256` is what the next one says of it."""

    number: int
    signed: str

    @property
    def sha256(self) -> str:
        """The hash of the signed manifest."""
        return hashlib.sha256(self.signed.encode()).hexdigest()

    def about(self) -> dict[str, Any]:
        """Return what the manifest says."""
        payload = self.signed.split(".")[1]
        found: dict[str, Any] = msgspec.json.decode(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        )
        return found


class Manifests:
    """The chains of all tenants."""

    def __init__(self, dynamo: Dynamo, signer: Signer) -> None:
        self._dynamo = dynamo
        self._table = dynamo.table(USAGE_METRICS)
        self._signer = signer

    async def append(self, tenant_id: str, export_id: str, about: dict[str, Any]) -> str:
        """Number, sign and keep what there is to say about an export; return the signed manifest."""
        scope = _scope(tenant_id)
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(random.uniform(0, attempt * _PAUSE_SECONDS))
            last = await self.head(tenant_id)
            number = last.number + 1 if last else 1
            before = last.sha256 if last else None
            signed = self._signer.sign(about | {"number": number, "previous_sha256": before})
            item = _item(number)
            try:
                await self._dynamo.transact(
                    [
                        self._table.put_op(
                            {"scope": scope, "item": item, "manifest": signed}, "attribute_not_exists(#scope)"
                        ),
                        self._table.put_op(
                            {"scope": f"{tenant_id}#export", "item": export_id, "chained": item}
                        ),
                    ]
                )
                return signed
            except TransactionFailed:
                # What stands there may be ours, written by an attempt whose answer was lost.
                if found := await self.find(tenant_id, export_id):
                    return found
        raise unavailable("the store")

    async def head(self, tenant_id: str) -> Link | None:
        """Return the newest manifest; None where there is none."""
        links = await self.before(tenant_id, None, 1)
        return links[0] if links else None

    async def before(self, tenant_id: str, number: int | None, limit: int) -> list[Link]:
        """Return so many manifests before a number, or the last ones, newest first; fewer only at the end."""
        found: list[Link] = []
        position = {"scope": _scope(tenant_id), "item": _item(number)} if number is not None else None
        while len(found) < limit:
            page = await self._table.query(
                "#scope = :scope",
                {"scope": _scope(tenant_id)},
                limit=limit - len(found),
                position=position,
                forward=False,
                consistent=True,
            )
            found += [Link(int(item["item"]), item["manifest"]) for item in page.items]
            position = page.position
            if position is None:
                break
        return found

    async def find(self, tenant_id: str, export_id: str) -> str | None:
        """Return the manifest of an export; None where there is none."""
        pointer = await self._table.get({"scope": f"{tenant_id}#export", "item": export_id})
        if pointer is None:
            return None
        found = await self._table.get({"scope": _scope(tenant_id), "item": pointer["chained"]})
        return found["manifest"] if found else None


def _scope(tenant_id: str) -> str:
    return f"{tenant_id}#manifest"


def _item(number: int) -> str:
    return f"{number:010d}"
