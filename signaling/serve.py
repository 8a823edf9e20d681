"""``lianxin serve``: sockets, TLS, signals, and what is printed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import uvloop
from aiohttp import web

from core.config import Config
from core.errors import ConfigError, LianxinError
from sfu.errors import SfuError
from sfu.interfaces import interface_addresses
from signaling import certs, demo, logs
from signaling.app import DEMO_ACCOUNTS, make_app
from signaling.door import Door
from signaling.http import within

_BACKLOG = 512
_SHUTDOWN_S = 3.0
_KEEPALIVE_S = 75.0
_URL_BYTES = 128 * 1024  # /rtc/v1 carries a whole SDP offer in its query


def run(config: Config, *, with_demo: bool) -> None:
    """Serves until SIGTERM or SIGINT.  Raises ConfigError with one plain sentence when it can't."""
    check(config)
    logs.set_up(config.log)
    os.environ["LIANXIN_LOG__LEVEL"] = config.log.level  # the workers' processes read it
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(config.data_dir)
    except OSError as error:
        raise ConfigError(f"The data folder {config.data_dir} can't be used: {error.strerror}.") from None
    with lock, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(config, with_demo))
        except (SfuError, LianxinError) as error:
            raise ConfigError(f"Lianxin can't start: {error}") from None


def check(config: Config) -> None:
    """Plain HTTP leaves this machine only when the configuration says so."""
    server = config.server
    if not server.tls and not is_loopback(server.host) and not server.allow_plain_http:
        raise ConfigError(
            f"Without TLS only a loopback address can be served, not {server.host}: browsers give no camera "
            "to plain HTTP. Set server.allow_plain_http if a proxy in front does TLS."
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        raise ConfigError("server.tls_cert and server.tls_key must be given together.")


def _lock(data_dir: Path) -> IO[str]:
    """Two servers in one folder would spoil each other's rooms; the kernel frees the lock at any end."""
    file = (data_dir / "serving.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ConfigError(
                f"Another Lianxin is already serving from the data folder {data_dir}."
            ) from None
        raise
    return file


async def _serve(config: Config, with_demo: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Bound first and listening last: a taken port is told at once, and nobody is answered half-ready.
    sock = _bind(config.server.host, config.server.http_port)
    tls = _tls(config)
    app = make_app(config, demo=with_demo)
    runner = web.AppRunner(
        app,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_S,
        shutdown_timeout=_SHUTDOWN_S,
        access_log=None,
        max_line_size=_URL_BYTES,
        max_field_size=config.limits.header_bytes,
        max_headers=100,
    )
    try:
        starting = asyncio.create_task(runner.setup())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        starting.result()
        assert runner.server is not None
        trusted = config.server.trusted_proxies
        door = Door(
            runner.server,
            config.limits.connections_per_address,
            exempt=lambda address: within(address, trusted),
        )
        server = await loop.create_server(
            door, sock=sock, ssl=tls, backlog=_BACKLOG, ssl_handshake_timeout=15 if tls else None
        )
        try:
            _announce(config, sock.getsockname()[1], app)
            await stopping
        finally:
            server.close()
            stopping.cancel()
    finally:
        await runner.cleanup()
        sock.close()


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise ConfigError(f"The address {host} (server.host) is not known.") from None
    sock = socket.socket(found[0], found[1])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if found[0] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(found[4])
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"TCP port {port} is already in use; choose another one with --http-port."
            ) from None
        raise ConfigError(f"TCP port {port} on {host} can't be opened: {error.strerror}.") from None
    return sock


def _tls(config: Config) -> ssl.SSLContext | None:
    server = config.server
    if not server.tls:
        return None
    cert, key = server.tls_cert, server.tls_key
    if cert is None or key is None:
        names = [*server.names, *certs.machine_names()]
        files = certs.ensure_certificate(config.data_dir, names, ["127.0.0.1", "::1", *_addresses(config)])
        cert, key = files.cert, files.key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"The certificate {cert} with the key {key} can't be used: {error}") from None
    return context


def _addresses(config: Config) -> list[str]:
    """Addresses under which pages are reached, loopback last."""
    host = config.server.host
    if host not in ("0.0.0.0", "::"):
        return [host]
    return list(interface_addresses())


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _announce(config: Config, port: int, app: web.Application) -> None:
    scheme = "https" if config.server.tls else "http"
    addresses = _addresses(config)
    local = [a for a in addresses if is_loopback(a)] or addresses[:1]
    lines = [""]
    accounts = app[DEMO_ACCOUNTS]
    if accounts:
        lines += [
            f"演示账号 demo accounts ({config.data_dir / demo.FILE}):",
            demo.table(accounts),
            "",
        ]
    lines.append(f"Lianxin is ready: {_url(scheme, local[0], port)}")
    lines += [f"           also: {_url(scheme, a, port)}" for a in addresses if a not in local]
    if scheme == "https" and config.server.tls_cert is None:
        ca = certs.TlsFiles.inside(config.data_dir).ca
        lines.append(f"浏览器需信任此证书 certificate for browsers to trust: {ca}")
    print("\n".join(lines), flush=True)


def _url(scheme: str, address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{port}/"
