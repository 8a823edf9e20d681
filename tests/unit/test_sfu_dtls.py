"""DTLS without a network: datagram splitting, timers, fingerprints, and what strangers may send."""

from __future__ import annotations

import contextlib

import pytest
from OpenSSL import SSL

from sfu.drops import DropReason, Drops
from sfu.dtls import (
    DTLS_MTU,
    HANDSHAKE_TIMEOUT_MS,
    SRTP_PROFILES,
    DtlsIdentity,
    DtlsState,
    DtlsTransport,
    datagrams,
)
from sfu.params import DtlsFingerprint, SrtpKeys

IDENTITY = DtlsIdentity()


class Server:
    """A DtlsTransport, what it has sent, and what it has said."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.sent: list[bytes] = []
        self.keys: SrtpKeys | None = None
        self.ended: list[tuple[DtlsState, str]] = []
        self.received: list[bytes] = []
        self.drops = Drops()
        self.dtls = DtlsTransport(IDENTITY, self.sent.append, self, lambda: self.now_ms, self.drops)

    def dtls_connected(self, keys: SrtpKeys) -> None:
        self.keys = keys

    def dtls_ended(self, state: DtlsState, reason: str) -> None:
        self.ended.append((state, reason))

    def dtls_received(self, data: bytes) -> None:
        self.received.append(data)


class Client:
    """OpenSSL as a client with a certificate of its own."""

    def __init__(self, profiles: bytes | None = None, certificate: bool = True, mtu: int = 1200) -> None:
        self.identity = DtlsIdentity()
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        if certificate:
            context.use_certificate(self.identity.certificate)
            context.use_privatekey(self.identity.key)
        if profiles is None:
            profiles = b":".join(profile.openssl_name for profile in reversed(SRTP_PROFILES))
        if profiles:
            context.set_tlsext_use_srtp(profiles)
        self.ssl = SSL.Connection(context)
        self.ssl.set_ciphertext_mtu(mtu)
        self.ssl.set_connect_state()

    def step(self) -> list[bytes]:
        """Go on as far as possible; the datagrams to send."""
        with contextlib.suppress(SSL.Error):
            self.ssl.do_handshake()
        return self.pending()

    def pending(self) -> list[bytes]:
        try:
            return list(datagrams(self.ssl.bio_read(65536)))
        except SSL.WantReadError:
            return []

    def take(self, sent: list[bytes]) -> None:
        for datagram in sent:
            self.ssl.bio_write(datagram)
            self.step_quietly()
        sent.clear()

    def step_quietly(self) -> None:
        try:
            self.ssl.do_handshake()
        except SSL.Error:
            return

    def shake_hands(self, server: Server, rounds: int = 6) -> None:
        for _ in range(rounds):
            for datagram in self.step():
                server.dtls.on_datagram(datagram)
            self.take(server.sent)


def handshake(client: Client, server: Server) -> None:
    server.dtls.expect(client.identity.fingerprints)
    client.shake_hands(server)


def test_both_sides_get_the_same_keys_and_our_order_of_profiles_wins() -> None:
    client, server = Client(), Server()
    handshake(client, server)
    assert server.dtls.dtls_state is DtlsState.CONNECTED
    assert server.keys is not None
    assert server.keys.profile == "aead_aes_128_gcm"
    material = client.ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (16 + 12))
    assert server.keys.receive == material[:16] + material[32:44]
    assert server.keys.send == material[16:32] + material[44:]


@pytest.mark.parametrize("profile", SRTP_PROFILES, ids=lambda profile: profile.name)
def test_each_profile_is_accepted_when_the_client_has_no_other(profile: object) -> None:
    client, server = Client(profiles=profile.openssl_name), Server()  # type: ignore[attr-defined]
    handshake(client, server)
    assert server.keys is not None
    assert server.keys.profile == profile.name  # type: ignore[attr-defined]
    length = profile.key_length + profile.salt_length  # type: ignore[attr-defined]
    assert len(server.keys.send) == len(server.keys.receive) == length


def test_a_client_without_srtp_is_not_let_in() -> None:
    client, server = Client(profiles=b""), Server()
    handshake(client, server)
    assert server.ended == [(DtlsState.FAILED, "no_srtp_profile")]
    assert server.keys is None


def test_a_client_without_certificate_is_not_let_in() -> None:
    client, server = Client(certificate=False), Server()
    server.dtls.expect(client.identity.fingerprints)
    client.shake_hands(server)
    assert server.ended == [(DtlsState.FAILED, "handshake")]


@pytest.mark.parametrize(
    "fingerprints",
    [
        (DtlsFingerprint("sha-256", ":".join(["00"] * 32)),),
        (DtlsFingerprint("md5", "00"),),
        (DtlsFingerprint("sha-256", "没有"),),
    ],
)
def test_a_wrong_or_unknown_fingerprint_is_not_let_in(fingerprints: tuple[DtlsFingerprint, ...]) -> None:
    client, server = Client(), Server()
    server.dtls.expect(fingerprints)
    client.shake_hands(server)
    assert server.ended == [(DtlsState.FAILED, "fingerprint")]
    assert server.keys is None


def test_one_wrong_fingerprint_beside_a_right_one_is_not_let_in() -> None:
    client, server = Client(), Server()
    server.dtls.expect((*client.identity.fingerprints, DtlsFingerprint("sha-512", "00")))
    client.shake_hands(server)
    assert server.ended == [(DtlsState.FAILED, "fingerprint")]


def test_no_data_is_taken_before_the_client_is_known() -> None:
    client, server = Client(), Server()
    client.shake_hands(server)
    client.ssl.send(b"too early")
    for datagram in client.pending():
        server.dtls.on_datagram(datagram)
    assert server.received == []
    server.dtls.expect(client.identity.fingerprints)
    client.ssl.send(b"now")
    for datagram in client.pending():
        server.dtls.on_datagram(datagram)
    assert server.received == [b"now"]


def test_a_hello_in_fragments_is_put_together() -> None:
    client, server = Client(mtu=256), Server()
    server.dtls.expect(client.identity.fingerprints)
    hello = client.step()
    assert len(hello) >= 1
    for datagram in hello:
        server.dtls.on_datagram(datagram)
    client.take(server.sent)
    client.shake_hands(server)
    assert server.dtls.dtls_state is DtlsState.CONNECTED


def test_a_repeated_hello_is_answered_at_once() -> None:
    """Chromium repeats its hello after 50 ms, OpenSSL its answer after a second: joins took that long."""
    client, server = Client(mtu=300), Server()
    server.dtls.expect(client.identity.fingerprints)
    hello = client.step()
    for datagram in hello:
        server.dtls.on_datagram(datagram)
    lost = list(server.sent)
    server.sent.clear()
    assert lost
    for number, datagram in enumerate(hello):  # the same message in new records
        server.dtls.on_datagram(datagram[:5] + (50 + number).to_bytes(6, "big") + datagram[11:])
    assert server.sent == lost
    client.take(server.sent)
    client.shake_hands(server)
    assert server.dtls.dtls_state is DtlsState.CONNECTED


def test_records_of_one_datagram_are_all_read() -> None:
    client, server = Client(), Server()
    handshake(client, server)
    client.ssl.send(b"one")
    client.ssl.send(b"two")
    server.dtls.on_datagram(client.ssl.bio_read(65536))
    assert server.received == [b"one", b"two"]


def test_a_forged_record_is_ignored_and_the_client_goes_on() -> None:
    client, server = Client(), Server()
    handshake(client, server)
    client.ssl.send(b"true")
    (record,) = client.pending()
    server.dtls.on_datagram(record[:-1] + bytes([record[-1] ^ 1]))
    server.dtls.on_datagram(record[:20])
    server.dtls.on_datagram(b"\x16\xfe\xfd" + bytes(10))
    server.dtls.on_datagram(b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28")  # an alert in the clear
    server.dtls.on_datagram(record)
    server.dtls.on_datagram(record)  # a replay
    assert server.received == [b"true"]
    assert server.ended == []


def test_close_notify_is_told_once() -> None:
    client, server = Client(), Server()
    handshake(client, server)
    client.ssl.shutdown()
    for datagram in client.pending():
        server.dtls.on_datagram(datagram)
        server.dtls.on_datagram(datagram)
    assert server.ended == [(DtlsState.CLOSED, "close_notify")]
    assert not server.dtls.send_data(b"x")


def test_a_handshake_that_does_not_end_is_given_up() -> None:
    client, server = Client(), Server()
    for datagram in client.step():
        server.dtls.on_datagram(datagram)
    server.now_ms = HANDSHAKE_TIMEOUT_MS - 1
    server.dtls.tick(server.now_ms)
    assert server.ended == []
    server.now_ms = HANDSHAKE_TIMEOUT_MS
    server.dtls.tick(server.now_ms)
    assert server.ended == [(DtlsState.FAILED, "timeout")]


def test_flights_are_cut_into_datagrams_of_whole_records() -> None:
    def record(length: int) -> bytes:
        return b"\x16\xfe\xfd" + bytes(8) + length.to_bytes(2, "big") + bytes(length)

    flight = record(700) + record(400) + record(100) + record(1187) + record(5)
    cut = list(datagrams(flight))
    assert [len(datagram) for datagram in cut] == [713 + 413, 113, 1200, 18]
    assert b"".join(cut) == flight
    assert all(len(datagram) <= DTLS_MTU for datagram in cut)
    assert list(datagrams(b"")) == []


def test_too_short_and_too_long_datagrams_are_counted() -> None:
    server = Server()
    server.dtls.on_datagram(b"\x16")
    server.dtls.on_datagram(b"\x16" + bytes(5000))
    assert server.drops.counts[DropReason.DTLS_MALFORMED] == 2
    assert server.dtls.dtls_state is DtlsState.NEW
