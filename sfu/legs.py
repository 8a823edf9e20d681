"""One leg as the relay sees it: address, keys, what it may send, what is counted."""

from __future__ import annotations

from collections.abc import Iterable

from sfu.feed import Feed
from sfu.params import HeaderExtension
from sfu.rtp import ExtensionIds
from sfu.srtp import SrtpLeg
from sfu.twcc import ArrivalRecorder

MAX_SSRCS = 512  # authenticated SSRCs of one leg; libsrtp keeps state for each

NOWHERE = ("", 0)


class Leg:
    """Made when a transport is known; sends and receives once keys and address are there."""

    __slots__ = (
        "address", "arrivals", "bound", "bytes_in", "bytes_out", "feeds", "ids", "known", "last_numbers",
        "name", "ntp_shift_ms", "other_bytes", "other_packets", "rtt_ms", "rtx", "srtp", "transport_seq",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.address: tuple[str, int] = NOWHERE
        self.bound: set[tuple[str, int]] = set()
        self.srtp: SrtpLeg | None = None
        self.ids = ExtensionIds()
        self.feeds: dict[int, Feed] = {}  # by SSRC
        self.rtx: dict[int, Feed] = {}  # by SSRC of the retransmission stream
        self.known: set[int] = set()
        self.arrivals = ArrivalRecorder()
        self.transport_seq = 0
        self.last_numbers: dict[int, tuple[int, int]] = {}
        self.ntp_shift_ms: float | None = None  # our clock minus the publisher's
        self.rtt_ms = 0.0  # by the receiver's reports, 0 = unknown
        self.bytes_in = self.bytes_out = 0
        self.other_packets = self.other_bytes = 0  # of no producer

    def learn(self, extensions: Iterable[HeaderExtension]) -> None:
        self.ids.learn(extensions)

    def bind(self, ssrc: int, feed: Feed) -> None:
        """Packets of ``ssrc`` are ``feed``'s from now on.  An encoder that starts anew may change it."""
        if feed.ssrc == ssrc:
            return
        if feed.ssrc and self.feeds.get(feed.ssrc) is feed:
            del self.feeds[feed.ssrc]
        self.feeds[ssrc] = feed
        feed.bind(ssrc)

    def bind_rtx(self, ssrc: int, feed: Feed) -> None:
        if feed.rtx_ssrc and self.rtx.get(feed.rtx_ssrc) is feed:
            del self.rtx[feed.rtx_ssrc]
        self.rtx[ssrc] = feed
        feed.rtx_ssrc = ssrc

    def drop(self, feed: Feed) -> None:
        """``feed`` gets no more packets."""
        feed.close()
        if self.feeds.get(feed.ssrc) is feed:
            del self.feeds[feed.ssrc]
        if self.rtx.get(feed.rtx_ssrc) is feed:
            del self.rtx[feed.rtx_ssrc]

    def take_feedback(self, now_ms: float) -> list[bytes]:
        return self.arrivals.take(now_ms)

    @property
    def ready(self) -> bool:
        return self.srtp is not None and self.address is not NOWHERE
