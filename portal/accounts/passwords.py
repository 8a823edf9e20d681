"""Argon2id (RFC 9106) in a thread pool: one check takes tens of milliseconds and 64 MiB."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core import counters
from core.errors import TooMany

MAX_PASSWORD_BYTES = 1024
_THREADS = 2
_MAX_WAITING = 32


class Passwords:
    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """False for a wrong password.  ``stored`` None (no such user) takes as long as any other.

        Raises TooMany when so many checks are waiting that another one would only make it worse.
        """
        if self._waiting >= _MAX_WAITING:
            counters.refused("login_overload")
            raise TooMany(retry_after_s=5)
        self._waiting += 1
        try:
            if self._decoy is None:
                self._decoy = await self.hash("decoy")
            known = stored is not None and len(password.encode("utf-8", "replace")) <= MAX_PASSWORD_BYTES
            matches = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._check, stored if stored is not None and known else self._decoy, password
            )
            return matches and known
        finally:
            self._waiting -= 1

    def outdated(self, stored: str) -> bool:
        """Hashed with weaker parameters than today's."""
        try:
            return self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            return False

    def _check(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password[:MAX_PASSWORD_BYTES])
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
