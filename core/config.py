"""The configuration: one TOML file, every key also as ``LIANXIN_SECTION__KEY``, unknown keys refused.

Order, the later wins: defaults, file, environment, command line.  ``deploy/lianxin.toml`` explains every
key for operators; a test compares.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError

ENV_PREFIX = "LIANXIN_"


def _network(value: str) -> str:
    ip_network(value, strict=False)
    return value


def _address(value: str) -> str:
    return str(ip_address(value))


Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: the system chooses (tests)

LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(Section):
    host: str = "0.0.0.0"  # "::" for IPv6 too
    http_port: Port = 8443
    tls: bool = True
    tls_cert: Path | None = None  # neither given: made in the data folder
    tls_key: Path | None = None
    names: tuple[str, ...] = ()  # DNS names for a certificate made by us, besides this machine's
    allow_plain_http: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    allowed_origins: tuple[str, ...] = ()  # besides our own, for pages served elsewhere
    metrics_allow: tuple[Network, ...] = (*LOOPBACK, *PRIVATE)
    web_directory: Path | None = None  # None: web/dist beside the code


class MediaConfig(Section):
    addresses: tuple[Address, ...] = ()  # empty: the machine's own
    udp_port: Port = 7882  # worker n uses udp_port + n
    tcp: bool = True  # for networks that drop UDP
    tcp_port: Port | None = None  # None: the number of udp_port; worker n uses tcp_port + n
    native: bool = True  # the C relay, where it can be had
    workers: Annotated[int, Field(ge=0, le=64)] | None = (
        None  # None: spare cores, at least one; 0: in-process
    )


class DatabaseConfig(Section):
    url: str = ""  # empty: SQLite in the data folder


class BusConfig(Section):
    url: str = "local:"


class AuthConfig(Section):
    session_hours: Annotated[float, Field(gt=0)] = 12  # host and it: since the last use
    venue_session_days: Annotated[float, Field(gt=0)] = 180  # venue pages run unattended
    lockout_after: Annotated[int, Field(ge=1)] = 5
    lockout_minutes: Annotated[float, Field(gt=0)] = 5
    password_min_length: Annotated[int, Field(ge=8, le=128)] = 10


class MeetingsConfig(Section):
    """What the chair-control specification leaves to the operator."""

    ring_s: Annotated[float, Field(gt=0, le=600)] = 30  # a call rings this long, then it is made again
    redials: Annotated[int, Field(ge=0, le=20)] = 3
    after_floor: Literal["restore", "open"] = "restore"  # microphones after free discussion
    open_microphones: Annotated[int, Field(ge=1, le=60)] = (
        12  # heard at once besides main venue, stage and floor; more: the newest speakers
    )


class RecordingConfig(Section):
    directory: Path | None = None  # None: recordings/ in the data folder
    min_free_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class LimitsConfig(Section):
    body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    header_bytes: Annotated[int, Field(ge=4096)] = 16 * 1024
    logins_per_minute: Annotated[int, Field(ge=1)] = 60  # per address
    requests_per_second: Annotated[float, Field(gt=0)] = 50  # per address, not signed in
    unauthenticated_per_address: Annotated[int, Field(ge=1)] = 64  # requests under way at once
    connections_per_address: Annotated[int, Field(ge=8)] = 1024
    websockets_per_address: Annotated[int, Field(ge=1)] = 512
    websockets: Annotated[int, Field(ge=1)] = 2000
    livekit_message_bytes: Annotated[int, Field(ge=16 * 1024)] = 512 * 1024  # /rtc, from a client
    rooms: Annotated[int, Field(ge=1)] = 500
    participants_per_room: Annotated[int, Field(ge=1)] = 300
    tracks_per_participant: Annotated[int, Field(ge=1)] = 16


class Config(Section):
    data_dir: Path = Path("data")
    server: ServerConfig = ServerConfig()
    media: MediaConfig = MediaConfig()
    database: DatabaseConfig = DatabaseConfig()
    bus: BusConfig = BusConfig()
    auth: AuthConfig = AuthConfig()
    meetings: MeetingsConfig = MeetingsConfig()
    recording: RecordingConfig = RecordingConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()

    @property
    def media_tcp_port(self) -> int | None:
        """None: media over UDP only."""
        if not self.media.tcp:
            return None
        return self.media.udp_port if self.media.tcp_port is None else self.media.tcp_port

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{(self.data_dir / 'lianxin.db').absolute()}"

    @property
    def recording_directory(self) -> Path:
        return self.recording.directory or self.data_dir / "recordings"


def load_config(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Raises ConfigError, one plain sentence that names the key.

    ``overrides`` is nested like the file and comes from the command line; None values in it are ignored.
    """
    values: dict[str, Any] = {}
    if path is not None:
        _merge(values, _read(path))
    _merge(values, _from_environment(environ or {}))
    _merge(values, _without_none(overrides or {}))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, path)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"The configuration file {path} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} is not valid TOML: {error}.") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """LIANXIN_SECTION__KEY and LIANXIN_DATA_DIR.

    Names without the double underscore are somebody else's (Kubernetes sets LIANXIN_SERVICE_HOST for a
    service called lianxin) and left alone; with it they are meant for us and must be known.
    """
    values: dict[str, Any] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        section, found, key = name[len(ENV_PREFIX) :].lower().partition("__")
        if not found:
            if section == "data_dir":
                values["data_dir"] = text
            continue
        field = Config.model_fields.get(section)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, Section) and key in model.model_fields):
            raise ConfigError(f"The environment variable {name} names no configuration key.")
        values.setdefault(section, {})[key] = _parse(text, model, key)
    return values


def _parse(text: str, model: type[Section], key: str) -> Any:
    """Lists are written as JSON or comma-separated; everything else pydantic reads from the text."""
    if not isinstance(model.model_fields[key].default, tuple):
        return text
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            return json.loads(stripped)
        except ValueError:
            return text
    return [part.strip() for part in stripped.split(",") if part.strip()]


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _sentence(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    where = f" (in {path})" if path is not None else ""
    if first["type"] == "extra_forbidden":
        return f"There is no configuration key {key}{where}."
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"The configuration key {key} has a value that can't be used{where}: {reason}."
