"""The native relay built with gcc's sanitizers, inside an interpreter that is not.

    python -m tests.fuzz.sanitized [PYTEST ARGUMENTS]

runs tests with it (the contract suite and the fixed scenarios of the differential test by default).  As a
pytest plugin this file puts the extension that SFU_SANITIZED_RELAY names in the place of the usual one.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
DEFAULT = (
    "tests/contract/test_sfu_relay.py", "tests/contract/test_sfu_pacing.py", "tests/contract/test_sfu_svc.py",
    "tests/contract/test_sfu_red.py", "tests/contract/test_sfu_send_time.py",
    "tests/differential/test_sfu_relays_agree.py", "-k", "native or fixed",
)  # fmt: skip


def build(directory: Path) -> Path:
    """The extension.  Raises subprocess.CalledProcessError."""
    command = [
        sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(directory / "lib"),
        "--build-temp", str(directory / "temp"),
    ]  # fmt: skip
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return next((directory / "lib").rglob("_relay.*.so"))


def run(extension: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    libraries = (
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in ("libasan.so", "libubsan.so")
    )
    environment = {
        **os.environ,
        "SFU_SANITIZED_RELAY": str(extension),
        "LD_PRELOAD": " ".join(found.stdout.strip() for found in libraries),
        "PYTHONMALLOC": "malloc",  # or the ends of the interpreter's objects go unwatched
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # the interpreter leaves things behind
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.fuzz.sanitized", *(arguments or DEFAULT)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _put_in_place(path: str) -> None:
    loader = importlib.machinery.ExtensionFileLoader("sfu._relay", path)
    spec = importlib.util.spec_from_file_location("sfu._relay", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    import sfu

    sys.modules["sfu._relay"] = module
    sfu._relay = module  # type: ignore[attr-defined]


if os.environ.get("SFU_SANITIZED_RELAY"):
    _put_in_place(os.environ["SFU_SANITIZED_RELAY"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        done = run(build(Path(name)), *sys.argv[1:])
    print(done.stdout[-8000:], done.stderr[-8000:], sep="\n")
    sys.exit(done.returncode)
