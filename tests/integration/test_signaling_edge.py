"""The whole control process with its media worker inside, asked over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher

from core import counters
from core.config import load_config
from core.errors import ConfigError
from signaling import keys, logs, openapi
from signaling.app import make_app
from signaling.door import Door

Overrides = dict[str, dict[str, Any]]


class Edge:
    def __init__(self, app: web.Application, server: TestServer, client: aiohttp.ClientSession) -> None:
        self.app = app
        self.server = server
        self.client = client
        self.url = str(server.make_url("")).rstrip("/")

    async def account(self, username: str, role: Any, venue: str | None = None) -> None:
        accounts = self.app[keys.ACCOUNTS]
        await accounts.add_user(username, username, role, f"{username}-password", venue, by="test")

    async def sign_in(
        self, username: str, password: str | None = None, **headers: str
    ) -> aiohttp.ClientResponse:
        body = {"username": username, "password": password or f"{username}-password"}
        return await self.client.post(f"{self.url}/api/v1/sessions", json=body, headers=headers)


def make_config(tmp_path: Path, overrides: Overrides) -> Any:
    defaults: Overrides = {
        "server": {"host": "127.0.0.1", "tls": False},
        "media": {"workers": 0, "udp_port": 0},
    }
    for section, values in overrides.items():
        defaults.setdefault(section, {}).update(values)
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True, exist_ok=True)
    (dist / "index.html").write_text("<!doctype html><title>连心</title>", "utf-8")
    (dist / "assets" / "app-1a2b.js").write_text("export {};" * 100)
    (dist / "assets" / "app-1a2b.js.gz").write_bytes(gzip.compress(b"export {};" * 100))
    (tmp_path / "secret.txt").write_text("secret")
    (dist / "link.txt").symlink_to(tmp_path / "secret.txt")
    return load_config(
        None,
        {
            "data_dir": str(tmp_path / "data"),
            **defaults,
            "server": {**defaults["server"], "web_directory": str(dist)},
        },
    )


@pytest.fixture
async def open_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("portal.accounts.passwords.PasswordHasher", cheap)
    opened: list[Edge] = []

    async def open_(overrides: Overrides | None = None) -> Edge:
        config = make_config(tmp_path, overrides or {})
        config.data_dir.mkdir()
        app = make_app(config)
        server = TestServer(app)
        await server.start_server()
        client = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        opened.append(Edge(app, server, client))
        return opened[-1]

    yield open_
    for edge in opened:
        await edge.client.close()
        await edge.server.close()


@pytest.fixture
async def edge(open_edge: Any) -> Edge:
    made: Edge = await open_edge()
    await made.account("host", "host")
    await made.account("it", "it")
    await made.account("hefei", "venue", "340100")
    return made


# ---------------------------------------------------------------- sessions


async def test_sign_in_by_cookie_and_by_bearer(edge: Edge) -> None:
    response = await edge.sign_in("host")
    body = await response.json()
    assert response.status == 201
    assert body["user"] == {
        "user_id": body["user"]["user_id"], "username": "host", "name": "host", "role": "host",
        "venue_id": None,
    }  # fmt: skip
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("lianxin_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie  # plain HTTP on loopback
    current = await edge.client.get(f"{edge.url}/api/v1/sessions/current")
    assert (await current.json())["user"] == body["user"]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {body['token']}"}) as program:
        assert (await program.get(f"{edge.url}/api/v1/sessions/current")).status == 200
        assert (await program.delete(f"{edge.url}/api/v1/sessions/current")).status == 204
    after = await edge.client.get(f"{edge.url}/api/v1/sessions/current")
    assert (after.status, (await after.json())["code"]) == (401, "not_signed_in")


async def test_the_cookie_is_secure_behind_a_proxy_with_tls(open_edge: Any) -> None:
    edge = await open_edge({"server": {"trusted_proxies": ["127.0.0.1/32"]}})
    await edge.account("host", "host")
    response = await edge.sign_in("host", **{"X-Forwarded-Proto": "https"})
    assert "Secure" in response.headers["Set-Cookie"]


async def test_wrong_password_is_a_problem(edge: Edge) -> None:
    response = await edge.sign_in("host", "wrong")
    assert response.status == 401
    assert response.content_type == "application/problem+json"
    problem = await response.json()
    assert problem == {
        "type": "urn:lianxin:problem:wrong_password", "title": "Unauthorized", "status": 401,
        "code": "wrong_password", "detail": "用户名或密码不正确。",
        "detail_en": "The user name or password is wrong.",
    }  # fmt: skip


async def test_sign_ins_are_limited_per_address(open_edge: Any) -> None:
    edge = await open_edge(
        {"limits": {"logins_per_minute": 3}, "server": {"trusted_proxies": ["127.0.0.1/32"]}}
    )
    await edge.account("host", "host")
    statuses = [(await edge.sign_in("host", **{"X-Forwarded-For": "10.0.0.1"})).status for _ in range(4)]
    assert statuses == [201, 201, 201, 429]
    assert (await edge.sign_in("host", **{"X-Forwarded-For": "10.0.0.2"})).status == 201


async def test_a_forged_forwarded_header_is_ignored(open_edge: Any) -> None:
    edge = await open_edge({"limits": {"logins_per_minute": 2}})
    statuses = [(await edge.sign_in("x", **{"X-Forwarded-For": f"10.0.0.{n}"})).status for n in range(3)]
    assert statuses == [401, 401, 429]


async def test_requests_of_strangers_are_limited(open_edge: Any) -> None:
    edge = await open_edge({"limits": {"requests_per_second": 2}})
    statuses = [(await edge.client.get(f"{edge.url}/api/v1/meetings")).status for _ in range(6)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert (await edge.client.get(f"{edge.url}/healthz")).status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b'{"username": "a"}', "application/json", 400, "invalid_request"),
        (b'{"username": "a", "password": "b", "x": 1}', "application/json", 400, "invalid_request"),
        (b'{"username": ["a"], "password": {}}', "application/json", 400, "invalid_request"),
        (b"[" * 9_000, "application/json", 400, "invalid_request"),
        (b'{"username": "\\ud800", "password": "b"}', "application/json", 400, "invalid_request"),
        (b"\xff\xfe", "application/json", 400, "invalid_request"),
        (b"username=a&password=b", "application/x-www-form-urlencoded", 415, "not_json"),
        (b" " * 20_000, "application/json", 413, "too_large"),
    ],
)
async def test_bad_bodies(open_edge: Any, body: bytes, content_type: str, status: int, code: str) -> None:
    edge = await open_edge({"limits": {"body_bytes": 10_000}})
    response = await edge.client.post(
        f"{edge.url}/api/v1/sessions", data=body, headers={"Content-Type": content_type}
    )
    assert (response.status, (await response.json())["code"]) == (status, code)


async def test_what_was_sent_is_not_repeated(edge: Edge) -> None:
    response = await edge.client.post(
        f"{edge.url}/api/v1/sessions", json={"username": "a", "password": 123456789}
    )
    assert "123456789" not in await response.text()


# ---------------------------------------------------------------- origins, headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_pages_of_others_can_not_act(edge: Edge, origin: str) -> None:
    await edge.sign_in("host")
    for method, path in (("POST", "/api/v1/meetings"), ("DELETE", "/api/v1/sessions/current")):
        response = await edge.client.request(method, edge.url + path, json={}, headers={"Origin": origin})
        assert (response.status, (await response.json())["code"]) == (403, "foreign_origin")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await edge.client.ws_connect(f"{edge.url}/ws", headers={"Origin": origin})
    assert caught.value.status == 403


async def test_our_own_pages_can(edge: Edge) -> None:
    assert (await edge.sign_in("host", Origin=edge.url)).status == 201
    async with edge.client.ws_connect(f"{edge.url}/ws", headers={"Origin": edge.url}) as socket:
        assert (await socket.receive_json())["type"] == "snapshot"


async def test_security_headers_on_everything(edge: Edge) -> None:
    for path in ("/", "/api/v1/meetings", "/none.js", "/healthz", "/assets/app-1a2b.js", "/api/none"):
        async with edge.client.get(edge.url + path) as response:
            await response.read()
            headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "camera=(self)" in headers["Permissions-Policy"]
        assert "Server" not in headers


async def test_a_strange_host_does_not_get_into_the_policy(edge: Edge) -> None:
    async with edge.client.get(edge.url, headers={"Host": "x; script-src *"}) as response:
        assert "script-src *" not in response.headers.get("Content-Security-Policy", "")
        await response.read()


# ---------------------------------------------------------------- pages


async def test_every_address_of_the_application_is_its_page(edge: Edge) -> None:
    for path in ("/", "/signin", "/console", "/recordings/rec_1"):
        response = await edge.client.get(edge.url + path)
        assert response.status == 200
        assert "连心" in await response.text()
        assert response.headers["Cache-Control"] == "no-cache"


async def test_hashed_files_stay_for_ever_and_come_packed(edge: Edge) -> None:
    response = await edge.client.get(
        f"{edge.url}/assets/app-1a2b.js", headers={"Accept-Encoding": "identity"}
    )
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.content_type == "text/javascript"
    async with edge.client.head(response.url, headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content_type == "text/javascript"


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/favicon.png", "/api/none", "/api", "/rtc/none", "/twirp/x", "/link.txt",
             "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/assets/..%2f..%2fsecret.txt"],
)  # fmt: skip
async def test_what_is_not_there_is_404(edge: Edge, path: str) -> None:
    from yarl import URL

    response = await edge.client.get(URL(edge.url + path, encoded=True))
    assert response.status in (404, 401)
    assert "secret" not in await response.text()


async def test_a_path_with_a_nul_is_refused(edge: Edge) -> None:
    from yarl import URL

    response = await edge.client.get(URL(edge.url + "/a%00.txt", encoded=True))
    assert response.status == 400
    assert (await response.json(content_type=None))["code"] == "invalid_request"


async def test_pages_that_were_not_built_say_so(open_edge: Any, tmp_path: Path) -> None:
    edge = await open_edge()
    (tmp_path / "dist" / "index.html").unlink()
    response = await edge.client.get(edge.url)
    assert response.status == 503
    assert "make setup" in await response.text()


async def test_unknown_methods_are_refused(edge: Edge) -> None:
    response = await edge.client.put(f"{edge.url}/api/v1/sessions")
    assert (response.status, (await response.json())["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


# ---------------------------------------------------------------- operators


async def test_health(edge: Edge) -> None:
    assert await (await edge.client.get(f"{edge.url}/healthz")).text() == "ok\n"
    ready = await (await edge.client.get(f"{edge.url}/readyz")).json()
    assert ready == {"status": "ready", "checks": {"database": "ok", "bus": "ok", "media": "ok"}}


async def test_metrics_are_not_for_every_address(open_edge: Any) -> None:
    edge = await open_edge({"server": {"metrics_allow": ["10.0.0.0/8"]}})
    assert (await edge.client.get(f"{edge.url}/metrics")).status == 403
    assert await (await edge.client.get(f"{edge.url}/readyz")).json() == {"status": "ready"}


async def test_status_is_for_host_and_it(edge: Edge) -> None:
    await edge.sign_in("hefei")
    assert (await edge.client.get(f"{edge.url}/api/v1/status")).status == 403
    await edge.sign_in("it")
    status = await (await edge.client.get(f"{edge.url}/api/v1/status")).json()
    assert [(w["id"], w["alive"]) for w in status["workers"]] == [("w0", True)]
    assert (status["database"], status["bus"], status["meetings"]) == ("sqlite", "local", 0)
    assert status["disk"]["free_bytes"] > 0


async def test_everything_under_api_is_described(edge: Edge) -> None:
    assert openapi.undescribed(edge.app) == []
    document = await (await edge.client.get(f"{edge.url}/api/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert {"/api/v1/sessions", "/api/v1/meetings/{meeting_id}/commands", "/api/v1/recordings",
            "/api/v1/status"} <= set(document["paths"])  # fmt: skip
    references = set(_references(document))
    assert references <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))
    for path, operations in document["paths"].items():
        for described in operations.values():
            names = {p["name"] for p in described.get("parameters", []) if p["in"] == "path"}
            assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


# ---------------------------------------------------------------- strangers


async def test_a_fault_of_ours_is_told_without_details(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(edge.app[keys.ACCOUNTS], "user_of", broken)
    response = await edge.client.get(
        f"{edge.url}/api/v1/sessions/current", headers={"Authorization": "Bearer x"}
    )
    assert (response.status, (await response.json())["code"]) == (500, "internal")
    assert "inner secret" not in await response.text()


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(1000)) + b"\r\n",
        b"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET \x00 HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: ?\r\nSec-WebSocket-Version: 99\r\n\r\n",
    ],
)
async def test_noise_on_the_port_is_no_exception_in_the_log(
    edge: Edge, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    logging.getLogger("aiohttp.server").addFilter(logs.strangers_noise)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    writer.write(noise)
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read(200)
    writer.close()
    assert not answer or b" 40" in answer or b" 431 " in answer or b" 505 " in answer
    assert [r for r in caplog.records if r.exc_info] == []
    assert (await edge.client.get(f"{edge.url}/healthz")).status == 200


# ---------------------------------------------------------------- the door


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(data)


async def ended(reader: asyncio.StreamReader) -> None:
    """The other side closes, nicely or not."""
    async with asyncio.timeout(20):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_the_door_closes_who_sends_no_request() -> None:
    before = counters.refused_total("slow_request")
    door = Door(_Echo, per_address=10, head_timeout_s=0.2)
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", port)
    good_reader, good_writer = await asyncio.open_connection("127.0.0.1", port)
    slow_writer.write(b"GET / HTTP/1.1\r\n")
    await slow_reader.readexactly(16)
    for part in (b"GET / HTTP/1.1\r", b"\n\r", b"\n"):  # the end of the head may come in pieces
        good_writer.write(part)
    await ended(slow_reader)
    good_writer.write(b"more")
    assert await good_reader.readexactly(22) == b"GET / HTTP/1.1\r\n\r\nmore"
    for writer in (slow_writer, good_writer):
        writer.close()
    server.close()
    assert counters.refused_total("slow_request") == before + 1


async def test_the_door_bounds_connections_per_address() -> None:
    door = Door(_Echo, per_address=2)
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, writer in pairs:
        writer.write(b"x\r\n\r\n")
        await reader.readexactly(5)
    reader, third = await asyncio.open_connection("127.0.0.1", port)
    await ended(reader)
    for _, writer in pairs:
        writer.close()
    third.close()
    server.close()


def test_a_bus_or_database_that_is_unknown_is_a_plain_sentence(tmp_path: Path) -> None:
    config = make_config(tmp_path, {"bus": {"url": "amqp://x"}})
    with pytest.raises(ConfigError, match=r"bus\.url"):
        make_app(config)


async def test_meetings_over_http(edge: Edge) -> None:
    from rooms.seed import seed_venues
    from rooms.store import RoomStore

    store = RoomStore(edge.app[keys.DATABASE], edge.app[keys.AUDIT])
    await store.add_venues(seed_venues())
    await edge.app[keys.DIRECTORY].reload_venues()
    await edge.sign_in("host")
    created = await edge.client.post(f"{edge.url}/api/v1/meetings", json={"title": "例会"})
    assert created.status == 201
    meeting = (await created.json())["id"]
    commands = f"{edge.url}/api/v1/meetings/{meeting}/commands"
    answered = await edge.client.post(commands, json={"type": "call", "venue": "340100"})
    assert (await answered.json())["ok"] is True
    view = await (await edge.client.get(f"{edge.url}/api/v1/meetings/{meeting}")).json()
    assert view["venues"]["340100"]["status"] == "calling"
    refused = await edge.client.post(commands, json={"type": "explode"})
    assert (refused.status, refused.content_type) == (400, "application/problem+json")
    token = await edge.client.post(f"{edge.url}/api/v1/meetings/{meeting}/media-token", json={})
    claims = edge.app[keys.API_KEYS].verify((await token.json())["token"], edge.app[keys.CLOCK].now())
    assert claims.grants.room == meeting
    assert json.loads(await (await edge.client.get(f"{edge.url}/api/v1/recordings")).text())["items"] == []
