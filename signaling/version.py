"""Our version, from the installed package; read lazily because importlib.metadata is slow to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("lianxin")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0.0.0"
