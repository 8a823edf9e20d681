"""What strangers send to the real application: answered or dropped, counted, never a traceback."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from livekit.protocol import rtc
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from core import counters
from core.config import load_config
from signaling import keys, logs
from signaling.app import make_app
from tests.fixtures.livekit import FakeNode


@pytest.fixture
async def door(tmp_path: Path) -> Any:
    """The application's server, with its media worker inside."""
    (tmp_path / "data").mkdir()
    config = load_config(
        None,
        {
            "data_dir": str(tmp_path / "data"),
            "server": {"host": "127.0.0.1", "tls": False},
            "media": {"workers": 0, "udp_port": 0},
        },
    )
    server = TestServer(make_app(config))
    await server.start_server()
    yield server
    await server.close()


async def say(server: TestServer, *parts: bytes, hang_up: bool = False) -> bytes:
    """Sends the parts one by one and reads the answer; ``hang_up``: resets the connection instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if hang_up:
            return b""
        async with asyncio.timeout(20):
            return await reader.read(4096)
    finally:
        writer.transport.abort()


def post(*headers: bytes, body: bytes = b"{}", path: bytes = b"/api/v1/sessions") -> bytes:
    lines = [
        b"POST " + path + b" HTTP/1.1", b"Host: x", b"Content-Type: application/json", *headers,
        b"Content-Length: %d" % len(body), b"", body,
    ]  # fmt: skip
    return b"\r\n".join(lines)


async def test_an_origin_that_cannot_be_read_is_foreign(door: TestServer) -> None:
    with capture_logs() as told:
        answer = await say(door, post(b"Origin: http://["))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert [line for line in told if line["log_level"] == "error"] == []


@pytest.mark.parametrize("path", [b"/api/v1/sessions", b"/twirp/livekit.RoomService/ListRooms"])
@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
async def test_a_body_that_does_not_unpack_is_no_fault_of_ours(
    door: TestServer, coding: bytes, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("aiohttp.server").addFilter(logs.strangers_noise)
    token = door.app[keys.API_KEYS].mint("r", "i").encode()
    with capture_logs() as told:
        answer = await say(
            door,
            post(b"Content-Encoding: " + coding, b"Authorization: Bearer " + token, body=b"abcde", path=path),
        )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [line for line in told if line["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.exc_info] == []


async def test_who_hangs_up_in_mid_body_leaves_no_traceback(
    door: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("aiohttp.server").addFilter(logs.strangers_noise)
    with capture_logs() as told:
        await say(door, post(body=b"{}").replace(b"Content-Length: 2", b"Content-Length: 500"), hang_up=True)
        async with aiohttp.ClientSession() as client:
            for _ in range(3):
                assert (await client.get(door.make_url("/healthz"))).status == 200
    assert [line for line in told if line["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_body_that_drips_is_not_waited_for_for_ever(
    door: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signaling.http.BODY_TIMEOUT_S", 0.05)
    before = counters.refused_total("slow_request")
    answer = await say(door, post(body=b"{}").replace(b"Content-Length: 2", b"Content-Length: 500"))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert counters.refused_total("slow_request") == before + 1


@pytest.mark.parametrize("path", ["/api/v1/meetings/mt_%00", "/api/v1/recordings?after=%00", "/%00"])
async def test_a_nul_in_an_address_reaches_no_database(door: TestServer, path: str) -> None:
    answer = await say(door, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_locked_database_is_503_and_no_traceback(
    door: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT 1", {}, Exception("database is locked"))

    monkeypatch.setattr(door.app[keys.ACCOUNTS], "user_of", locked)
    before = counters.refused_total("database")
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as client:
        with capture_logs() as told:
            answer = await client.get(door.make_url("/api/v1/meetings"))
        assert (answer.status, (await answer.json())["code"]) == (503, "database_unavailable")
    assert counters.refused_total("database") == before + 1
    assert [line.get("exc_info") for line in told if line["log_level"] == "error"] == [None]


async def test_who_left_is_forgotten_by_the_livekit_edge(start_livekit: Any, fake_node: FakeNode) -> None:
    server = await start_livekit(fake_node)
    ann = await server.join("r", "ann")
    assert server.media.transports
    await ann.send(leave=rtc.LeaveRequest())
    await ann.closed()
    assert server.media.transports == {}
