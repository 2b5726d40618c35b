"""The manifests of exports: signed, numbered per tenant, and each with the hash of the one before.

They are items of `usage-metrics`, which do not expire: `<tenant>#manifest` / `<number>` is the chain, and
`<tenant>#export` / `<export_id>` finds one by its id. Both are written in one transaction on the condition
that the number is new, so that of two exports which end at once one goes behind the other.
"""

from __future__ import annotations

import hashlib
from typing import Any

from artcafe_common.dynamo import Dynamo, TransactionFailed
from artcafe_common.errors import unavailable
from artcafe_metering.rolled import USAGE_METRICS
from artcafe_metering.signing import Signer

_ATTEMPTS = 10


class Manifests:
    """The chains of all tenants."""

    def __init__(self, dynamo: Dynamo, signer: Signer) -> None:
        self._dynamo = dynamo
        self._table = dynamo.table(USAGE_METRICS)
        self._signer = signer

    async def append(self, tenant_id: str, export_id: str, about: dict[str, Any]) -> str:
        """Number, sign and keep what there is to say about an export; return the signed manifest."""
        scope = f"{tenant_id}#manifest"
        for _ in range(_ATTEMPTS):
            page = await self._table.query(
                "#scope = :scope", {"scope": scope}, limit=1, forward=False, consistent=True
            )
            last = page.items[0] if page.items else None
            number = int(last["item"]) + 1 if last else 1
            before = hashlib.sha256(last["manifest"].encode()).hexdigest() if last else None
            signed = self._signer.sign(about | {"number": number, "previous_sha256": before})
            item = f"{number:010d}"
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

    async def find(self, tenant_id: str, export_id: str) -> str | None:
        """Return the manifest of an export; None where there is none."""
        pointer = await self._table.get({"scope": f"{tenant_id}#export", "item": export_id})
        if pointer is None:
            return None
        found = await self._table.get({"scope": f"{tenant_id}#manifest", "item": pointer["chained"]})
        return found["manifest"] if found else None
