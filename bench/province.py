"""One province on one worker: what 122 venues cost.

    python -m bench.province [--venues 122] [--seconds 30] [--twin]

Every venue has one connection with a microphone and a camera announced.  The first is on stage: 720p at
2.5 Mbit/s with sound, to all.  The second is the chair: it also sees a wall of 16 small pictures and two
polling panes that go on to the next two venues every 5 s.  Nobody else's camera or microphone sends, as
dynacast and the chair's mute have it.  A plain room: the meeting's own rules are measured by many_venues.py.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from livekit.protocol import models

from bench.load.cpu import resident_bytes, table
from bench.load.engine import SMALL, STAGE_720P, VOICE, Engine
from bench.load.lianxin import Client
from bench.load.rig import Measured, Scenario, gather, http_session, measure
from bench.load.servers import Server, lianxin

WALL = 16
POLLED = 2
POLL_S = 5.0
WARM_S = 5.0
RELAY_SECONDS = "lianxin_relay_seconds"
DROPPED = "lianxin_dropped_total"
# What is left out on purpose, or was asked for in vain: no packet that somebody should have had
INTENDED = {
    "waiting_for_key_frame", "temporal_layer", "spatial_layer", "producer_paused", "padding", "duplicate",
    "nack_miss", "nack_limit", "nack_too_soon", "nack_outage",
}  # fmt: skip


@dataclass(frozen=True)
class Province:
    """``relay_p99_ms``: upper bound of the histogram's bucket that holds it; None without a histogram."""

    native: bool
    venues: int
    measured: Measured
    memory_per_venue: float  # bytes of the worker
    control_memory_per_venue: float
    dropped: dict[str, float]  # by reason, while measured
    relay_p99_ms: float | None
    join_s: float

    def markdown(self) -> str:
        m = self.measured
        p99 = "–" if self.relay_p99_ms is None else f"≤ {self.relay_p99_ms:.2f} ms"
        dropped = ", ".join(f"{reason} {count:.0f}" for reason, count in self.dropped.items()) or "none"
        rows = [
            ("relay", "native" if self.native else "Python twin"),
            ("packets a second to clients", f"{m.packets_per_s:.0f}"),
            ("worker, % of one core", f"{100 * m.cores:.1f}"),
            ("control process, % of one core", f"{100 * m.control_cores:.1f}"),
            ("µs CPU of the worker a packet", f"{m.us_per_packet:.2f}"),
            ("of it the Python thread", f"{m.main_us_per_packet:.2f}"),
            ("packets missing at clients", m.lost),
            ("packets that clients could not decrypt", f"{m.undecryptable} of a sample of {m.decrypted}"),
            ("dropped by the worker, by reason", dropped),
            ("time inside the relay, 99th percentile", p99),
            ("one way from sender to receiver, median and 99th percentile",
             f"{m.delay_us[0] / 1000:.2f} ms, {m.delay_us[1] / 1000:.2f} ms"),
            ("memory of the worker a venue", f"{self.memory_per_venue / 1e6:.2f} MB"),
            ("memory of the control process a venue", f"{self.control_memory_per_venue / 1e6:.2f} MB"),
            ("all have joined after", f"{self.join_s:.1f} s (with the clients on the same machine)"),
            ("load generator, % of one core", f"{m.load_us_per_packet * m.packets_per_s / 1e4:.1f}"),
        ]  # fmt: skip
        return table((f"{self.venues} venues", ""), rows)

    def verdicts(self) -> list[tuple[str, str, bool | None]]:
        m = self.measured
        p99 = self.relay_p99_ms
        lost = m.lost + sum(count for reason, count in self.dropped.items() if reason not in INTENDED)
        return [
            ("province: worker < 40 % of one core", f"{100 * m.cores:.1f} %", m.cores < 0.4),
            ("province: no packet lost by us", f"{lost:.0f}", lost == 0),
            ("province: p99 inside the relay < 2 ms", "–" if p99 is None else f"≤ {p99:.2f} ms",
             None if p99 is None else p99 <= 2),
            ("memory a subscribed venue < 1 MB", f"{self.memory_per_venue / 1e6:.2f} MB",
             self.memory_per_venue < 1e6),
        ]  # fmt: skip


