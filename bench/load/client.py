"""ICE (controlling, towards a lite agent) and DTLS-SRTP (client) of one load leg: just enough, then C takes over."""

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
from OpenSSL import SSL, crypto

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
    """Of a lite agent with one component; UDP host candidates only."""
    candidates = re.findall(r"a=candidate:\S+ 1 udp (\d+) (\S+) (\d+) typ host", sdp, re.IGNORECASE)
    _, host, port = max(((int(p), h, q) for p, h, q in candidates if ":" not in h))
    found = {name: re.search(rf"a=ice-{name}:(\S+)", sdp) for name in ("ufrag", "pwd")}
    assert found["ufrag"] is not None
    assert found["pwd"] is not None
    return Remote(found["ufrag"].group(1), found["pwd"].group(1), host, int(port))


@dataclass(frozen=True)
class Identity:
    """One certificate for all load clients: making and checking many would measure nothing."""

    key: crypto.PKey
    certificate: crypto.X509
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
    return Identity(crypto.PKey.from_cryptography_key(key), crypto.X509.from_cryptography(made), fingerprint)


class Leg:
    """``ufrag`` and ``pwd`` go into the SDP; ``connect`` gives the socket, the keys and a check for C."""

    def __init__(self) -> None:
        self.ufrag, self.pwd = secrets.token_hex(4), secrets.token_hex(12)
        self.sock: socket.socket | None = None

    async def connect(self, remote: Remote, profile: str = "SRTP_AEAD_AES_128_GCM") -> tuple[SrtpKeys, bytes]:
        """Raises TimeoutError.  The consent check may be sent again and again as it is."""
        sock = self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        for option in (33, 8):  # SO_RCVBUFFORCE needs privileges, SO_RCVBUF is capped
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, option, 2 << 20)
                break
        sock.connect((remote.host, remote.port))
        check = self._check(remote)
        await self._ask(check)
        return await self._handshake(profile), check

    def _check(self, remote: Remote) -> bytes:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        request.attributes["USERNAME"] = f"{remote.ufrag}:{self.ufrag}"
        request.attributes["PRIORITY"] = 2130706431
        request.attributes["ICE-CONTROLLING"] = secrets.randbits(63)
        request.attributes["USE-CANDIDATE"] = None
        request.add_message_integrity(remote.pwd.encode())
        request.add_fingerprint()
        return bytes(request)

    async def _receive(self, timeout_s: float) -> bytes:
        assert self.sock is not None
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recv(self.sock, 2048), timeout_s)

    async def _ask(self, check: bytes) -> None:
        assert self.sock is not None
        for _ in range(TRIES):
            with contextlib.suppress(ConnectionRefusedError):
                self.sock.send(check)
                with contextlib.suppress(TimeoutError):
                    answer = await self._receive(RETRY_S)
                    if answer[:2] == b"\x01\x01":
                        return
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
