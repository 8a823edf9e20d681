"""The film of a synthetic meeting: follows the stage, mixes the voices, keeps lips in step, survives gaps."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from recording.compose import ComposeOptions
from recording.folder import read_result
from recording.jobs import run_job
from tests.fixtures.synthetic_meeting import Publisher, moving, tone, write_timeline

T = 1_800_000_000_000.0
SIZE = (320, 180)
SMALL = ComposeOptions(width=320, height=180, preset="ultrafast", threads=1)
RED, GREEN, BLUE = (200, 30, 30), (30, 180, 30), (30, 30, 200)
SLATE = (17, 22, 28)
HEFEI, WUHU, BENGBU = "340100", "340200", "340300"


def film(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(times, colours of the middle, sound as mono, its rate)."""
    with av.open(str(path)) as container:
        times, colours = [], []
        for frame in container.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24")
            middle = pixels[pixels.shape[0] * 5 // 8 : pixels.shape[0] * 6 // 8, pixels.shape[1] // 2 :]
            times.append(frame.time)
            colours.append(middle.mean(axis=(0, 1)))
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        parts = [frame.to_ndarray().mean(axis=0) for frame in container.decode(stream)]
        return np.array(times), np.array(colours), np.concatenate(parts), stream.rate


def shows(colour: tuple[int, int, int], colours: np.ndarray) -> np.ndarray:
    return np.abs(colours - np.array(colour)).max(axis=1) < 40


def level(samples: np.ndarray, rate: int, hz: float, begin: float, end: float) -> float:
    """Amplitude of a tone between two times, from the spectrum."""
    part = samples[int(begin * rate) : int(end * rate)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)))) * 4 / len(part)
    at = round(hz * len(part) / rate)
    return float(spectrum[at - 3 : at + 4].max())


def events(*stages: tuple[float, str | None], seconds: float) -> list[dict[str, Any]]:
    names = {HEFEI: "合肥市总工会", WUHU: "芜湖市总工会", BENGBU: "蚌埠市总工会"}
    return [
        {"at": T, "type": "started", "title": "全省会议"},
        {"at": T, "type": "names", "names": names},
        *({"at": T + at * 1000, "type": "stage", "venue": venue} for at, venue in stages),
        {"at": T + seconds * 1000, "type": "stopped"},
    ]


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three venues, 7 s: clocks off by seconds, VP8 and H.264, RED, a hole in Bengbu's picture."""
    folder = tmp_path_factory.mktemp("meeting")
    taps = folder / "taps"
    hefei, wuhu, bengbu = (
        Publisher(HEFEI, 7000, 1),
        Publisher(WUHU, -3000, 2),
        Publisher(BENGBU, 0, 3, reports=False),
    )
    hefei.camera(T, 7, moving(RED), delay_ms=150).write(taps)
    hefei.microphone(T, tone(7, 440)).write(taps)
    wuhu.camera(T, 7, moving(GREEN), codec="h264").write(taps)
    wuhu.microphone(T, tone(7, 660), red=True, loss=0.05).write(taps)
    bengbu.camera(T, 3.5, moving(BLUE)).write(taps, "TR_1", ended=False)
    bengbu.camera(T + 5500, 1.5, moving(BLUE)).write(taps, "TR_2")
    bengbu.microphone(T, tone(3.5, 880)).write(taps, "TR_3", ended=False)
    write_timeline(folder, events((0, HEFEI), (1.5, WUHU), (2.5, BENGBU), (6.2, HEFEI), seconds=7))
    (taps / "broken.lxd").write_bytes(b"no dump at all")
    run_job(folder, SMALL, settle_s=0)
    return folder


def test_the_picture_follows_the_stage(meeting: Path) -> None:
    times, colours, _, _ = film(meeting / "program.mp4")
    assert np.allclose(np.diff(times), 0.04, atol=1e-6)
    assert abs(len(times) * 0.04 - 7.0) < 0.05
    for at, colour in ((0.0, RED), (1.5, GREEN), (2.5, BLUE), (6.2, RED)):
        found = times[shows(colour, colours) & (times >= at - 0.05)]
        assert abs(found[0] - at) <= 0.1, (at, found[0])
    for begin, end, colour in (
        (0.1, 1.4, RED),
        (1.6, 2.4, GREEN),
        (2.6, 3.4, BLUE),
        (5.7, 6.1, BLUE),
        (6.3, 7, RED),
    ):
        within = (times >= begin) & (times < end)
        assert shows(colour, colours[within]).all(), (begin, end)


def test_a_hole_in_the_recording_is_a_slate(meeting: Path) -> None:
    times, colours, samples, rate = film(meeting / "program.mp4")
    hole = (times > 4.1) & (times < 5.4)
    assert shows(SLATE, colours[hole]).all()
    assert level(samples, rate, 880, 4.0, 5.0) < 0.01


def test_all_voices_are_mixed_on_stage_or_not(meeting: Path) -> None:
    _, _, samples, rate = film(meeting / "program.mp4")
    assert abs(len(samples) / rate - 7.0) < 0.05
    for hz in (440, 660, 880):
        assert 0.2 < level(samples, rate, hz, 0.5, 3.2) < 0.3
    assert level(samples, rate, 550, 0.5, 3.2) < 0.01
    assert np.abs(samples).max() < 1.0


