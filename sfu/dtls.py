"""DTLS 1.2 server over the shared socket (RFC 6347) and the SRTP keys it yields (RFC 5764).

pyOpenSSL with memory BIOs, driven synchronously by datagrams and by the worker's tick: no task per
client.  aiortc's own DTLS transport is not used, because it reads one record per datagram, waits in
a task, and unprotects RTP.  ``DtlsTransport`` nevertheless has the few members by which aiortc's
SCTP knows its DTLS transport, so that ``sfu.sctp`` can put that on top.
"""

from __future__ import annotations

import contextlib
import datetime
import hmac
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from sfu.drops import DropReason, Drops
from sfu.params import DtlsFingerprint, SrtpKeys

DTLS_1_2 = 0xFEFD
DTLS_MTU = 1200
MAX_DATAGRAM_BYTES = 4096
HANDSHAKE_TIMEOUT_MS = 30_000.0
RECORD_HEADER_BYTES = 13
RECORD_LENGTH = struct.Struct("!H")
CERTIFICATE_DAYS = 365
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384"
    b":ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
)
DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "sha-256": hashes.SHA256(),
    "sha-384": hashes.SHA384(),
    "sha-512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class SrtpProfile:
    """RFC 7714 §14.2, RFC 5764 §4.1.2; lengths in bytes."""

    name: str
    openssl_name: bytes
    key_length: int
    salt_length: int


# The server's order wins.  AES-128-GCM first: it costs half of counter mode with SHA-1.
SRTP_PROFILES = (
    SrtpProfile("aead_aes_128_gcm", b"SRTP_AEAD_AES_128_GCM", 16, 12),
    SrtpProfile("aead_aes_256_gcm", b"SRTP_AEAD_AES_256_GCM", 32, 12),
    SrtpProfile("aes128_cm_sha1_80", b"SRTP_AES128_CM_SHA1_80", 16, 14),
)


class DtlsState(StrEnum):
    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSED = "closed"
    FAILED = "failed"


class DtlsObserver(Protocol):
    """What a DtlsTransport's owner is told, synchronously."""

    def dtls_connected(self, keys: SrtpKeys) -> None: ...

    def dtls_ended(self, state: DtlsState, reason: str) -> None:
        """CLOSED by the client (close_notify) or FAILED; ``reason`` is one stable word for metrics."""

    def dtls_received(self, data: bytes) -> None:
        """One record of application data."""


class DataReceiver(Protocol):
    async def _handle_data(self, data: bytes) -> None: ...


