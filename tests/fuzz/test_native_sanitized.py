"""The contract suite again, with the native relay under gcc's address and undefined behaviour sanitizers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fuzz import sanitized


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")
def test_contract_suite_under_sanitizers(tmp_path: Path) -> None:
    done = sanitized.run(sanitized.build(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
