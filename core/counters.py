"""Counters of the control process.  Everything that is refused or dropped is counted under a reason.

One registry of our own: /metrics shows it, and tests read it without the interpreter's default collectors.
Reasons are short constants of our code, never text from outside (each reason is a time series for ever).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)

_refused = Counter(
    "lianxin_refused",
    "Requests, messages and connections that the control process refused or dropped, by reason.",
    ["reason"],
    registry=REGISTRY,
)
_join_seconds = Histogram(
    "lianxin_join_seconds",
    "Time from a participant's WebSocket request until its first media transport was connected.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0),
    registry=REGISTRY,
)
_sockets = {
    "page": Gauge("lianxin_ws_clients", "Pages connected to /ws.", registry=REGISTRY),
    "livekit": Gauge(
        "lianxin_rtc_clients", "LiveKit clients connected to /rtc or /rtc/v1.", registry=REGISTRY
    ),
}


def refused(reason: str, amount: int = 1) -> None:
    """Counts something refused or dropped."""
    _refused.labels(reason=reason).inc(amount)


def refused_total(reason: str) -> float:
    """The count so far (for tests and the status page)."""
    return REGISTRY.get_sample_value("lianxin_refused_total", {"reason": reason}) or 0.0


def joined_after(seconds: float) -> None:
    """A participant's media came up ``seconds`` after it asked to join."""
    _join_seconds.observe(seconds)


def ws_opened(kind: str) -> None:
    """``kind``: "page" (/ws) or "livekit" (/rtc)."""
    _sockets[kind].inc()


def ws_closed(kind: str) -> None:
    _sockets[kind].dec()


def ws_clients() -> int:
    """Pages connected to /ws."""
    return int(REGISTRY.get_sample_value("lianxin_ws_clients") or 0)
