"""The command ``lianxin``.  Only what a command needs is imported: ``lianxin token`` is used in scripts."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="连心 Lianxin: video conferences on your own network.",
)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Configuration file (TOML).")]
DataDir = Annotated[Path | None, typer.Option("--data", help="Data folder (default: data_dir, ./data).")]


@app.command()
def serve(
    config: ConfigFile = None,
    data: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Fill with demo venues and accounts.")] = False,
    http_port: Annotated[int | None, typer.Option(help="TCP port of pages and signalling.")] = None,
    udp_port: Annotated[int | None, typer.Option(help="UDP port of the first media worker.")] = None,
    no_tls: Annotated[bool, typer.Option("--no-tls", help="Plain HTTP, on loopback only.")] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from signaling import serve as serving

    server: dict[str, Any] = {"http_port": http_port}
    settings = _settings(config, data, {"server": server, "media": {"udp_port": udp_port}})
    if no_tls:
        server["tls"] = False
        if not settings.server.allow_plain_http and not serving.is_loopback(settings.server.host):
            server["host"] = "127.0.0.1"
        settings = _settings(config, data, {"server": server, "media": {"udp_port": udp_port}})
    serving.run(settings, with_demo=demo)


@app.command()
def token(
    room: Annotated[str, typer.Option(help="Room to join; made when it doesn't exist.")],
    identity: Annotated[str, typer.Option(help="Who joins; unique in the room.")],
    name: Annotated[str, typer.Option(help="Name that others see.")] = "",
    ttl: Annotated[int, typer.Option(min=1, help="Valid for this many seconds.")] = 3600,
    config: ConfigFile = None,
    data: DataDir = None,
) -> None:
    """Print a LiveKit access token, and nothing else."""
    if not room or not identity:
        raise _fault("--room and --identity must not be empty.")
    print(_api_keys(config, data).mint(room, identity, name, ttl, now=time.time()))


@app.command()
def keys(config: ConfigFile = None, data: DataDir = None) -> None:
    """Print the API key and secret for LiveKit clients."""
    pair = _api_keys(config, data)
    print(f"api_key: {pair.api_key}\napi_secret: {pair.api_secret}")


@app.command()
def cert(
    name: Annotated[list[str] | None, typer.Option(help="DNS name; may be repeated.")] = None,
    address: Annotated[list[str] | None, typer.Option(help="IP address; may be repeated.")] = None,
    config: ConfigFile = None,
    data: DataDir = None,
) -> None:
    """Make a server certificate, signed by an internal CA in the data folder."""
    from signaling.certs import make_certificate

    settings = _settings(config, data, {})
    try:
        files = make_certificate(settings.data_dir, name or [], address or [])
    except OSError as error:
        raise _fault(f"The certificate can't be written to {settings.data_dir}: {error.strerror}.") from None
    print(f"ca: {files.ca}\ncertificate: {files.cert}\nkey: {files.key}")


def _settings(config: Path | None, data: Path | None, overrides: dict[str, Any]) -> Any:
    from core.config import load_config

    return load_config(config, {"data_dir": data, **overrides}, os.environ)


def _api_keys(config: Path | None, data: Path | None) -> Any:
    from signaling.livekit.token import ApiKeys

    path = _settings(config, data, {}).data_dir / "keys.json"
    try:
        return ApiKeys.load_or_create(path)
    except (OSError, ValueError) as error:
        raise _fault(f"The API keys in {path} can't be used: {error}") from None


def _fault(sentence: str) -> Exception:
    from core.errors import ConfigError

    return ConfigError(sentence)


def main() -> None:
    from core.errors import ConfigError

    try:
        app()
    except ConfigError as error:
        print(f"lianxin: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
