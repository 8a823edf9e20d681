"""The tap: takes a producer's packets from the relay's thread and never makes it wait.

``send_rtp`` only appends to a bounded list.  One thread per process (``DumpWriter``) hands all taps'
lists to the kernel every FLUSH_S, and a second one asks the disk to keep them every SYNC_S: a killed
process loses at most FLUSH_S, a lost power supply about SYNC_S.

Overflow: when the disk can't keep up and a tap holds MAX_PENDING_BYTES, new packets are dropped and
counted, and the dump says how many and where (DropsRecord).
Disk full: the tap writes its END record ("disk_full"), keeps ``failure``, and takes nothing more.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from recording.dump import (
    SUFFIX,
    DumpHeader,
    RecordType,
    encode_drops,
    encode_end,
    encode_header,
    encode_record,
    encode_sender_report,
)
from sfu.messages import StartTap
from sfu.params import CodecParameters

log = structlog.get_logger(__name__)

FLUSH_S = 0.2
SYNC_S = 1.0
MAX_PENDING_BYTES = 8 << 20
# Left on the disk for the database and for the END records: a full disk must not take the meeting down.
MIN_FREE_BYTES = 64 << 20
_OVERHEAD = 64  # counted per queued packet besides its bytes
_MAX_NAMES = 10_000


def open_tap(request: StartTap, codecs: tuple[CodecParameters, ...]) -> DumpTap:
    """The TapFactory of the media worker.  Raises OSError when the file can't be made.

    A path that exists is kept and the next free name beside it is taken ("~2", "~3", …): the same
    wish, repeated after a crash or a reconnect, begins a new segment and never touches an old one.
    """
    path = Path(request.path)
    venue_id, source = _origin(path)
    # "audio/red" beside "audio/opus": the kind is that of all of them.
    kind = codecs[0].mime.split("/")[0].lower() if codecs else "video"
    now_ms = time.time() * 1000
    header = DumpHeader(kind, venue_id, source, now_ms, codecs, request.tap_id, request.producer_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in _names(path):
        try:
            descriptor = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640
            )
        except FileExistsError:
            continue
        return DumpTap(name, descriptor, header)
    raise FileExistsError(f"no free name beside {path.name}")


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, _MAX_NAMES):
        yield path.with_name(f"{path.stem}~{number}{path.suffix}")


def free_name(path: Path) -> Path:
    """``path``, or the first name beside it that is free."""
    return next((name for name in _names(path) if not name.exists()), path)


def tap_name(venue_id: str, source: str, track_sid: str) -> str:
    """File name of a tap's first segment; read back by ``_origin``."""
    return "~".join(_plain(part) for part in (venue_id, source, track_sid)) + SUFFIX


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:80] or "_"


def _origin(path: Path) -> tuple[str, str]:
    """(venue_id, source) from a name made by ``tap_name``; empty strings when it is another's."""
    parts = path.name.removesuffix(SUFFIX).split("~")
    return (parts[0], parts[1]) if len(parts) >= 3 else ("", "")


