"""The same clients, packets, requests and hours for two relays, which must say the same to everyone.

Nothing is random but by the seeds of a scenario, nothing waits, and there is no socket: datagrams go in and
come out as bytes.  Both relays have the same SRTP keys and send the same numbers, so what they send is equal
to the byte even under encryption.
"""

from __future__ import annotations

import dataclasses
import math
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from pylibsrtp import Error as SrtpLibraryError

from sfu import rtcp
from sfu.drops import Drops
from sfu.feed import Feed
from sfu.media import MediaPlane
from sfu.messages import Event, Reply, StartTap
from sfu.native_relay import NativeRelay
from sfu.params import CodecParameters, SrtpKeys
from sfu.relay import PythonRelay
from sfu.rtp import ExtensionIds, Packet, RtpError
from sfu.srtp import open_session
from sfu.twcc import ArrivalRecorder
from tests.fixtures.sfu_rtp_peers import DOWN, ManualClock, SinkRecord, TapRecord, extensions

Address = tuple[str, int]
PROFILE = "aead_aes_128_gcm"


class Queue:
    """What the Python twin takes for its socket."""

    def __init__(self) -> None:
        self.coming: deque[tuple[bytes, Address]] = deque()
        self.sent: list[tuple[bytes, Address]] = []

    def fileno(self) -> int:
        return -1

    def recvmsg_into(
        self, buffers: tuple[memoryview], _ancillary: int
    ) -> tuple[int, list[Any], int, Address]:
        if not self.coming:
            raise BlockingIOError
        data, address = self.coming.popleft()
        size = min(len(data), len(buffers[0]))
        buffers[0][:size] = data[:size]
        return size, [], 0, address

    def sendto(self, data: memoryview | bytes, address: Address) -> None:
        self.sent.append((bytes(data), address))


class Side:
    """One relay with its policy."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sink = SinkRecord()
        self.drops = Drops()
        self.events: list[Event] = []
        self.taps: dict[str, TapRecord] = {}
        self.relay = self.make()
        self.media = MediaPlane(self.relay, self.events.append, self.clock, self.open_tap)

    def make(self) -> Any:
        raise NotImplementedError

    def open_tap(self, request: StartTap, codecs: tuple[CodecParameters, ...]) -> TapRecord:
        tap = self.taps[request.tap_id] = TapRecord(request, codecs)
        return tap

    def give(self, datagrams: list[tuple[bytes, Address]], *, busy: bool = False) -> None:
        """``busy``: the loop hears of what they bring up only after the last one."""
        raise NotImplementedError

    def settle(self) -> None:
        """What our calls have brought up is handled."""

    def take(self) -> list[tuple[bytes, Address]]:
        raise NotImplementedError


class Twin(Side):
    def __init__(self) -> None:
        self.lost: list[Feed] = []
        super().__init__()
        self.tell_lost = self.media.on_lost_feed
        self.media.on_lost_feed = self.lost.append  # type: ignore[assignment,method-assign]
        self.media.on_restart = self.tell_lost  # type: ignore[method-assign]

    def make(self) -> PythonRelay:
        self.queue = Queue()
        return PythonRelay(self.queue, self.sink, self.clock, self.drops)  # type: ignore[arg-type]

    def settle(self) -> None:
        """The native relay tells of an outage by an event, after the tick that found it: so do we."""
        while self.lost:
            self.tell_lost(self.lost.pop(0))

    def give(self, datagrams: list[tuple[bytes, Address]], *, busy: bool = False) -> None:
        for datagram in datagrams:
            self.queue.coming.append(datagram)
            self.relay._on_readable()

    def take(self) -> list[tuple[bytes, Address]]:
        sent, self.queue.sent = self.queue.sent, []
        return sent


class Native(Side):
    def make(self) -> NativeRelay:
        return NativeRelay(None, self.sink, self.clock, self.drops)

    def give(self, datagrams: list[tuple[bytes, Address]], *, busy: bool = False) -> None:
        for data, (ip, port) in datagrams:
            if busy:
                number = int.from_bytes(socket.inet_aton(ip), "big")
                self.relay.engine.input(data, number, port, self.clock.ms)
            else:
                self.relay.feed_in(data, (ip, port))

    def settle(self) -> None:
        self.relay._handle_all()

    def take(self) -> list[tuple[bytes, Address]]:
        return self.relay.sent()


class Client:
    """One peer: address, keys, and what it has received."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address: Address = (f"10.0.0.{number + 1}", 4000 + number)
        self.generation = 0
        self.transport_seq = 0
        self.renew()

    def renew(self) -> None:
        """Other keys, as after another DTLS handshake."""
        self.generation += 1
        up = f"{self.name}{self.generation}up".encode().ljust(28, b"u")
        down = f"{self.name}{self.generation}down".encode().ljust(28, b"d")
        self.keys = SrtpKeys(PROFILE, up, down)
        self.tx = open_session(PROFILE, up, outbound=True)
        self.tx_rtcp = open_session(PROFILE, up, outbound=True)
        self.rx = open_session(PROFILE, down, outbound=False)
        self.rx_rtcp = open_session(PROFILE, down, outbound=False)
        self.arrivals = ArrivalRecorder()
        self.numbers: dict[int, deque[int]] = {}  # of what came, by SSRC
        self.known: dict[tuple[int, int], bytes] = {}  # (SSRC, number) → the datagram that had it

    def move(self) -> None:
        self.address = (self.address[0], self.address[1] + 100)

    def protect(self, packet: bytes) -> bytes:
        """As it is, where libsrtp does not want it."""
        try:
            return bytes(self.tx.protect(packet))
        except SrtpLibraryError:
            return packet

    def protect_rtcp(self, packet: bytes) -> bytes:
        try:
            return bytes(self.tx_rtcp.protect_rtcp(packet))
        except SrtpLibraryError:
            return packet