async def run(venues: int, seconds: float, *, native: bool = True, warm_s: float = WARM_S) -> Province:
    async with lianxin(native=native) as server, http_session() as http:
        with Engine() as engine:
            everybody = [Client(engine, f"v{n}") for n in range(venues)]
            stage, chair = everybody[:2]
            wall = everybody[2 : 2 + WALL]
            for n, venue in enumerate(everybody):
                await venue.publish("mic", VOICE, models.TrackSource.MICROPHONE)
                pattern = STAGE_720P if venue is stage else SMALL
                await venue.publish("cam", pattern, models.TrackSource.CAMERA, n % 31 / 31 / 15)
            await asyncio.sleep(2.5)  # until the worker has reported once
            empty, control_empty = _memory(server)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await gather(
                [
                    v.join(http, server.url, server.token("province", v.name), subscribe=False)
                    for v in everybody
                ]
            )
            tracks = _tracks_by_cid(everybody)
            for viewer in everybody[1:]:
                await viewer.subscribe([tracks["v0-mic"], tracks["v0-cam"]])
            await chair.subscribe([tracks[f"{v.name}-cam"] for v in wall])
            for viewer in everybody[1:]:
                wanted = 2 + (len(wall) if viewer is chair else 0)
                await viewer.until(lambda viewer=viewer, wanted=wanted: len(viewer.sending) >= wanted)
            joined = loop.time() - begun
            stage.set_streams(True)
            for venue in wall:
                engine.set_stream(venue.streams[f"{venue.name}-cam"], True)
            polled = everybody[2 + WALL :]
            polling = (
                asyncio.create_task(_poll(engine, chair, polled, tracks)) if len(polled) >= POLLED else None
            )
            await asyncio.sleep(warm_s)
            before = await server.metrics()
            measured = await measure(server, engine, Scenario("province", 1, venues - 1), seconds)
            await asyncio.sleep(1.2)  # the worker reports once a second
            after = await server.metrics()
            full, control_full = _memory(server)
            if polling is not None:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
            is_native = await server.relay_is_native()
            for venue in everybody:
                await venue.close()
    return Province(
        is_native,
        venues,
        measured,
        (full - empty) / (venues - 1),
        (control_full - control_empty) / (venues - 1),
        {
            key.partition('reason="')[2].partition('"')[0]: value - before.get(key, 0)
            for key, value in after.items()
            if key.startswith(DROPPED) and value > before.get(key, 0)
        },
        histogram_quantile(before, after, RELAY_SECONDS, 0.99, 1000),
        joined,
    )


def _memory(server: Server) -> tuple[int, int]:
    return sum(map(resident_bytes, server.pids)), resident_bytes(server.control or 0)


def _tracks_by_cid(clients: Sequence[Client]) -> dict[str, str]:
    """By "name-mic" and "name-cam", as the last of them to join knows it, and each of its own."""
    return {cid: sid for client in clients for sid, cid in client.own_tracks.items()}


async def _poll(engine: Engine, chair: Client, venues: Sequence[Client], tracks: dict[str, str]) -> None:
    """Two panes, the next two venues every few seconds; the cameras send only while they are seen."""
    at = 0
    shown: list[Client] = []
    while True:
        following = [venues[(at + n) % len(venues)] for n in range(POLLED)]
        at += POLLED
        await chair.subscribe([tracks[f"{v.name}-cam"] for v in shown], on=False)
        for venue in shown:
            engine.set_stream(venue.streams[f"{venue.name}-cam"], False)
        await chair.subscribe([tracks[f"{v.name}-cam"] for v in following])
        for venue in following:
            engine.set_stream(venue.streams[f"{venue.name}-cam"], True)
        shown = following
        await asyncio.sleep(POLL_S)


def histogram_quantile(
    before: dict[str, float], after: dict[str, float], name: str, share: float, scale: float
) -> float | None:
    """Of what came between, interpolated in its bucket as Prometheus does; None without such a histogram."""
    counts: dict[float, float] = {}
    for key, value in after.items():
        if key.startswith(f"{name}_bucket"):
            bound = float(key.partition('le="')[2].partition('"')[0])
            counts[bound] = counts.get(bound, 0) + value - before.get(key, 0)
    total = counts.get(float("inf"), 0)
    if not total:
        return None
    below, low = 0.0, 0.0
    for bound in sorted(counts):
        if counts[bound] >= share * total:
            inside = (share * total - below) / max(1.0, counts[bound] - below)
            return (low if math.isinf(bound) else low + inside * (bound - low)) * scale
        below, low = counts[bound], bound
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venues", type=int, default=122)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--twin", action="store_true", help="the Python twin instead of the native relay")
    given = parser.parse_args()
    result = asyncio.run(run(given.venues, given.seconds, native=not given.twin))
    print(result.markdown())
    for what, got, reached in result.verdicts():
        print(f"{what}: {got} ({reached})")


if __name__ == "__main__":
    main()
