"""What was sent lately, for retransmission: a ring indexed by the receiver's sequence number."""

from __future__ import annotations

from typing import NamedTuple

VIDEO_SLOTS = 512  # 1.7 s of 3 Mbit/s; the payload bytes are shared by all receivers of a feed
AUDIO_SLOTS = 64


class Sent(NamedTuple):
    """One packet as its receiver knows it.  Places are in the payload, -1 = nothing to patch."""

    sequence: int
    marker_type: int  # second byte of the RTP header
    timestamp: int
    payload: bytes
    picture_at: int
    picture_id: int
    picture_mask: int
    tl0_at: int
    tl0: int
    extension: bytes
    transport_seq: int  # or the absolute send time, where the receiver has that instead; -1 = not known here


class Ring:
    """Fixed number of slots (a power of two); a newer packet takes the slot of an older one."""

    __slots__ = ("asked_ms", "mask", "slots")

    def __init__(self, size: int) -> None:
        if size & (size - 1) or not 0 < size <= 32768:
            raise ValueError("size must be a power of two up to 32768")
        self.mask = size - 1
        self.slots: list[tuple[int, int, int, bytes, int, int, int, int, int, bytes, int] | None] = [
            None
        ] * size
        self.asked_ms = [(-1, 0.0)] * size  # by slot: which number was sent again, and when

    def find(self, sequence: int) -> Sent | None:
        """The packet with this 16-bit number, None when it is gone or never was."""
        slot = self.slots[sequence & self.mask]
        if slot is None or slot[0] != sequence:
            return None
        return Sent._make(slot)

    def may_resend(self, sequence: int, now_ms: float, interval_ms: float) -> bool:
        """False when this number was sent again less than ``interval_ms`` ago: it is still on its way."""
        at = sequence & self.mask
        asked, asked_ms = self.asked_ms[at]
        if asked == sequence and now_ms - asked_ms < interval_ms:
            return False
        self.asked_ms[at] = (sequence, now_ms)
        return True

    def clear(self) -> None:
        self.slots = [None] * (self.mask + 1)
        self.asked_ms = [(-1, 0.0)] * (self.mask + 1)