class World:
    """Two sides in step."""

    def __init__(self) -> None:
        self.sides = (Twin(), Native())
        self.clients: dict[str, Client] = {}
        self.by_address: dict[Address, Client] = {}
        self.steps = 0
        self.received = 0  # datagrams that clients got
        self.ids = ExtensionIds()
        self.ids.learn(extensions(DOWN))

    @property
    def now_ms(self) -> float:
        return self.sides[0].clock.ms

    # ------------------------------------------------------------ what happens

    def both(self, act: Callable[[Side], Any]) -> Any:
        """The same on both sides; their answers must be equal."""
        self.steps += 1
        answers = []
        for side in self.sides:
            random.seed(self.steps)
            answers.append(act(side))
            side.settle()
        assert same(answers[0], answers[1]), f"twin {answers[0]!r}, native {answers[1]!r}"
        self.compare()
        return answers[0]

    def ask(self, request: Any) -> Reply:
        reply: Reply = self.both(lambda side: side.media.handle(request))
        return reply

    def open(self, name: str) -> Client:
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = Client(name, len(self.clients))
        self.by_address[client.address] = client

        def act(side: Side) -> None:
            side.media.add_leg("room", name)
            side.relay.open_leg(name, client.keys)
            side.relay.bind_leg(name, client.address)

        self.both(act)
        return client

    def send(self, client: Client, *datagrams: bytes, busy: bool = False) -> None:
        address = client.address
        self.both(lambda side: side.give([(datagram, address) for datagram in datagrams], busy=busy))

    def advance(self, ms: float, step_ms: float = 50.0) -> None:
        while ms > 0:
            step = min(step_ms, ms)
            ms -= step
            for side in self.sides:
                side.clock.advance(step)
            self.both(lambda side: side.relay.release(side.clock.ms))
            if self.now_ms // 50 != (self.now_ms - step) // 50:
                self.both(lambda side: side.media.tick(side.clock.ms))

    # ------------------------------------------------------------ what must be equal

    def compare(self) -> None:
        ours = [by_destination(side.take()) for side in self.sides]
        for address in {**ours[0], **ours[1]}:
            sent = [one.get(address, []) for one in ours]
            client = self.by_address.get(address)
            assert sent[0] == sent[1], self.difference(client, sent[0], sent[1])
            for datagram in sent[0]:
                self.received += 1
                if client is not None:
                    self.note(client, datagram)
        counts = [dict(side.drops.counts) for side in self.sides]
        assert counts[0] == counts[1], {
            reason.value: (counts[0][reason], counts[1][reason])
            for reason in counts[0]
            if counts[0][reason] != counts[1][reason]
        }

    def note(self, client: Client, datagram: bytes) -> None:
        if 192 <= datagram[1] <= 223:
            return
        packet = Packet()
        # the header and its extensions are not encrypted; the size of the padding is
        packet.parse(bytes((datagram[0] & 0xDF,)) + datagram[1:], self.ids)
        if packet.transport_seq >= 0:
            client.arrivals.record(packet.transport_seq, self.now_ms + 30)
        numbers = client.numbers.setdefault(packet.ssrc, deque(maxlen=300))
        # other bytes under a number that was used would give away the key stream of AES-GCM
        before = client.known.get((packet.ssrc, packet.sequence), datagram)
        assert before == datagram or packet.sequence not in numbers, "a nonce is used twice"
        client.known[packet.ssrc, packet.sequence] = datagram
        numbers.append(packet.sequence)

    def difference(self, client: Client | None, twin: list[bytes], native: list[bytes]) -> str:
        lines = [f"to {client.name if client else '?'}: twin {len(twin)}, native {len(native)} datagrams"]
        for index in range(max(len(twin), len(native))):
            one = twin[index] if index < len(twin) else b""
            other = native[index] if index < len(native) else b""
            if one != other:
                lines += [
                    f"#{index}",
                    f"  twin   {self.told(client, one)}",
                    f"  native {self.told(client, other)}",
                ]
                break
        return "\n".join(lines)

    def told(self, client: Client | None, datagram: bytes) -> str:
        if not datagram or client is None:
            return "nothing"
        try:
            if 192 <= datagram[1] <= 223:
                plain = client.rx_rtcp.unprotect_rtcp(datagram)
                return f"{rtcp.parse(plain)} {plain.hex()}"
            plain = client.rx.unprotect(datagram)
            packet = Packet()
            packet.parse(plain, self.ids)
        except (SrtpLibraryError, RtpError, ValueError) as error:
            return f"{datagram[:12].hex()} ({error})"
        return (
            f"{packet.ssrc}/{packet.sequence} t={packet.timestamp} pt={packet.payload_type} "
            f"{plain[:40].hex()} size {len(plain)}"
        )

    def compare_all(self) -> None:
        """Counters, events, taps and reports."""
        twin, native = self.sides
        assert twin.sink.stun == native.sink.stun
        assert twin.sink.dtls == native.sink.dtls
        assert same(twin.events, native.events), (twin.events, native.events)
        assert twin.taps.keys() == native.taps.keys()
        for name, tap in twin.taps.items():
            other = native.taps[name]
            assert tap.packets == other.packets, f"tap {name}: {len(tap.packets)}, {len(other.packets)}"
            assert (tap.reports, tap.closed) == (other.reports, other.closed)
        for leg, other in zip(twin.relay.legs(), native.relay.legs(), strict=True):
            for field in (
                "name",
                "bytes_in",
                "bytes_out",
                "other_packets",
                "other_bytes",
                "rtt_ms",
                "queued",
            ):
                assert same(getattr(leg, field), getattr(other, field)), (leg.name, field)
            assert leg.feeds.keys() == other.feeds.keys()
            for ssrc, feed in leg.feeds.items():
                for field in FEED_FIELDS:
                    ours, theirs = getattr(feed, field), getattr(other.feeds[ssrc], field)
                    assert same(ours, theirs), (ssrc, field, ours, theirs)
        for name, consumer in twin.media.consumers.items():
            route, other_route = consumer.route, native.media.consumers[name].route
            for field in ROUTE_FIELDS:
                assert same(getattr(route, field), getattr(other_route, field)), (name, field)
            assert same(route.out_timestamp(self.now_ms), other_route.out_timestamp(self.now_ms))
        assert twin.relay.nacks_sent == native.relay.nacks_sent
        reports = [side.media.report() for side in self.sides]
        for index, (ours, theirs) in enumerate(zip(*reports, strict=True)):
            if index == 3:
                ours, theirs = (
                    [counter for counter in found if not counter.name.startswith("lianxin_relay_")]
                    for found in (ours, theirs)
                )
                ours, theirs = (sorted(found, key=lambda c: (c.name, c.labels)) for found in (ours, theirs))
            assert same(ours, theirs), (ours, theirs)
        self.compare()


FEED_FIELDS = (
    "packets", "bytes", "rtx_packets", "rtx_bytes", "frames", "width", "height", "recovered", "received",
    "jitter", "clock_rate", "highest", "base_seq", "lost", "report_ntp", "report_arrival_ms", "last_ms",
    "wanted", "paused", "layer_bytes", "rtx_ssrc",
)  # fmt: skip
ROUTE_FIELDS = (
    "ssrc", "packets", "bytes", "octets", "resent", "resent_bytes", "timestamp_shift", "spatial",
    "max_temporal", "max_spatial",
)  # fmt: skip


def by_destination(sent: list[tuple[bytes, Address]]) -> dict[Address, list[bytes]]:
    found: dict[Address, list[bytes]] = {}
    for data, address in sent:
        found.setdefault(address, []).append(data)
    return found


def same(one: Any, other: Any) -> bool:
    """Equal but for what floating point makes of another order."""
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def rtp_packet(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, block: bytes, marker: bool
) -> bytes:
    head = struct.pack(
        "!BBHII", 0x90 if block else 0x80, (0x80 if marker else 0) | payload_type, sequence & 0xFFFF,
        timestamp & 0xFFFFFFFF, ssrc,
    )  # fmt: skip
    return head + block + payload
