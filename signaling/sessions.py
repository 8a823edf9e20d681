"""Signing in over HTTP, and the question that every handler asks: who is this?"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from core.errors import Forbidden, Unauthorized
from portal.accounts.service import User
from signaling import keys
from signaling.http import client_address, is_https, limits_of, read_model
from signaling.openapi import operation
from signaling.replies import json_response

__all__ = ["COOKIE", "User", "require_user", "routes", "user_json"]

COOKIE = "lianxin_session"
_USER = web.RequestKey("user", tuple)


class Credentials(BaseModel):
    model_config = ConfigDict(extra="forbid")

    username: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1024)


class UserView(BaseModel):
    user_id: str
    username: str
    name: str
    role: str
    venue_id: str | None


class SessionView(BaseModel):
    """``expires_at`` in epoch milliseconds; use moves it on."""

    user: UserView
    expires_at: int


class NewSessionView(SessionView):
    token: str


def user_json(user: User) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "username": user.username,
        "name": user.name,
        "role": user.role,
        "venue_id": user.venue_id,
    }


def token_of(request: web.Request) -> str:
    """The session token of a request: Authorization: Bearer before the cookie; empty when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.cookies.get(COOKIE, "")


async def require_user(request: web.Request, *roles: str) -> User:
    """The signed-in user.  Raises Unauthorized, or Forbidden when ``roles`` are given and none is theirs."""
    user, _ = await _signed_in(request)
    if roles and user.role not in roles:
        raise Forbidden()
    return user


async def _signed_in(request: web.Request) -> tuple[User, float]:
    known: tuple[User, float] | None = request.get(_USER)
    if known is None:
        token = token_of(request)
        known = await request.app[keys.ACCOUNTS].user_of(token) if token else None
        if known is None:
            raise Unauthorized()
        request[_USER] = known
    return known


@operation(
    "Sign in",
    tag="sessions",
    body=Credentials,
    response=NewSessionView,
    status=201,
    roles=None,
    errors={401: "The user name or password is wrong.", 429: "Too many attempts."},
    description="Sets the cookie lianxin_session; programs send the token as Authorization: Bearer.",
)
async def sign_in(request: web.Request) -> web.Response:
    limits_of(request.app).check_login(client_address(request))
    credentials = await read_model(request, Credentials)
    signed = await request.app[keys.ACCOUNTS].sign_in(
        credentials.username, credentials.password, client_address(request)
    )
    body = {"user": user_json(signed.user), "token": signed.token, "expires_at": _ms(signed.expires_at)}
    response = json_response(body, status=201)
    _set_cookie(request, response, signed.token, signed.expires_at)
    return response


def _set_cookie(request: web.Request, response: web.Response, token: str, expires_at: float) -> None:
    lifetime = max(0, int(expires_at - request.app[keys.CLOCK].now()))
    response.set_cookie(
        COOKIE,
        token,
        max_age=lifetime,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=is_https(request),
    )


@operation("Who is signed in", tag="sessions", response=SessionView)
async def current(request: web.Request) -> web.Response:
    user, expires_at = await _signed_in(request)
    response = json_response({"user": user_json(user), "expires_at": _ms(expires_at)})
    if token_of(request) == request.cookies.get(COOKIE):
        _set_cookie(request, response, token_of(request), expires_at)  # it must live as long as the session
    return response


@operation("Sign out", tag="sessions", status=204)
async def sign_out(request: web.Request) -> web.Response:
    user = await require_user(request)
    await request.app[keys.ACCOUNTS].sign_out(token_of(request))
    await request.app[keys.AUDIT].record(user.username, "sign_out", user.user_id)
    await request.app[keys.HUB].signed_out(token_of(request))
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path="/")
    return response


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def routes() -> list[web.RouteDef]:
    return [
        web.post("/api/v1/sessions", sign_in),
        web.get("/api/v1/sessions/current", current),
        web.delete("/api/v1/sessions/current", sign_out),
    ]
