"""Sign people in with e-mail and password, where auth is the issuer itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from artcafe_auth import metrics
from artcafe_auth.limits import RateLimits
from artcafe_auth.local_issuer import LocalIssuer
from artcafe_auth.passwords import Passwords
from artcafe_auth.store import LocalUser, UserStore
from artcafe_common.clock import Clock
from artcafe_common.errors import invalid
from artcafe_common.ids import new_ulid
from artcafe_common.tokens import unauthenticated

EMAIL_MAX_LENGTH = 254
WRONG = "e-mail or password is wrong"

_EMAIL_RE = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person's token, and for how many seconds it is valid."""

    token: str
    seconds: int


class LocalPeople:
    """The people of the local issuer."""

    def __init__(
        self, store: UserStore, passwords: Passwords, issuer: LocalIssuer, limits: RateLimits, clock: Clock
    ) -> None:
        self._store = store
        self._passwords = passwords
        self.issuer = issuer
        self._limits = limits
        self._clock = clock

    async def sign_in(self, email: str, password: str, address: str) -> SignedIn:
        """Return a token for a person; an unknown e-mail gets the answer of a wrong password, as late.

        Raises: ServiceError ``unauthenticated``, ``resource_exhausted``, ``unavailable``.
        """
        email = normal_email(email)
        self._limits.login(email, address)
        user = await self._store.find(email)
        right = await self._passwords.matches(user.password if user else None, password)
        if user is None or not right:
            metrics.LOGINS.labels("refused").inc()
            raise unauthenticated(WRONG)
        metrics.LOGINS.labels("ok").inc()
        token = self.issuer.token(user.user_id, user.email, self._clock.now())
        return SignedIn(token, self.issuer.token_seconds)


async def add_user(
    store: UserStore, passwords: Passwords, clock: Clock, email: str, password: str | None
) -> LocalUser:
    """Add a person, or give an existing one the password; return them with the id they keep.

    Only an existing person can do without a password: theirs stays.
    Raises: ServiceError ``invalid_argument``, ``unavailable``.
    """
    email = normal_email(email)
    if password is None:
        known = await store.find(email)
        if known is None:
            raise invalid("a new person needs a password")
        return known
    return await store.save(LocalUser(email, new_ulid(), passwords.hash(password)), clock.now())


def normal_email(email: str) -> str:
    """Return an e-mail address as it is stored, in lower case. Raises: ServiceError ``invalid_argument``."""
    normal = email.strip().lower()
    if len(normal) > EMAIL_MAX_LENGTH or _EMAIL_RE.fullmatch(normal) is None:
        raise invalid("email is not an e-mail address")
    return normal
