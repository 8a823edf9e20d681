"""The internal authority and its server certificates."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from core.errors import ConfigError
from signaling.certs import TlsFiles, ensure_certificate, make_certificate, subjects_of


def leaf(files: TlsFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def test_browsers_that_trust_the_authority_trust_the_server(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["hall.example", "*.lan.example"], ["10.0.0.1", "fd00::1"])
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    policy = PolicyBuilder().store(Store([authority]))
    for subject in (x509.DNSName("hall.example"), x509.DNSName("a.lan.example")):
        policy.build_server_verifier(subject).verify(leaf(files), [])
    from ipaddress import ip_address

    policy.build_server_verifier(x509.IPAddress(ip_address("fd00::1"))).verify(leaf(files), [])


def test_keys_are_for_nobody_else(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["hall.example"], [])
    for key in (files.key, files.ca_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_authority_stays_the_same(tmp_path: Path) -> None:
    ca = make_certificate(tmp_path, ["a.example"], []).ca.read_bytes()
    files = make_certificate(tmp_path, ["b.example"], [])
    assert files.ca.read_bytes() == ca
    assert subjects_of(leaf(files)) == (["b.example"], [])


def test_a_good_certificate_is_kept_and_an_old_one_renewed_for_the_same_names(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["kept.example"], ["10.0.0.1"])
    before = leaf(files).serial_number
    ensure_certificate(tmp_path, ["other.example"], [])
    assert leaf(files).serial_number == before
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=810)
    make_certificate(tmp_path, ["kept.example"], ["10.0.0.1"], now=long_ago)
    ensure_certificate(tmp_path, ["other.example"], [])
    assert leaf(files).not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(
        days=700
    )
    assert subjects_of(leaf(files)) == (["kept.example"], ["10.0.0.1"])


def test_a_spoilt_certificate_is_made_again(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["a.example"], [])
    files.cert.write_text("nonsense")
    ensure_certificate(tmp_path, ["b.example"], [])
    assert subjects_of(leaf(files))[0] == ["b.example"]


@pytest.mark.parametrize(
    ("names", "addresses", "text"),
    [
        ([], [], "at least one"),
        (["10.0.0.1"], [], "10.0.0.1 is not a DNS name"),
        (["a b"], [], "a b is not a DNS name"),
        ([""], [], "is not a DNS name"),
        ([], ["hall.example"], "hall.example is not an IP address"),
    ],
)
def test_other_subjects_are_refused(
    tmp_path: Path, names: list[str], addresses: list[str], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        make_certificate(tmp_path, names, addresses)