class DumpTap:
    """A TapSink.  ``send_*`` are called from one thread (the relay's loop), the rest by the writer."""

    def __init__(
        self, path: Path, descriptor: int, header: DumpHeader, writer: DumpWriter | None = None
    ) -> None:
        self.path = path
        self.failure: str | None = None  # why it takes nothing more: "disk_full" or "write_failed"
        self.dropped = 0
        self.written_bytes = 0
        self.closed = threading.Event()  # the file is complete and closed
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._pending: list[tuple[bytes, float] | bytes] = [encode_header(header)]
        self._pending_bytes = 0
        self._dropped_now = 0
        self._closing = False
        self._writer = writer or _shared_writer()
        self._writer.add(self)

    # ------------------------------------------------------------ the relay's side

    def send_rtp(self, packet: bytes, arrival_ms: float) -> None:
        """Raises OSError once the file has failed, so that the relay ends the tap and says why."""
        size = len(packet) + _OVERHEAD
        with self._lock:
            if self._closing:
                return
            if self.failure is not None:
                raise OSError(self.failure)
            if self._pending_bytes + size > MAX_PENDING_BYTES:
                self.dropped += 1
                self._dropped_now += 1
                return
            if self._dropped_now:
                self._pending.append(encode_drops(self._dropped_now, arrival_ms))
                self._dropped_now = 0
            self._pending.append((bytes(packet), arrival_ms))
            self._pending_bytes += size

    def send_sender_report(self, ntp_ms: float, rtp_timestamp: int, arrival_ms: float) -> None:
        record = encode_sender_report(ntp_ms, rtp_timestamp, arrival_ms)
        with self._lock:
            if not self._closing and self.failure is None and self._pending_bytes < MAX_PENDING_BYTES:
                self._pending.append(record)
                self._pending_bytes += len(record) + _OVERHEAD

    def close(self) -> None:
        """Returns at once; ``closed`` is set when everything is on its way to the disk."""
        with self._lock:
            self._closing = True
        self._writer.wake()

    # ------------------------------------------------------------ the writer's side

    def flush(self) -> bool:
        """Gives what waits to the kernel.  True when the file is finished and closed."""
        if self.closed.is_set():
            return True
        with self._lock:
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            closing, lost = self._closing, self._dropped_now
            if closing:
                self._dropped_now = 0
        parts = [
            entry if isinstance(entry, bytes) else encode_record(RecordType.RTP, entry[1], entry[0])
            for entry in pending
        ]
        if closing and lost:
            parts.append(encode_drops(lost, time.time() * 1000))
        if closing:
            parts.append(encode_end("closed", time.time() * 1000))
        if parts:
            self._write(b"".join(parts))
        if closing or self.failure is not None:
            self._finish()
            return True
        return False

    def sync(self) -> None:
        """fdatasync; slow, on its own thread."""
        if not self.closed.is_set():
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                # EBADF: closed between the check and the call.
                if not self.closed.is_set():
                    self._fail(error)

    def stop_for_full_disk(self) -> None:
        """Ends the file while there is still room to say why."""
        with self._lock:
            if self._closing or self.failure is not None:
                return
        self.flush()
        self._write(encode_end("disk_full", time.time() * 1000))
        self.failure = "disk_full"
        log.error("the disk is nearly full: a recording's track stops", file=self.path.name)
        self._finish()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.write(self._descriptor, view)
                self.written_bytes += count
                view = view[count:]
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        self.failure = "disk_full" if full else "write_failed"
        log.error("a recording's track can't be written and stops", file=self.path.name, reason=str(error))

    def _finish(self) -> None:
        if not self.closed.is_set():
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self.failure = self.failure or "write_failed"
                log.warning("a dump's end is not surely on the disk", file=self.path.name, reason=str(error))
            self.closed.set()
            os.close(self._descriptor)


class DumpWriter:
    """The threads behind all taps of a process.  They start with the first tap and end with the last."""

    def __init__(self, flush_s: float = FLUSH_S, sync_s: float = SYNC_S) -> None:
        self._flush_s, self._sync_s = flush_s, sync_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._taps: list[DumpTap] = []
        self._running = False

    def add(self, tap: DumpTap) -> None:
        with self._lock:
            self._taps.append(tap)
            if not self._running:
                self._running = True
                stopped = threading.Event()
                threading.Thread(target=self._run, args=(stopped,), name="dump-writer", daemon=True).start()
                threading.Thread(target=self._sync, args=(stopped,), name="dump-sync", daemon=True).start()

    def wake(self) -> None:
        self._wake.set()

    def finish(self) -> None:
        """At the process's end: closes what is still open."""
        for tap in self._snapshot():
            tap.close()
        for tap in self._snapshot():
            tap.closed.wait(5)

    def _snapshot(self) -> tuple[DumpTap, ...]:
        with self._lock:
            return tuple(self._taps)

    def _run(self, stopped: threading.Event) -> None:
        checked = 0.0
        while True:
            self._wake.wait(self._flush_s)
            self._wake.clear()
            taps = self._snapshot()
            done = {tap for tap in taps if tap.flush()}
            now = time.monotonic()
            if now - checked >= 1.0:
                checked = now
                for tap in taps:
                    if tap not in done and _free_bytes(tap.path) < MIN_FREE_BYTES:
                        tap.stop_for_full_disk()
                        done.add(tap)
            with self._lock:
                self._taps = [tap for tap in self._taps if tap not in done]
                if not self._taps:
                    self._running = False
                    stopped.set()
                    return

    def _sync(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._sync_s):
            for tap in self._snapshot():
                tap.sync()


def _free_bytes(path: Path) -> int:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return MIN_FREE_BYTES  # let the write itself find out
    return found.f_bavail * found.f_frsize


_writer: DumpWriter | None = None


def _shared_writer() -> DumpWriter:
    global _writer
    if _writer is None:
        _writer = DumpWriter()
        atexit.register(_writer.finish)
    return _writer
