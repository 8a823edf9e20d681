"""Everything of `make bench`, written to bench/RESULTS.md.

    python -m bench.run [--smoke] [--only forwarding,province,…] [--repeats 3] [--seconds 6] [--output FILE]

``--smoke`` is a minute's worth of each part on small numbers, to show that the bench works: no Janus, no
browser, and its figures mean nothing.  A part that fails is written down, and the rest goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import forwarding, growth, province, quality
from bench.load.cpu import table
from bench.load.servers import versions

RESULTS = Path(__file__).parent / "RESULTS.md"
Verdict = tuple[str, str, bool | None]


@dataclass(frozen=True, slots=True)
class Options:
    smoke: bool
    repeats: int
    seconds: float


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
        result.write(RESULTS.parent)
    return Part(result.markdown())


async def _quality(options: Options) -> Part:
    if options.smoke:
        return Part("Not in a smoke run: it needs browsers.")
    result = await quality.run(quality.CELLS, ("down", "up"), 2 * options.seconds, 7)
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
        sys.executable, str(RESULTS.parent / f"{name}.py"), *arguments, stdout=asyncio.subprocess.PIPE
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


async def compose(names: list[str], options: Options) -> tuple[str, list[str]]:
    """The text of RESULTS.md and the names of the parts that failed."""
    loads = [os.getloadavg()[0]]
    sections: list[str] = []
    verdicts: list[Verdict] = []
    failed: list[str] = []
    for name in names:
        title, work = PARTS[name]
        print(f"== {title}", flush=True)
        begun = time.monotonic()
        try:
            part = await work(options)
        except Exception as error:
            traceback.print_exc()
            failed.append(name)
            part = Part(f"Failed: {type(error).__name__}: {error}")
        took = time.monotonic() - begun
        loads.append(os.getloadavg()[0])
        sections.append(f"## {title}\n\n`python -m bench.run --only {name}`, {took:.0f} s\n\n{part.text}\n")
        verdicts += part.verdicts
    command = shlex.join(["python", "-m", "bench.run", *sys.argv[1:]])
    marks = {True: "yes", False: "**no**", None: "not measured"}
    head = [
        "# Results of `make bench`",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`. "
        f"Load average before the parts and after each: {', '.join(f'{load:.1f}' for load in loads)}. "
        "Figures are medians of the repeats, with the lowest and the highest.",
        "",
        table(("", ""), versions()),
        "",
    ]
    if options.smoke:
        head.append("**A smoke run: these figures mean nothing.**\n")
    if verdicts:
        rows = [(what, got, marks[reached]) for what, got, reached in verdicts]
        head += ["## What must be reached", "", table(("figure", "measured", "reached"), rows), ""]
    return "\n".join([*head, *sections]), failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument(
        "--output", type=Path, default=None, help="default: bench/RESULTS.md; smoke: standard output"
    )
    parser.add_argument("--nice", type=int, default=0, help="priority of the bench and of all that it starts")
    given = parser.parse_args()
    os.nice(given.nice)
    options = Options(given.smoke, given.repeats, given.seconds)
    text, failed = asyncio.run(compose(given.only.split(","), options))
    output = given.output or (None if given.smoke else RESULTS)
    if output is None:
        print(text)
    else:
        output.write_text(text, "utf-8")
        print(f"written: {output}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
