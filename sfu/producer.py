"""A Producer: one media section that a client sends, with a Feed per encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfu.drops import Drops
from sfu.feed import Feed, FeedSide
from sfu.keyframes import KeyFrameRequests
from sfu.legs import Leg
from sfu.messages import Level
from sfu.params import Kind, RtpParameters
from sfu.rtp import Packet
from sfu.speakers import SILENCE_DBOV, Loudness

if TYPE_CHECKING:
    from sfu.consumer import Consumer
    from sfu.router import Router

MAX_ENCODINGS = 4


class Producer:
    """Owned by the transport whose leg it is; closes with it."""

    def __init__(
        self,
        producer_id: str,
        kind: Kind,
        rtp: RtpParameters,
        *,
        leg: Leg,
        router: Router,
        side: FeedSide,
        drops: Drops,
        wishes: set[Producer],
    ) -> None:
        self._wishes = wishes  # of the media plane: who waits for a key frame
        self.producer_id = producer_id
        self.kind = kind
        self.rtp = rtp
        self.leg = leg
        self.router = router
        self.paused = False
        self.live = False
        self.consumers: tuple[Consumer, ...] = ()
        encodings = rtp.encodings[:MAX_ENCODINGS]
        count = max(1, len(encodings))
        self.feeds = tuple(Feed(producer_id, index, kind, rtp.codecs, side, drops) for index in range(count))
        self.key_frames = tuple(KeyFrameRequests() for _ in self.feeds)
        self.alive: tuple[bool, ...] = (False,) * count
        self.loudness = Loudness()
        leg.ids.learn(rtp.header_extensions)
        for feed, encoding in zip(self.feeds, encodings, strict=False):
            feed.rid = encoding.rid
            if encoding.ssrc is not None:
                self.bind(feed, encoding.ssrc)
            if encoding.rtx_ssrc is not None:
                self.bind_rtx(feed, encoding.rtx_ssrc)

    def bind(self, feed: Feed, ssrc: int) -> None:
        """``ssrc`` is this encoding from now on.  An encoder that starts anew may change it."""
        if feed.ssrc == ssrc:
            return
        if feed.ssrc and self.leg.feeds.get(feed.ssrc) is feed:
            del self.leg.feeds[feed.ssrc]
        restarted = feed.ssrc != 0
        self.leg.feeds[ssrc] = feed
        feed.bind(ssrc)
        if restarted:
            for route in feed.routes:
                route.restart(feed)
            if self.kind is Kind.VIDEO and feed.routes:
                self.want_key_frame(feed.index)

    def bind_rtx(self, feed: Feed, ssrc: int) -> None:
        if feed.rtx_ssrc and self.leg.rtx.get(feed.rtx_ssrc) is feed:
            del self.leg.rtx[feed.rtx_ssrc]
        self.leg.rtx[ssrc] = feed
        feed.rtx_ssrc = ssrc

    def resolve(self, packet: Packet) -> bool:
        """Bind the SSRC of a packet that is known to be of this section; False if its encoding is unknown."""
        ssrc = packet.ssrc
        is_rtx = any(packet.payload_type in feed.rtx_types for feed in self.feeds[:1])
        if is_rtx:
            rid = packet.repaired_rid or packet.rid
            feed = self._by_rid(rid)
            if feed is None:
                return False
            self.bind_rtx(feed, ssrc)
            return True
        feed = self._by_rid(packet.rid)
        if feed is None or packet.payload_type not in feed.codecs:
            return False
        self.bind(feed, ssrc)
        return True

    def _by_rid(self, rid: bytes) -> Feed | None:
        if len(self.feeds) == 1 and (not rid or self.feeds[0].rid is None):
            return self.feeds[0]
        name = rid.decode("ascii", "replace")
        return next((feed for feed in self.feeds if feed.rid == name), None) if name else None

    def set_paused(self, paused: bool) -> None:
        self.paused = paused
        for feed in self.feeds:
            feed.paused = paused
            feed.level_power, feed.level_count = 0.0, 0

    def want_key_frame(self, index: int) -> None:
        self.key_frames[index].want()
        self._wishes.add(self)

    def measure(self) -> Level | None:
        """Every 300 ms for audio: what to announce, if anything."""
        power = sum(feed.level_power for feed in self.feeds)
        count = sum(feed.level_count for feed in self.feeds)
        for feed in self.feeds:
            feed.level_power, feed.level_count = 0.0, 0
        loudness = self.loudness
        told = loudness.silence() if self.paused else loudness.update(power, count)
        if not told:
            return None
        return Level(self.producer_id, round(max(SILENCE_DBOV, loudness.dbov), 1), loudness.active)

    def close(self) -> None:
        self._wishes.discard(self)
        for feed in self.feeds:
            for route in feed.routes:
                route.stop()
            feed.routes = ()
            if self.leg.feeds.get(feed.ssrc) is feed:
                del self.leg.feeds[feed.ssrc]
            if self.leg.rtx.get(feed.rtx_ssrc) is feed:
                del self.leg.rtx[feed.rtx_ssrc]
