"""One leg as the relay sees it: address, keys, what it may send, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sfu.feed import Feed
from sfu.history import SendHistory
from sfu.pacer import MAX_STEP_MS, Pacer, Probe
from sfu.params import HeaderExtension
from sfu.rtp import ExtensionIds
from sfu.seams import Digest
from sfu.srtp import SrtpLeg
from sfu.twcc import ArrivalRecorder

if TYPE_CHECKING:
    from sfu.leg_route import LegRoute

MAX_SSRCS = 512  # authenticated SSRCs of one leg; libsrtp keeps state for each

NOWHERE = ("", 0)


class Leg:
    """Made when a transport is known; sends and receives once keys and address are there."""

    __slots__ = (
        "address", "arrivals", "bound", "bytes_in", "bytes_out", "cluster", "feeds", "history", "ids",
        "known", "last_numbers", "mending_until_ms", "name", "ntp_shift_ms", "other_bytes",
        "other_packets", "pacer", "routes", "rtt_ms", "rtx", "srtp", "transport_seq", "wake",
    )  # fmt: skip

    def __init__(self, name: str, wake: Callable[[Leg], None] = lambda leg: None) -> None:
        """``wake``: called when something begins to wait for ``release``."""
        self.name = name
        self.wake = wake
        self.address: tuple[str, int] = NOWHERE
        self.bound: set[tuple[str, int]] = set()
        self.srtp: SrtpLeg | None = None
        self.ids = ExtensionIds()
        self.feeds: dict[int, Feed] = {}  # by SSRC
        self.rtx: dict[int, Feed] = {}  # by SSRC of the retransmission stream
        self.known: set[int] = set()
        self.arrivals = ArrivalRecorder()
        self.transport_seq = 0
        self.history = SendHistory()
        self.pacer: Pacer | None = None  # most lines never need one
        self.cluster = 0  # of the probe that runs
        self.routes: list[LegRoute] = []
        self.last_numbers: dict[int, tuple[int, int]] = {}
        self.ntp_shift_ms: float | None = None  # our clock minus the publisher's
        self.mending_until_ms = 0.0
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
        return self.arrivals.take(now_ms) if self.feeds else []

    # ------------------------------------------------------------ what the line carries

    def acknowledge(self, body: bytes, now_ms: float) -> Digest:
        return self.history.acknowledge(body)

    def set_pacing(self, rate_bps: float) -> None:
        if self.pacer is None:
            if rate_bps <= 0:
                return
            self.pacer = Pacer()
        self.pacer.set_rate(rate_bps)

    @property
    def queued(self) -> int:
        return len(self.pacer.queue) if self.pacer is not None else 0

    def probe(self, cluster: int, rate_bps: float, size: int) -> bool:
        if not self.ready or rate_bps <= 0 or size <= 0 or self._padding_route() is None:
            return False
        if self.pacer is None:
            self.pacer = Pacer()
        self.cluster = 0
        self.pacer.probe = Probe(cluster, rate_bps, size)
        self.wake(self)
        return True

    def release(self, now_ms: float) -> bool:
        """Let go what is due; True while more waits."""
        pacer = self.pacer
        if pacer is None:
            return False
        pacer.release(now_ms)
        probe = pacer.probe
        if probe is not None and not self._pad(probe, now_ms):
            pacer.probe = None
            self.cluster = 0
        return pacer.waits

    def _pad(self, probe: Probe, now_ms: float) -> bool:
        """False when the probe is over."""
        route = self._padding_route()
        if route is None:
            return False
        if probe.at_ms is not None:
            probe.credit += max(0.0, min(MAX_STEP_MS, now_ms - probe.at_ms)) * probe.rate_bps / 8000
        probe.at_ms = now_ms
        self.cluster = probe.cluster
        while probe.credit > 0 and probe.left > 0:
            size = route.send_padding(now_ms)
            if not size:
                return False
            probe.credit -= size
            probe.left -= size
        return probe.left > 0

    def _padding_route(self) -> LegRoute | None:
        return next((route for route in self.routes if route.pads), None)

    def forget_waiting(self) -> None:
        """The leg is closed."""
        self.cluster = 0
        if self.pacer is not None:
            self.pacer.clear()

    @property
    def ready(self) -> bool:
        return self.srtp is not None and self.address is not NOWHERE