class DtlsIdentity:
    """A worker's certificate (ECDSA P-256, self-signed) and the OpenSSL context of all its clients."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
        now = datetime.datetime.now(tz=datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
            .sign(key, hashes.SHA256())
        )
        self.fingerprints = (DtlsFingerprint("sha-256", certificate_digest(certificate, "sha-256")),)
        context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.set_min_proto_version(DTLS_1_2)
        # The datagram splitter below knows the record header of 1.2; every WebRTC client speaks it.
        context.set_max_proto_version(DTLS_1_2)
        context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # Any certificate will do here: it is judged by its fingerprint (RFC 8122), not by its issuer.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        self.certificate = certificate
        self.key = key
        context.use_certificate(certificate)
        context.use_privatekey(key)
        context.set_cipher_list(CIPHERS)
        context.set_tlsext_use_srtp(b":".join(profile.openssl_name for profile in SRTP_PROFILES))
        self.context = context


class DtlsTransport:
    """One client's DTLS association; we are the server (a=setup:passive)."""

    def __init__(
        self,
        identity: DtlsIdentity,
        send: Callable[[bytes], None],
        observer: DtlsObserver,
        clock_ms: Callable[[], float],
        drops: Drops,
    ) -> None:
        self._identity = identity
        self._send = send
        self._observer = observer
        self._clock_ms = clock_ms
        self._drops = drops
        self._fingerprints: tuple[DtlsFingerprint, ...] = ()
        self._ssl: SSL.Connection | None = None
        self._hello = b""  # the handshake message that came first, without its record header
        self._first_flight: list[bytes] = []  # what we answered to it
        self._started_ms = 0.0
        self._established = False
        self.dtls_state = DtlsState.NEW
        self.profile: str | None = None
        self._role = "server"  # read by aiortc's SCTP: it decides the parity of stream numbers (RFC 8832 §6)

    # ------------------------------------------------------------ what aiortc's SCTP asks of a DTLS transport

    @property
    def state(self) -> str:
        return self.dtls_state.value

    def _register_data_receiver(self, receiver: DataReceiver) -> None:
        """Not needed: ``sfu.sctp`` hands packets to SCTP itself, after having looked at them."""

    def _unregister_data_receiver(self, receiver: DataReceiver) -> None:
        """See ``_register_data_receiver``."""

    async def _send_data(self, data: bytes) -> None:
        """Never waits and never raises: what can't be sent is lost, and SCTP repeats it."""
        self.send_data(data)

    # ------------------------------------------------------------ life

    def expect(self, fingerprints: Sequence[DtlsFingerprint]) -> None:
        """Only a client whose certificate matches is let in (RFC 8122 §6.2).

        May come after the handshake: until then the association is not opened for media or data.
        """
        self._fingerprints = tuple(fingerprints)
        if self._established and self.dtls_state is DtlsState.CONNECTING:
            self._admit()

    def on_datagram(self, data: bytes) -> None:
        if self.dtls_state in (DtlsState.CLOSED, DtlsState.FAILED):
            return
        if len(data) < RECORD_HEADER_BYTES or len(data) > MAX_DATAGRAM_BYTES:
            self._drops.count(DropReason.DTLS_MALFORMED)
            return
        if self._ssl is None:
            self._ssl = self._open()
            self._hello = first_fragment(data)
        if not self._established and self._first_flight and first_fragment(data) == self._hello:
            # RFC 6347 §4.2.4: a repeated flight is answered with ours at once.  OpenSSL waits for its own
            # timer of a second, and a client whose ICE was not ready for our first answer waits with it.
            for datagram in self._first_flight:
                self._send(datagram)
            return
        self._ssl.bio_write(data)
        if not self._established:
            self._continue_handshake()
        if self._established:
            self._read()
        self._flush()

    def tick(self, now_ms: float) -> None:
        """Repeat a lost flight (RFC 6347 §4.2.4), give up on a handshake that does not end."""
        if self.dtls_state is not DtlsState.CONNECTING or self._ssl is None:
            return
        if now_ms - self._started_ms >= HANDSHAKE_TIMEOUT_MS:
            self._end(DtlsState.FAILED, "timeout")
            return
        if self._established:
            return
        remaining_s = self._ssl.DTLSv1_get_timeout()
        if remaining_s is None or remaining_s > 0:
            return
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error:
            self._end(DtlsState.FAILED, "timeout")
            return
        self._flush()

    def send_data(self, data: bytes) -> bool:
        if self.dtls_state is not DtlsState.CONNECTED or self._ssl is None:
            return False
        try:
            self._ssl.send(data)
        except SSL.Error:
            self._drops.count(DropReason.DTLS_MALFORMED)
            return False
        self._flush()
        return True

    def close(self) -> None:
        """Tell the client (close_notify) and forget; the observer is not told."""
        if self._ssl is not None and self.dtls_state in (DtlsState.CONNECTING, DtlsState.CONNECTED):
            with contextlib.suppress(SSL.Error):  # in mid-handshake there is nothing to shut down
                self._ssl.shutdown()
            self._flush()
        self.dtls_state = DtlsState.CLOSED
        self._ssl = None

    # ------------------------------------------------------------ inside

    def _open(self) -> SSL.Connection:
        ssl = SSL.Connection(self._identity.context)
        ssl.set_ciphertext_mtu(DTLS_MTU)
        ssl.set_accept_state()
        self._started_ms = self._clock_ms()
        self.dtls_state = DtlsState.CONNECTING
        return ssl

    def _continue_handshake(self) -> None:
        assert self._ssl is not None
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error:
            self._end(DtlsState.FAILED, "handshake")
            return
        self._established = True
        if self._fingerprints:
            self._admit()

    def _admit(self) -> None:
        """The handshake is done: judge the certificate, derive the keys."""
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate(as_cryptography=True)
        if certificate is None or not matches(certificate, self._fingerprints):
            self._refuse("fingerprint")
            return
        chosen = self._ssl.get_selected_srtp_profile()
        profile = next((p for p in SRTP_PROFILES if p.openssl_name == chosen), None)
        if profile is None:
            self._refuse("no_srtp_profile")
            return
        keys = derive_keys(self._ssl, profile)
        self.profile = profile.name
        self.dtls_state = DtlsState.CONNECTED
        # Our last flight has to be out before anything that the observer sends.
        self._flush()
        self._observer.dtls_connected(keys)

    def _refuse(self, reason: str) -> None:
        """The handshake went well but the client is not let in: it is told that we hang up."""
        assert self._ssl is not None
        with contextlib.suppress(SSL.Error):
            self._ssl.shutdown()
        self._end(DtlsState.FAILED, reason)

    def _read(self) -> None:
        while self._ssl is not None:
            try:
                data = self._ssl.recv(MAX_DATAGRAM_BYTES)
            except SSL.WantReadError:
                return
            except SSL.ZeroReturnError:
                self._end(DtlsState.CLOSED, "close_notify")
                return
            except SSL.Error:
                # Forged records never get here (RFC 6347 §4.1.2.7): this is an alert or a broken peer.
                self._end(DtlsState.FAILED, "alert")
                return
            if self.dtls_state is DtlsState.CONNECTED:
                self._observer.dtls_received(data)
            else:
                self._drops.count(DropReason.DTLS_MALFORMED)  # data before its sender was admitted

    def _flush(self) -> None:
        if self._ssl is None:
            return
        pending = bytearray()
        while True:
            try:
                pending += self._ssl.bio_read(65536)
            except SSL.Error:
                break
        out = list(datagrams(bytes(pending)))
        if not self._first_flight:
            self._first_flight = out
        for datagram in out:
            self._send(datagram)

    def _end(self, state: DtlsState, reason: str) -> None:
        self._flush()
        self._ssl = None
        self.dtls_state = state
        self._observer.dtls_ended(state, reason)


