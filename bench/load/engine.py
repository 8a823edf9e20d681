"""engine.c from Python: compiled when needed, called through ctypes, run in a thread of its own."""

from __future__ import annotations

import ctypes
import hashlib
import socket
import subprocess
import threading
from ctypes import POINTER, Structure, byref, c_char, c_double, c_int, c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sfu.params import SrtpKeys
from sfu.srtp import SrtpLeg, ffi, lib, open_session

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "bench"
SOURCES = ("engine.c", "floor.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-shared", "-fPIC")
DELAY_BUCKETS = 5000
DELAY_STEP_US = 20


class Calls(Structure):
    _fields_ = [(name, c_void_p) for name in ("protect", "unprotect", "protect_rtcp", "unprotect_rtcp")]


class Sessions(Structure):
    _fields_ = [(name, c_void_p) for name in ("receive", "receive_rtcp", "send", "send_rtcp")]


class StreamSpec(Structure):
    _fields_ = [
        ("ssrc", c_uint32),
        *(
            (name, c_int32)
            for name in (
                "payload_type", "video", "frames_per_s", "packets_per_frame", "size", "gap_us", "phase_us",
                "key_every", "mid_id", "twcc_id", "level_id",
            )
        ),
        ("mid", c_char * 8),
    ]  # fmt: skip


class LegCounts(Structure):
    _fields_ = [
        (name, c_uint64)
        for name in ("received", "bytes", "lost", "rtx", "decrypted", "undecryptable", "rtcp", "streams")
    ]


class LoadCounts(Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "sent", "received", "bytes", "lost", "rtx", "decrypted", "undecryptable", "rtcp_in",
            "feedback_out", "plis", "nacks", "send_failures", "cpu_ns",
        )
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pattern:
    """How a stream looks.  ``size``: bytes of the plain RTP packet; ``gap_us`` between a frame's packets."""

    video: bool
    frames_per_s: int
    packets_per_frame: int
    size: int
    gap_us: int = 0
    key_every: int = 0

    @property
    def packets_per_s(self) -> int:
        return self.frames_per_s * self.packets_per_frame


BURSTS = Pattern(True, 30, 10, 1112, key_every=300)
# A pacer sends each frame within about half of its time.
STAGE_720P = Pattern(True, 30, 9, 1157, gap_us=1800, key_every=300)  # 2.5 Mbit/s
SMALL = Pattern(True, 15, 2, 625, gap_us=2000, key_every=150)  # 150 kbit/s
VOICE = Pattern(False, 50, 1, 100)  # 40 kbit/s


@lru_cache(1)
def library() -> Any:
    """Compiles engine.c and floor.c unless this very text has been compiled already."""
    texts = b"".join((HERE / name).read_bytes() for name in (*SOURCES, "engine.h"))
    target = BUILD / f"load-{hashlib.sha256(texts).hexdigest()[:16]}.so"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(".tmp")
        sources = [str(HERE / name) for name in SOURCES]
        subprocess.run(["gcc", *FLAGS, "-o", str(made), *sources, "-lpthread"], check=True)
        made.rename(target)
    loaded = ctypes.CDLL(str(target))
    loaded.load_new.restype = c_void_p
    for name in ("load_free", "load_run", "load_stop", "load_reset_delays"):
        getattr(loaded, name).argtypes = [c_void_p]
        getattr(loaded, name).restype = None
    loaded.load_new.argtypes = [POINTER(Calls), c_int, c_int]
    loaded.load_add_leg.argtypes = [c_void_p, c_int, POINTER(Sessions), ctypes.c_char_p, c_int, c_int, c_int]
    loaded.load_add_stream.argtypes = [c_void_p, c_int, POINTER(StreamSpec)]
    loaded.load_set_stream.argtypes = [c_void_p, c_int, c_int]
    loaded.load_read.argtypes = [c_void_p, POINTER(LoadCounts)]
    loaded.load_read_leg.argtypes = [c_void_p, c_int, POINTER(LegCounts)]
    loaded.load_read_delays.argtypes = [c_void_p, POINTER(c_uint32)]
    loaded.floor_run.restype = c_double
    loaded.floor_run.argtypes = [
        POINTER(Calls), POINTER(c_void_p), POINTER(ctypes.c_uint16), *[c_int] * 5, c_uint32,
    ]  # fmt: skip
    return loaded


def srtp_calls() -> Calls:
    """The addresses of libsrtp's functions in pylibsrtp's module."""
    names = ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp")
    return Calls(*(int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names))


def _address(session: Any) -> int:
    return int(ffi.cast("uintptr_t", session))


