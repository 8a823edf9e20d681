"""How many times faster than real time a recording's film is made.

    python bench/compose_speed.py [--venues 4] [--seconds 30] [--size 1280x720] [--codec vp8]

Each venue sends a moving picture and a tone; the stage changes every 5 s.  Prints one JSON line with
the time of each step, the factor of the whole job, and its CPU time per second of meeting (which does
not depend on what else the machine does).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from recording.compose import ComposeOptions, compose
from recording.mux import mux_tracks
from recording.segments import align, index_segment
from recording.timeline import read_timeline
from tests.fixtures.synthetic_meeting import Publisher, tone, write_timeline

BEGIN_MS = 1_800_000_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--venues", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--codec", choices=("vp8", "h264"), default="vp8")
    parser.add_argument("--preset", default=ComposeOptions().preset)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    width, height = map(int, chosen.size.split("x"))
    noise = np.random.default_rng(1).integers(0, 255, (height, width + 512, 3), np.uint8)
    # Camera-like: most of the picture is still, a part moves.
    still = (noise[:, :width] // 8 + 90).astype(np.uint8)

    def picture(at_s: float) -> np.ndarray:
        out = still.copy()
        shift = int(at_s * 100) % 512
        out[height // 4 : height // 2, : width // 2] = noise[
            height // 4 : height // 2, shift : shift + width // 2
        ]
        return out

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        camera = Publisher("v0").camera(
            BEGIN_MS, chosen.seconds, picture, codec=chosen.codec, size=(width, height)
        )
        for number in range(chosen.venues):
            publisher = Publisher(f"v{number}", seed=number)
            camera.venue = f"v{number}"
            camera.write(folder / "taps")
            publisher.microphone(BEGIN_MS, tone(chosen.seconds, 200 + 50 * number, 0.1)).write(
                folder / "taps"
            )
        stages = [
            {"at": BEGIN_MS + at * 1000, "type": "stage", "venue": f"v{at // 5 % chosen.venues}"}
            for at in range(0, chosen.seconds, 5)
        ]
        write_timeline(folder, [{"at": BEGIN_MS, "type": "started", "title": "bench"}, *stages])
        took: dict[str, float] = {}
        began, cpu = time.perf_counter(), time.process_time()
        segments = [index_segment(path) for path in sorted((folder / "taps").iterdir())]
        align(segments)
        took["index_s"] = time.perf_counter() - began
        span = (BEGIN_MS, BEGIN_MS + chosen.seconds * 1000)
        options = ComposeOptions(preset=chosen.preset, threads=chosen.threads)
        began = time.perf_counter()
        compose(segments, read_timeline(folder), span, folder / "program.mp4", options, lambda part: None)
        took["compose_s"] = time.perf_counter() - began
        began = time.perf_counter()
        mux_tracks(segments, span, folder, lambda part: None)
        took["tracks_s"] = time.perf_counter() - began
        cpu_s = time.process_time() - cpu
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "venues": chosen.venues,
                "seconds": chosen.seconds,
                "size": chosen.size,
                "codec": chosen.codec,
                **{step: round(value, 2) for step, value in took.items()},
                "times_real_time": round(chosen.seconds / sum(took.values()), 2),
                "cpu_s_per_second": round(cpu_s / chosen.seconds, 3),
                "compose_times_real_time": round(chosen.seconds / took["compose_s"], 2),
                "peak_memory_mib": usage.ru_maxrss >> 10,
                "load_average": round(os.getloadavg()[0], 1),
                "cores": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
