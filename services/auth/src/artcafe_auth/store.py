"""What auth keeps: challenges and tickets, and the people of the local issuer.

Table ``Challenges``, key ``id``: ``challenge:`` or ``ticket:`` and the SHA-256 (hex) of the secret, so that
the table opens nothing to whoever reads it, and a challenge is found by itself. Attributes ``tenant_id``,
``agent_id``, ``fingerprint`` (tickets: the key that proved the agent) and ``expires_at``: epoch seconds, UTC.
The table's time to live is on ``expires_at`` and only cleans up.

Table ``local-users``, key ``email`` (lower case). Attributes ``user_id`` (the ``sub`` of their tokens, never
changes), ``password`` (Argon2id), ``created_at``, ``updated_at`` (epoch seconds).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

from artcafe_common.dynamo import ConditionFailed, Dynamo, TableSpec
from artcafe_common.errors import unavailable

CHALLENGES = TableSpec("Challenges", "id", ttl="expires_at", recovery=False)
LOCAL_USERS = TableSpec("local-users", "email")
TABLES = (CHALLENGES, LOCAL_USERS)

Kind = Literal["challenge", "ticket"]


@dataclass(frozen=True, slots=True)
class OneTime:
    """What a challenge or ticket stands for, until when (epoch seconds)."""

    tenant_id: str
    agent_id: str
    expires_at: int
    fingerprint: str | None = None


class OneTimeStore(Protocol):
    """Keeps what may be used once."""

    async def add(self, kind: Kind, secret: str, record: OneTime) -> None:
        """Keep a record under a secret."""
        ...

    async def take(self, kind: Kind, secret: str) -> OneTime | None:
        """Remove and return a record; of several who take it at once one gets it, the others None."""
        ...


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A person who signs in here; `password` is a hash."""

    email: str
    user_id: str
    password: str


class UserStore(Protocol):
    """Keeps the people of the local issuer."""

    async def find(self, email: str) -> LocalUser | None:
        """Return the person with an e-mail address in lower case."""
        ...

    async def save(self, user: LocalUser, now: float) -> LocalUser:
        """Add a person, or give an existing one the password; return them with the id they keep."""
        ...


class DynamoOneTimeStore:
    """`OneTimeStore` in DynamoDB."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._table = dynamo.table(CHALLENGES)

    async def add(self, kind: Kind, secret: str, record: OneTime) -> None:
        """Keep a record under a secret."""
        await self._table.put(
            {
                "id": _key(kind, secret),
                "tenant_id": record.tenant_id,
                "agent_id": record.agent_id,
                "fingerprint": record.fingerprint,
                "expires_at": record.expires_at,
            }
        )

    async def take(self, kind: Kind, secret: str) -> OneTime | None:
        """Remove and return a record; of several who take it at once one gets it, the others None.

        Raises: ServiceError ``unavailable``, also where it may have been taken by this very call.
        """
        try:
            item = await self._table.delete({"id": _key(kind, secret)}, "attribute_exists(#id)")
        except ConditionFailed as refusal:
            if refusal.repeated:
                # The answer may have been lost that brought it: whoever proved themselves rightly comes again
                # with a fresh one, and would stay away for good if their credentials were called bad.
                raise unavailable("the store") from None
            return None
        if item is None:
            return None
        return OneTime(
            tenant_id=item["tenant_id"],
            agent_id=item["agent_id"],
            expires_at=item["expires_at"],
            fingerprint=item.get("fingerprint"),
        )


class DynamoUserStore:
    """`UserStore` in DynamoDB."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._table = dynamo.table(LOCAL_USERS)

    async def find(self, email: str) -> LocalUser | None:
        """Return the person with an e-mail address in lower case."""
        item = await self._table.get({"email": email})
        return None if item is None else LocalUser(item["email"], item["user_id"], item["password"])

    async def save(self, user: LocalUser, now: float) -> LocalUser:
        """Add a person, or give an existing one the password; return them with the id they keep."""
        item = await self._table.update(
            {"email": user.email},
            "SET #user_id = if_not_exists(#user_id, :user_id), #password = :password, "
            "#created_at = if_not_exists(#created_at, :now), #updated_at = :now",
            {"user_id": user.user_id, "password": user.password, "now": int(now)},
        )
        return LocalUser(item["email"], item["user_id"], item["password"])


def _key(kind: Kind, secret: str) -> str:
    return f"{kind}:{hashlib.sha256(secret.encode()).hexdigest()}"
