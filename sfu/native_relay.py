"""The Relay whose packets never meet the interpreter: sfu/native in C, on a thread of its own.

Handles are the C types of ``sfu._relay`` with the names that policy knows them by.  What the engine can't
decide comes up as events, which the worker's loop hands to policy; packets that wait for an answer are held
by the engine and let go afterwards, whatever policy does.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from pylibsrtp import Error as SrtpLibraryError

from sfu import _relay
from sfu.drops import DropReason, Drops
from sfu.messages import Counter
from sfu.native_handles import NativeFeed, NativeLeg, NativeRoute, NativeTapRoute, pointer
from sfu.params import CodecParameters, Kind, SrtpKeys
from sfu.relay import enlarge_buffers
from sfu.route import Binding, OutCodec
from sfu.rtp import ExtensionIds, ExtensionPlan
from sfu.seams import Address, DatagramSink, MediaSide, TapSink
from sfu.srtp import SrtpError, ffi, lib, open_session, self_test

log = logging.getLogger(__name__)

STUN, DTLS, RTCP, RESOLVE, ALIVE, KEY_FRAME, RESTART, LOST, TAP = range(1, 10)  # EventKind of native/events.h
FIRST_PACKET = struct.Struct("=I4B16s16s16s")
BATCH = 64
NICE = -10
REFUSED_S = 0.02  # a client that sends what nobody expects must not keep the loop busy
TURN = 512  # events per turn of the loop: signalling isn't starved by a flood
COMPLAIN_EVERY_S = 10.0
LATENCY_BOUNDS_S = (
    "0.00005", "0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "+Inf",
)  # fmt: skip
RTP_FUNCTION = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, void *, int *)"
STREAM_FUNCTION = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, unsigned int)"

_REASONS = tuple(DropReason(name) for name in _relay.DROP_NAMES)  # ValueError: the two lists have parted

Event = tuple[int, int, int, float, int, int, bytes]  # kind, subject, number, now_ms, ip, port, data


def srtp_functions() -> tuple[int, int, int, int, int]:
    """Addresses of libsrtp's functions inside pylibsrtp.  Raises SrtpError when they aren't what we know."""
    return (
        _address("srtp_protect", RTP_FUNCTION),
        _address("srtp_unprotect", RTP_FUNCTION),
        _address("srtp_protect_rtcp", RTP_FUNCTION),
        _address("srtp_unprotect_rtcp", RTP_FUNCTION),
        _address("srtp_remove_stream", STREAM_FUNCTION),
    )


def _address(name: str, signature: str) -> int:
    try:
        function = ffi.addressof(lib, name)
    except AttributeError as error:
        raise SrtpError(f"pylibsrtp has no {name}") from error
    if ffi.typeof(function).cname != signature:
        raise SrtpError(f"pylibsrtp's {name} is {ffi.typeof(function).cname}")
    return pointer(function)


def _ip(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _dotted(ip: int) -> str:
    return socket.inet_ntoa(ip.to_bytes(4, "big"))


class FirstPacket(NamedTuple):
    """What tells whose an unknown SSRC is."""

    ssrc: int
    payload_type: int
    mid: bytes
    rid: bytes
    repaired_rid: bytes

    @classmethod
    def read(cls, data: bytes) -> FirstPacket:
        ssrc, payload_type, mid_size, rid_size, repaired_size, mid, rid, repaired = FIRST_PACKET.unpack(data)
        return cls(ssrc, payload_type, mid[:mid_size], rid[:rid_size], repaired[:repaired_size])


class NativeRelay:
    """Implements ``sfu.seams.Relay``.  ``clock_ms`` is like ``sfu.relay.epoch_clock_ms``.

    ``pump``: no thread; the loop reads the socket and ``clock_ms`` may stand still.  Without a socket
    datagrams come by ``feed_in`` and are fetched by ``sent``.
    """

    def __init__(
        self,
        sock: socket.socket | None,
        sink: DatagramSink,
        clock_ms: Callable[[], float],
        drops: Drops,
        *,
        kernel_times: bool = False,
        pump: bool = False,
        gso: bool = True,
        batch: int = BATCH,
    ) -> None:
        self_test()
        self.drops = drops
        self.engine = _relay.Relay(
            sock.fileno() if sock is not None else -1,
            srtp_functions(),
            kernel_times=kernel_times,
            gso=gso,
            batch=batch,
            epoch_ms=clock_ms() - time.monotonic() * 1000,
        )
        drops.source = self._new_drops
        self._dropped = (0,) * len(_REASONS)
        self._sock = sock
        self._sink = sink
        self.now_ms = clock_ms
        self._pump = pump or sock is None
        self._side: MediaSide | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self._legs: dict[str, NativeLeg] = {}
        self._legs_by_number: dict[int, NativeLeg] = {}
        self._feeds: dict[int, NativeFeed] = {}
        self._taps: WeakValueDictionary[int, NativeTapRoute] = WeakValueDictionary()
        self._events: deque[Event] = deque()  # fetched, not yet handled
        self._soon: asyncio.Handle | None = None
        self._complained_s: float | None = None
        self._tended_ms = 0.0

    # ------------------------------------------------------------ life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if self._sock is None:
            return
        enlarge_buffers(self._sock)
        if self._pump:
            loop.add_reader(self._sock.fileno(), self._on_readable)
            return
        loop.add_reader(self.engine.events_fd, self._on_events)
        # a daemon: a loop that dies without stop() must not keep the process; atexit comes before the C
        # library's own clean-up, under which the thread could not go on encrypting
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        atexit.register(self._end_thread)
        self._thread.start()

    def stop(self) -> None:
        """Reads no more.  The socket belongs to whoever made it."""
        loop, self._loop = self._loop, None
        self._end_thread()
        for waiting in (self._timer, self._soon):
            if waiting is not None:
                waiting.cancel()
        self._timer = self._soon = None
        if loop is None or self._sock is None:
            return
        if not self._pump:
            loop.remove_reader(self.engine.events_fd)
        elif self._sock.fileno() >= 0:
            loop.remove_reader(self._sock.fileno())

    def _run(self) -> None:
        # where we may (LimitNICE in the unit): packets don't queue behind a film that is being composed
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self.engine.run()

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self.engine.stop()
            thread.join()
            atexit.unregister(self._end_thread)

    def attach(self, side: MediaSide) -> None:
        self._side = side

    # ------------------------------------------------------------ counters

    @property
    def nacks_sent(self) -> int:
        return self.engine.nacks_sent

    @property
    def nacks_in(self) -> int:
        return self.engine.nacks_received

    def _new_drops(self) -> list[tuple[DropReason, int]]:
        before, now = self._dropped, self.engine.drops()
        if before == now:
            return []
        self._dropped = now
        return [
            (reason, new - old) for reason, old, new in zip(_REASONS, before, now, strict=True) if new > old
        ]

    def counters(self) -> list[Counter]:
        """Time inside the relay (kernel's arrival to our send) and what gathering sends has gained."""
        datagrams, calls, messages, latency, latency_ms = self.engine.output()
        found = [
            Counter("lianxin_relay_sent_datagrams_total", (), float(datagrams)),
            Counter("lianxin_relay_sent_messages_total", (), float(messages)),
            Counter("lianxin_relay_sent_calls_total", (), float(calls)),
            Counter("lianxin_relay_events_lost_total", (), float(self.engine.events_lost)),
            Counter("lianxin_relay_seconds_sum", (), latency_ms / 1000),
        ]
        for bound, total in zip(LATENCY_BOUNDS_S, itertools.accumulate(latency), strict=True):
            found.append(Counter("lianxin_relay_seconds_bucket", (("le", bound),), float(total)))
        return found

    # ------------------------------------------------------------ legs, feeds, routes

    def leg(self, name: str) -> NativeLeg:
        leg = self._legs.get(name)
        if leg is None:
            leg = self._legs[name] = NativeLeg(self, next(self._numbers), name)
            self._legs_by_number[leg.number] = leg
        return leg

    def legs(self) -> list[NativeLeg]:
        return [*self._legs.values()]

    def open_leg(self, leg: str, keys: SrtpKeys) -> None:
        """Raises sfu.srtp.SrtpError for a profile or keys that libsrtp refuses."""
        state = self.leg(leg)
        state.open_keys(keys)
        if state.ready and self._side is not None:
            self._side.on_leg_ready(state)

    def bind_leg(self, leg: str, address: Address) -> None:
        state = self.leg(leg)
        plain = _ip(address[0]), address[1]
        if state.address == plain:
            return
        was_ready = state.ready
        state.bind_address(*plain)
        if state.ready and not was_ready and self._side is not None:
            self._side.on_leg_ready(state)

    def close_leg(self, leg: str) -> None:
        state = self._legs.pop(leg, None)
        if state is not None:
            del self._legs_by_number[state.number]
            state.close()

    def feed(self, number: int) -> NativeFeed | None:
        return self._feeds.get(number) if number else None

    def open_feed(
        self, source: str, index: int, kind: Kind, codecs: tuple[CodecParameters, ...]
    ) -> NativeFeed:
        number = next(self._numbers)
        feed = self._feeds[number] = NativeFeed(self.engine, number, source, index, kind, codecs)
        return feed

    def forget_feed(self, feed: NativeFeed) -> None:
        self._feeds.pop(feed.number, None)

    def open_route(
        self, leg: NativeLeg, *, is_video: bool, ssrc: int, rtx_ssrc: int, resends: bool
    ) -> NativeRoute:
        return NativeRoute(
            self, next(self._numbers), leg, is_video=is_video, ssrc=ssrc, rtx_ssrc=rtx_ssrc, resends=resends
        )

    def open_tap(self, sink: TapSink, *, is_video: bool) -> NativeTapRoute:
        number = next(self._numbers)
        tap = self._taps[number] = NativeTapRoute(self, number, sink, is_video=is_video)
        return tap

    # ------------------------------------------------------------ out

    def send(self, data: bytes, address: Address) -> None:
        if self._sock is None:
            return
        try:
            self._sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            self.drops.count(DropReason.SEND_BUFFER_FULL)
        except (OSError, OverflowError, TypeError):
            self.drops.count(DropReason.SEND_FAILED)

    def send_rtcp(self, leg: NativeLeg, data: bytes) -> None:
        leg.send_rtcp(data)

    def ask_again(self, leg: NativeLeg, now_ms: float) -> None:
        if self._pump and leg.feeds:
            leg.ask_again(now_ms)
            self.look_soon()  # an overflow is told as an event

    def tend(self, leg: NativeLeg, now_ms: float) -> None:
        """Policy goes through the legs at each tick; beside the thread, whose lock may be busy, one call does
        what is due to all of them.
        """
        if self._pump:
            if leg.feeds:
                leg.send_feedback(now_ms)
        elif now_ms != self._tended_ms:
            self._tended_ms = now_ms
            self.engine.tend(now_ms)

    def release(self, now_ms: float) -> None:
        self.engine.release(now_ms)

    def release_soon(self) -> None:
        """Without a thread the loop does it, while anything waits."""
        if self._pump and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(0.005, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self.engine.release(self.now_ms()) >= 0:
            self.release_soon()

    # ------------------------------------------------------------ in

    def feed_in(self, data: bytes, address: Address) -> None:
        """Without a socket: one datagram, and all that follows from it."""
        self.engine.input(data, _ip(address[0]), address[1], self.now_ms())
        self._handle_all()

    def sent(self) -> list[tuple[bytes, Address]]:
        """Without a socket: what would have been sent since the last call."""
        return [(data, (_dotted(ip), port)) for data, ip, port in self.engine.sent()]

    def _on_readable(self) -> None:
        for _ in range(BATCH):
            if not self.engine.receive(self.now_ms()):
                break
            self._handle_all()
        if any(leg.queued for leg in self._legs.values()):
            self.release_soon()

    def _handle_all(self) -> None:
        """Every event, those that handling makes too."""
        self._soon = None
        while self._fetch():
            while self._events:
                self._handle(self._events.popleft())

    def _on_events(self) -> None:
        """One look at the engine a turn; its descriptor stays readable while it has more."""
        self._soon = None
        if not self._events:
            self._fetch()
        for _ in range(TURN):
            if not self._events:
                return
            self._handle(self._events.popleft())
        self.handle_soon()

    def handle_soon(self) -> None:
        """What was fetched and is left from the last turn."""
        if self._events and self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._on_events)

    def look_soon(self) -> None:
        """A call of ours may have made events: without a thread nobody watches the descriptor."""
        if self._pump and self._soon is None and self._loop is not None:
            self._soon = self._loop.call_soon(self._handle_all)

    def _fetch(self) -> bool:
        self._events.extend(self.engine.drain())
        return bool(self._events)

    def write_tap(self, tap: NativeTapRoute) -> None:
        """Write what has been fetched or waits for this tap, before its sink is closed."""
        while batch := self.engine.drain():
            self._events.extend(batch)
        others = deque[Event]()
        for event in self._events:
            if event[0] == TAP and event[1] == tap.number:
                tap.write(event[6], event[3])
            else:
                others.append(event)
        self._events = others
        self.handle_soon()

    def _handle(self, event: Event) -> None:
        kind, subject, number, now_ms, ip, port, data = event
        try:
            if kind == TAP:
                tap = self._taps.get(subject)
                if tap is not None:
                    tap.write(data, now_ms)
            elif kind == STUN:
                self._sink.on_stun(data, (_dotted(ip), port))
            elif kind == DTLS:
                self._sink.on_dtls(data, (_dotted(ip), port))
            elif kind in (RTCP, RESOLVE):
                leg = self._legs_by_number.get(subject)
                if leg is not None:
                    self._handle_of_leg(kind, leg, data, now_ms)
            else:
                feed = self._feeds.get(subject)
                if feed is not None:
                    self._handle_of_feed(kind, feed, number, now_ms)
        except Exception:
            self._complain()

    def _handle_of_leg(self, kind: int, leg: NativeLeg, data: bytes, now_ms: float) -> None:
        side = self._side
        if kind == RTCP:
            if side is not None:
                side.on_rtcp(leg, data, now_ms)
            return
        packet = FirstPacket.read(data)
        found = True
        try:
            found = side is None or side.resolve(leg, packet)
        finally:
            if found or self._pump or self._loop is None:
                self._release_leg(leg, packet.ssrc)
            else:  # nobody's; we are asked about its next packet again, which shall not be at once
                self._loop.call_later(REFUSED_S, self._release_leg, leg, packet.ssrc)

    def _release_leg(self, leg: NativeLeg, ssrc: int) -> None:
        leg.release(ssrc, self.now_ms())  # not when it came: it leaves now

    def _handle_of_feed(self, kind: int, feed: NativeFeed, number: int, now_ms: float) -> None:
        side = self._side
        if kind == ALIVE:
            try:
                if side is not None:
                    side.on_alive(feed, number, now_ms)
            finally:
                feed.release(self.now_ms())
        elif side is None:
            return
        elif kind == KEY_FRAME:
            side.on_key_frame(feed)
        elif kind == RESTART:
            side.on_restart(feed)
        elif kind == LOST:
            side.on_lost_feed(feed)

    def _complain(self) -> None:
        """A bug of ours must neither end the relay nor fill the disk."""
        now_s = time.monotonic()
        if self._complained_s is None or now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            log.exception("native relay: handling an event failed")


class _Nobody:
    """The side and sink of a relay that only proves that it works."""

    def on_stun(self, data: bytes, address: Address) -> None: ...
    def on_dtls(self, data: bytes, address: Address) -> None: ...


def check_engine() -> None:
    """Let one packet through a relay without a socket.  Raises SrtpError when it comes out as another."""
    now_ms = 1e12
    relay = NativeRelay(None, _Nobody(), lambda: now_ms, Drops())
    key, address = bytes(range(28)), ("127.0.0.1", 9)
    for name in ("from", "to"):
        relay.open_leg(name, SrtpKeys("aead_aes_128_gcm", key, key))
    relay.bind_leg("from", ("127.0.0.1", 7))
    relay.bind_leg("to", address)
    opus = CodecParameters("audio/opus", 111, 48000, 2)
    feed = relay.open_feed("", 0, Kind.AUDIO, (opus,))
    relay.leg("from").bind(5, feed)
    route = relay.open_route(relay.leg("to"), is_video=False, ssrc=6, rtx_ssrc=0, resends=False)
    plan = ExtensionPlan((), ExtensionIds(), "")
    route.aim(feed, Binding({111: OutCodec(96, 48000)}, plan, plan))
    plain = struct.pack("!BBHII", 0x80, 111, 1, 2, 5) + b"lianxin"
    relay.feed_in(open_session("aead_aes_128_gcm", key, outbound=True).protect(plain), ("127.0.0.1", 7))
    out = relay.sent()
    if len(out) != 1 or out[0][1] != address:
        raise SrtpError(f"a packet for the native relay's test became {len(out)} ({relay.drops.counters()})")
    try:
        got = open_session("aead_aes_128_gcm", key, outbound=False).unprotect(out[0][0])
    except SrtpLibraryError as error:
        raise SrtpError(f"the native relay's packets can't be read: {error}") from error
    if got[1] != 96 or got[8:12] != b"\0\0\0\x06" or got[12:] != b"lianxin":
        raise SrtpError("the native relay changed the packet that tests it")
