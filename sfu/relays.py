"""Which relay a worker gets: the native one where it can be had, else its Python twin."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from sfu.drops import Drops
from sfu.relay import PythonRelay
from sfu.seams import DatagramSink
from sfu.srtp import SrtpError

if TYPE_CHECKING:
    from sfu.native_relay import NativeRelay

log = logging.getLogger(__name__)


@cache
def why_not_native() -> str:
    """One sentence; "" when the native relay is built and has passed its test."""
    try:
        from sfu.native_relay import check_engine
    except ImportError as error:
        return f"it is not built: {error}"
    except ValueError as error:
        return f"it was built from other sources: {error}"
    try:
        check_engine()
    except (SrtpError, OSError, MemoryError) as error:
        return f"it failed its test: {error}"
    return ""


def open_relay(
    sock: socket.socket, sink: DatagramSink, clock_ms: Callable[[], float], drops: Drops, *, native: bool
) -> PythonRelay | NativeRelay:
    """Says in the log why, when it is the twin."""
    reason = why_not_native() if native else "the configuration says so"
    if reason:
        log.log(
            logging.WARNING if native else logging.INFO,
            "media is forwarded in Python, not by the native relay: %s", reason,
        )  # fmt: skip
        return PythonRelay(sock, sink, clock_ms, drops, kernel_times=True)
    from sfu.native_relay import NativeRelay

    log.debug("media is forwarded by the native relay")
    return NativeRelay(sock, sink, clock_ms, drops, kernel_times=True)
