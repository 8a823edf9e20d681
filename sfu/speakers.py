"""Who speaks: loudness from the audio level extension (RFC 6464), smoothed."""

from __future__ import annotations

import math

SILENCE_DBOV = -127.0
AUDIBLE_DBOV = -70.0  # below is the noise of a quiet room
ACTIVE_DBOV = -50.0
INACTIVE_DBOV = -56.0  # hysteresis: a speaker doesn't flicker between words
RISE = 0.8  # share of the new value per interval of 300 ms
FALL_DB = 12.0  # at most per interval: a pause between words is no end of speech


class Loudness:
    """One audio producer.  dBov: 0 loudest, -127 silence."""

    __slots__ = ("active", "announced", "dbov")

    def __init__(self) -> None:
        self.dbov = SILENCE_DBOV
        self.active = False
        self.announced = False

    def update(self, power: float, count: int) -> bool:
        """One interval: sum of linear power (1 = 0 dBov) of ``count`` packets; no packets (DTX) are silence.

        True when this producer belongs into the announcement: audible, or fallen silent just now.
        """
        current = SILENCE_DBOV
        if count and power > 0:
            current = max(SILENCE_DBOV, 10 * math.log10(power / count))
        if current > self.dbov:
            # from silence it is the distance to the audible that counts, not to minus infinity
            before = min(current, max(self.dbov, AUDIBLE_DBOV))
            self.dbov = before + (current - before) * RISE
        else:
            self.dbov = max(current, self.dbov - FALL_DB)
        self.active = self.dbov > (INACTIVE_DBOV if self.active else ACTIVE_DBOV)
        return self._announce()

    def silence(self) -> bool:
        """Paused or gone: silent at once.  True when that has to be announced."""
        self.dbov = SILENCE_DBOV
        self.active = False
        return self._announce()

    def _announce(self) -> bool:
        audible = self.active or self.dbov > AUDIBLE_DBOV
        told, self.announced = self.announced, audible
        return audible or told
