"""The command ``lianxin`` as an operator or a script meets it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from signaling.certs import TlsFiles
from tests.fixtures.server import ROOT, Server, ServerFactory, free_port

pytestmark = pytest.mark.timeout(180)


def lianxin(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "signaling", *arguments],
        cwd=ROOT, env={**os.environ, **(environ or {})}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


# ---------------------------------------------------------------- token, keys, cert


def test_token_prints_a_token_and_nothing_else(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "d"))
    keys = lianxin("keys", *data)
    pair = dict(line.split(": ") for line in keys.stdout.splitlines())
    assert list(pair) == ["api_key", "api_secret"]
    made = lianxin("token", "--room", "r", "--identity", "i", "--name", "名字", "--ttl", "60", *data)
    assert (made.returncode, made.stderr) == (0, "")
    (line,) = made.stdout.splitlines()
    claims = jwt.decode(line, pair["api_secret"], algorithms=["HS256"], options={"verify_nbf": False})
    assert (claims["iss"], claims["sub"], claims["name"]) == (pair["api_key"], "i", "名字")
    assert claims["video"]["room"] == "r"
    assert claims["video"]["roomJoin"] is True
    assert claims["exp"] - claims["nbf"] == 60
    assert lianxin("keys", *data).stdout == keys.stdout
    assert stat.S_IMODE((tmp_path / "d" / "keys.json").stat().st_mode) == 0o600


def test_cert_makes_files_for_names_and_addresses(tmp_path: Path) -> None:
    done = lianxin("cert", "--name", "hall.example", "--address", "10.0.0.1", "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    files = TlsFiles.inside(tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)


# ---------------------------------------------------------------- foreseeable faults


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["serve", "--config", "/none.toml"], {}, "The configuration file /none.toml can't be read"),
        (["serve"], {"LIANXIN_SERVER__PROT": "1"}, "LIANXIN_SERVER__PROT names no configuration key"),
        (["serve"], {"LIANXIN_SERVER__TLS": "false"}, "Without TLS only a loopback address can be served"),
        (["serve"], {"LIANXIN_SERVER__TLS_CERT": "/x"}, "must be given together"),
        (["serve", "--no-tls", "--data", "/proc/none"], {}, "The data folder /proc/none can't be used"),
        (["serve", "--no-tls"], {"LIANXIN_DATABASE__URL": "mysql://x"}, "database.url must begin with"),
        (["serve", "--no-tls"], {"LIANXIN_BUS__URL": "unix:///none"}, "The bus does not answer"),
        (["cert"], {}, "at least one --name or --address"),
        (["token", "--room", "", "--identity", "x"], {}, "must not be empty"),
    ],
)
def test_one_plain_sentence_and_no_traceback(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], sentence: str
) -> None:
    base = {
        "LIANXIN_DATA_DIR": str(tmp_path), "LIANXIN_MEDIA__WORKERS": "0", "LIANXIN_MEDIA__UDP_PORT": "0",
        "LIANXIN_SERVER__HTTP_PORT": str(free_port()),
        "LIANXIN_LOG__LEVEL": "error",  # which relay forwards is told at start, and no fault
    }  # fmt: skip
    done = lianxin(*arguments, environ=base | environ)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "is ready" not in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


async def test_taken_ports_and_folders_are_named(start_server: ServerFactory, tmp_path: Path) -> None:
    first = await start_server({"LIANXIN_MEDIA__WORKERS": "0"}, demo=False)

    async def second(data: Path, http_port: int, udp_port: int) -> str:
        ports = ["--http-port", str(http_port), "--udp-port", str(udp_port)]
        done = await asyncio.to_thread(lianxin, "serve", "--no-tls", "--data", str(data), *ports)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "is ready" not in done.stdout
        return done.stderr

    other = tmp_path / "other"
    assert f"TCP port {first.http_port} is already in use" in await second(other, first.http_port, 0)
    assert f"UDP port {first.udp_port}" in await second(other, free_port(), first.udp_port)
    assert "Another Lianxin is already serving" in await second(first.data_dir, free_port(), 0)


# ---------------------------------------------------------------- serving


async def sign_in(client: aiohttp.ClientSession, server: Server, username: str) -> None:
    body = {"username": username, "password": server.accounts[username]}
    async with client.post(f"{server.url}/api/v1/sessions", json=body) as response:
        assert response.status == 201, await response.text()


async def test_demo_serves_signs_in_and_stops_cleanly(server: Server) -> None:
    output = "".join(server.stdout)
    assert f"Lianxin is ready: {server.url}/\n" in output
    kept = server.data_dir / "demo-accounts.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert {"host", "it", "hall", "hefei", "susong"} <= set(server.accounts)
    assert len(server.accounts) == 2 + 1 + 18
    assert len(set(server.accounts.values())) == len(server.accounts)
    assert all(f"  {name} " in output and password in output for name, password in server.accounts.items())
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        await sign_in(client, server, "host")
        async with client.get(f"{server.url}/api/v1/venues") as response:
            assert len((await response.json())["items"]) == 122
    passwords = dict(server.accounts)
    assert await server.stop() == 0
    assert "Traceback" not in server.log()
    await server.start()
    assert server.accounts == passwords
    assert "host " in "".join(server.stdout[-30:])  # printed at every start


async def test_metrics_pass_promtool(server: Server) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{server.url}/api/v1/none") as response:
            assert response.status == 404
        async with client.get(f"{server.url}/metrics") as response:
            text = await response.text()
    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""  # not even advice
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "lianxin_rooms", "lianxin_meetings", "lianxin_participants", "lianxin_ws_clients",
        "lianxin_rtc_clients",
        "lianxin_join_seconds", "lianxin_event_loop_delay_seconds", "lianxin_recording_seconds",
        "lianxin_worker_restarts", "lianxin_worker_up", "lianxin_control_cpu_seconds",
    } <= names  # fmt: skip


async def test_workers_and_control_come_back_after_kill(process_server: Server) -> None:
    server = process_server
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        await sign_in(client, server, "it")
        async with asyncio.timeout(60):
            while True:
                async with client.get(f"{server.url}/api/v1/status") as response:
                    status: dict[str, Any] = await response.json()
                if [(w["alive"], w["restarts"]) for w in status["workers"]] == [(True, 1)]:
                    break
        await server.kill_control()
        await server.start()
        async with client.get(f"{server.url}/api/v1/sessions/current") as response:
            assert response.status == 200  # the session survived


async def test_the_same_on_postgresql_and_redis(
    start_server: ServerFactory, postgres_url: str, redis_url: str
) -> None:
    environ = {
        "LIANXIN_DATABASE__URL": postgres_url,
        "LIANXIN_BUS__URL": redis_url,
        "LIANXIN_MEDIA__WORKERS": "0",
    }
    server = await start_server(environ)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        await sign_in(client, server, "host")
        async with client.post(f"{server.url}/api/v1/meetings", json={"title": "例会"}) as response:
            meeting = (await response.json())["id"]
        url = f"{server.url}/api/v1/meetings/{meeting}"
        async with client.post(f"{url}/commands", json={"type": "mute", "venue": "340100"}) as response:
            assert response.status == 200, await response.text()
        await server.kill_all()
        await server.start()
        async with client.get(url) as response:
            assert (await response.json())["venues"]["340100"]["muted_by_chair"] is True
        async with client.get(f"{server.url}/api/v1/status") as response:
            status = await response.json()
    assert (status["database"], status["bus"], status["meetings"], status["alerts"]) == (
        "postgresql", "redis", 1, [],
    )  # fmt: skip


async def test_tls_by_default_with_our_own_authority(tmp_path: Path) -> None:
    port = free_port()
    environ = {
        **os.environ, "LIANXIN_SERVER__HOST": "127.0.0.1", "LIANXIN_MEDIA__WORKERS": "0",
        "LIANXIN_MEDIA__UDP_PORT": "0",
    }  # fmt: skip
    with (tmp_path / "stderr").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "signaling", "serve", "--data", str(tmp_path), "--http-port", str(port),
            cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            async for line in process.stdout:
                if line.startswith(b"Lianxin is ready: "):
                    break
        assert line.decode().strip() == f"Lianxin is ready: https://127.0.0.1:{port}/"
        context = ssl.create_default_context(cafile=str(TlsFiles.inside(tmp_path).ca))
        async with aiohttp.ClientSession() as client:
            async with client.get(f"https://127.0.0.1:{port}/readyz", ssl=context) as response:
                assert (await response.json())["status"] == "ready"
            made = await asyncio.to_thread(lianxin, "keys", "--data", str(tmp_path))
            assert made.stdout.startswith("api_key: ")
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.write_eof()
            with suppress(ConnectionResetError):
                await reader.read()
            writer.close()
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_the_accounts_file_is_plain_json(tmp_path: Path) -> None:
    """Scripts read it: username, password, role, venue."""
    from signaling import demo

    file = tmp_path / demo.FILE
    demo._write(
        file, [{"username": "host", "password": "x", "role": "host", "venue_id": None, "name": "主持"}]
    )
    assert json.loads(file.read_text("utf-8"))["accounts"][0]["name"] == "主持"
    assert demo._read(file) == {"host": "x"}
