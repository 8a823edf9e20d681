"""The native relay's fuzz targets, each for some seconds.  Longer: ``python -m tests.fuzz.native``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import native

SECONDS = {"relay": 14, "codecs": 4, "packet": 3, "twcc": 4}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", native.TARGETS)
def test_nothing_breaks_the_native_relay(target: str, tmp_path: Path) -> None:
    outcome = native.run(target, native.build(target, tmp_path), SECONDS[target], tmp_path)
    assert not outcome.failed, f"see {native.CORPUS / target}\n{outcome.text}"
    assert outcome.runs > 0
