"""ICE (controlling, one pair) and DTLS-SRTP (client) of one load leg: just enough, then C takes over."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from aioice import stun
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from sfu.params import SrtpKeys

PROFILES = {  # DTLS name → ours, length of key and salt
    "SRTP_AEAD_AES_128_GCM": ("aead_aes_128_gcm", 16, 12),
    "SRTP_AES128_CM_SHA1_80": ("aes128_cm_sha1_80", 16, 14),
}
RETRY_S = 0.5
TRIES = 20


@dataclass(frozen=True, slots=True)
class Remote:
    """Where the server listens, from its SDP."""

    ufrag: str
    pwd: str
    host: str
    port: int


def remote_of(sdp: str) -> Remote:
    """One component; the UDP host candidate of the highest priority."""
    candidates = re.findall(r"a=candidate:\S+ 1 udp (\d+) (\S+) (\d+) typ host", sdp, re.IGNORECASE)
    _, host, port = max(((int(p), h, q) for p, h, q in candidates if ":" not in h))
    found = {name: re.search(rf"a=ice-{name}:(\S+)", sdp) for name in ("ufrag", "pwd")}
    assert found["ufrag"] is not None
    assert found["pwd"] is not None
    return Remote(found["ufrag"].group(1), found["pwd"].group(1), host, int(port))


@dataclass(frozen=True)
class Identity:
    """One certificate for all load clients: making and checking many would measure nothing."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    fingerprint: str


@lru_cache(1)
def identity() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    fingerprint = made.fingerprint(hashes.SHA256()).hex(":").upper()
    return Identity(key, made, fingerprint)


class Leg:
    """``ufrag`` and ``pwd`` go into the SDP; ``connect`` gives the socket, the keys and a check for C."""

    def __init__(self) -> None:
        self.ufrag, self.pwd = secrets.token_hex(4), secrets.token_hex(12)
        self.sock: socket.socket | None = None

    def bind(self, host: str) -> str:
        """For a server that wants our candidate beforehand (Janus); the line of the SDP."""
        sock = self._open()
        sock.bind((host, 0))
        return f"a=candidate:1 1 udp 2130706431 {host} {sock.getsockname()[1]} typ host"

    def _open(self) -> socket.socket:
        sock = self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        for option in (33, 8):  # SO_RCVBUFFORCE needs privileges, SO_RCVBUF is capped
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, option, 2 << 20)
                break
        return sock

    async def connect(self, remote: Remote, profile: str = "SRTP_AEAD_AES_128_GCM") -> tuple[SrtpKeys, bytes]:
        """Raises TimeoutError.  The consent check may be sent again and again as it is."""
        sock = self.sock or self._open()
        sock.connect((remote.host, remote.port))
        try:
            check = await self._ask(remote)
            return await self._handshake(profile), check
        except BaseException:
            sock.close()
            raise

    def _check(self, remote: Remote, controlling: bool) -> bytes:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        request.attributes["USERNAME"] = f"{remote.ufrag}:{self.ufrag}"
        request.attributes["PRIORITY"] = 2130706431
        request.attributes["ICE-CONTROLLING" if controlling else "ICE-CONTROLLED"] = secrets.randbits(63)
        if controlling:
            request.attributes["USE-CANDIDATE"] = None
        request.add_message_integrity(remote.pwd.encode())
        request.add_fingerprint()
        return bytes(request)

    async def _receive(self, timeout_s: float) -> bytes:
        """The next datagram that is not a check of the server's; those are answered: Janus is full ICE."""
        assert self.sock is not None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            while True:
                datagram = await loop.sock_recv(self.sock, 2048)
                if datagram[:2] != b"\x00\x01":
                    return datagram
                request = stun.parse_message(datagram)
                answer = stun.Message(
                    message_method=stun.Method.BINDING,
                    message_class=stun.Class.RESPONSE,
                    transaction_id=request.transaction_id,
                    attributes={"XOR-MAPPED-ADDRESS": self.sock.getpeername()},
                )
                answer.add_message_integrity(self.pwd.encode())
                answer.add_fingerprint()
                self.sock.send(bytes(answer))

    async def _ask(self, remote: Remote) -> bytes:
        """The check that was answered.  A full agent that has made the offer controls (RFC 8445 §6.1.1)."""
        assert self.sock is not None
        check = self._check(remote, controlling=True)
        for _ in range(TRIES):
            with contextlib.suppress(ConnectionRefusedError):
                self.sock.send(check)
                with contextlib.suppress(TimeoutError):
                    answer = await self._receive(RETRY_S)
                    if answer[:2] == b"\x01\x01":
                        return check
                    if answer[:2] == b"\x01\x11":
                        failed = stun.parse_message(answer).attributes.get("ERROR-CODE", (0, ""))
                        check = self._check(remote, controlling=failed[0] != 487)
            await asyncio.sleep(0.02)
        raise TimeoutError("no answer to our STUN checks")

    async def _handshake(self, profile: str) -> SrtpKeys:
        assert self.sock is not None
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        own = identity()
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)  # the bench trusts whom it has started
        context.set_tlsext_use_srtp(profile.encode())
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        connection.set_ciphertext_mtu(1200)
        for _ in range(TRIES * 4):
            with contextlib.suppress(SSL.WantReadError):
                connection.do_handshake()
                self._flush(connection)
                return _keys(connection)
            self._flush(connection)
            try:
                datagram = await self._receive(RETRY_S)
            except TimeoutError:
                connection.DTLSv1_handle_timeout()
                continue
            if 20 <= datagram[0] <= 63:
                connection.bio_write(datagram)
        raise TimeoutError("no DTLS handshake")

    def _flush(self, connection: SSL.Connection) -> None:
        """One datagram per DTLS record: the memory BIO does not keep their bounds."""
        assert self.sock is not None
        pending = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                pending += connection.bio_read(65536)
        while pending:
            length = 13 + struct.unpack_from("!H", pending, 11)[0]
            self.sock.send(pending[:length])
            pending = pending[length:]


def _keys(connection: SSL.Connection) -> SrtpKeys:
    """RFC 5764 §4.2; ``receive`` is what the server sends with."""
    chosen = connection.get_selected_srtp_profile().decode()
    name, key, salt = PROFILES[chosen]
    view = connection.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt))
    client_key, server_key = view[:key], view[key : 2 * key]
    client_salt, server_salt = view[2 * key : 2 * key + salt], view[2 * key + salt :]
    return SrtpKeys(name, receive=server_key + server_salt, send=client_key + client_salt)
