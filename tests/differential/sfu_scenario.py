"""What can happen in a meeting of three publishers and two viewers, as small steps to be ordered freely."""

from __future__ import annotations

import random
import struct
from collections import deque
from typing import Any

from sfu import rtcp
from sfu.codecs import opus
from sfu.messages import (
    CloseConsumer,
    CloseProducer,
    Consume,
    Produce,
    RequestKeyFrame,
    SetConsumerPaused,
    SetConsumerPriority,
    SetConsumerSource,
    SetLayer,
    SetProducerPaused,
    StartTap,
    StopTap,
)
from sfu.params import CodecParameters, EncodingParameters, ExtensionUri, Kind, RtpParameters
from sfu.rtp import encode_extensions
from tests.differential.sfu_twins import Client, World, rtp_packet
from tests.fixtures.sfu_rtp_peers import (
    DOWN,
    FEEDBACK,
    H264,
    H264_DOWN,
    OPUS,
    OPUS_DOWN,
    RED,
    RED_DOWN,
    UP,
    VP8,
    VP8_DOWN,
    extensions,
    vp8,
)
from tests.fixtures.sfu_svc_streams import LayeredPublisher

VP9 = CodecParameters("video/VP9", 98, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=99)
VP9_DOWN = CodecParameters("video/VP9", 112, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=113)
AV1 = CodecParameters("video/AV1", 45, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=46)
AV1_DOWN = CodecParameters("video/AV1", 41, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=42)
BARE_VP8_DOWN = CodecParameters("video/VP8", 100, 90000, rtcp_feedback=("nack",))
VIDEO_DOWN = (VP8_DOWN, H264_DOWN, VP9_DOWN, AV1_DOWN)
SEND_TIME_ONLY = {ExtensionUri.MID: 3, ExtensionUri.ABS_SEND_TIME: 4, ExtensionUri.AUDIO_LEVEL: 1}
SPS = bytes.fromhex("6742c01fd9005005bb011000000300100000030320f1832480")


class Stream:
    """One outgoing SSRC of a client."""

    def __init__(
        self, client: Client, ssrc: int, mid: str, rid: str | None, rtx: tuple[int, int] | None
    ) -> None:
        self.client = client
        self.ssrc, self.mid, self.rid = ssrc, mid, rid
        self.rtx = rtx  # SSRC and payload type
        self.sequence = 1000 + ssrc % 77 if ssrc % 2 else 65500
        self.timestamp = ssrc * 1000
        self.rtx_sequence = 60_000
        self.count = 0  # frames
        self.wants_key = True
        self.named = 0  # packets that carried MID and RID
        self.sent: deque[bytes] = deque(maxlen=200)

    def frame(self, rng: random.Random) -> list[bytes]:
        raise NotImplementedError

    def packet(
        self,
        payload_type: int,
        payload: bytes,
        marker: bool,
        *more: tuple[int, bytes],
        sequence: int | None = None,
    ) -> bytes:
        client = self.client
        client.transport_seq = (client.transport_seq + 1) & 0xFFFF
        elements = [(UP[ExtensionUri.TRANSPORT_CC], struct.pack("!H", client.transport_seq))]
        if self.named < 20:
            self.named += 1
            elements.append((UP[ExtensionUri.MID], self.mid.encode()))
            if self.rid is not None:
                elements.append((UP[ExtensionUri.RID], self.rid.encode()))
        if sequence is None:
            self.sequence = sequence = (self.sequence + 1) & 0xFFFF
        made = rtp_packet(
            payload_type, sequence, self.timestamp, self.ssrc, payload,
            encode_extensions([*elements, *more]), marker,
        )  # fmt: skip
        self.sent.append(made)
        return made

    def retransmission(self, back: int) -> bytes | None:
        if self.rtx is None or not self.sent:
            return None
        original = self.sent[-1 - back % len(self.sent)]
        start = 16 + 4 * struct.unpack_from("!H", original, 14)[0]
        self.rtx_sequence = (self.rtx_sequence + 1) & 0xFFFF
        self.client.transport_seq = (self.client.transport_seq + 1) & 0xFFFF
        elements = [
            (UP[ExtensionUri.TRANSPORT_CC], struct.pack("!H", self.client.transport_seq)),
            (UP[ExtensionUri.MID], self.mid.encode()),
        ]
        if self.rid is not None:
            elements.append((UP[ExtensionUri.REPAIRED_RID], self.rid.encode()))
        ssrc, payload_type = self.rtx
        return rtp_packet(
            payload_type, self.rtx_sequence, struct.unpack_from("!I", original, 4)[0], ssrc,
            original[2:4] + original[start:], encode_extensions(elements), original[1] >= 128,
        )  # fmt: skip

    def begin_anew(self, how: int) -> None:
        """An encoder that starts again: other numbers, another SSRC, another time."""
        self.wants_key = True
        if how & 1:
            self.sequence = (self.sequence + 20_000 + 977 * how) & 0xFFFF
        if how & 2 and self.rid is not None:  # known by its RID
            self.ssrc += 1000
            self.named = 0
        if how & 4:
            self.timestamp += 1_000_003 * how


