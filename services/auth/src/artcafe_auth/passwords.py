"""Passwords of the local issuer: Argon2id in threads of their own, so that it never holds up the rest."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from artcafe_common.errors import ErrorCode, ServiceError, invalid

# OWASP's parameters: 19 MiB and some tens of milliseconds for each attempt.
TIME_COST = 2
MEMORY_KIBIBYTES = 19 * 1024
PARALLELISM = 1

THREADS = 2
WAITING_MAX = 32
PASSWORD_LENGTH_MIN = 8
PASSWORD_BYTES_MAX = 1024


class Passwords:
    """Hashes and checks passwords, a few at a time."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(TIME_COST, MEMORY_KIBIBYTES, PARALLELISM)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        # What an unknown person's password is compared with: the same work, and never equal.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def hash(self, password: str) -> str:
        """Return the hash to keep of a new password. Raises: ServiceError ``invalid_argument``."""
        if len(password) < PASSWORD_LENGTH_MIN or len(password.encode()) > PASSWORD_BYTES_MAX:
            raise invalid(
                f"password: at least {PASSWORD_LENGTH_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes"
            )
        return self._hasher.hash(password)

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Tell whether a password is the one that was hashed; None takes as long and is never right.

        Raises: ServiceError ``unavailable`` where too many wait already.
        """
        if self._waiting >= THREADS + WAITING_MAX:
            raise ServiceError(
                ErrorCode.UNAVAILABLE, "too many people are signing in, try again", retry_after=1.0
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(
                self._threads, self._verify, hashed or self._nobody, password[:PASSWORD_BYTES_MAX]
            )
        finally:
            self._waiting -= 1
        return right and hashed is not None

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
