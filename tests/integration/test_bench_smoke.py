"""The bench runs: reduced, without Janus and browsers, and without a word about time."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from bench.run import PARTS, Options, compose, markdown


@pytest.mark.timeout(300)
def test_every_part_of_the_bench_runs() -> None:
    assert shutil.which("gcc"), "the load generator is C: apt-get install gcc"
    done = asyncio.run(compose(list(PARTS), Options(smoke=True, repeats=1, seconds=1)))
    text = markdown(done, smoke=True)
    assert not any(part.failed for part in done), text
    for title, _ in PARTS.values():
        assert f"## {title}" in text
