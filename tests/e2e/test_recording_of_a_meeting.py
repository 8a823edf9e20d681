"""The recording follows the stage, and its sound is in step with its picture."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.e2e.province import PROGRAM, STAGE, Province
from tests.fixtures.studio import BOZHOU, HEFEI, HUAIBEI, Look

pytestmark = [pytest.mark.timeout(420)]

# A camera and a microphone with one clock: each second a white flash and a 1 kHz beep begin together.
CLAPPER = """
(() => {
  const BEEP_HZ = 1000;
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = new MediaStream();
    window.__clapper ??= (() => {
      const audio = new AudioContext();
      const tone = audio.createOscillator();
      tone.frequency.value = BEEP_HZ;
      const gain = audio.createGain();
      gain.gain.value = 0;
      tone.connect(gain);
      tone.start();
      let scheduled = Math.ceil(audio.currentTime) + 1;
      const canvas = document.createElement('canvas');
      canvas.width = 640;
      canvas.height = 360;
      const context = canvas.getContext('2d');
      setInterval(() => {
        const now = audio.currentTime;
        while (scheduled < now + 0.5) {
          gain.gain.setValueAtTime(0.5, scheduled);
          gain.gain.setValueAtTime(0, scheduled + 0.2);
          scheduled += 1;
        }
        context.fillStyle = now % 1 < 0.2 && now > 1 ? '#ffffff' : '#d2be14';
        context.fillRect(0, 0, 640, 360);
        context.fillStyle = '#806010';
        context.fillRect((now * 100) % 640, 300, 20, 20);
      }, 16);
      return { audio, gain, canvas };
    })();
    const { audio, gain, canvas } = window.__clapper;
    await audio.resume();
    if (wanted.video) stream.addTrack(canvas.captureStream(30).getVideoTracks()[0]);
    if (wanted.audio) {
      const out = audio.createMediaStreamDestination();
      gain.connect(out);
      stream.addTrack(out.stream.getAudioTracks()[0]);
    }
    return stream;
  };
})();
"""


def pictures(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and mean RGB of the middle of every frame."""
    times, colours = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            rgb = frame.reformat(width=32, height=18, format="rgb24").to_ndarray()
            times.append(float(frame.pts * frame.time_base))
            colours.append(rgb[4:12, 8:24].reshape(-1, 3).mean(axis=0))
    return np.array(times), np.array(colours)


