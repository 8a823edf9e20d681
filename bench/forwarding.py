"""Server CPU per forwarded packet: lianxin (native, Python twin), Janus (default, tuned), and the floor.

    python -m bench.forwarding [--repeats 3] [--seconds 6] [--only 5x20] [--servers native,twin,janus,tuned]

Each publisher sends 30 bursts of 10 packets of 1,112 bytes a second (VP8, MID, transport-wide numbers,
AES-128-GCM); each viewer has one connection and answers with transport-wide feedback and receiver reports.
The servers take turns, each started anew for every repeat.  Counted is the CPU time of all threads of the
processes that forward (lianxin's worker; all of Janus), divided by the RTP packets that clients received.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from bench.load.cpu import Spread, table
from bench.load.engine import floor_us
from bench.load.rig import FIVE_TO_20, MESH, ONE_TO_20, Measured, Scenario, measure, running
from bench.load.servers import Server, janus, janus_missing, lianxin

Open = Callable[[], AbstractAsyncContextManager[Server]]
SERVERS: dict[str, tuple[str, Open]] = {
    "native": ("lianxin, native relay", lambda: lianxin(native=True)),
    "twin": ("lianxin, Python twin", lambda: lianxin(native=False)),
    "janus": ("Janus as Debian ships it", lambda: janus()),
    "tuned": ("Janus, event_loops=2", lambda: janus(tuned=True)),
}
SCENARIOS = {"1x20": ONE_TO_20, "5x20": FIVE_TO_20, "5x5": MESH}


class NotNative(Exception):
    """The worker says that its Python twin forwards."""


@dataclass
class Results:
    """By scenario and server; ``skipped``: why a server is missing."""

    runs: dict[tuple[str, str], list[Measured]] = field(default_factory=lambda: defaultdict(list))
    floor: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def us(self, scenario: str, server: str) -> Spread:
        return Spread.of(run.us_per_packet for run in self.runs[scenario, server])

    def markdown(self) -> str:
        floor = Spread.of(self.floor)
        rows = []
        for scenario in SCENARIOS:
            for server, (label, _) in SERVERS.items():
                runs = self.runs[scenario, server]
                if not runs:
                    continue
                own = Spread.of(run.us_per_packet for run in runs)
                rows.append(
                    (
                        SCENARIOS[scenario].name,
                        label,
                        own,
                        Spread.of(run.main_us_per_packet for run in runs) if "lianxin" in label else "–",
                        f"{own.median / floor.median:.2f}" if self.floor else "–",
                        f"{100 * min(run.delivered for run in runs):.2f} %",
                        sum(run.lost for run in runs),
                        Spread.of(run.delay_us[1] / 1000 for run in runs),
                        Spread.of(100 * run.control_cores for run in runs),
                        Spread.of(run.load_us_per_packet for run in runs),
                    )
                )
        head = (
            "scenario", "server", "µs CPU a packet", "of it Python thread", "× floor", "delivered", "lost",
            "one-way p99, ms", "control process, % of a core", "load generator, µs a packet",
        )  # fmt: skip
        text = [table(head, rows), "", f"Floor (encrypt and send with GSO, same bytes): {floor} µs a packet."]
        text += [f"Not measured: {SERVERS[name][0]}: {why}." for name, why in self.skipped.items()]
        return "\n".join(text)

    def verdicts(self) -> list[tuple[str, str, bool | None]]:
        """What must be reached, what was, and whether (None: not measured)."""
        floor = Spread.of(self.floor).median
        five = self.us("5x20", "native").median
        tuned = self.us("5x20", "tuned").median
        found: list[tuple[str, str, bool | None]] = [
            ("5 → 20: ≤ 4 µs a packet", f"{five:.2f} µs", five <= 4),
            ("5 → 20: ≥ 2.5 × better than Janus tuned", f"{tuned / five:.2f} ×", tuned / five >= 2.5),
            ("5 → 20: within 2.5 × of the floor", f"{five / floor:.2f} ×", five / floor <= 2.5),
        ]
        for scenario in ("1x20", "5x5"):
            ratio = self.us(scenario, "tuned").median / self.us(scenario, "native").median
            name = SCENARIOS[scenario].name
            found.append((f"{name}: ≥ 2 × better than Janus tuned", f"{ratio:.2f} ×", ratio >= 2))
        twin = self.us("5x20", "twin").median
        found.append(("5 → 20, Python twin: ≤ 15 µs a packet", f"{twin:.2f} µs", twin <= 15))
        return [(what, got, None if "nan" in got else reached) for what, got, reached in found]


async def once(name: str, scenario: Scenario, seconds: float, warm_s: float = 3) -> Measured:
    """Raises NotNative."""
    async with SERVERS[name][1]() as server, running(server, scenario, warm_s) as (engine, _):
        measured = await measure(server, engine, scenario, seconds)
        if name == "native" and not await server.relay_is_native():
            raise NotNative("the native relay did not start here; see the worker's log")
        return measured


async def run(
    scenarios: list[str], servers: list[str], repeats: int, seconds: float, say: Callable[[str], None] = print
) -> Results:
    results = Results()
    why = janus_missing()
    for name in ("janus", "tuned"):
        if name in servers and why is not None:
            results.skipped[name] = why
    chosen = [name for name in servers if name not in results.skipped]
    for repeat in range(repeats):
        for scenario in scenarios:
            results.floor.append(floor_us())
            for name in chosen:
                if name in results.skipped:
                    continue
                try:
                    measured = await once(name, SCENARIOS[scenario], seconds)
                except NotNative as reason:
                    results.skipped[name] = str(reason)
                    continue
                results.runs[scenario, name].append(measured)
                say(
                    f"{repeat + 1}/{repeats} {SCENARIOS[scenario].name:12} {SERVERS[name][0]:26} "
                    f"{measured.us_per_packet:6.2f} µs, delivered {measured.delivered:.4f}, "
                    f"lost {measured.lost}, floor {results.floor[-1]:.2f}"
                )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="1x20, 5x20, 5x5")
    parser.add_argument("--servers", default=",".join(SERVERS))
    given = parser.parse_args()
    results = asyncio.run(run(given.only.split(","), given.servers.split(","), given.repeats, given.seconds))
    print(results.markdown())
    print(json.dumps([list(item) for item in results.verdicts()], ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
