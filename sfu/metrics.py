"""What the media path counts, under names that dashboards rely on.

``lianxin_packets_total{direction,kind}`` and ``lianxin_bytes_total{direction,kind}`` count RTP as WebRTC's
``getStats`` does, so both can be compared: every authenticated packet that came in, and every packet handed
to the socket, before SRTP (header, extensions, payload and padding).  ``kind`` is "audio", "video", "rtx"
(retransmissions and the padding that libwebrtc sends as such) or "other" (of no producer).  For a client,
``sum(packetsSent)`` over its outbound-rtp stats equals audio + video + rtx + other in, and
``bytesSent + headerBytesSent`` equals the bytes, because libwebrtc counts retransmissions and padding there
too.  Packets that are dropped afterwards (paused producer, unwanted layer) have still been counted in.
"""

from __future__ import annotations

from collections.abc import Iterable

from sfu.messages import Counter

KINDS = ("audio", "video", "rtx", "other")


class Traffic:
    """Packets and bytes of one direction by kind.  Closed streams leave theirs here."""

    __slots__ = ("bytes", "packets")

    def __init__(self) -> None:
        self.packets = dict.fromkeys(KINDS, 0)
        self.bytes = dict.fromkeys(KINDS, 0)

    def add(self, kind: str, packets: int, size: int) -> None:
        self.packets[kind] += packets
        self.bytes[kind] += size

    def copy(self) -> Traffic:
        other = Traffic()
        other.packets.update(self.packets)
        other.bytes.update(self.bytes)
        return other

    def counters(self, direction: str) -> list[Counter]:
        found = []
        for name, values in (("lianxin_packets_total", self.packets), ("lianxin_bytes_total", self.bytes)):
            for kind, value in values.items():
                labels = (("direction", direction), ("kind", kind))
                found.append(Counter(name, labels, float(value)))
        return found


def by_direction(name: str, into: float, out: float) -> list[Counter]:
    return [
        Counter(name, (("direction", "in"),), float(into)),
        Counter(name, (("direction", "out"),), float(out)),
    ]


def gauges(values: Iterable[tuple[str, int]]) -> list[Counter]:
    return [Counter(name, (), float(value)) for name, value in values]
