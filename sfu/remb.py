"""What we tell publishers without transport-wide feedback: a bound by what arrives and what is lost.

draft-alvestrand-rmcat-remb-03.  Without times of sending there is no gradient: the bound follows the incoming
rate with room to grow, and losses take it back (RFC 8836's plainest form).
"""

from __future__ import annotations

from collections.abc import Iterable

from sfu.params import ExtensionUri, RtpParameters

ROOM = 1.5
START_BPS = 300e3
MIN_BPS, MAX_BPS = 50e3, 50e6
LOSS_HOLD, LOSS_LESS = 0.02, 0.10
GROWTH = 1.08
TRANSPORT_CC, REMB = "transport-cc", "goog-remb"


def wanted(sections: Iterable[RtpParameters]) -> bool:
    """The client asks for REMB and can't do better."""
    asks = False
    for section in sections:
        feedback = {word for codec in section.codecs for word in codec.rtcp_feedback}
        if TRANSPORT_CC in feedback and any(
            extension.uri == ExtensionUri.TRANSPORT_CC for extension in section.header_extensions
        ):
            return False
        asks |= REMB in feedback
    return asks


class IncomingBound:
    """One publisher."""

    __slots__ = ("_at_ms", "_bytes", "bound_bps")

    def __init__(self) -> None:
        self._at_ms: float | None = None
        self._bytes = 0
        self.bound_bps = START_BPS

    def update(self, received_bytes: int, loss: float, now_ms: float) -> float:
        """Once a second: all that has come so far, and the share (0…1) lost lately.  Returns the bound."""
        before_ms, before = self._at_ms, self._bytes
        self._at_ms, self._bytes = now_ms, received_bytes
        if before_ms is None or now_ms <= before_ms or received_bytes < before:
            return self.bound_bps
        rate = (received_bytes - before) * 8000 / (now_ms - before_ms)
        if loss > LOSS_LESS:
            fresh = min(self.bound_bps, rate) * (1 - loss / 2)
        elif loss > LOSS_HOLD:
            fresh = self.bound_bps
        else:
            fresh = max(self.bound_bps, min(self.bound_bps * GROWTH, MAX_BPS), ROOM * rate)
            # a publisher that rests must not find a bound from better days when it comes back
            fresh = min(fresh, max(START_BPS, 4 * ROOM * rate))
        self.bound_bps = max(MIN_BPS, min(MAX_BPS, fresh))
        return self.bound_bps
