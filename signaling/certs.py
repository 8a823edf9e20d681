"""An internal certification authority and server certificates (RFC 5280), for networks without a public one.

``tls/ca.pem`` is what browsers import once; ``tls/ca-key.pem`` never leaves the machine.
"""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 820  # Apple's limit for privately issued certificates is 825 days
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class TlsFiles:
    ca: Path
    ca_key: Path
    cert: Path
    key: Path

    @classmethod
    def inside(cls, data_dir: Path) -> TlsFiles:
        folder = data_dir / "tls"
        return cls(folder / "ca.pem", folder / "ca-key.pem", folder / "server.pem", folder / "server-key.pem")


def machine_names() -> tuple[str, ...]:
    """What this machine calls itself, and localhost."""
    host = socket.gethostname()
    return tuple(dict.fromkeys(name for name in (host, "localhost") if _is_dns_name(name)))


def make_certificate(
    data_dir: Path, names: Iterable[str], addresses: Iterable[str], *, now: datetime.datetime | None = None
) -> TlsFiles:
    """A server certificate for ``names`` and ``addresses``, signed by our authority (made when absent).

    Raises ConfigError for a name or an address that can't be one.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    subjects = _subjects(names, addresses)
    if not subjects:
        raise ConfigError("A certificate needs at least one --name or --address.")
    files = TlsFiles.inside(data_dir)
    files.cert.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, ca = _authority(files, moment)
    key = ec.generate_private_key(ec.SECP256R1())
    first = next(iter(subjects))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(first.value)[:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(hours=1))
        .not_valid_after(min(moment + datetime.timedelta(days=SERVER_DAYS), ca.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write(files.key, _key_bytes(key), 0o600)
    # The chain: some clients want the authority too, to show it.
    chain = certificate.public_bytes(serialization.Encoding.PEM) + ca.public_bytes(serialization.Encoding.PEM)
    _write(files.cert, chain, 0o644)
    return files


def ensure_certificate(data_dir: Path, names: Iterable[str], addresses: Iterable[str]) -> TlsFiles:
    """The data folder's certificate: made at the first start, again shortly before it ends.

    One that an operator made for other names with ``lianxin cert`` is kept.
    """
    files = TlsFiles.inside(data_dir)
    try:
        current = x509.load_pem_x509_certificate(files.cert.read_bytes())
        readable = files.key.exists()
    except (OSError, ValueError):
        return make_certificate(data_dir, names, addresses)
    left = current.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if readable and left > datetime.timedelta(days=RENEW_DAYS):
        return files
    known_names, known_addresses = subjects_of(current)
    return make_certificate(data_dir, known_names or names, known_addresses or addresses)


def subjects_of(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """DNS names and addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    return (
        found.get_values_for_type(x509.DNSName),
        [str(address) for address in found.get_values_for_type(x509.IPAddress)],
    )


def _authority(
    files: TlsFiles, moment: datetime.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(files.ca.read_bytes())
    except FileNotFoundError:
        return _new_authority(files, moment)
    except ValueError as error:
        raise ConfigError(f"{files.ca_key} or {files.ca} can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{files.ca_key} is not an elliptic-curve key.")
    return key, certificate


def _new_authority(
    files: TlsFiles, moment: datetime.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Lianxin internal CA {moment:%Y-%m-%d}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(hours=1))
        .not_valid_after(moment + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(digital_signature=False, signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(files.ca_key, _key_bytes(key), 0o600)
    _write(files.ca, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, certificate


def _usage(*, digital_signature: bool, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subjects(names: Iterable[str], addresses: Iterable[str]) -> list[x509.GeneralName]:
    subjects: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        if not _is_dns_name(name):
            raise ConfigError(f"{name} is not a DNS name (addresses go to --address).")
        subjects.append(x509.DNSName(name.encode("idna").decode("ascii")))
    subjects.extend(x509.IPAddress(_ip(address)) for address in dict.fromkeys(addresses))
    return subjects


def _ip(address: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(address)
    except ValueError:
        raise ConfigError(f"{address} is not an IP address (names go to --name).") from None


def _is_dns_name(name: str) -> bool:
    try:
        ascii_name = name.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    labels = ascii_name.removeprefix("*.").split(".")
    numeric = all(label.isdigit() for label in labels)
    return not numeric and all(label and label.replace("-", "").isalnum() for label in labels)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)
