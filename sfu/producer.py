"""A Producer: one media section that a client sends, with a Feed per encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfu.feed import LAYERED
from sfu.keyframes import KeyFrameRequests
from sfu.messages import Level
from sfu.params import Kind, RtpParameters
from sfu.seams import FeedHandle, FirstPacket, LegHandle, Relay
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
        leg: LegHandle,
        router: Router,
        relay: Relay,
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
        self.feeds = tuple(relay.open_feed(producer_id, index, kind, rtp.codecs) for index in range(count))
        # one stream with all spatial layers: receivers get fewer of them by dropping packets
        self.layered = count == 1 and any(codec.mime.lower() in LAYERED for codec in rtp.codecs)
        self.key_frames = tuple(KeyFrameRequests() for _ in self.feeds)
        self.alive: tuple[bool, ...] = (False,) * count
        self.loudness = Loudness()
        leg.learn(rtp.header_extensions)
        for feed, encoding in zip(self.feeds, encodings, strict=False):
            feed.rid = encoding.rid
            if encoding.ssrc is not None:
                leg.bind(encoding.ssrc, feed)
            if encoding.rtx_ssrc is not None:
                leg.bind_rtx(encoding.rtx_ssrc, feed)

    def resolve(self, packet: FirstPacket) -> bool:
        """Bind the SSRC of a packet that is known to be of this section; False if its encoding is unknown."""
        ssrc = packet.ssrc
        is_rtx = any(packet.payload_type in feed.rtx_types for feed in self.feeds[:1])
        if is_rtx:
            rid = packet.repaired_rid or packet.rid
            feed = self._by_rid(rid)
            if feed is None:
                return False
            self.leg.bind_rtx(ssrc, feed)
            return True
        feed = self._by_rid(packet.rid)
        if feed is None or packet.payload_type not in feed.codecs:
            return False
        self.leg.bind(ssrc, feed)
        return True

    def _by_rid(self, rid: bytes) -> FeedHandle | None:
        if len(self.feeds) == 1 and (not rid or self.feeds[0].rid is None):
            return self.feeds[0]
        name = rid.decode("ascii", "replace")
        return next((feed for feed in self.feeds if feed.rid == name), None) if name else None

    def set_paused(self, paused: bool) -> None:
        self.paused = paused
        for feed in self.feeds:
            feed.paused = paused
            feed.take_level()

    def want_key_frame(self, index: int) -> None:
        self.key_frames[index].want()
        self._wishes.add(self)

    def measure(self) -> Level | None:
        """Every 300 ms for audio: what to announce, if anything."""
        power, count = 0.0, 0
        for feed in self.feeds:
            more, number = feed.take_level()
            power, count = power + more, count + number
        loudness = self.loudness
        told = loudness.silence() if self.paused else loudness.update(power, count)
        if not told:
            return None
        return Level(self.producer_id, round(max(SILENCE_DBOV, loudness.dbov), 1), loudness.active)

    def close(self) -> None:
        self._wishes.discard(self)
        for feed in self.feeds:
            self.leg.drop(feed)
