"""The tap: never waits, tells what it dropped, ends cleanly on a full disk, outlives kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recording import tap as tap_module
from recording.dump import DropsRecord, DumpReader, EndRecord, RtpRecord, SenderReportRecord, is_ended
from recording.tap import DumpWriter, open_tap, tap_name
from sfu.messages import StartTap
from tests.fixtures.synthetic_meeting import CODECS, OPUS, rtp

ROOT = Path(__file__).parent.parent.parent


def start(path: Path) -> tap_module.DumpTap:
    return open_tap(StartTap("tap_1", "pr_1", str(path)), CODECS["opus"])


def test_what_comes_in_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "taps" / tap_name("340100", "microphone", "TR_abc")
    sink = start(path)
    packets = [rtp(OPUS, n, n * 960, bytes([n])) for n in range(50)]
    for n, packet in enumerate(packets):
        sink.send_rtp(packet, 1.7e12 + n * 20)
    sink.send_sender_report(1.7e12, 2**32 + 5, 1.7e12 + 30)
    sink.close()
    sink.send_rtp(packets[0], 1.8e12)  # after the end: no effect
    assert sink.closed.wait(10)
    reader = DumpReader(path)
    assert (reader.header.venue_id, reader.header.source, reader.header.kind) == (
        "340100",
        "microphone",
        "audio",
    )
    assert reader.header.codecs == CODECS["opus"]
    records = list(reader.records())
    assert [r.packet for r in records if isinstance(r, RtpRecord)] == packets
    assert [r.rtp_timestamp for r in records if isinstance(r, SenderReportRecord)] == [5]
    assert isinstance(records[-1], EndRecord)
    assert records[-1].reason == "closed"
    assert is_ended(path)


def test_an_old_file_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / tap_name("340100", "camera", "TR_abc")
    taps = [start(path) for _ in range(3)]
    for tap in taps:
        tap.close()
        assert tap.closed.wait(10)
    assert [tap.path.name for tap in taps] == [
        "340100~camera~TR_abc.lxd",
        "340100~camera~TR_abc~2.lxd",
        "340100~camera~TR_abc~3.lxd",
    ]
    assert all(DumpReader(tap.path).header.source == "camera" for tap in taps)


class _Stuck(DumpWriter):
    """A disk that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def _run(self, stopped: threading.Event) -> None:
        self.go.wait()
        super()._run(stopped)


def test_a_stuck_disk_makes_nobody_wait_and_drops_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _Stuck()
    monkeypatch.setattr(tap_module, "_writer", writer)
    monkeypatch.setattr(tap_module, "MAX_PENDING_BYTES", 20_000)
    sink = start(tmp_path / "a~camera~b.lxd")
    for n in range(100):
        sink.send_rtp(rtp(OPUS, n, 0, bytes(1000)), 1.7e12)
    assert sink.dropped == 82
    writer.go.set()
    sink.close()
    assert sink.closed.wait(10)
    records = list(DumpReader(sink.path).records())
    assert sum(isinstance(r, RtpRecord) for r in records) == 18
    assert [r.count for r in records if isinstance(r, DropsRecord)] == [82]


def test_a_nearly_full_disk_ends_the_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = start(tmp_path / "a~camera~b.lxd")
    sink.send_rtp(rtp(OPUS, 1, 0, b"x"), 1.7e12)
    monkeypatch.setattr(tap_module, "MIN_FREE_BYTES", 1 << 62)
    assert sink.closed.wait(10)
    assert sink.failure == "disk_full"
    with pytest.raises(OSError, match="disk_full"):
        sink.send_rtp(rtp(OPUS, 2, 0, b"x"), 1.7e12)
    records = list(DumpReader(sink.path).records())
    assert isinstance(records[0], RtpRecord)
    assert isinstance(records[-1], EndRecord)
    assert records[-1].reason == "disk_full"


def test_a_write_that_fails_stops_only_this_tap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = start(tmp_path / "a~camera~b.lxd"), start(tmp_path / "c~camera~d.lxd")
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if descriptor == bad._descriptor:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(tap_module.os, "write", write)
    good.send_rtp(rtp(OPUS, 1, 0, b"x"), 1.7e12)
    assert bad.closed.wait(10)
    assert bad.failure == "disk_full"
    good.close()
    bad.close()
    assert good.closed.wait(10)
    assert is_ended(good.path)


WRITER = """
import sys, time
from recording.tap import open_tap
from sfu.messages import StartTap
from tests.fixtures.synthetic_meeting import CODECS, OPUS, rtp
sink = open_tap(StartTap("t", "p", sys.argv[1]), CODECS["opus"])
n = 0
while True:
    now = time.time() * 1000
    sink.send_rtp(rtp(OPUS, n, n * 960, n.to_bytes(4)), now)
    print(n, now, flush=True)
    n += 1
    time.sleep(0.02)
"""


def test_kill_9_loses_less_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "taps" / tap_name("340100", "microphone", "TR_abc")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    sent = []
    for line in process.stdout:
        sent.append(float(line.split()[1]))
        if len(sent) == 75:
            process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    records = [r for r in DumpReader(path).records() if isinstance(r, RtpRecord)]
    assert [int.from_bytes(r.packet[12:]) for r in records] == list(range(len(records)))
    assert sent[-1] - records[-1].arrival_ms < 1000
    assert not is_ended(path)


def test_a_burst_arrives_whole(tmp_path: Path) -> None:
    sink = start(tmp_path / "a~camera~b.lxd")
    for n in range(5000):
        sink.send_rtp(rtp(OPUS, n, 0, bytes(200)), 1.7e12)
    sink.close()
    assert sink.closed.wait(20)
    assert sink.dropped == 0
    assert sum(isinstance(r, RtpRecord) for r in DumpReader(sink.path).records()) == 5000
