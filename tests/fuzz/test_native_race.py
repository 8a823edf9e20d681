"""The native relay on its thread, publishers that blast, policy that changes all: no data races."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.native import NATIVE, clang

SECONDS = 5


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")
def test_the_thread_and_policy_do_not_race(tmp_path: Path) -> None:
    made = tmp_path / "race"
    sources = [str(NATIVE / "fuzz" / "race.c"), *map(str, sorted(NATIVE.glob("*.c")))]
    command = [
        clang() or "gcc",
        "-fsanitize=thread",
        "-g",
        "-O1",
        "-std=c11",
        "-D_GNU_SOURCE",
        "-o",
        str(made),
    ]
    subprocess.run([*command, *sources, "-lm", "-lpthread"], check=True)
    done = subprocess.run([str(made), str(SECONDS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    calls, sent = (int(word) for word in done.stdout.split() if word.isdigit())
    assert calls > 0
    assert sent > 0
