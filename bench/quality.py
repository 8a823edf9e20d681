"""What a person sees and hears on a bad line, and how long a join takes: Chromium on lianxin and on Janus.

    python -m bench.quality [--cells loss-5-30,rate-1000] [--directions down,up] [--seconds 12] [--joins 7]

Two browsers: one publishes (720p at up to 1.7 Mbit/s and a voice), one receives.  One of the two has the bad
line: the receiver ("down") or the publisher ("up"); the measuring is always done at the receiver.  On
lianxin the page is livekit-client with the product's options (three layers, RED); on Janus it is a plain
page on its WebSocket API with one layer of the same rate, as its videoroom forwards by default.

Frozen time: presented frames (requestVideoFrameCallback) that are further apart than three usual intervals
and than one and 150 ms (usual: the median, 67 ms at most): the whole gap, begin and end of the measurement
included.  Concealment: samples that NetEQ made up (silence left out) of all samples.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise

from playwright.async_api import Error as BrowserError
from playwright.async_api import Page

from bench.browsers import JOIN_TIMEOUT_S, Studio, call, studio
from bench.load.cpu import Spread, table
from bench.load.servers import janus, janus_missing, lianxin
from bench.udp_line import Weather

USUAL_MS = 1000 / 15
SETTLE_S = 5.0  # from the join to the begin of the measurement


@dataclass(frozen=True, slots=True)
class Cell:
    """The impaired direction carries media; the way back has the same loss and delay, and no bottleneck."""

    name: str
    title: str
    loss: float = 0.0
    delay_ms: float = 0.0  # one way
    rate_bps: float = 0.0

    def weather(self, carries_media: bool) -> Weather:
        jitter = self.delay_ms / 10
        return Weather(self.loss, self.delay_ms, jitter, self.rate_bps if carries_media else 0.0)


CELLS = [
    *(
        Cell(f"loss-{loss}-{delay}", f"{loss} % loss, {delay} ms delay", loss / 100, delay)
        for delay in (30, 100, 200)
        for loss in (2, 5, 10, 20)
    ),
    *(
        Cell(f"rate-{rate}", f"bottleneck {rate} kbit/s, 30 ms delay", 0, 30, rate * 1000)
        for rate in (300, 1000, 2000)
    ),
]
BLOCK = 4  # cells of one server before the other has its turn


@dataclass(frozen=True, slots=True)
class Seen:
    """At the receiver, while measured."""

    frozen_s: float  # by our own measure
    freezes: int
    stats_frozen_s: float  # getStats
    stats_freezes: int
    concealed: float  # 0 to 1
    frames_per_s: float
    height: int
    kbps: float
    nacks: int
    plis: int


@dataclass
class Quality:
    seconds: float
    seen: dict[tuple[str, str, str], list[Seen]] = field(default_factory=lambda: defaultdict(list))
    joins: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[tuple[str, str, str], str] = field(default_factory=dict)
    janus_skipped: str | None = None

    def markdown(self) -> str:
        parts = [self._joins()] if self.joins else []
        for direction in ("down", "up"):
            rows = []
            for cell in CELLS:
                ours, theirs = (
                    self.seen[direction, cell.name, "ours"],
                    self.seen[direction, cell.name, "janus"],
                )
                if not ours and not theirs:
                    continue
                rows.append((cell.title, *_columns(ours), *_columns(theirs)))
            if rows:
                who = "receiver" if direction == "down" else "publisher"
                parts.append(f"### The {who} has the bad line ({self.seconds:.0f} s a cell)")
                names = ("frozen, s (freezes)", "concealed", "picture", "frames/s", "kbit/s")
                parts.append(
                    table(("line", *(f"ours: {n}" for n in names), *(f"Janus: {n}" for n in names)), rows)
                )
        if self.failed:
            parts.append("\n".join(f"Failed: {' '.join(cell)}: {why}." for cell, why in self.failed.items()))
        if self.janus_skipped:
            parts.append(f"Janus was not measured: {self.janus_skipped}.")
        return "\n\n".join(parts)

    def _joins(self) -> str:
        rows = [
            (server, len(times), Spread.of(t[0] for t in times), Spread.of(t[1] for t in times))
            for server, times in self.joins.items()
        ]
        head = ("join", "times", "WebSocket open → first frame, ms", "call → first frame, ms")
        return table(head, rows)

    def verdicts(self) -> list[tuple[str, str, bool | None]]:
        found: list[tuple[str, str, bool | None]] = []
        if self.joins["ours"]:
            ours = Spread.of(t[0] for t in self.joins["ours"]).median
            found.append(("join: median < 600 ms", f"{ours:.0f} ms", ours < 600))
            theirs = Spread.of(t[0] for t in self.joins["janus"]).median
            known = bool(self.joins["janus"])
            found.append(
                (
                    "join: less than Janus",
                    f"{ours:.0f} against {theirs:.0f} ms",
                    ours < theirs if known else None,
                )
            )
        better, total, worse = 0, 0, []
        for (direction, cell, server), ours_seen in list(self.seen.items()):
            theirs_seen = self.seen.get((direction, cell, "janus"), [])
            if server != "ours" or not ours_seen or not theirs_seen:
                continue
            total += 1
            own, other = _medians(ours_seen), _medians(theirs_seen)
            # a tenth of a second and a tenth of a percent are within what a repeat differs by
            if own[0] <= other[0] + 0.1 and own[1] <= other[1] + 0.001:
                better += 1
            else:
                worse.append(f"{direction} {cell}")
        if total:
            rest = f"; not: {', '.join(worse)}" if worse else ""
            found.append(
                (
                    "bad lines: ours at least as good in every cell",
                    f"{better} of {total}{rest}",
                    better == total,
                )
            )
        return found


def _medians(seen: Sequence[Seen]) -> tuple[float, float]:
    return statistics.median(s.frozen_s for s in seen), statistics.median(s.concealed for s in seen)


def _columns(seen: Sequence[Seen]) -> tuple[str, ...]:
    if not seen:
        return ("–",) * 5

    def middle(of: Callable[[Seen], float]) -> float:
        return statistics.median(of(s) for s in seen)

    return (
        f"{middle(lambda s: s.frozen_s):.1f} ({middle(lambda s: s.freezes):.0f})",
        f"{100 * middle(lambda s: s.concealed):.1f} %",
        f"{middle(lambda s: s.height):.0f}p",
        f"{middle(lambda s: s.frames_per_s):.0f}",
        f"{middle(lambda s: s.kbps):.0f}",
    )


# ---------------------------------------------------------------- measuring


def frozen(frames: Sequence[float], begin: float, end: float) -> tuple[float, int]:
    """Seconds and count of the gaps between presented frames (all in ms)."""
    inside = [t for t in frames if begin <= t <= end]
    marks = [begin, *inside, end]
    gaps = [b - a for a, b in pairwise(marks)]
    if len(inside) < 3:
        return (end - begin) / 1000, 1
    # three frames a second are no smooth picture, so the usual gap counts as 15 frames a second at most
    middle = min(statistics.median(gaps[1:-1]), USUAL_MS)
    long = [gap for gap in gaps if gap > max(3 * middle, middle + 150)]
    return sum(long) / 1000, len(long)


async def measure(page: Page, seconds: float) -> Seen:
    before = await page.evaluate("bench.stats()")
    await asyncio.sleep(seconds)
    after = await page.evaluate("bench.stats()")
    frames: list[float] = await page.evaluate("bench.frames")
    took = (after["now"] - before["now"]) / 1000
    seen_s, freezes = frozen(frames, before["now"], after["now"])

    def grown(kind: str, name: str) -> float:
        now, then = after[kind] or {}, before[kind] or {}
        return float(now.get(name, 0) - then.get(name, 0))

    samples = grown("audio", "samples")
    count = sum(before["now"] <= t <= after["now"] for t in frames)
    return Seen(
        frozen_s=seen_s,
        freezes=freezes,
        stats_frozen_s=grown("video", "frozen"),
        stats_freezes=int(grown("video", "freezes")),
        concealed=grown("audio", "concealed") / samples if samples else 1.0,
        frames_per_s=count / took,
        height=int((after["video"] or {}).get("height", 0)),
        kbps=grown("video", "bytes") * 8 / 1000 / took,
        nacks=int(grown("video", "nacks")),
        plis=int(grown("video", "plis")),
    )


async def _block(
    at: Studio, server: str, direction: str, cells: Sequence[Cell], seconds: float, quality: Quality,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    room = f"quality-{time.monotonic_ns()}"
    if direction == "down":
        await call(await at.publisher.open(server), "publish", at.where(server, room))
        await asyncio.sleep(3)
    for cell in cells:
        media, back = cell.weather(True), cell.weather(False)
        key = (direction, cell.name, server)
        try:
            if direction == "up":
                publisher = await at.publisher.open(server, up=media, down=back)
                await call(publisher, "publish", at.where(server, room))
                receiver = await at.receiver.open(server)
            else:
                receiver = await at.receiver.open(server, up=back, down=media)
            begun = time.monotonic()
            with suppress(TimeoutError):  # then it sees nothing, which is what is measured
                await call(receiver, "receive", at.where(server, room), SETTLE_S)
            await asyncio.sleep(max(0.0, SETTLE_S - (time.monotonic() - begun)))
            seen = await measure(receiver, seconds)
        except (BrowserError, TimeoutError) as error:
            quality.failed[key] = (str(error) or type(error).__name__).splitlines()[0]
            say(f"{direction:4} {cell.name:12} {server:5} failed: {quality.failed[key]}")
            continue
        quality.seen[key].append(seen)
        say(
            f"{direction:4} {cell.name:12} {server:5} frozen {seen.frozen_s:5.1f} s ({seen.freezes}; "
            f"getStats {seen.stats_frozen_s:.1f} s), concealed {100 * seen.concealed:5.1f} %, {seen.height}p "
            f"{seen.frames_per_s:.0f}/s {seen.kbps:.0f} kbit/s, {seen.nacks} NACK {seen.plis} PLI"
        )
    await at.receiver.close()
    await at.publisher.close()


async def _join(at: Studio, server: str, times: int, quality: Quality, say: Callable[[str], None]) -> None:
    room = f"join-{time.monotonic_ns()}"
    await call(await at.publisher.open(server), "publish", at.where(server, room))
    await asyncio.sleep(3)
    for number in range(times + 1):  # the first warms up
        page = await at.receiver.open(server)
        await call(page, "receive", at.where(server, room))
        await page.wait_for_function("bench.first !== null", timeout=JOIN_TIMEOUT_S * 1000)
        took: list[float] = await page.evaluate("[bench.first - bench.opened, bench.first - bench.asked]")
        if number:
            quality.joins[server].append((took[0], took[1]))
    say(f"join {server}: {Spread.of(t[0] for t in quality.joins[server])} ms")
    await at.receiver.close()
    await at.publisher.close()


async def run(
    cells: Sequence[Cell], directions: Sequence[str], seconds: float, joins: int, *, repeats: int = 1,
    native: bool = True, say: Callable[[str], None] = print,
) -> Quality:  # fmt: skip
    quality = Quality(seconds, janus_skipped=janus_missing())
    async with AsyncExitStack() as stack:
        servers = {"ours": await stack.enter_async_context(lianxin(native=native))}
        if quality.janus_skipped is None:
            servers["janus"] = await stack.enter_async_context(janus(tuned=True, bitrate=2_500_000))
        at = await stack.enter_async_context(studio(servers))
        for server in servers if joins else ():
            await _join(at, server, joins, quality, say)
        for _ in range(repeats):
            for direction in directions:
                for begin in range(0, len(cells), BLOCK):
                    for server in servers:
                        block = cells[begin : begin + BLOCK]
                        await _block(at, server, direction, block, seconds, quality, say)
    return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", default=",".join(cell.name for cell in CELLS))
    parser.add_argument("--directions", default="down,up")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--joins", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--twin", action="store_true", help="the Python twin instead of the native relay")
    given = parser.parse_args()
    wanted = given.cells.split(",")
    cells = [cell for cell in CELLS if cell.name in wanted]
    directions = given.directions.split(",") if cells else []
    quality = asyncio.run(
        run(cells, directions, given.seconds, given.joins, repeats=given.repeats, native=not given.twin)
    )
    print(quality.markdown())
    for what, got, reached in quality.verdicts():
        print(f"{what}: {got} ({reached})")


if __name__ == "__main__":
    main()
