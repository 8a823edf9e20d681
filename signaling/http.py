"""The HTTP edge: errors as problem+json, security headers, origins, limits, access metrics."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from prometheus_client import Histogram
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from core import counters
from core.config import LimitsConfig
from core.errors import BadRequest, Forbidden, LianxinError, TooMany, Unavailable
from signaling import keys
from signaling.livekit.limits import Bucket
from signaling.replies import json_response

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
M = TypeVar("M", bound=BaseModel)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
BODY_TIMEOUT_S = 15.0  # as long as the door waits for a head; 1 MiB at 70 kB/s
_ADDRESSES = 10_000  # how many addresses the limits remember

REQUEST_SECONDS = Histogram(
    "lianxin_http_request_seconds",
    "Time to answer HTTP requests (WebSockets and recordings' files excluded), by route, method and status.",
    ["route", "method", "status"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0),
    registry=counters.REGISTRY,
)

# ---------------------------------------------------------------- who asks


def _networks(texts: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text, strict=False) for text in texts)


def within(address: str, networks: Iterable[str]) -> bool:
    """Whether ``address`` (IPv4 also when mapped into IPv6) lies in one of ``networks``."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in _networks(networks) if network.version == mapped.version)


def client_address(request: web.Request) -> str:
    """The client's address; X-Forwarded-For counts only as far as trusted proxies wrote it."""
    trusted = request.app[keys.CONFIG].server.trusted_proxies
    address = request.remote or ""
    if not trusted:
        return address
    forwarded = [part.strip() for part in ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")]
    while forwarded and within(address, trusted):
        candidate = forwarded.pop()
        try:
            address = str(ip_address(candidate))
        except ValueError:
            break
    return address


def is_https(request: web.Request) -> bool:
    """Whether the browser speaks TLS, to us or to a trusted proxy in front."""
    if within(request.remote or "", request.app[keys.CONFIG].server.trusted_proxies):
        return request.headers.get("X-Forwarded-Proto", request.scheme).lower() == "https"
    return request.scheme == "https"


# ---------------------------------------------------------------- limits


class AddressLimits:
    """Rates and numbers per client address, of those who are not signed in (and of WebSockets)."""

    def __init__(self, limits: LimitsConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._logins: OrderedDict[str, Bucket] = OrderedDict()
        self._requests: OrderedDict[str, Bucket] = OrderedDict()
        self._under_way: dict[str, int] = {}
        self._websockets: dict[str, int] = {}
        self.websockets_total = 0

    def check_login(self, address: str) -> None:
        """Raises TooMany."""
        per_minute = self._limits.logins_per_minute
        if not self._take(self._logins, address, per_minute / 60, per_minute):
            counters.refused("login_rate")
            raise TooMany(
                "too_many_logins",
                "登录尝试过于频繁，请稍后再试。",
                "Too many sign-in attempts; try again later.",
                retry_after_s=max(1, round(60 / per_minute)),
            )

    def check_request(self, address: str) -> None:
        """Raises TooMany."""
        rate = self._limits.requests_per_second
        if not self._take(self._requests, address, rate, rate * 2):
            counters.refused("request_rate")
            raise TooMany(retry_after_s=1)

    def enter(self, address: str) -> None:
        """One more request of a stranger is under way.  Raises TooMany; otherwise ``leave`` must follow."""
        if self._under_way.get(address, 0) >= self._limits.unauthenticated_per_address:
            counters.refused("unauthenticated_requests")
            raise TooMany(retry_after_s=2)
        self._under_way[address] = self._under_way.get(address, 0) + 1

    def leave(self, address: str) -> None:
        _decrease(self._under_way, address)

    def open_websocket(self, address: str) -> None:
        """Raises TooMany; otherwise ``close_websocket`` must follow."""
        if (
            self.websockets_total >= self._limits.websockets
            or self._websockets.get(address, 0) >= self._limits.websockets_per_address
        ):
            counters.refused("websocket_number")
            raise TooMany("too_many_websockets", "连接数过多。", "Too many WebSockets.", retry_after_s=5)
        self.websockets_total += 1
        self._websockets[address] = self._websockets.get(address, 0) + 1

    def close_websocket(self, address: str) -> None:
        self.websockets_total -= 1
        _decrease(self._websockets, address)

    def _take(self, buckets: OrderedDict[str, Bucket], address: str, rate: float, burst: float) -> bool:
        now = self._monotonic()
        bucket = buckets.pop(address, None) or Bucket(rate, burst, now)
        buckets[address] = bucket
        while len(buckets) > _ADDRESSES:
            buckets.popitem(last=False)
        return bucket.take(now)


def _decrease(counts: dict[str, int], key: str) -> None:
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)


LIMITS: web.AppKey[AddressLimits] = web.AppKey("address_limits", AddressLimits)


def limits_of(app: web.Application) -> AddressLimits:
    return app[LIMITS]


# ---------------------------------------------------------------- reading


async def read_model(request: web.Request, model: type[M]) -> M:
    """The JSON body as ``model``.  Raises BadRequest or pydantic's ValidationError (answered with 400)."""
    return model.model_validate_json(await read_json_text(request))


async def read_value(request: web.Request, adapter: TypeAdapter[Any]) -> Any:
    """The JSON body by a TypeAdapter (for unions)."""
    return adapter.validate_json(await read_json_text(request))


async def read_json_text(request: web.Request) -> bytes:
    """The body of a request that says it is JSON; the application bounds its size."""
    if request.content_type != "application/json":
        raise LianxinError(
            "not_json", 415, "请求内容必须是 JSON。", "The body must be sent as application/json."
        )
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        counters.refused("slow_request")
        raise LianxinError("slow_body", 408, "请求内容发送过慢。", "The body came too slowly.") from None


# ---------------------------------------------------------------- answering


def problem(error: LianxinError) -> web.Response:
    """RFC 9457."""
    body = {
        "type": f"urn:lianxin:problem:{error.code}",
        "title": _phrase(error.status),
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        "detail_en": error.message_en,
        **error.extra,
    }
    response = json_response(body, status=error.status, content_type="application/problem+json")
    if "retry_after_s" in error.extra:
        response.headers[hdrs.RETRY_AFTER] = str(error.extra["retry_after_s"])
    if error.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


_HTTP_TEXTS = {
    404: ("not_found", "没有这个地址。", "There is nothing at this address."),
    405: ("method_not_allowed", "该地址不支持此方法。", "This address does not take this method."),
    413: ("too_large", "请求内容过大。", "The body is too large."),
}


def from_validation(error: ValidationError) -> BadRequest:
    """What is wrong where, without repeating what was sent."""
    found = [
        {"where": ".".join(str(part) for part in item["loc"]), "what": str(item["msg"])}
        for item in error.errors(include_url=False, include_input=False, include_context=False)[:10]
    ]
    where = f" ({found[0]['where'] or 'body'}: {found[0]['what']})" if found else ""
    return BadRequest(
        "invalid_request", "请求内容不正确。", f"The request is not valid{where}.", errors=found
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: every error under /api, /ws and the plain paths becomes problem+json."""
    try:
        if "\0" in request.path or "\0" in request.query_string:
            counters.refused("nul_in_address")  # no name of ours holds one, and PostgreSQL's text can't
            raise BadRequest("invalid_request", "地址不正确。", "The address holds a NUL.")
        return await handler(request)
    except LianxinError as error:
        return problem(error)
    except ValidationError as error:
        counters.refused("invalid_request")
        return problem(from_validation(error))
    except web.HTTPException as error:
        if error.status < 400 or error.content_type != "text/plain":
            raise
        code, message, message_en = _HTTP_TEXTS.get(
            error.status, ("http_error", "请求无法处理。", f"{error.reason}.")
        )
        answer = problem(LianxinError(code, error.status, message, message_en))
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except RequestPayloadError:
        counters.refused("http_malformed")
        return problem(
            BadRequest("malformed_body", "请求内容无法读取。", "The body's encoding can't be read.")
        )
    except (SQLAlchemyError, ConnectionRefusedError) as error:
        counters.refused("database")
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        log.error("the database failed a request", method=request.method, path=request.path, reason=reason)
        return problem(
            Unavailable(
                "database_unavailable", "数据库没有响应，请稍后再试。", "The database does not answer."
            )
        )
    except ConnectionError:
        raise  # the client went away while we answered
    except Exception:
        log.exception("request failed", method=request.method, path=request.path)
        return problem(LianxinError("internal", 500, "服务器内部错误。", "The server failed; see its log."))


@web.middleware
async def measured(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    finally:
        if not _is_websocket(request):
            resource = request.match_info.route.resource
            REQUEST_SECONDS.labels(
                route=resource.canonical if resource is not None else "none",
                method=request.method if request.method in _KNOWN_METHODS else "other",
                status=str(status),
            ).observe(time.perf_counter() - started)
    return response


_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Rates and numbers per address.  /rtc and /twirp have their own rates, in signaling.livekit."""
    limits = request.app[LIMITS]
    address = client_address(request)
    if _is_websocket(request):
        limits.open_websocket(address)
        try:
            return await handler(request)
        finally:
            limits.close_websocket(address)
    carries_proof = hdrs.AUTHORIZATION in request.headers or hdrs.COOKIE in request.headers
    if not request.path.startswith("/api/") or (carries_proof and not request.path.startswith(_SIGN_IN)):
        return await handler(request)
    limits.check_request(address)
    limits.enter(address)
    try:
        return await handler(request)
    finally:
        limits.leave(address)


_SIGN_IN = "/api/v1/sessions"


@web.middleware
async def same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page of somebody else can't use a browser's session (the cookie is SameSite=Strict besides).

    Requests with a bearer token are not a browser's doing and pass; LiveKit's paths know no cookie.
    """
    changes = request.method not in _SAFE or _is_websocket(request)
    if changes and request.path.startswith(("/api/", "/ws")):
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and hdrs.AUTHORIZATION not in request.headers:
            allowed = request.app[keys.CONFIG].server.allowed_origins
            if _host_of(origin) != request.host.lower() and origin not in allowed:
                counters.refused("foreign_origin")
                raise Forbidden(
                    "foreign_origin",
                    "请求来自其他网站，已拒绝。",
                    "The request came from another site's page.",
                )
    return await handler(request)


def _host_of(origin: str) -> str:
    """Empty when it can't be read: nobody's."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_websocket(request: web.Request) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


# ---------------------------------------------------------------- headers

_FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "camera=(self), microphone=(self), display-capture=(self), speaker-selection=(self), "
        "autoplay=(self), fullscreen=(self), screen-wake-lock=(self), geolocation=(), payment=(), usb=()"
    ),
}


def content_security_policy(host: str) -> str:
    """Nothing from outside, ever.  Vue components bring style attributes: 'unsafe-inline' for styles only.

    The WebSocket's origin is named besides 'self': not every browser counts ws: of the same host as self.
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self'; "
        f"connect-src 'self'{sockets}; media-src 'self' blob: mediastream:; "
        "worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


async def secure_headers(request: web.Request, response: web.StreamResponse) -> None:
    """An ``on_response_prepare`` signal, so that errors and files get them too."""
    headers = response.headers
    for name, value in _FIXED_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", content_security_policy(request.host))
    if request.path.startswith("/api/"):
        headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    headers.popall(hdrs.SERVER, None)


MIDDLEWARES = (problems, measured, bounded, same_origin)
