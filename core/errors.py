"""Errors that a user may meet: each with a stable code, an HTTP status and a sentence in both languages.

The HTTP edge turns them into ``application/problem+json`` (RFC 9457), ``/ws`` into a ``result`` message.
"""

from __future__ import annotations

from typing import Any


class LianxinError(Exception):
    """``code`` is for programs and stays; ``message`` (Chinese) and ``message_en`` are for people.

    ``extra`` holds plain JSON values that the answer may carry besides (e.g. ``retry_after_s``).
    """

    def __init__(
        self, code: str, status: int, message: str, message_en: str, extra: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message_en)
        self.code = code
        self.status = status
        self.message = message
        self.message_en = message_en
        self.extra: dict[str, Any] = dict(extra or {})


class BadRequest(LianxinError):
    def __init__(self, code: str, message: str, message_en: str, **extra: Any) -> None:
        super().__init__(code, 400, message, message_en, extra)


class Unauthorized(LianxinError):
    """Nobody is signed in, or the proof is wrong."""

    def __init__(
        self,
        code: str = "not_signed_in",
        message: str = "请先登录。",
        message_en: str = "Please sign in.",
        **extra: Any,
    ) -> None:
        super().__init__(code, 401, message, message_en, extra)


class Forbidden(LianxinError):
    def __init__(
        self,
        code: str = "not_allowed",
        message: str = "您没有执行此操作的权限。",
        message_en: str = "You are not allowed to do this.",
        **extra: Any,
    ) -> None:
        super().__init__(code, 403, message, message_en, extra)


class NotFound(LianxinError):
    def __init__(self, code: str, message: str, message_en: str, **extra: Any) -> None:
        super().__init__(code, 404, message, message_en, extra)


class Conflict(LianxinError):
    """The thing is in a state in which this can't be done."""

    def __init__(self, code: str, message: str, message_en: str, **extra: Any) -> None:
        super().__init__(code, 409, message, message_en, extra)


class TooMany(LianxinError):
    """A limit on rate or number; ``retry_after_s`` becomes the Retry-After header."""

    def __init__(
        self,
        code: str = "too_many_requests",
        message: str = "请求过于频繁，请稍后再试。",
        message_en: str = "Too many requests; try again later.",
        retry_after_s: int = 10,
        **extra: Any,
    ) -> None:
        super().__init__(code, 429, message, message_en, {"retry_after_s": retry_after_s, **extra})


class Unavailable(LianxinError):
    """Something that we depend on (database, bus, media worker) does not answer now."""

    def __init__(self, code: str, message: str, message_en: str, **extra: Any) -> None:
        super().__init__(code, 503, message, message_en, extra)


class ConfigError(Exception):
    """The configuration can't be used; the text is one plain sentence that names the key."""
