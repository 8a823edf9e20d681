"""When each voice packet goes out twice (RED, RFC 2198): on a line that loses by itself, with hysteresis."""

from __future__ import annotations

RED_ON, RED_OFF = 0.03, 0.01  # share lost
SURE_MS = 1000.0
CALM_MS = 10_000.0


class RedSwitch:
    """One line.  To be asked once a second."""

    __slots__ = ("_calm_ms", "_lossy_ms", "on")

    def __init__(self) -> None:
        self.on = False
        self._calm_ms = self._lossy_ms = -1.0  # since when

    def update(self, loss: float, now_ms: float) -> bool:
        """True when ``on`` has changed."""
        before = self.on
        if loss >= RED_OFF:
            self._calm_ms = -1.0
        elif self._calm_ms < 0:
            self._calm_ms = now_ms
        if loss < RED_ON:
            self._lossy_ms = -1.0
        elif self._lossy_ms < 0:
            self._lossy_ms = now_ms
        if self._lossy_ms >= 0 and now_ms - self._lossy_ms >= SURE_MS:
            self.on = True
        elif self._calm_ms >= 0 and now_ms - self._calm_ms >= CALM_MS:
            self.on = False
        return self.on != before
