"""Everything of `make bench`, written to bench/RESULTS.md.

    python -m bench.run [--smoke] [--only forwarding,province,…] [--repeats 3] [--seconds 6] [--nice -10]

Parts can be measured one by one, at a moment when the machine is quiet; RESULTS.md is written from the newest
run of each (kept in build/bench/parts).  ``--smoke`` is every part on small numbers, to show that the bench
works: no Janus, no browser, and its figures mean nothing.  A part that fails is written down with its reason,
and the rest goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import forwarding, growth, province, quality
from bench.load.cpu import table
from bench.load.servers import versions

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NOTES = HERE / "NOTES.md"  # reasons, written by hand, put at the end of RESULTS.md
KEPT = HERE.parent / "build" / "bench" / "parts"
Verdict = tuple[str, str, bool | None]


@dataclass(frozen=True, slots=True)
class Options:
    smoke: bool
    repeats: int
    seconds: float
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A section of RESULTS.md and the rows of the table of what must be reached."""

    text: str
    verdicts: tuple[Verdict, ...] = ()


async def _forwarding(options: Options) -> Part:
    if options.smoke:
        results = await forwarding.run(["1x20"], ["native", "twin"], 1, 1)
        if all(not runs for runs in results.runs.values()):
            raise RuntimeError("nothing was forwarded")
        return Part(results.markdown())
    every = list(forwarding.SERVERS)
    results = await forwarding.run(list(forwarding.SCENARIOS), every, options.repeats, options.seconds)
    return Part(results.markdown(), tuple(results.verdicts()))


async def _province(options: Options) -> Part:
    if options.smoke:
        return Part((await province.run(24, 2, warm_s=1)).markdown())
    result = await province.run(122, max(options.seconds, 30))
    return Part(result.markdown(), tuple(result.verdicts()))


async def _growth(options: Options) -> Part:
    result = await growth.run(3 if options.smoke else 1000, options.seconds)
    if not options.smoke:
        result.write(HERE)
    return Part(result.markdown())


async def _quality(options: Options) -> Part:
    if options.smoke:
        return Part("Not in a smoke run: it needs browsers.")
    cells = [cell for cell in quality.CELLS if not options.cells or cell.name in options.cells]
    result = await quality.run(cells, ("down", "up"), 2 * options.seconds, 7)
    return Part(result.markdown(), tuple(result.verdicts()))


async def _control(options: Options) -> Part:
    if options.smoke:
        return Part("Not in a smoke run: it takes half a minute at least.")
    return await _script("many_venues")


async def _films(options: Options) -> Part:
    return await _script("compose_speed", *(("--venues", "2", "--seconds", "2") if options.smoke else ()))


async def _script(name: str, *arguments: str) -> Part:
    """A bench of its own, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / f"{name}.py"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name}.py ended with {process.returncode}")
    return Part(f"```\n{said.decode().strip()}\n```")


PARTS: dict[str, tuple[str, Callable[[Options], Awaitable[Part]]]] = {
    "forwarding": ("CPU per forwarded packet", _forwarding),
    "province": ("One province on one worker", _province),
    "growth": ("Growth", _growth),
    "quality": ("Joins and bad lines in Chromium", _quality),
    "control": ("Control process: a province is called (without media)", _control),
    "films": ("Recordings: how fast films are made", _films),
}


@dataclass(frozen=True, slots=True)
class Done:
    """A part that has run, as it is kept until RESULTS.md is written from all of them."""

    name: str
    text: str
    verdicts: tuple[Verdict, ...]
    command: str
    date: str
    commit: str
    took_s: float
    loads: tuple[float, float]  # load average before and after
    failed: bool = False


async def perform(name: str, options: Options, command: str) -> Done:
    """Never raises for what goes wrong inside the part."""
    _, work = PARTS[name]
    begun, before, failed = time.monotonic(), os.getloadavg()[0], False
    try:
        part = await work(options)
    except Exception as error:
        traceback.print_exc()
        part, failed = Part(f"Failed: {type(error).__name__}: {error}"), True
    return Done(
        name,
        part.text,
        part.verdicts,
        command,
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        dict(versions())["commit"],
        time.monotonic() - begun,
        (before, os.getloadavg()[0]),
        failed,
    )


def markdown(parts: Sequence[Done], smoke: bool = False) -> str:
    marks = {True: "yes", False: "**no**", None: "not measured"}
    lines = ["# Results of `make bench`", ""]
    if smoke:
        lines += ["**A smoke run: these figures mean nothing.**", ""]
    lines += [
        "Figures are medians of the repeats with the lowest and the highest in brackets. The machine:",
        "",
        table(("", ""), [(what, which) for what, which in versions() if what != "commit"]),
        "",
    ]
    rows = [(what, got, marks[reached]) for part in parts for what, got, reached in part.verdicts]
    if rows:
        lines += ["## What must be reached", "", table(("figure", "measured", "reached"), rows), ""]
    for part in parts:
        lines += [
            f"## {PARTS[part.name][0]}",
            "",
            f"{part.date}, commit {part.commit}, `{part.command}`, {part.took_s:.0f} s; load average before "
            f"{part.loads[0]:.1f}, after {part.loads[1]:.1f}.",
            "",
            part.text,
            "",
        ]
    if NOTES.exists() and not smoke:
        lines += [NOTES.read_text("utf-8").strip(), ""]
    return "\n".join(lines)


def keep(part: Done) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{part.name}.json").write_text(json.dumps(asdict(part), ensure_ascii=False, indent=1), "utf-8")


def kept() -> list[Done]:
    """The newest run of every part, in their order."""
    found = []
    for name in PARTS:
        with suppress(FileNotFoundError):
            values = json.loads((KEPT / f"{name}.json").read_text("utf-8"))
            values["verdicts"] = tuple((what, got, reached) for what, got, reached in values["verdicts"])
            values["loads"] = tuple(values["loads"])
            found.append(Done(**values))
    return found


async def compose(names: Sequence[str], options: Options) -> list[Done]:
    """Runs the parts one after the other."""
    command = shlex.join(["python", "-m", "bench.run", *sys.argv[1:]])
    done = []
    for name in names:
        print(f"== {PARTS[name][0]}", flush=True)
        done.append(await perform(name, options, command))
        if not options.smoke:
            keep(done[-1])
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument(
        "--only", default=",".join(PARTS), help="the others are kept as they were measured last"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--cells", default="", help="of the part quality, see bench/quality.py")
    parser.add_argument("--nice", type=int, default=0, help="priority of the bench and of all that it starts")
    given = parser.parse_args()
    os.nice(given.nice)
    options = Options(given.smoke, given.repeats, given.seconds, tuple(filter(None, given.cells.split(","))))
    done = asyncio.run(compose([name for name in given.only.split(",") if name], options))
    if given.smoke:
        print(markdown(done, smoke=True))
    else:
        RESULTS.write_text(markdown(kept()), "utf-8")
        print(f"written: {RESULTS}")
    failed = [part.name for part in done if part.failed]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
