"""What one leg was sent lately, by transport-wide number, and what its receiver says about it.

Reads the feedback of draft-holmer-rmcat-transport-wide-cc-extensions-01 against the times of sending.
"""

from __future__ import annotations

from sfu import twcc
from sfu.seams import Cluster, Digest, Group
from sfu.seq import distance

SLOTS = 2048  # 1.5 s of 15 Mbit/s; what is older has been reported or is lost
MASK = SLOTS - 1
GROUP_MS = 5.0  # packets of one frame leave together and queue behind each other: one measurement
MAX_GROUPS, MAX_CLUSTERS = 512, 4  # of one feedback; more are left out

OUTSTANDING, LOST, RECEIVED = 0, 1, 2
REFERENCE_WRAP = 0x1000000  # the reference time has 24 bits of 64 ms

_Slot = tuple[int, float, int, int]  # number, send_ms, size, cluster


class SendHistory:
    """One leg.  Times of sending are on our clock, arrivals on the receiver's, both in ms."""

    __slots__ = (
        "_arrival_ms", "_first_ms", "_newest", "_reference", "_send_ms", "_size", "_slots", "_states",
    )  # fmt: skip

    def __init__(self) -> None:
        self._slots: list[_Slot | None] = [None] * SLOTS
        self._states = bytearray(SLOTS)
        self._reference: int | None = None  # unwrapped, of the newest feedback
        self._newest = -1  # newest number that is in a group
        # the open group
        self._first_ms = self._send_ms = self._arrival_ms = 0.0
        self._size = 0

    def record(self, number: int, send_ms: float, size: int, cluster: int) -> None:
        """A packet with this 16-bit number leaves: ``size`` bytes of plain RTP; ``cluster`` 0 = no probe."""
        at = number & MASK
        self._slots[at] = (number, send_ms, size, cluster)
        self._states[at] = OUTSTANDING

    def acknowledge(self, body: bytes) -> Digest:
        """``body``: what follows the RTCP feedback header.  Raises twcc.TwccError.

        A number counts as received, or as lost, when it is reported so for the first time.
        """
        feedback = twcc.read(body)
        base, total = feedback.base, feedback.total
        shift = self._unwrap_reference(feedback.reference)
        received = acked_bytes = 0
        newest_send_ms = 0.0
        groups: list[Group] = []
        clusters: dict[int, Cluster] = {}
        for offset, tick in feedback.arrivals:
            number = (base + offset) & 0xFFFF
            at = number & MASK
            slot = self._slots[at]
            if slot is None or slot[0] != number or self._states[at] == RECEIVED:
                continue
            self._states[at] = RECEIVED
            _, send_ms, size, cluster = slot
            arrival_ms = (tick + shift) / twcc.TICKS_PER_MS
            received += 1
            acked_bytes += size
            newest_send_ms = max(newest_send_ms, send_ms)
            if cluster and (cluster in clusters or len(clusters) < MAX_CLUSTERS):
                clusters[cluster] = _grown(clusters.get(cluster), slot, arrival_ms)
            if self._newest >= 0 and -SLOTS < distance(number, self._newest) <= 0:
                continue  # reordered or reported late: its group has been given out
            if self._newest >= 0 and send_ms - self._first_ms > GROUP_MS:
                if len(groups) < MAX_GROUPS:
                    groups.append(Group(self._send_ms, self._arrival_ms, self._size))
                self._size = 0
            if not self._size:
                self._first_ms = send_ms
            self._newest = number
            self._send_ms, self._arrival_ms = send_ms, arrival_ms
            self._size += size
        lost = 0
        for offset in range(max(0, total - SLOTS), total):
            number = (base + offset) & 0xFFFF
            at = number & MASK
            slot = self._slots[at]
            if slot is None or slot[0] != number or self._states[at] != OUTSTANDING:
                continue
            self._states[at] = LOST
            lost += 1
        return Digest(tuple(groups), received, lost, acked_bytes, newest_send_ms, tuple(clusters.values()))

    def _unwrap_reference(self, reference: int) -> int:
        """What to add to the ticks of this feedback, in ticks."""
        known = reference if self._reference is None else self._reference
        half = REFERENCE_WRAP >> 1
        unwrapped = known + ((reference - known + half) & (REFERENCE_WRAP - 1)) - half
        self._reference = unwrapped
        return (unwrapped - reference) * twcc.REFERENCE_TICKS


def _grown(known: Cluster | None, slot: _Slot, arrival_ms: float) -> Cluster:
    _, send_ms, size, cluster = slot
    if known is None:
        return Cluster(cluster, 1, size, send_ms, send_ms, arrival_ms, arrival_ms)
    return Cluster(
        cluster, known.packets + 1, known.size + size,
        min(known.first_send_ms, send_ms), max(known.last_send_ms, send_ms),
        min(known.first_arrival_ms, arrival_ms), max(known.last_arrival_ms, arrival_ms),
    )  # fmt: skip
