"""Random names for things: a readable prefix and enough randomness that nobody can guess another one."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str, length: int = 12) -> str:
    """``prefix`` followed by ``length`` base62 characters (12 characters carry 71 bits)."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))