def first_fragment(datagram: bytes) -> bytes:
    """Of its first record: equal in a repetition, whose record numbers are new."""
    length = RECORD_LENGTH.unpack_from(datagram, RECORD_HEADER_BYTES - RECORD_LENGTH.size)[0]
    return datagram[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + length]


def datagrams(records: bytes) -> Iterator[bytes]:
    """Cut what OpenSSL wrote into datagrams of whole records, at most DTLS_MTU bytes each where possible."""
    start = position = 0
    while position + RECORD_HEADER_BYTES <= len(records):
        end = position + RECORD_HEADER_BYTES + RECORD_LENGTH.unpack_from(records, position + 11)[0]
        if position > start and end - start > DTLS_MTU:
            yield records[start:position]
            start = position
        position = end
    if position > start:
        yield records[start:position]


def certificate_digest(certificate: x509.Certificate, algorithm: str) -> str:
    """Upper-case hex with colons, as in a=fingerprint (RFC 8122 §5)."""
    return certificate.fingerprint(DIGESTS[algorithm]).hex(":").upper()


def matches(certificate: x509.Certificate, fingerprints: Sequence[DtlsFingerprint]) -> bool:
    """True when there is a fingerprint of a known algorithm and every such one fits (RFC 8122 §5)."""
    known = [f for f in fingerprints if f.algorithm.lower() in DIGESTS]
    return bool(known) and all(
        hmac.compare_digest(
            certificate_digest(certificate, f.algorithm.lower()).encode(), f.value.upper().encode()
        )
        for f in known
    )


def derive_keys(ssl: SSL.Connection, profile: SrtpProfile) -> SrtpKeys:
    """RFC 5764 §4.2: client key, server key, client salt, server salt; we are the server."""
    key, salt = profile.key_length, profile.salt_length
    material = ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt))
    client = material[:key] + material[2 * key : 2 * key + salt]
    server = material[key : 2 * key] + material[2 * key + salt :]
    return SrtpKeys(profile.name, receive=client, send=server)
