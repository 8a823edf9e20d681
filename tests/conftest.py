"""Shared fixtures live in tests/fixtures, one module per real component."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(Path(__file__).parent.parent))

pytest_plugins = [
    f"tests.fixtures.{path.stem}"
    for path in sorted(FIXTURES.glob("*.py"))
    if path.stem != "__init__" and importlib.util.find_spec(f"tests.fixtures.{path.stem}")
]

# Fixtures may import one another: all are named before the first is loaded.
pytest.register_assert_rewrite(*pytest_plugins)