class Engine:
    """``with Engine() as engine``: the thread runs inside."""

    def __init__(self, tick_ms: float = 4, sample_every: int = 16) -> None:
        self._lib = library()
        self._calls = srtp_calls()
        self._engine = self._lib.load_new(byref(self._calls), int(tick_ms * 1000), sample_every)
        self._kept: list[Any] = []  # sockets and SRTP sessions that C uses
        self._thread = threading.Thread(target=self._lib.load_run, args=(self._engine,), daemon=True)
        self._ssrc = 1_000_000

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._lib.load_stop(self._engine)
        self._thread.join()
        self._lib.load_free(self._engine)
        for sock, _ in self._kept:
            sock.close()

    def add_leg(
        self, sock: socket.socket, keys: SrtpKeys, consent: bytes, twcc_id: int, rtx_type: int
    ) -> int:
        srtp = SrtpLeg(keys)
        self._kept.append((sock, srtp))
        sessions = Sessions(
            *(_address(s) for s in (srtp.receive, srtp.receive_rtcp, srtp.send, srtp.send_rtcp))
        )
        leg = self._lib.load_add_leg(
            self._engine, sock.fileno(), byref(sessions), consent, len(consent), twcc_id, rtx_type
        )
        assert leg >= 0
        return int(leg)

    def new_ssrc(self) -> int:
        self._ssrc += 7
        return self._ssrc

    def add_stream(
        self, leg: int, pattern: Pattern, ssrc: int, payload_type: int, *, mid: str = "", mid_id: int = 0,
        twcc_id: int = 0, level_id: int = 0, phase_s: float = 0,
    ) -> int:  # fmt: skip
        spec = StreamSpec(
            ssrc, payload_type, pattern.video, pattern.frames_per_s, pattern.packets_per_frame, pattern.size,
            pattern.gap_us, int(phase_s * 1e6), pattern.key_every, mid_id, twcc_id,
            0 if pattern.video else level_id, mid.encode(),
        )  # fmt: skip
        stream = self._lib.load_add_stream(self._engine, leg, byref(spec))
        assert stream >= 0
        return int(stream)

    def set_stream(self, stream: int, on: bool) -> None:
        self._lib.load_set_stream(self._engine, stream, int(on))

    def read(self) -> LoadCounts:
        counts = LoadCounts()
        self._lib.load_read(self._engine, byref(counts))
        return counts

    def read_leg(self, leg: int) -> LegCounts:
        counts = LegCounts()
        self._lib.load_read_leg(self._engine, leg, byref(counts))
        return counts

    def reset_delays(self) -> None:
        self._lib.load_reset_delays(self._engine)

    def delay_us(self, *quantiles: float) -> list[float]:
        """One-way delay of the sampled packets, from the sender's call to the receiver's socket."""
        buckets = (c_uint32 * DELAY_BUCKETS)()
        self._lib.load_read_delays(self._engine, buckets)
        return [_quantile(list(buckets), share) for share in quantiles]


def _quantile(buckets: list[int], share: float) -> float:
    due = sum(buckets) * share
    for index, count in enumerate(buckets):
        due -= count
        if due <= 0:
            return (index + 1) * float(DELAY_STEP_US)
    return float(DELAY_BUCKETS * DELAY_STEP_US)


def floor_us(legs: int = 20, packets: int = 10, size: int = 1112, rounds: int = 200) -> float:
    """µs of CPU per packet for encrypting (AES-128-GCM) and sending alone.  OSError without UDP GSO."""
    keys = [SrtpKeys("aead_aes_128_gcm", bytes(28), bytes([n]) * 28) for n in range(legs)]
    sessions = [open_session(k.profile, k.send, outbound=True) for k in keys]
    sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in keys]
    for sink in sinks:
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    stop = threading.Event()

    def drain() -> None:
        while not stop.wait(0.004):
            for sink in sinks:
                try:
                    while True:
                        sink.recv(2048)
                except BlockingIOError:
                    pass

    drainer = threading.Thread(target=drain, daemon=True)
    drainer.start()
    try:
        calls = srtp_calls()
        handles = (c_void_p * legs)(*(_address(s._srtp[0]) for s in sessions))
        ports = (ctypes.c_uint16 * legs)(*(sink.getsockname()[1] for sink in sinks))
        spent = library().floor_run(
            byref(calls), handles, ports, legs, packets, size, rounds, 30_000 // 4, 0x7F000001
        )
    finally:
        stop.set()
        drainer.join()
        for sink in sinks:
            sink.close()
    if spent < 0:
        raise OSError("no UDP GSO on this kernel")
    return float(spent) / 1000
