"""How costs grow: CPU per packet from 1 to 1,000 subscribers, and at idle with up to 1,000 silent venues.

    python -m bench.growth [--seconds 6] [--most 1000] [--twin]

One publisher sends 10 bursts of 10 packets of 1,112 bytes a second (0.9 Mbit/s: a thousand copies are
100,000 packets a second and have to fit beside the load generator).  Idle venues are connected and send only
what a browser sends anyway: STUN consent every 5 s, a receiver report a second, a ping every 5 s.
Writes growth.svg and idle.svg.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load.cpu import resident_bytes, table
from bench.load.engine import BURSTS, VOICE, Engine
from bench.load.lianxin import Client
from bench.load.rig import Measured, Scenario, gather, http_session, measure, running
from bench.load.servers import lianxin
from bench.plot import Curve, svg

HERE = Path(__file__).parent
IDLE = (3, 10, 100, 300, 1000)
STEPS = (1, 3, 10, 30, 100, 300, 1000)
PATTERN = replace(BURSTS, frames_per_s=10, key_every=100)
WARM_S = 4.0
ROOM = 100  # idle venues in one meeting
FULL = 0.95  # of a core: what is measured beyond it says nothing of the cost


@dataclass(frozen=True, slots=True)
class Idle:
    venues: int
    worker_percent: float
    control_percent: float
    worker_bytes: float  # for each venue
    control_bytes: float


@dataclass(frozen=True)
class Growth:
    native: bool
    forwarding: dict[int, Measured]
    idle: list[Idle]
    most: int = STEPS[-1]

    def markdown(self) -> str:
        first = table(
            (
                "subscribers",
                "µs CPU a packet",
                "worker, % of a core",
                "packets a second",
                "missing",
                "one-way p99, ms",
            ),
            [
                (
                    n,
                    f"{m.us_per_packet:.2f}",
                    f"{100 * m.cores:.1f}",
                    f"{m.packets_per_s:.0f}",
                    m.lost,
                    f"{m.delay_us[1] / 1000:.2f}",
                )
                for n, m in self.forwarding.items()
            ],
        )
        second = table(
            (
                "silent venues",
                "worker, % of a core",
                "control process, % of a core",
                "worker, kB a venue",
                "control, kB a venue",
            ),
            [
                (
                    i.venues,
                    f"{i.worker_percent:.2f}",
                    f"{i.control_percent:.2f}",
                    f"{i.worker_bytes / 1e3:.0f}",
                    f"{i.control_bytes / 1e3:.0f}",
                )
                for i in self.idle
            ],
        )
        relay = "native relay" if self.native else "Python twin"
        missing = [n for n in STEPS if n <= self.most and n not in self.forwarding]
        rest = (
            f"\n\nNot measured: {missing} subscribers; the worker or the machine was full." if missing else ""
        )
        plots = "![CPU per packet](growth.svg)\n\n![CPU at idle](idle.svg)"
        return f"{relay}.\n\n{first}{rest}\n\n{second}\n\n{plots}"

    def write(self, folder: Path) -> None:
        relay = "native relay" if self.native else "Python twin"
        cost = Curve(relay, [(n, m.us_per_packet) for n, m in self.forwarding.items()])
        (folder / "growth.svg").write_text(
            svg("CPU of the media worker per forwarded packet", "subscribers of one stream", "µs", [cost]),
            "utf-8",
        )
        curves = [
            Curve("media worker", [(i.venues, i.worker_percent) for i in self.idle]),
            Curve("control process", [(i.venues, i.control_percent) for i in self.idle]),
        ]
        (folder / "idle.svg").write_text(
            svg("CPU at idle", "connected silent venues", "% of one core", curves), "utf-8"
        )


async def run(
    most: int, seconds: float, *, native: bool = True, say: Callable[[str], None] = print
) -> Growth:
    forwarding: dict[int, Measured] = {}
    is_native = False
    for viewers in (n for n in STEPS if n <= most):
        scenario = Scenario(f"1 → {viewers}", 1, viewers, patterns=(PATTERN,))
        async with (
            lianxin(native=native) as server,
            running(server, scenario, WARM_S, tick_ms=10 if viewers > 200 else 4) as (engine, _),
        ):
            measured = await measure(server, engine, scenario, seconds)
            is_native = await server.relay_is_native()
        # the window's edges cut frames: a bit less than what was sent is no sign of anything
        if measured.cores > FULL or measured.delivered < 0.9:
            say(f"{viewers} subscribers: full ({100 * measured.cores:.0f} % of a core); enough")
            break
        forwarding[viewers] = measured
        say(f"{viewers:5} subscribers: {measured.us_per_packet:.2f} µs a packet, lost {measured.lost}")
    idle = [await _idle(n, seconds, native, say) for n in IDLE if n <= most]
    return Growth(is_native, forwarding, idle, most)


async def _idle(venues: int, seconds: float, native: bool, say: Callable[[str], None]) -> Idle:
    async with lianxin(native=native) as server, http_session() as http:
        with Engine(tick_ms=20) as engine:
            everybody = [Client(engine, f"v{n}") for n in range(venues)]
            await asyncio.sleep(2.5)
            empty, control_empty = sum(map(resident_bytes, server.pids)), resident_bytes(server.control or 0)
            for venue in everybody:
                await venue.publish("mic", VOICE, 2)
            rooms = [f"idle-{n // ROOM}" for n in range(venues)]
            await gather(
                [
                    venue.join(http, server.url, server.token(room, venue.name), subscribe=False)
                    for venue, room in zip(everybody, rooms, strict=True)
                ]
            )
            await asyncio.sleep(WARM_S)
            measured = await measure(server, engine, Scenario("idle", 1, 0), max(seconds, 5))
            full, control_full = sum(map(resident_bytes, server.pids)), resident_bytes(server.control or 0)
            for venue in everybody:
                await venue.close()
    say(f"{venues:5} idle: worker {100 * measured.cores:.2f} %, control {100 * measured.control_cores:.2f} %")
    return Idle(
        venues,
        100 * measured.cores,
        100 * measured.control_cores,
        (full - empty) / venues,
        (control_full - control_empty) / venues,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--twin", action="store_true", help="the Python twin instead of the native relay")
    given = parser.parse_args()
    growth = asyncio.run(run(given.most, given.seconds, native=not given.twin))
    growth.write(HERE)
    print(growth.markdown())


if __name__ == "__main__":
    main()