def sound(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples from the container's time zero on, and their rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        chunks, start = [], None
        for frame in container.decode(stream):
            if start is None:
                start = float(frame.pts * frame.time_base)
            chunks += [out.to_ndarray().ravel() for out in resampler.resample(frame)]
        lead = np.zeros(max(0, round((start or 0) * rate)), np.float32)
        return np.concatenate([lead, *chunks]), rate


def is_colour(colours: np.ndarray, look: Look) -> np.ndarray:
    return np.abs(colours - np.array(look.colour)).max(axis=1) < 50


def tone_level(samples: np.ndarray, rate: int, hz: float) -> np.ndarray:
    """Amplitude of one frequency in steps of 10 ms (windows of 20 ms)."""
    step, width = rate // 100, rate // 50
    t = np.arange(width) / rate
    probe = np.exp(-2j * np.pi * hz * t) * np.hanning(width)
    count = (len(samples) - width) // step
    return np.array(
        [2 * abs(np.dot(samples[i * step : i * step + width], probe)) / width for i in range(count)]
    )


async def finished(province: Province, recording_id: str) -> Any:
    """The recording's entry once its files are made."""
    assert province.console is not None
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        entry = await province.api("GET", f"/api/v1/recordings/{recording_id}")
        if entry["status"] in ("ready", "failed"):
            assert entry["status"] == "ready", entry
            return entry
        await province.console.page.wait_for_timeout(500)
    raise AssertionError(f"the recording was not finished in time: {entry}")


async def download(province: Province, entry: Any, folder: Path) -> Path:
    """The program file, fetched in two ranges as a player would."""
    assert province.console is not None
    program = next(f for f in entry["files"] if f["kind"] == "program")
    url = f"{province.server.url}{program['url']}"
    request = province.console.context.request
    first = await request.get(url, headers={"range": "bytes=0-9999"})
    assert first.status == 206
    rest = await request.get(url, headers={"range": "bytes=10000-"})
    assert rest.status == 206
    path = folder / "program.mp4"
    path.write_bytes(await first.body() + await rest.body())
    assert path.stat().st_size == program["size_bytes"]
    return path


async def test_recording_follows_the_stage(
    server: Any, seats: Any, tmp_path: Path, record_property: Any
) -> None:
    province = Province(server, seats)
    await province.open_console("录制")
    hefei = await province.open_venue(HEFEI)
    huaibei = await province.open_venue(HUAIBEI)
    await province.open_venue(BOZHOU)
    await province.call_all()

    await province.press(HEFEI, "broadcast")
    await huaibei.shows(HEFEI, STAGE)
    await province.command(type="start_recording")
    recording = (await province.meeting())["recording"]
    assert recording["state"] == "on"
    await hefei.page.get_by_text("录制中").first.wait_for()

    switches: list[tuple[float, float, Look]] = []  # seconds into the film before and after the command
    await asyncio.sleep(4)  # the material itself: seconds of each picture
    for look in (BOZHOU, HUAIBEI, HEFEI):
        before = time.time() - recording["since"] / 1000
        await province.command(type="broadcast", venue=look.venue)
        switches.append((before, time.time() - recording["since"] / 1000, look))
        await asyncio.sleep(5)
    await province.command(type="stop_recording")
    assert (await province.meeting())["recording"]["state"] == "off"

    await province.disperse()  # the film is made with what the browsers leave of two cores
    entry = await finished(province, recording["recording_id"])
    program = await download(province, entry, tmp_path)
    times, colours = pictures(program)
    for before, after, look in switches:
        shown = times[is_colour(colours, look) & (times > before - 1.0)]
        assert len(shown), f"{look.username} is never shown after {before:.2f} s"
        record_property(f"switch_{look.username}_s", [float(shown[0] - before), float(shown[0] - after)])
        assert before - 0.5 < shown[0] < after + 0.5, (
            f"{look.username}: {before:.2f} s, shown {shown[0]:.2f} s"
        )

    # All voices are mixed, on stage or not.
    samples, rate = sound(program)
    assert abs(len(samples) / rate - times[-1]) < 0.5
    for look in (HEFEI, HUAIBEI, BOZHOU):
        levels = tone_level(samples, rate, look.tone_hz)
        assert (levels > 0.01).mean() > 0.5, f"{look.username} is not heard through the recording"

    # The list page plays it.
    assert province.console is not None
    page = province.console.page
    await page.goto(f"{server.url}/recordings")
    await page.get_by_test_id(f"recording-{recording['recording_id']}").wait_for()
    tracks = [f for f in entry["files"] if f["kind"] == "track"]
    assert {(f["venue_id"], f["source"]) for f in tracks} >= {
        (HEFEI.venue, "camera"),
        (HEFEI.venue, "microphone"),
        (HUAIBEI.venue, "camera"),
        (BOZHOU.venue, "microphone"),
    }


async def test_sound_is_in_step_with_the_picture(
    server: Any, seats: Any, tmp_path: Path, record_property: Any
) -> None:
    """Two browsers only: four on two cores can't keep their own camera and microphone in step."""
    province = Province(server, seats)
    await province.open_console("同步")
    bozhou = await seats(BOZHOU, f"{server.url}/signin", script=CLAPPER)
    province.venues[BOZHOU.venue] = bozhou
    await province.sign_in(bozhou, BOZHOU.username)
    await province.state(bozhou, "standby")
    await province.call_all()
    await province.press(BOZHOU, "broadcast")
    assert province.console is not None
    await province.console.page.locator(PROGRAM).wait_for()
    await province.command(type="start_recording")
    recording_id = (await province.meeting())["recording"]["recording_id"]
    await asyncio.sleep(9)  # the material: nine claps
    await province.command(type="stop_recording")
    await province.disperse()
    program = await download(province, await finished(province, recording_id), tmp_path)
    times, colours = pictures(program)
    samples, rate = sound(program)
    white = colours.min(axis=1) > 190
    begin, end = 1.0, times[-1] - 0.3
    flashes = [
        times[i] for i in range(1, len(times)) if white[i] and not white[i - 1] and begin < times[i] < end
    ]
    levels = tone_level(samples, rate, 1000)
    loud = levels > levels.max() / 2
    beeps = np.array([(i + 1) * 0.01 for i in range(1, len(loud)) if loud[i] and not loud[i - 1]])
    assert len(flashes) >= 5
    offsets = [float(beeps[np.abs(beeps - flash).argmin()] - flash) for flash in flashes]
    record_property("lip_sync_ms", [round(offset * 1000) for offset in offsets])
    assert abs(float(np.median(offsets))) < 0.08, offsets
