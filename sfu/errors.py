"""What goes wrong between a control process and its media workers."""

from __future__ import annotations


class SfuError(Exception):
    """A request was refused.

    ``code`` is stable for programs ("no_transport", "no_common_codec", "timeout", …), ``reason`` is one
    English sentence for the log.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class WorkerLost(SfuError):
    """The worker died, or was not there any more, before it answered.  Its routers are gone with it."""

    def __init__(self, worker_id: str) -> None:
        super().__init__("worker_lost", f"media worker {worker_id} has died")
        self.worker_id = worker_id


class ChannelError(Exception):
    """A frame on the channel between control process and worker is malformed, unknown or too large."""
