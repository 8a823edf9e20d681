"""The Relay: everything that happens once per packet, behind one seam; here its Python twin.

    datagram → demultiplex (RFC 7983) → leg by address → unprotect → parse → Feed → Routes → protect → send

A native relay replaces ``PythonRelay`` behind ``Relay``: it gives the same legs, feeds and routes as handles.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable

from sfu import rtcp
from sfu.drops import DropReason, Drops
from sfu.feed import Feed
from sfu.leg_route import LegRoute
from sfu.legs import MAX_SSRCS, NOWHERE, Leg
from sfu.messages import Counter
from sfu.pacer import RELEASE_S
from sfu.params import CodecParameters, Kind, SrtpKeys
from sfu.rtp import U32, Packet, RtpError
from sfu.seams import Address, DatagramSink, MediaSide, TapSink
from sfu.srtp import (
    AUTH_FAIL,
    BUFFER_SIZE,
    OK,
    REPLAY_FAIL,
    REPLAY_OLD,
    TRAILER_ROOM,
    SrtpBuffer,
    SrtpLeg,
    lib,
    self_test,
)
from sfu.tap_route import TapRoute

log = logging.getLogger(__name__)

BATCH = 64  # datagrams per turn of the loop: enough to keep up, few enough that signalling isn't starved
SOCKET_BUFFER = 4 << 20  # bytes; a key frame to 100 receivers is a burst of some megabytes
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # past the limits of the system, when we are allowed to
SO_TIMESTAMPNS = 35  # Linux: the kernel says when each datagram came
TIMESPEC = struct.Struct("@qq")
ANCILLARY = socket.CMSG_SPACE(TIMESPEC.size)
MAX_AGE_MS = 2000.0  # older is no age but a clock that was set
MAX_PACKET = 1600  # bytes of one RTP or RTCP datagram

_RTP_FAILURES = {
    AUTH_FAIL: DropReason.SRTP_AUTH,
    REPLAY_FAIL: DropReason.SRTP_REPLAY,
    REPLAY_OLD: DropReason.SRTP_REPLAY,
}
_RTCP_FAILURES = {
    AUTH_FAIL: DropReason.SRTCP_AUTH,
    REPLAY_FAIL: DropReason.SRTCP_REPLAY,
    REPLAY_OLD: DropReason.SRTCP_REPLAY,
}


def epoch_clock_ms() -> Callable[[], float]:
    """A clock in milliseconds since 1970 that never goes back: wall time at the start, then monotonic."""
    origin = time.time() - time.monotonic()
    monotonic = time.monotonic
    return lambda: (origin + monotonic()) * 1000


def age_ms(ancillary: list[tuple[int, int, bytes]]) -> float:
    """How long a datagram has waited in the socket; 0 when the kernel does not say."""
    if not ancillary:
        return 0.0
    seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
    age = (time.time_ns() - seconds * 1_000_000_000 - nanoseconds) / 1e6
    return float(age) if 0.0 < age < MAX_AGE_MS else 0.0


def enlarge_buffers(sock: socket.socket) -> None:
    for option, forced in ((socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
        except OSError:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


class PythonRelay:
    """Reads and writes the worker's UDP socket.  ``clock_ms`` is like ``epoch_clock_ms``."""

    def __init__(
        self,
        sock: socket.socket,
        sink: DatagramSink,
        clock_ms: Callable[[], float],
        drops: Drops,
        *,
        kernel_times: bool = False,
    ) -> None:
        """``kernel_times``: packets arrive when the kernel saw them, not when we come to read them.  A busy
        loop then looks no longer like a congested line to the sender's bandwidth estimation.
        """
        self_test()
        self.drops = drops
        self._sock = sock
        if kernel_times:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sink = sink
        self._clock_ms = clock_ms
        self._side: MediaSide | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._legs: dict[str, Leg] = {}
        self._by_address: dict[Address, Leg] = {}
        self._in = SrtpBuffer()
        self._out = SrtpBuffer()
        self._rtcp = SrtpBuffer()
        self._packet = Packet()
        self._missed: dict[Feed, Leg] = {}  # feeds that noticed a gap in this batch
        self._waiting: dict[Leg, None] = {}  # legs that hold something back
        self._timer: asyncio.TimerHandle | None = None
        self.nacks_sent = self.nacks_in = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        enlarge_buffers(self._sock)
        self._loop = loop
        loop.add_reader(self._sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Reads no more.  The socket belongs to whoever made it."""
        if self._loop is not None and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

    def attach(self, side: MediaSide) -> None:
        self._side = side

    def counters(self) -> list[Counter]:
        """What only the native relay measures."""
        return []

    # ------------------------------------------------------------ legs

    def leg(self, name: str) -> Leg:
        leg = self._legs.get(name)
        if leg is None:
            leg = self._legs[name] = Leg(name, self._wake)
        return leg

    def legs(self) -> list[Leg]:
        return [*self._legs.values()]

    def open_leg(self, leg: str, keys: SrtpKeys) -> None:
        """Raises sfu.srtp.SrtpError for a profile or keys that libsrtp refuses."""
        state = self.leg(leg)
        state.srtp = SrtpLeg(keys)
        if state.ready and self._side is not None:
            self._side.on_leg_ready(state)

    def bind_leg(self, leg: str, address: Address) -> None:
        state = self.leg(leg)
        if state.address == address:
            return
        other = self._by_address.get(address)
        if other is not None and other is not state:
            # the same client has made a new transport from the same port, or an address was reused
            other.bound.discard(address)
            if other.address == address:
                other.address = NOWHERE
        was_ready = state.ready
        # packets that were sent before the change still come from the old address: keep the newest two
        for old in state.bound - {state.address}:
            self._by_address.pop(old, None)
        state.bound = {address} if state.address is NOWHERE else {address, state.address}
        state.address = address
        self._by_address[address] = state
        if state.ready and not was_ready and self._side is not None:
            self._side.on_leg_ready(state)

    def close_leg(self, leg: str) -> None:
        state = self._legs.pop(leg, None)
        if state is None:
            return
        for address in state.bound:
            if self._by_address.get(address) is state:
                del self._by_address[address]
        state.bound = set()
        state.address = NOWHERE
        state.srtp = None
        state.forget_waiting()
        self._waiting.pop(state, None)

    def open_feed(self, source: str, index: int, kind: Kind, codecs: tuple[CodecParameters, ...]) -> Feed:
        assert self._side is not None
        return Feed(source, index, kind, codecs, self._side, self.drops)

    def open_tap(self, sink: TapSink, *, is_video: bool) -> TapRoute:
        return TapRoute(is_video=is_video, drops=self.drops, sink=sink, ssrc=1)

    def open_route(self, leg: Leg, *, is_video: bool, ssrc: int, rtx_ssrc: int, resends: bool) -> LegRoute:
        return LegRoute(
            is_video=is_video, drops=self.drops, leg=leg, ssrc=ssrc, rtx_ssrc=rtx_ssrc,
            buffer=self._out, send=self._send_view, resends=resends,
            clock_ms=self._clock_ms,
        )  # fmt: skip

    # ------------------------------------------------------------ out

    def send(self, data: bytes, address: Address) -> None:
        self._send_view(data, address)

    def _send_view(self, data: memoryview | bytes, address: Address) -> None:
        try:
            self._sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            self.drops.count(DropReason.SEND_BUFFER_FULL)
        except (OSError, OverflowError, TypeError):
            self.drops.count(DropReason.SEND_FAILED)

    def send_rtcp(self, leg: Leg, data: bytes) -> None:
        srtp = leg.srtp
        size = len(data)
        if srtp is None or leg.address is NOWHERE:
            self.drops.count(DropReason.NOT_CONNECTED)
            return
        if size > BUFFER_SIZE - TRAILER_ROOM:
            self.drops.count(DropReason.OVERSIZE)
            return
        buffer = self._rtcp
        buffer.view[:size] = data
        buffer.size[0] = size
        if lib.srtp_protect_rtcp(srtp.send_rtcp, buffer.memory, buffer.size) != OK:
            self.drops.count(DropReason.SRTCP_FAILED)
            return
        leg.bytes_out += size
        self._send_view(buffer.view[: buffer.size[0]], leg.address)

    def release(self, now_ms: float) -> None:
        """Let go what pacers hold and is due, and send what probes need."""
        for leg in [*self._waiting]:
            if not leg.release(now_ms):
                del self._waiting[leg]

    def _wake(self, leg: Leg) -> None:
        self._waiting[leg] = None
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(RELEASE_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.release(self._clock_ms())
        if self._waiting and self._loop is not None:
            self._timer = self._loop.call_later(RELEASE_S, self._on_timer)

    def ask_again(self, leg: Leg, now_ms: float) -> None:
        for feed in leg.feeds.values():
            self._ask_again_for(feed, leg, now_ms)

    def _ask_again_for(self, feed: Feed, leg: Leg, now_ms: float) -> None:
        tracker = feed.nack
        if tracker is None:
            return
        if tracker.take_overflow() and self._side is not None:
            self._side.on_lost_feed(feed)
        if feed.paused:  # nobody would see them
            tracker.clear()
            return
        sequences = tracker.due(feed.highest, now_ms, leg.rtt_ms)
        if sequences:
            self.nacks_sent += len(sequences)
            self.send_rtcp(leg, rtcp.nack(1, feed.ssrc, sequences))

    # ------------------------------------------------------------ in

    def _on_readable(self) -> None:
        receive, clock = self._sock.recvmsg_into, self._clock_ms
        view, by_address = self._in.view, self._by_address
        buffers = (view,)
        for _ in range(BATCH):
            try:
                size, ancillary, _, address = receive(buffers, ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier send
                continue
            if not size:
                continue
            head = view[0]
            if 127 < head < 192:
                leg = by_address.get(address)
                if leg is None:
                    self.drops.count(DropReason.UNBOUND_ADDRESS)
                elif size > MAX_PACKET:
                    self.drops.count(DropReason.OVERSIZE)
                elif size < 12:
                    self.drops.count(DropReason.MALFORMED_RTP)
                elif leg.srtp is None:
                    self.drops.count(DropReason.NO_KEYS)
                elif 191 < view[1] < 224:
                    self._on_rtcp(leg, size, clock() - age_ms(ancillary))
                else:
                    self._on_rtp(leg, size, clock() - age_ms(ancillary))
            elif size >= BUFFER_SIZE:
                self.drops.count(DropReason.OVERSIZE)
            elif head < 4:
                self._sink.on_stun(bytes(view[:size]), address)
            elif 19 < head < 64:
                self._sink.on_dtls(bytes(view[:size]), address)
            else:
                self.drops.count(DropReason.UNKNOWN_PROTOCOL)
        if self._missed:
            now_ms = clock()
            for feed, leg in self._missed.items():
                self._ask_again_for(feed, leg, now_ms)
            self._missed.clear()

    def _on_rtp(self, leg: Leg, size: int, now_ms: float) -> None:
        buffer, srtp = self._in, leg.srtp
        assert srtp is not None
        view = buffer.view
        (ssrc,) = U32.unpack_from(view, 8)
        feeds = leg.feeds
        feed = feeds.get(ssrc)
        if feed is None and ssrc not in leg.known and len(leg.known) >= MAX_SSRCS:
            self.drops.count(DropReason.TOO_MANY_SSRCS)
            return
        buffer.size[0] = size
        failure = lib.srtp_unprotect(srtp.receive, buffer.memory, buffer.size)
        if failure:
            self.drops.count(_RTP_FAILURES.get(failure, DropReason.SRTP_FAILED))
            return
        data = bytes(view[: buffer.size[0]])
        packet = self._packet
        packet.arrival_ms = now_ms
        leg.bytes_in += len(data)
        try:
            packet.parse(data, leg.ids)
        except RtpError:
            self.drops.count(DropReason.MALFORMED_RTP)
            return
        if packet.transport_seq >= 0:
            leg.arrivals.record(packet.transport_seq, now_ms)
        if feed is None and ssrc not in leg.rtx:
            leg.known.add(ssrc)
            side = self._side
            if side is None or not side.resolve(leg, packet):
                leg.other_packets += 1
                leg.other_bytes += packet.size
                self.drops.count(DropReason.UNKNOWN_SSRC)
                return
            feed = feeds.get(ssrc)
        if feed is not None:
            feed.packets += 1
            feed.bytes += packet.size
            feed.receive(packet, False)
            if feed.nack is not None and feed.nack.newly_missing:
                self._missed[feed] = leg
            return
        self._on_rtx(leg.rtx[ssrc], packet)

    def _on_rtx(self, feed: Feed, packet: Packet) -> None:
        """Unwrap RFC 4588: the packet is a late original from here on."""
        feed.rtx_packets += 1
        feed.rtx_bytes += packet.size
        original = feed.rtx_types.get(packet.payload_type)
        if packet.end - packet.start < 2:
            self.drops.count(DropReason.PADDING)  # probing for bandwidth
            return
        if original is None or not feed.ssrc:
            self.drops.count(DropReason.UNKNOWN_PAYLOAD_TYPE)
            return
        data, start = packet.data, packet.start
        packet.sequence = data[start] << 8 | data[start + 1]
        packet.start = start + 2
        packet.payload_type = original
        packet.ssrc = feed.ssrc
        feed.receive(packet, True)

    def _on_rtcp(self, leg: Leg, size: int, now_ms: float) -> None:
        buffer, srtp = self._in, leg.srtp
        assert srtp is not None
        buffer.size[0] = size
        failure = lib.srtp_unprotect_rtcp(srtp.receive_rtcp, buffer.memory, buffer.size)
        if failure:
            self.drops.count(_RTCP_FAILURES.get(failure, DropReason.SRTCP_FAILED))
            return
        leg.bytes_in += buffer.size[0]
        if self._side is not None:
            self._side.on_rtcp(leg, bytes(buffer.view[: buffer.size[0]]), now_ms)