def test_ffprobe_takes_the_file(meeting: Path) -> None:
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", meeting / "program.mp4"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert told.stderr == b""
    found = json.loads(told.stdout)
    streams = {stream["codec_type"]: stream for stream in found["streams"]}
    assert streams["video"]["codec_name"] == "h264"
    assert streams["video"]["avg_frame_rate"] == "25/1"
    assert (streams["audio"]["codec_name"], streams["audio"]["sample_rate"]) == ("aac", "48000")
    assert abs(float(found["format"]["duration"]) - 7.0) < 0.1
    head = (meeting / "program.mp4").read_bytes()
    assert 0 < head.find(b"moov") < head.find(b"mdat")  # plays while it loads


def test_tracks_are_files_of_their_own(meeting: Path) -> None:
    result = read_result(meeting)
    assert result is not None
    tracks = {(f["venue_id"], f["source"]): f for f in result["files"] if f["kind"] == "track"}
    assert set(tracks) == {(v, s) for v in (HEFEI, WUHU, BENGBU) for s in ("camera", "microphone")}
    for (venue, source), file in tracks.items():
        with av.open(str(meeting / file["path"])) as container:
            frames = list(container.decode(container.streams[0]))
            assert frames, (venue, source)
        if venue != BENGBU:
            assert abs(file["duration_s"] - 7) < 0.2
    with av.open(str(meeting / tracks[BENGBU, "camera"]["path"])) as container:
        stamps = [frame.time for frame in container.decode(video=0)]
    assert max(np.diff(stamps)) == pytest.approx(2.0, abs=0.1)  # the hole stays a hole
    assert [entry.split(":")[0] for entry in result["unreadable"]] == ["broken.lxd"]


def test_a_second_job_finds_the_work_done(meeting: Path) -> None:
    before = (meeting / "program.mp4").stat().st_mtime_ns
    run_job(meeting, SMALL, settle_s=0)
    assert (meeting / "program.mp4").stat().st_mtime_ns == before


def clapper(fps: int = 25) -> tuple[Callable[[float], np.ndarray], np.ndarray, list[float]]:
    """A white flash and a beep of 80 ms together, every 0.8 s."""
    claps = [0.4 + 0.8 * n for n in range(4)]

    def picture(at_s: float) -> np.ndarray:
        on = any(0 <= at_s - clap + 1e-6 < 0.08 for clap in claps)
        return np.full((SIZE[1], SIZE[0], 3), 255 if on else 20, np.uint8)

    sound = np.zeros(int(3.6 * 48_000), np.float32)
    for clap in claps:
        at = int(clap * 48_000)
        sound[at : at + 3840] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(3840) / 48_000)
    return picture, sound, claps


@pytest.mark.parametrize(("reports", "late_ms"), [(True, 250.0), (False, 40.0)])
def test_flash_and_beep_stay_together(tmp_path: Path, reports: bool, late_ms: float) -> None:
    """With sender reports however late the picture comes; without, as near as it came."""
    picture, sound, claps = clapper()
    publisher = Publisher(HEFEI, 86_400_000.0, 5, reports=reports)
    publisher.camera(T, 3.6, picture, delay_ms=late_ms).write(tmp_path / "taps")
    publisher.microphone(T, sound, delay_ms=20).write(tmp_path / "taps")
    write_timeline(tmp_path, events((0, HEFEI), seconds=3.6))
    run_job(tmp_path, SMALL, settle_s=0)
    times, colours, samples, rate = film(tmp_path / "program.mp4")
    white = colours.mean(axis=1) > 140
    flashes = [times[n] for n in range(1, len(times)) if white[n] and not white[n - 1]]
    loud = np.convolve(np.abs(samples), np.ones(96) / 96, "same") > 0.12
    beeps = [n / rate for n in np.flatnonzero(loud[1:] & ~loud[:-1])]
    assert len(flashes) == len(claps)
    for flash, clap in zip(flashes, claps, strict=True):
        beep = min(beeps, key=lambda b: abs(b - flash))
        assert abs(beep - flash) < 0.08
        assert abs(flash - clap) < 0.15


def test_the_loudest_is_shown_when_nobody_is_on_stage(tmp_path: Path) -> None:
    taps = tmp_path / "taps"
    quiet = np.zeros(int(2.5 * 48_000), np.float32)
    for seed, (venue, colour, hz, late) in enumerate(((HEFEI, RED, 440, False), (WUHU, GREEN, 660, True))):
        publisher = Publisher(venue, 0, seed)
        publisher.camera(T, 5, moving(colour)).write(taps)
        voice = tone(2.5, hz)
        publisher.microphone(T, np.concatenate([quiet, voice] if late else [voice, quiet])).write(taps)
    write_timeline(tmp_path, events((0, None), seconds=5))
    run_job(tmp_path, SMALL, settle_s=0)
    times, colours, _, _ = film(tmp_path / "program.mp4")
    assert shows(RED, colours[(times > 0.1) & (times < 2.5)]).all()
    switched = times[shows(GREEN, colours)][0]
    assert 2.5 < switched < 4.0
    assert shows(GREEN, colours[times > switched]).all()


def test_a_job_that_was_killed_begins_anew(meeting: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(meeting / "taps", folder / "taps")
    shutil.copy(meeting / "timeline.jsonl", folder)
    (folder / "making").mkdir()
    (folder / "making" / "program.mp4").write_bytes(b"half a film")
    (folder / "program.mp4").write_bytes(b"another half")
    result = run_job(folder, SMALL, settle_s=0)
    assert not (folder / "making").exists()
    assert abs(result["duration_s"] - 7) < 0.05
    assert (folder / "program.mp4").stat().st_size == result["files"][0]["size_bytes"]
