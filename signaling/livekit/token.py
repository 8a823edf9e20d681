"""LiveKit access tokens: HS256 JWTs that carry grants (RFC 7519 and LiveKit's pages on authentication).

An absent ``can…`` grant means allowed, as LiveKit has it.  The algorithm is fixed, so a token cannot
choose its own; ``exp`` is required and exact; ``nbf`` is honoured with a small leeway, for tokens made by
a machine whose clock is a little ahead.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jwt

LEEWAY_S = 10.0
MAX_TOKEN_BYTES = 8_192
SOURCES = ("camera", "microphone", "screen_share", "screen_share_audio")


class TokenError(Exception):
    """A token that is refused.  ``reason`` is a stable word for the counter, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class Grants:
    """The ``video`` claim.  ``can_publish_sources`` empty = any source."""

    room_create: bool = False
    room_list: bool = False
    room_admin: bool = False
    room_join: bool = False
    room_record: bool = False
    room: str = ""
    can_publish: bool = True
    can_subscribe: bool = True
    can_publish_data: bool = True
    can_publish_sources: tuple[str, ...] = ()
    can_update_own_metadata: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False

    def may_publish(self, source: str) -> bool:
        return self.can_publish and (not self.can_publish_sources or source in self.can_publish_sources)


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token.  ``expires_at`` in seconds since the epoch."""

    identity: str
    name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    grants: Grants = field(default_factory=Grants)
    kind: str = ""
    expires_at: float = 0.0
    room_config: Mapping[str, Any] = field(default_factory=dict)


_BOOLEANS = {
    "roomCreate": "room_create",
    "roomList": "room_list",
    "roomAdmin": "room_admin",
    "roomJoin": "room_join",
    "roomRecord": "room_record",
    "canPublish": "can_publish",
    "canSubscribe": "can_subscribe",
    "canPublishData": "can_publish_data",
    "canUpdateOwnMetadata": "can_update_own_metadata",
    "hidden": "hidden",
    "recorder": "recorder",
    "agent": "agent",
}


def grants_from_wire(video: object) -> Grants:
    """Reads the ``video`` claim; raises TokenError on values of another type."""
    if video is None:
        return Grants()
    if not isinstance(video, dict):
        raise TokenError("malformed", "the token's video claim is not an object")
    values: dict[str, Any] = {}
    for wire, name in _BOOLEANS.items():
        value = video.get(wire)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise TokenError("malformed", f"the token's grant {wire} is not true or false")
        values[name] = value
    room = video.get("room") or ""
    if not isinstance(room, str):
        raise TokenError("malformed", "the token's grant room is not a text")
    sources = video.get("canPublishSources") or []
    if not isinstance(sources, list) or any(not isinstance(source, str) for source in sources):
        raise TokenError("malformed", "the token's grant canPublishSources is not a list of texts")
    values["room"] = room
    values["can_publish_sources"] = tuple(source.lower() for source in sources)
    return Grants(**values)


def grants_to_wire(grants: Grants) -> dict[str, Any]:
    names = {name: wire for wire, name in _BOOLEANS.items()}
    video: dict[str, Any] = {}
    for item in fields(Grants):
        if item.name in names:
            value = getattr(grants, item.name)
            if value != item.default:
                video[names[item.name]] = value
    if grants.room:
        video["room"] = grants.room
    if grants.can_publish_sources:
        video["canPublishSources"] = list(grants.can_publish_sources)
    return video


class ApiKeys:
    """One API key and its secret, kept in ``keys.json`` of the data folder (mode 0600)."""

    def __init__(self, api_key: str, api_secret: str) -> None:
        self.api_key = api_key
        self.api_secret = api_secret

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """Raises FileNotFoundError or ValueError when there is no usable file."""
        stored = json.loads(path.read_text("utf-8"))
        try:
            key, secret = str(stored["api_key"]), str(stored["api_secret"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no api_key and api_secret") from error
        if len(secret) < 32:
            raise ValueError(f"{path}: the api_secret is shorter than 32 characters")
        return cls(key, secret)

    @classmethod
    def load_or_create(cls, path: Path) -> ApiKeys:
        """The stored pair, or a new one written so that a crash leaves a whole file or none."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        keys = cls("API" + secrets.token_hex(6), secrets.token_urlsafe(36))
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"api_key": keys.api_key, "api_secret": keys.api_secret}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)  # fails when another process was first: then its pair counts
        except FileExistsError:
            return cls.load(path)
        finally:
            fresh.unlink(missing_ok=True)
        return keys

    def mint(
        self,
        room: str,
        identity: str,
        name: str = "",
        ttl: float = 3_600.0,
        *,
        now: float | None = None,
        grants: Grants | None = None,
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        kind: str = "",
    ) -> str:
        """A token for joining ``room`` as ``identity``; ``ttl`` in seconds, ``now`` since the epoch."""
        now = time.time() if now is None else now
        granted = replace(grants or Grants(room_join=True), room=room)
        payload: dict[str, Any] = {
            "iss": self.api_key,
            "sub": identity,
            "nbf": int(now),
            "exp": int(now + ttl),
            "video": grants_to_wire(granted),
        }
        if name:
            payload["name"] = name
        if metadata:
            payload["metadata"] = metadata
        if attributes:
            payload["attributes"] = dict(attributes)
        if kind:
            payload["kind"] = kind
        return jwt.encode(payload, self.api_secret, algorithm="HS256")

    def verify(self, token: str, now: float | None = None) -> Claims:
        """Raises TokenError with a stated reason.  ``now`` in seconds since the epoch."""
        now = time.time() if now is None else now
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError("too_long", "the token is too long")
        if not token:
            raise TokenError("missing", "no token was given")
        try:
            payload = jwt.decode(
                token,
                self.api_secret,
                algorithms=["HS256"],
                # Times are checked below against our own clock, which tests can move.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError as error:
            raise TokenError("forged", "the token's signature is wrong") from error
        except jwt.InvalidAlgorithmError as error:
            raise TokenError("algorithm", "the token's algorithm is not HS256") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenError("malformed", "the token cannot be read") from error
        return self._claims(payload, now)

    def _claims(self, payload: dict[str, Any], now: float) -> Claims:
        if payload.get("iss") != self.api_key:
            raise TokenError("issuer", "the token's API key is not known here")
        expires = _time(payload.get("exp"))
        if expires is None:
            raise TokenError("malformed", "the token has no expiry")
        if now >= expires:  # RFC 7519 §4.1.4
            raise TokenError("expired", "the token has expired")
        begins = _time(payload.get("nbf", 0))
        if begins is None:
            raise TokenError("malformed", "the token's nbf is not a time")
        if now < begins - LEEWAY_S:
            raise TokenError("not_yet", "the token is not valid yet")
        texts = {}
        for name in ("sub", "name", "metadata", "kind"):
            value = payload.get(name) or ""
            if not isinstance(value, str):
                raise TokenError("malformed", f"the token's {name} is not a text")
            texts[name] = value
        attributes = payload.get("attributes") or {}
        if not isinstance(attributes, dict) or not all(isinstance(v, str) for v in attributes.values()):
            raise TokenError("malformed", "the token's attributes are not texts")
        room_config = payload.get("roomConfig") or {}
        return Claims(
            identity=texts["sub"],
            name=texts["name"],
            metadata=texts["metadata"],
            attributes=attributes,
            grants=grants_from_wire(payload.get("video")),
            kind=texts["kind"],
            expires_at=expires,
            room_config=room_config if isinstance(room_config, dict) else {},
        )


def _time(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return None


def decode_base64(text: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not; raises ValueError."""
    cleaned = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    return base64.b64decode(cleaned + "=" * (-len(cleaned) % 4), validate=True)
