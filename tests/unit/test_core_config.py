"""Configuration: file, environment and command line, and plain sentences about what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from core.config import Config, Section, load_config
from core.errors import ConfigError

SAMPLE = Path(__file__).parent.parent.parent / "deploy" / "lianxin.toml"


def sections() -> dict[str, type[Section]]:
    return {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def test_defaults_need_no_file() -> None:
    config = load_config()
    assert (config.server.http_port, config.server.tls, config.media.udp_port) == (8443, True, 7882)
    assert config.database_url.startswith("sqlite:////")
    assert config.recording_directory == Path("data/recordings")


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'data_dir = "/srv/a"\n[server]\nhttp_port = 1\nhost = "10.0.0.1"\n[media]\nudp_port = 1\n'
    )
    environ = {"LIANXIN_SERVER__HTTP_PORT": "2", "LIANXIN_MEDIA__UDP_PORT": "2"}
    config = load_config(file, {"server": {"http_port": 3, "tls": None}, "data_dir": None}, environ)
    assert (config.server.http_port, config.media.udp_port, config.server.host) == (3, 2, "10.0.0.1")
    assert config.data_dir == Path("/srv/a")
    assert config.server.tls


def test_every_key_can_be_set_by_its_variable() -> None:
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            default = getattr(getattr(load_config(), section), key)
            text = ",".join(default) if isinstance(default, tuple) else str(default)
            if default is None:
                text = {"workers": "3", "tcp_port": "7883"}.get(key, "/tmp/x")
            name = f"LIANXIN_{section.upper()}__{key.upper()}"
            value = getattr(getattr(load_config(environ={name: text}), section), key)
            assert field is not None
            assert value == default or default is None, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("10.0.0.1", ("10.0.0.1",)), (" 10.0.0.1 , ::1 ", ("10.0.0.1", "::1")), ('["::1"]', ("::1",))],
)
def test_lists_in_variables(text: str, expected: tuple[str, ...]) -> None:
    assert load_config(environ={"LIANXIN_MEDIA__ADDRESSES": text}).media.addresses == expected


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[server]\nhttp_prot = 1", "server.http_prot"),
        ("[sever]\nhttp_port = 1", "sever"),
        ("http_port = 1", "http_port"),
        ('[server]\nhttp_port = "x"', "server.http_port"),
        ("[server]\nhttp_port = 70000", "server.http_port"),
        ('[media]\naddresses = ["localhost"]', "media.addresses"),
        ("[media]\nworkers = -1", "media.workers"),
        ('[server]\nmetrics_allow = ["10.0.0.0/99"]', "server.metrics_allow"),
        ('[log]\nlevel = "loud"', "log.level"),
    ],
)
def test_a_wrong_key_is_named_in_one_sentence(tmp_path: Path, toml: str, key: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    sentence = str(caught.value)
    assert f" {key} " in sentence
    assert str(file) in sentence
    assert "\n" not in sentence


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="LIANXIN_SERVER__PROT"):
        load_config(environ={"LIANXIN_SERVER__PROT": "1"})
    with pytest.raises(ConfigError, match="LIANXIN_DATA_DIR__X"):
        load_config(environ={"LIANXIN_DATA_DIR__X": "1"})


def test_variables_of_others_are_left_alone() -> None:
    """Kubernetes sets these for a service called lianxin."""
    environ = {"LIANXIN_SERVICE_HOST": "10.0.0.1", "LIANXIN_PORT": "tcp://10.0.0.1:8443"}
    assert load_config(environ=environ) == load_config()


def test_data_dir_by_variable() -> None:
    assert load_config(environ={"LIANXIN_DATA_DIR": "/srv/x"}).data_dir == Path("/srv/x")


@pytest.mark.parametrize("content", [b"[server", b"\xff\xfe", b"a = 1\na = 2"])
def test_broken_toml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_the_sample_explains_every_key_and_parses() -> None:
    text = SAMPLE.read_text("utf-8")
    assert load_config(SAMPLE) == load_config()  # as shipped it changes nothing
    # With every commented key switched on it must still be understood, and no key may be missing.
    switched_on = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line and line[2].islower() else line
        for line in text.splitlines()
    )
    values = tomllib.loads(switched_on)
    for section, model in sections().items():
        assert set(values.get(section, {})) == set(model.model_fields), section
    assert set(values) == {"data_dir", *sections()}
    Config.model_validate(values)
