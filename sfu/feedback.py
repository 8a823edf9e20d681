"""RTCP of the media plane: reports, NACK, key frames and transport-wide feedback, in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfu import remb, rtcp
from sfu.consumer import Tap
from sfu.drops import DropReason
from sfu.ice import TokenBucket
from sfu.params import Kind
from sfu.producer import Producer
from sfu.rtcp import Bye, KeyFrameWanted, Nack, Remb, ReportBlock, SenderReport, TransportCc
from sfu.seams import FeedHandle, LegHandle

if TYPE_CHECKING:
    from sfu.media import MediaPlane

OWN_SSRC = 1  # sender of feedback; libwebrtc's receivers use the same
REPORTS_MS = 1000.0
CLOCK_STEP_MS = 2000.0  # a publisher's clock that jumps this far was set anew
MAX_RTT_MS = 10_000.0
# Libwebrtc sends 20 transport-wide reports a second, and NACKs and PLIs of a wall of streams beside them
COMPOUNDS_PER_S, COMPOUNDS_BURST = 500.0, 1000.0
MENDING_MS = 700.0  # after an outage: until a key frame has come through and ended the receiver's questions


class Feedback:
    """Reads what clients report, writes what they need to know."""

    def __init__(self, media: MediaPlane) -> None:
        self._media = media
        self._reported_ms: dict[str, float] = {}
        self._bounds: dict[str, remb.IncomingBound] = {}  # of publishers without transport-wide feedback
        self._budgets: dict[str, TokenBucket] = {}
        self.nacks_in = 0
        self.plis_in = 0
        self.plis_out = 0

    def forget(self, leg: LegHandle) -> None:
        self._reported_ms.pop(leg.name, None)
        self._bounds.pop(leg.name, None)
        self._budgets.pop(leg.name, None)

    def mend_by_key_frames(self, leg_name: str, now_ms: float) -> None:
        """After an outage this receiver will ask for seconds of video that nobody needs any more."""
        self._media.relay.leg(leg_name).mending_until_ms = now_ms + MENDING_MS

    # ------------------------------------------------------------ in

    def on_rtcp(self, leg: LegHandle, data: bytes, now_ms: float) -> None:
        media = self._media
        budget = self._budgets.get(leg.name)
        if budget is None:
            budget = self._budgets[leg.name] = TokenBucket(COMPOUNDS_PER_S, COMPOUNDS_BURST)
        if not budget.take(now_ms):
            media.relay.drops.count(DropReason.RTCP_RATE)
            return
        try:
            messages = rtcp.parse(data)
        except rtcp.RtcpError:
            media.relay.drops.count(DropReason.MALFORMED_RTCP)
            return
        for message in messages:
            if isinstance(message, TransportCc):
                media.congestion.on_feedback(leg, message.body, now_ms)
            elif isinstance(message, Bye):
                continue  # a stream that ends falls silent anyway
            elif isinstance(message, Remb):
                media.congestion.on_remb(leg, message.bitrate_bps, now_ms)
            elif isinstance(message, SenderReport):
                self._on_sender_report(leg, message, now_ms)
            elif isinstance(message, ReportBlock):
                self._on_report_block(leg, message, now_ms)
            elif isinstance(message, Nack):
                consumer = media.by_ssrc.get((leg.name, message.media_ssrc))
                if consumer is not None:
                    self.nacks_in += len(message.sequences)
                    if consumer.kind is Kind.VIDEO and now_ms < leg.mending_until_ms:
                        media.relay.drops.count(DropReason.NACK_OUTAGE, len(message.sequences))
                        continue
                    for sequence in message.sequences:
                        consumer.route.resend(sequence, now_ms)
            elif isinstance(message, KeyFrameWanted):
                consumer = media.by_ssrc.get((leg.name, message.media_ssrc))
                if consumer is not None and consumer.kind is Kind.VIDEO:
                    self.plis_in += 1
                    consumer.want_key_frame(now_ms)
                    self._ask_for_key_frames_of(consumer.producer, now_ms)

    def _on_sender_report(self, leg: LegHandle, report: SenderReport, now_ms: float) -> None:
        feed = leg.feeds.get(report.ssrc)
        if feed is None:
            return
        ntp_ms = rtcp.ms_from_ntp(report.ntp)
        shift_ms = now_ms - ntp_ms
        # one shift for all streams of a leg, or lips and voice would drift apart
        if leg.ntp_shift_ms is None or abs(shift_ms - leg.ntp_shift_ms) > CLOCK_STEP_MS:
            leg.ntp_shift_ms = shift_ms
        feed.note_report(report.ntp, report.rtp_timestamp, ntp_ms + leg.ntp_shift_ms, now_ms)
        producer = self._media.producers.get(feed.source)
        if producer is None:
            return
        for consumer in producer.consumers:
            if isinstance(consumer, Tap) and consumer.route.feed is feed:
                consumer.send_report(ntp_ms, report.rtp_timestamp, now_ms)

    def _on_report_block(self, leg: LegHandle, block: ReportBlock, now_ms: float) -> None:
        consumer = self._media.by_ssrc.get((leg.name, block.ssrc))
        if consumer is None:
            return
        self._media.congestion.on_report(consumer, block, now_ms)
        consumer.jitter_ms = block.jitter * 1000 / consumer.producer.feeds[0].clock_rate
        consumer.loss = block.fraction_lost / 256
        consumer.loss_ms = now_ms
        consumer.lost = max(0, block.lost)
        if block.lsr:
            elapsed = (rtcp.middle_of_ntp(rtcp.ntp_from_ms(now_ms)) - block.lsr - block.dlsr) & 0xFFFFFFFF
            rtt_ms = elapsed * 1000 / 65536
            if rtt_ms <= MAX_RTT_MS:
                consumer.rtt_ms = rtt_ms
                leg.rtt_ms = rtt_ms if not leg.rtt_ms else leg.rtt_ms * 0.75 + rtt_ms * 0.25

    # ------------------------------------------------------------ out

    def tick(self, now_ms: float) -> None:
        media = self._media
        for leg in media.relay.legs():
            if not leg.ready:
                continue
            for body in leg.take_feedback(now_ms):
                media_ssrc = next(iter(leg.feeds), 0)
                media.relay.send_rtcp(leg, rtcp.transport_cc(OWN_SSRC, media_ssrc, body))
            media.relay.ask_again(leg, now_ms)
            if now_ms - self._reported_ms.get(leg.name, -1e12) >= REPORTS_MS:
                self._reported_ms[leg.name] = now_ms
                self._report_to(leg, now_ms)

    def _report_to(self, leg: LegHandle, now_ms: float) -> None:
        media = self._media
        packets: list[bytes] = []
        blocks = [self._block(feed, now_ms) for feed in leg.feeds.values() if feed.highest >= 0]
        if blocks:
            packets += rtcp.receiver_reports(OWN_SSRC, blocks)
            packets += self._bound(leg, blocks, now_ms)
        ntp = rtcp.ntp_from_ms(now_ms)
        for consumer in media.consumers_of(leg):
            route = consumer.route
            timestamp = route.out_timestamp(now_ms)
            if timestamp is None:
                continue
            cname = consumer.producer.leg.name
            packets.append(
                rtcp.sender_report(route.ssrc, ntp, timestamp, route.packets, route.octets)
                + rtcp.source_description(route.ssrc, cname)
            )
        for datagram in rtcp.compounds(packets):
            media.relay.send_rtcp(leg, datagram)

    def _bound(self, leg: LegHandle, blocks: list[ReportBlock], now_ms: float) -> list[bytes]:
        router = self._media.leg_router.get(leg.name)
        mine = [p.rtp for p in router.producers.values() if p.leg is leg] if router is not None else []
        if not remb.wanted(mine):
            return []
        bound = self._bounds.setdefault(leg.name, remb.IncomingBound())
        loss = sum(block.fraction_lost for block in blocks) / len(blocks) / 256
        bitrate = bound.update(leg.bytes_in, loss, now_ms)
        return [rtcp.remb(OWN_SSRC, bitrate, [block.ssrc for block in blocks])]

    @staticmethod
    def _block(feed: FeedHandle, now_ms: float) -> ReportBlock:
        lsr = dlsr = 0
        if feed.report_ntp:
            lsr = rtcp.middle_of_ntp(feed.report_ntp)
            dlsr = int((now_ms - feed.report_arrival_ms) * 65536 / 1000)
        return ReportBlock(
            feed.ssrc, feed.take_fraction(), feed.lost, feed.highest - 0x10000 & 0xFFFFFFFF,
            int(feed.jitter), lsr, dlsr,
        )  # fmt: skip

    def ask_for_key_frames(self, now_ms: float) -> None:
        """Send every PLI that is due."""
        wishes = self._media.wishes
        for producer in [*wishes]:
            self._ask_for_key_frames_of(producer, now_ms)
            if not any(wish.wanted for wish in producer.key_frames):
                wishes.discard(producer)

    def _ask_for_key_frames_of(self, producer: Producer, now_ms: float) -> None:
        if not producer.leg.ready:
            return
        for feed, wish in zip(producer.feeds, producer.key_frames, strict=True):
            if wish.wanted and feed.ssrc and not producer.paused and wish.due(now_ms):
                self.plis_out += 1
                self._media.relay.send_rtcp(producer.leg, rtcp.picture_loss(OWN_SSRC, feed.ssrc))
