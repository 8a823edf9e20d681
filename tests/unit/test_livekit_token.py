"""Tokens: who may come in, and who is refused for which reason."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest
from livekit import api

from signaling.livekit.token import ApiKeys, Grants, TokenError, decode_base64

NOW = 1_700_000_000.0
KEYS = ApiKeys("APIkey", "a secret that is long enough for HS256 to be content")


def signed(secret: str = KEYS.api_secret, algorithm: str = "HS256", **changes: Any) -> str:
    payload = {
        "iss": "APIkey",
        "sub": "ann",
        "exp": NOW + 60,
        "nbf": NOW,
        "video": {"roomJoin": True, "room": "r"},
        **changes,
    }
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, algorithm=algorithm)


def test_what_we_mint_we_verify() -> None:
    grants = Grants(room_join=True, can_publish=False, can_publish_sources=("camera",), hidden=True)
    token = KEYS.mint(
        "r", "ann", "Ann 安", 60, now=NOW, grants=grants, metadata="m", attributes={"a": "1"}, kind="agent"
    )
    claims = KEYS.verify(token, NOW + 1)
    assert (claims.identity, claims.name, claims.metadata, claims.kind) == ("ann", "Ann 安", "m", "agent")
    assert claims.grants == Grants(
        room_join=True, room="r", can_publish=False, can_publish_sources=("camera",), hidden=True
    )
    assert claims.attributes == {"a": "1"}
    assert claims.expires_at == NOW + 60


def test_tokens_of_livekits_own_library_are_read() -> None:
    token = (
        api.AccessToken(KEYS.api_key, KEYS.api_secret)
        .with_identity("ann")
        .with_name("Ann")
        .with_attributes({"k": "v"})
        .with_grants(api.VideoGrants(room_join=True, room="r", can_publish_sources=["camera", "microphone"]))
        .to_jwt()
    )
    claims = KEYS.verify(token)
    assert claims.grants.room == "r"
    assert claims.grants.may_publish("camera")
    assert not claims.grants.may_publish("screen_share")
    assert claims.attributes == {"k": "v"}


def test_an_absent_can_grant_means_allowed() -> None:
    grants = KEYS.verify(signed(), NOW).grants
    assert grants.can_publish
    assert grants.can_subscribe
    assert grants.can_publish_data
    assert not grants.room_admin
    assert not grants.hidden


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "missing"),
        ("x", "malformed"),
        ("a.b.c", "malformed"),
        ("x" * 9_000, "too_long"),
        (signed("another secret that is long enough for HS256, yes"), "forged"),
        (signed(iss="APIother"), "issuer"),
        (signed(exp=NOW - 60), "expired"),
        (signed(exp=NOW - 1), "expired"),  # no leeway: a token of one second is over after it
        (signed(exp=None), "malformed"),
        (signed(nbf=NOW + 600), "not_yet"),
        (signed(sub=None, metadata=5), "malformed"),
        (signed(video="all"), "malformed"),
        (signed(video={"roomJoin": "yes"}), "malformed"),
        (signed(video={"room": 5}), "malformed"),
        (signed(video={"canPublishSources": "camera"}), "malformed"),
        (signed(attributes={"a": 1}), "malformed"),
        (signed(KEYS.api_secret * 2, algorithm="HS512"), "algorithm"),
        (jwt.encode({"iss": "APIkey", "exp": NOW + 60}, None, algorithm="none"), "algorithm"),
    ],
)
def test_every_refusal_has_its_reason(token: str, reason: str) -> None:
    with pytest.raises(TokenError) as caught:
        KEYS.verify(token, NOW)
    assert caught.value.reason == reason


def test_clocks_may_differ_a_little() -> None:
    KEYS.verify(signed(nbf=NOW + 5), NOW)


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "keys.json"
    first = ApiKeys.load_or_create(path)
    again = ApiKeys.load_or_create(path)
    assert (first.api_key, first.api_secret) == (again.api_key, again.api_secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["keys.json"]


def test_a_broken_key_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"api_key": "x"}))
    with pytest.raises(ValueError, match="api_key"):
        ApiKeys.load_or_create(path)


def test_base64_in_both_alphabets() -> None:
    assert decode_base64("-_-_") == decode_base64("+/+/") == bytes([251, 255, 191])
    assert decode_base64("YQ") == b"a"
    with pytest.raises(ValueError, match=r"."):
        decode_base64("!")
