"""Builds the fuzz targets of the native relay (sfu/native/fuzz) and runs them for a bounded time.

    python -m tests.fuzz.native TARGET… [--seconds N] [--keep]

clang's libFuzzer where it is installed; otherwise gcc's sanitizers and a plain driver that mutates its corpus
without knowing what is covered.  The corpus of a target is ``corpus/native/<target>.zip``; a crash is written
into ``corpus/native/<target>/`` and from then on is tried first.  ``--keep`` puts what was found into it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "sfu" / "native"
CORPUS = Path(__file__).parent / "corpus" / "native"
MAX_INPUT = {"relay": 2500, "codecs": 600, "packet": 600, "twcc": 1200}
TARGETS = tuple(MAX_INPUT)
SOURCES = {  # "relay" is all
    "codecs": ("codec", "dependency", "h264", "packet", "red"), "packet": ("packet",), "twcc": ("twcc",),
}  # fmt: skip
SANITIZE = ("-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-std=c11")
SMALL = ("-DRING_SIZE=65536u", "-DOUTPUT_SLOTS=64", "-DARENA_SIZE=65536u")  # full sooner, and quicker to make
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=1:quarantine_size_mb=16", "UBSAN_OPTIONS": "print_stacktrace=1"}
KEPT = 600  # inputs of one target


@dataclass(frozen=True)
class Outcome:
    runs: int
    failed: bool
    text: str  # the end of what it said


def clang() -> str | None:
    """A clang that has libFuzzer, which is a package of its own in Debian."""
    for name in ("clang", "clang-14", "clang-16", "clang-19"):
        found = shutil.which(name)
        if found is None:
            continue
        where = subprocess.run([found, "-print-resource-dir"], capture_output=True, text=True, check=False)
        if [*Path(where.stdout.strip()).glob("lib/*/libclang_rt.fuzzer*x86_64*.a")] or [
            *Path(where.stdout.strip()).glob("lib/*/libclang_rt.fuzzer.a")
        ]:
            return found
    return None


def build(target: str, directory: Path) -> Path:
    """The executable of one target.  Raises subprocess.CalledProcessError."""
    made = directory / f"fuzz_{target}"
    parts = [NATIVE / f"{name}.c" for name in SOURCES.get(target, ())] or sorted(NATIVE.glob("*.c"))
    sources = [NATIVE / "fuzz" / f"{target}.c", *parts]
    compiler = clang()
    if compiler is not None:
        command = [compiler, "-fsanitize=fuzzer,address,undefined"]
    else:
        command = ["gcc", "-fsanitize=address,undefined"]
        sources.append(NATIVE / "fuzz" / "driver.c")
    command += [*SANITIZE, *SMALL, "-o", str(made), *map(str, sources), "-lm", "-lpthread"]
    subprocess.run(command, check=True)
    return made


def run(target: str, executable: Path, seconds: int, directory: Path) -> Outcome:
    """Tries the corpus and what grows from it; new inputs are left in ``directory/found``."""
    crashes, seeds, found = CORPUS / target, directory / "seeds", directory / "found"
    for path in (crashes, seeds, found):
        path.mkdir(parents=True, exist_ok=True)
    archive = CORPUS / f"{target}.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(seeds)
    environment = {**os.environ, **ENVIRONMENT}
    if clang() is not None:
        command = [
            str(executable), f"-max_total_time={seconds}", f"-max_len={MAX_INPUT[target]}", "-timeout=10",
            f"-artifact_prefix={crashes}/", "-print_final_stats=1", str(found), str(seeds), str(crashes),
        ]  # fmt: skip
    else:
        files = [*sorted(crashes.iterdir()), *sorted(seeds.iterdir())]
        command = [str(executable), str(seconds), str(crashes / "crash-last"), *map(str, files)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    text = done.stdout + done.stderr
    counted = re.search(r"number_of_executed_units: (\d+)|^(\d+) runs", text, re.MULTILINE)
    runs = int(counted[1] or counted[2]) if counted else 0
    if not [*crashes.iterdir()]:
        crashes.rmdir()
    return Outcome(runs, done.returncode != 0, text[-6000:])


def keep(target: str, executable: Path, directory: Path) -> int:
    """Puts the smallest set of inputs that reaches what all reach into the zip; how many they are."""
    merged = directory / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    command = [str(executable), "-set_cover_merge=1", f"-max_len={MAX_INPUT[target]}", str(merged)]
    command += [str(directory / "found"), str(directory / "seeds")]
    subprocess.run(command, check=True, capture_output=True)
    files = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)
    files = files[:: max(1, -(-len(files) // KEPT))]  # small and large ones
    with zipfile.ZipFile(CORPUS / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(files):
            packed.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    failed = False
    for target in chosen.targets:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            executable = build(target, directory)
            outcome = run(target, executable, chosen.seconds, directory)
            failed |= outcome.failed
            print(f"{target}: {outcome.runs} runs" + (f", failed\n{outcome.text}" if outcome.failed else ""))
            if chosen.keep and not outcome.failed and clang() is not None:
                print(f"{target}: {keep(target, executable, directory)} inputs kept")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