class Vp8Stream(Stream):
    picture = 32760
    tl0 = 250

    def frame(self, rng: random.Random) -> list[bytes]:
        key, self.wants_key = self.wants_key, False
        self.picture += 1
        self.timestamp += 3000
        self.count = 0 if key else self.count + 1
        temporal = (0, 2, 1, 2)[self.count % 4]
        if temporal == 0:
            self.tl0 += 1
        parts = rng.choice((1, 1, 2, 4)) if not key else 3
        return [
            self.packet(
                VP8.payload_type,
                vp8(self.picture, key=key, tl0=self.tl0, temporal=temporal, first=part == 0,
                    sync=temporal > 0 and self.count < 4, size=rng.choice((10, 60, 900))),
                part == parts - 1,
            )
            for part in range(parts)
        ]  # fmt: skip


class H264Stream(Stream):
    def frame(self, rng: random.Random) -> list[bytes]:
        key, self.wants_key = self.wants_key, False
        self.timestamp += 3000
        payloads = [b"\x7c\x41" + bytes(rng.choice((5, 500))), b"\x7c\x01" + bytes(9)]
        if key:
            payloads = [
                b"\x78" + struct.pack("!H", len(SPS)) + SPS + b"\x00\x04\x68cbq",
                b"\x7c\x85" + bytes(700),
            ]
        return [
            self.packet(H264.payload_type, payload, index == len(payloads) - 1)
            for index, payload in enumerate(payloads)
        ]


class AudioStream(Stream):
    red = False
    before = b""

    def frame(self, rng: random.Random) -> list[bytes]:
        self.timestamp += 960
        payload = bytes((0x78, rng.randrange(256))) * rng.choice((1, 30, 60))
        level = (UP[ExtensionUri.AUDIO_LEVEL], bytes((rng.randrange(256),)))
        payload_type = OPUS.payload_type
        made = payload
        if self.red:
            payload_type = RED.payload_type
            made = opus.make_red(payload, OPUS.payload_type, self.before, 960)
        self.before = payload
        return [self.packet(payload_type, made, False, level)]


class LayeredStream(Stream):
    av1 = False

    def begin_anew(self, how: int) -> None:
        super().begin_anew(how)
        self.__dict__.pop("pictures", None)

    def frame(self, rng: random.Random) -> list[bytes]:
        key, self.wants_key = self.wants_key, False
        pictures = self.__dict__.setdefault("pictures", LayeredPublisher())
        self.timestamp += 3000
        spatials = (0, 1) if rng.random() < 0.9 else (0,)
        found = []
        for packet in pictures.frame(key=key, spatials=spatials):
            if self.av1:
                descriptor = (UP[ExtensionUri.DEPENDENCY_DESCRIPTOR], packet.descriptor)
                found.append(self.packet(AV1.payload_type, packet.av1(), packet.marker, descriptor))
            else:
                found.append(self.packet(VP9.payload_type, packet.vp9(), packet.marker))
        return found


