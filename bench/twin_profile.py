"""Where the Python twin's time goes, in process: P publishers, each seen by S subscribers who say nothing.

    .venv/bin/python -m bench.twin_profile [--publishers 5] [--subscribers 20] [--packets 300] [--top 15]

Video packets of 1,112 bytes with VP8 descriptors, MID and transport-wide numbers come in encrypted
(AES-128-GCM) through a real UDP socket and leave, encrypted again, through it.  Measured is the CPU time
(user and system) of the relay's read callback alone, which includes decrypting, retransmission ring,
feedback bookkeeping and the system calls; the publisher's work is outside.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import socket
import struct
import time

from sfu.drops import Drops
from sfu.media import MediaPlane
from sfu.messages import Consume, Done, Produce
from sfu.params import (
    CodecParameters,
    EncodingParameters,
    ExtensionUri,
    HeaderExtension,
    Kind,
    RtpParameters,
    SrtpKeys,
)
from sfu.relay import PythonRelay, epoch_clock_ms
from sfu.rtp import encode_extensions
from sfu.srtp import open_session

PROFILE = "aead_aes_128_gcm"
PAYLOAD = 1080
BURST = 10  # packets per frame


class Nothing:
    """A DatagramSink."""

    def on_stun(self, data: bytes, address: tuple[str, int]) -> None: ...

    def on_dtls(self, data: bytes, address: tuple[str, int]) -> None: ...


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def run(publishers: int, subscribers: int, packets: int, profiler: cProfile.Profile | None = None) -> float:
    """Returns µs of CPU per forwarded packet."""
    sock, clock = udp(), epoch_clock_ms()
    drops = Drops()
    relay = PythonRelay(sock, Nothing(), clock, drops)
    media = MediaPlane(relay, lambda event: None, clock, None)
    codec = CodecParameters(
        "video/VP8", 96, 90000, rtcp_feedback=("nack", "nack pli", "transport-cc"), rtx_payload_type=97
    )
    extensions = (HeaderExtension(ExtensionUri.MID, 4), HeaderExtension(ExtensionUri.TRANSPORT_CC, 3))
    senders = []
    # one socket takes all copies: the receivers' work is no part of this
    drain = udp()
    for number in range(publishers):
        name, keys = f"p{number}", SrtpKeys(PROFILE, bytes([number]) * 28, bytes([number + 100]) * 28)
        own = udp()
        media.add_leg("room", name)
        relay.open_leg(name, keys)
        relay.bind_leg(name, own.getsockname())
        rtp = RtpParameters("0", (codec,), extensions, (EncodingParameters(ssrc=1000 + number),))
        assert media.handle(Produce(name, f"v{number}", Kind.VIDEO, rtp)) == Done()
        senders.append((own, open_session(PROFILE, keys.receive, outbound=True)))
    sinks = []
    for number in range(subscribers):
        name, keys = f"s{number}", SrtpKeys(PROFILE, bytes([number + 30]) * 28, bytes([number + 130]) * 28)
        own = udp()
        sinks.append(own)
        media.add_leg("room", name)
        relay.open_leg(name, keys)
        relay.bind_leg(name, own.getsockname())
        for source in range(publishers):
            encoding = EncodingParameters(ssrc=5000 + source, rtx_ssrc=6000 + source)
            rtp = RtpParameters(str(source), (codec,), extensions, (encoding,))
            assert media.handle(Consume(name, f"c{number}-{source}", f"v{source}", rtp)) == Done()
    address = sock.getsockname()
    spent = 0.0
    sequence = 0
    for frame in range(packets // BURST):
        for place in range(BURST):
            sequence += 1
            head = struct.pack(
                "!BBHII", 0x90, 96 | (0x80 if place == BURST - 1 else 0), sequence, frame * 3000, 0
            )
            block = encode_extensions([(3, struct.pack("!H", sequence & 0xFFFF)), (4, b"0")])
            descriptor = struct.pack(
                "!BBHBB", 0x90 if place == 0 else 0x80, 0xE0, 0x8000 | frame, frame & 0xFF, 0
            )
            body = b"\x10\0\0\x9d\x01\x2a\0\5\xd0\2" if frame == place == 0 else b"\x11\0\0"
            packet = (descriptor + body).ljust(PAYLOAD, b"x")
            for number, (own, session) in enumerate(senders):
                data = head[:8] + struct.pack("!I", 1000 + number) + block + packet
                own.sendto(session.protect(data), address)
        if profiler is not None:
            profiler.enable()
        begun = time.process_time()
        relay._on_readable()
        spent += time.process_time() - begun
        if profiler is not None:
            profiler.disable()
        for own in (*sinks, drain):
            while True:
                try:
                    own.recv(2048)
                except BlockingIOError:
                    break
        if frame % 3 == 0:
            media.tick(clock())
    counters = {
        (counter.name, dict(counter.labels).get("direction"), dict(counter.labels).get("kind")): counter.value
        for counter in media.report()[3]
    }
    forwarded = counters["lianxin_packets_total", "out", "video"]
    expected = publishers * subscribers * (packets // BURST * BURST)
    assert forwarded == expected, f"{forwarded} of {expected} forwarded; drops: {drops.counters()}"
    for own in (sock, drain, *sinks, *(own for own, _ in senders)):
        own.close()
    return spent / forwarded * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--publishers", type=int, default=5)
    parser.add_argument("--subscribers", type=int, default=20)
    parser.add_argument("--packets", type=int, default=300, help="per publisher")
    parser.add_argument("--top", type=int, default=15, help="functions shown of the profile")
    given = parser.parse_args()
    spent_us = run(given.publishers, given.subscribers, given.packets)
    print(f"{given.publishers} -> {given.subscribers}: {spent_us:.2f} µs CPU per forwarded packet")
    profiler = cProfile.Profile()
    run(given.publishers, given.subscribers, given.packets, profiler)
    print("Under the profiler (which slows short functions down most):")
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(given.top)


if __name__ == "__main__":
    main()
