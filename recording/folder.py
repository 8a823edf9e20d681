"""What lies in a recording's folder, for those who decode nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TAPS = "taps"
RESULT = "result.json"


def read_result(directory: Path) -> dict[str, Any] | None:
    """The finished job's result; None while there is none, or a file it names is gone."""
    try:
        result: dict[str, Any] = json.loads((directory / RESULT).read_bytes())
        for file in result["files"]:
            if (directory / file["path"]).stat().st_size != file["size_bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result