class Scenario:
    """The meeting.  Each method is a step; numbers are taken modulo what there is."""

    def __init__(self) -> None:
        self.world = world = World()
        self.publishers = [world.open(name) for name in ("ann", "bob", "cyd")]
        self.viewers = [world.open(name) for name in ("vera", "will")]
        ann, bob, cyd = self.publishers
        self.streams: list[Stream] = [
            Vp8Stream(ann, 101, "0", "q", (201, 97)),
            Vp8Stream(ann, 102, "0", "h", (202, 97)),
            Vp8Stream(ann, 103, "0", "f", (203, 97)),
            AudioStream(ann, 110, "1", None, None),
            H264Stream(bob, 120, "0", None, (220, 103)),
            AudioStream(bob, 130, "1", None, None),
            LayeredStream(cyd, 140, "0", None, (240, 99)),
            AudioStream(cyd, 150, "1", None, None),
        ]
        self.produced: dict[str, Produce] = {}
        self.consumed: dict[str, Consume] = {}
        for request in self._produce_requests():
            self.produced[request.producer_id] = request
            world.ask(request)
        for consume in self._consume_requests():
            self.consumed[consume.consumer_id] = consume
            world.ask(consume)
        self.taps = 0

    @staticmethod
    def _produce_requests() -> list[Produce]:
        def produce(leg: str, name: str, kind: Kind, mid: str, codecs: Any, *encodings: Any) -> Produce:
            return Produce(leg, name, kind, RtpParameters(mid, codecs, extensions(UP), encodings))

        by_rid = [EncodingParameters(rid=rid) for rid in "qhf"]
        return [
            produce("ann", "ann-v", Kind.VIDEO, "0", (VP8, H264), *by_rid),
            produce("ann", "ann-a", Kind.AUDIO, "1", (OPUS, RED), EncodingParameters(ssrc=110)),
            produce("bob", "bob-v", Kind.VIDEO, "0", (H264, VP8), EncodingParameters(ssrc=120, rtx_ssrc=220)),
            produce("bob", "bob-a", Kind.AUDIO, "1", (RED, OPUS), EncodingParameters(ssrc=130)),
            produce("cyd", "cyd-v", Kind.VIDEO, "0", (VP9, AV1), EncodingParameters(ssrc=140, rtx_ssrc=240)),
            produce("cyd", "cyd-a", Kind.AUDIO, "1", (OPUS, RED), EncodingParameters(ssrc=150)),
        ]

    @staticmethod
    def _consume_requests() -> list[Consume]:
        def consume(
            leg: str, number: int, producer: str, codecs: Any, rtx: bool = True, ids: Any = DOWN
        ) -> Consume:
            ssrc = 5000 + number * 10
            encoding = EncodingParameters(ssrc=ssrc, rtx_ssrc=ssrc + 1 if rtx else None)
            parameters = RtpParameters(str(number), codecs, extensions(ids), (encoding,))
            return Consume(leg, f"c{number}", producer, parameters)

        return [
            consume("vera", 0, "ann-v", VIDEO_DOWN),
            consume("vera", 1, "ann-a", (OPUS_DOWN, RED_DOWN), False),
            consume("vera", 2, "bob-v", VIDEO_DOWN),
            consume("vera", 3, "cyd-v", VIDEO_DOWN),
            consume("vera", 4, "bob-a", (OPUS_DOWN,), False),
            consume("will", 5, "ann-v", (BARE_VP8_DOWN,), False),
            consume("will", 6, "cyd-v", VIDEO_DOWN),
            consume("will", 7, "bob-a", (RED_DOWN, OPUS_DOWN), False),
            consume("bob", 8, "ann-v", VIDEO_DOWN, True, SEND_TIME_ONLY),
            consume("bob", 9, "cyd-a", (OPUS_DOWN,), False, SEND_TIME_ONLY),
        ]

    # ------------------------------------------------------------ media

    def flow(self, mask: int, frames: int, trouble: int, seed: int) -> None:
        """Frames of the streams in ``mask``; the more ``trouble``, the more is lost, late or doubled."""
        rng = random.Random(seed)
        late: list[tuple[Client, bytes]] = []
        for _ in range(frames):
            for index, stream in enumerate(self.streams):
                if not mask >> index & 1:
                    continue
                for packet in stream.frame(rng):
                    datagram = stream.client.protect(packet)
                    fate = rng.randrange(100)
                    if fate < 3 * trouble:
                        continue
                    if fate < 5 * trouble:
                        late.append((stream.client, datagram))
                        continue
                    self.world.send(stream.client, datagram)
                    if fate > 99 - trouble:
                        self.world.send(stream.client, datagram)
                if late and rng.randrange(3) == 0:
                    client, datagram = late.pop(rng.randrange(len(late)))
                    self.world.send(client, datagram)
            self.world.advance(rng.choice((5, 20, 33)))
        for client, datagram in late:
            self.world.send(client, datagram)

    def burst(self, stream: int, frames: int, seed: int) -> None:
        """Frames at once, while the loop has no time: what must be asked waits in the native relay."""
        rng = random.Random(seed)
        chosen = self.streams[stream % len(self.streams)]
        packets = [packet for _ in range(frames) for packet in chosen.frame(rng)]
        self.world.send(chosen.client, *map(chosen.client.protect, packets), busy=True)

    def key(self, stream: int) -> None:
        self.streams[stream % len(self.streams)].wants_key = True

    def restart(self, stream: int, how: int) -> None:
        self.streams[stream % len(self.streams)].begin_anew(how)

    def mode(self, stream: int, on: bool) -> None:
        """Audio: RED or Opus; layers: AV1 or VP9."""
        chosen = self.streams[stream % len(self.streams)]
        if isinstance(chosen, AudioStream):
            chosen.red = on
        elif isinstance(chosen, LayeredStream) and chosen.av1 != on:
            chosen.av1, chosen.wants_key = on, True
            chosen.rtx = (240, 46 if on else 99)

    def repair(self, stream: int, back: int) -> None:
        chosen = self.streams[stream % len(self.streams)]
        packet = chosen.retransmission(back)
        if packet is not None:
            self.world.send(chosen.client, chosen.client.protect(packet))

    def mutate(self, stream: int, at: int, value: int, how: int) -> None:
        """The stream's next packet with a byte changed, cut short, or with padding."""
        chosen = self.streams[stream % len(self.streams)]
        for packet in chosen.frame(random.Random(at)):
            changed = bytearray(packet)
            if how == 0:
                changed[at % len(changed)] = value
            elif how == 1:
                changed[at % min(24, len(changed))] ^= 1 << value % 8
            elif how == 2:
                del changed[12 + at % (len(changed) - 12) :]
            elif how == 3:
                changed[0] |= 0x20
                changed += bytes(value % 40) + bytes((value % 44,))
            else:  # nothing but padding
                start = 16 + 4 * struct.unpack_from("!H", changed, 14)[0]
                del changed[start:]
                changed[0] |= 0x20
                changed += bytes(9) + b"\x0a"
            self.world.send(chosen.client, chosen.client.protect(bytes(changed)))

    def strange(self, client: int, data: bytes) -> None:
        """Bytes that nobody has protected."""
        if data:
            self.world.send(self._clients()[client % 5], data)

    # ------------------------------------------------------------ RTCP

    def ask_again(self, viewer: int, seed: int) -> None:
        rng = random.Random(seed)
        client = self._clients()[viewer % 5]
        for ssrc, numbers in [*client.numbers.items()]:
            if rng.random() < 0.7:
                first = numbers[rng.randrange(len(numbers))]
                asked = sorted({(first + rng.randrange(30)) & 0xFFFF for _ in range(rng.randrange(1, 8))})
                self.control(client, rtcp.nack(7, ssrc, asked))

    def want_key(self, viewer: int, which: int, full: bool) -> None:
        client = self._clients()[viewer % 5]
        ssrc = [*client.numbers, 4711][which % (len(client.numbers) + 1)]
        self.control(
            client, rtcp.full_intra_request(7, ssrc, which & 255) if full else rtcp.picture_loss(7, ssrc)
        )

    def receiver_report(self, viewer: int, fraction: int, rtt_ms: int) -> None:
        client = self._clients()[viewer % 5]
        lsr = rtcp.middle_of_ntp(rtcp.ntp_from_ms(self.world.now_ms - rtt_ms - 10))
        blocks = [
            rtcp.ReportBlock(ssrc, fraction & 255, fraction, numbers[-1], 30, lsr, 655)
            for ssrc, numbers in client.numbers.items()
        ]
        if blocks:
            for packet in rtcp.receiver_reports(7, blocks):
                self.control(client, packet)

    def sender_report(self, stream: int, skew_ms: int) -> None:
        chosen = self.streams[stream % len(self.streams)]
        ntp = rtcp.ntp_from_ms(self.world.now_ms - skew_ms)
        self.control(
            chosen.client, rtcp.sender_report(chosen.ssrc, ntp, chosen.timestamp & 0xFFFFFFFF, 9, 999)
        )

    def acknowledge(self, viewer: int) -> None:
        client = self._clients()[viewer % 5]
        for body in client.arrivals.take(self.world.now_ms):
            self.control(client, rtcp.transport_cc(7, 5000, body))

    def broken_control(self, viewer: int, kind: int, body: bytes) -> None:
        body += bytes(-len(body) % 4)
        packet = struct.pack("!BBH", 0x80 | kind >> 4 & 0x3F, 200 + kind % 8, len(body) // 4) + body
        self.control(self._clients()[viewer % 5], packet)

    def control(self, client: Client, packet: bytes) -> None:
        self.world.send(client, client.protect_rtcp(packet))

    # ------------------------------------------------------------ policy

    def policy(self, kind: int, which: int, value: int) -> None:
        ask = self.world.ask
        consumer = f"c{which % len(self.consumed)}"
        producer = [*self.produced][which % len(self.produced)]
        if kind == 0:
            ask(SetConsumerPaused(consumer, bool(value & 1)))
        elif kind == 1:
            ask(SetLayer(consumer, value % 3, value // 3 % 3))
        elif kind == 2:
            ask(SetConsumerSource(consumer, [*self.produced][value % len(self.produced)]))
        elif kind == 3:
            ask(CloseConsumer(consumer))
            if value & 1:
                ask(self.consumed[consumer])
        elif kind == 4:
            ask(SetProducerPaused(producer, bool(value & 1)))
        elif kind == 5:
            ask(CloseProducer(producer))
            if value & 1:
                ask(self.produced[producer])
        elif kind == 6:
            ask(RequestKeyFrame(producer))
        elif kind == 7:
            self.taps += 1
            ask(StartTap(f"t{self.taps}", producer, "nowhere"))
        elif kind == 8:
            ask(StopTap(f"t{value % (self.taps + 1)}"))
        elif kind == 9:
            ask(SetConsumerPriority(consumer, value))
        elif kind == 10:
            ask(self.consumed[consumer])
        else:
            ask(self.produced[producer])

    # ------------------------------------------------------------ lines

    def pace(self, viewer: int, kilobits: int) -> None:
        name = self._clients()[viewer % 5].name
        self.world.both(lambda side: side.relay.leg(name).set_pacing(kilobits * 1000.0))

    def probe(self, viewer: int, cluster: int, kilobits: int, size: int) -> None:
        name = self._clients()[viewer % 5].name
        self.world.both(lambda side: side.relay.leg(name).probe(cluster, kilobits * 1000.0, size))

    def move(self, number: int) -> None:
        """A client's packets come from another port from now on."""
        client = self._clients()[number % 5]
        client.move()
        self.world.open(client.name)

    def rekey(self, number: int) -> None:
        client = self._clients()[number % 5]
        client.renew()
        self.world.open(client.name)

    def leave(self, number: int, back: bool) -> None:
        """A client closes, and may come again with all that it had."""
        client = self._clients()[number % 5]
        self.world.both(lambda side: side.media.close_leg(client.name))
        if not back:
            return
        client.renew()
        self.world.open(client.name)
        for produce in self.produced.values():
            if produce.transport_id == client.name:
                self.world.ask(produce)
        for consume in self.consumed.values():
            if consume.transport_id == client.name:
                self.world.ask(consume)

    def wait(self, ms: int) -> None:
        self.world.advance(ms, 5.0 if ms < 300 else 50.0)

    def _clients(self) -> list[Client]:
        return [*self.publishers, *self.viewers]
