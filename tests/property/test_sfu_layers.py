"""Layered streams through feed and route: whatever is lost, late or left out, a receiver's numbers fit."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from sfu.codecs import opus
from sfu.drops import Drops
from sfu.feed import Feed
from sfu.params import CodecParameters, ExtensionUri, HeaderExtension, Kind
from sfu.route import Binding, Route
from sfu.rtp import ExtensionIds, ExtensionPlan, Packet, encode_extensions
from tests.fixtures.sfu_svc_streams import LayeredPacket, LayeredPublisher

VP9 = CodecParameters("video/VP9", 98, 90000)
DD = 8


class Policy:
    """A MediaSide that lets everything pass."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


class Recorder(Route):
    """A route that only remembers: (number, marker, spatial, temporal, picture, packet's own number)."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        super().__init__(is_video=True, drops=Drops())
        self.sent: list[tuple[int, bool, int, int, int, int]] = []

    def emit(
        self, packet: Packet, is_red: bool, sequence: int, timestamp: int, picture: int, tl0: int
    ) -> None:
        self.sent.append(
            (sequence, bool(packet.marker), packet.spatial, packet.temporal, picture, packet.sequence)
        )


IDS = ExtensionIds()
IDS.learn([HeaderExtension(ExtensionUri.DEPENDENCY_DESCRIPTOR, DD)])
PLAN = ExtensionPlan((), IDS, "")


def encode(packet: LayeredPacket, described: bool) -> bytes:
    head = struct.pack(
        "!BBHII", 0x90 if described else 0x80, (0x80 if packet.marker else 0) | 98, packet.sequence,
        packet.timestamp, 1000,
    )  # fmt: skip
    block = encode_extensions([(DD, packet.descriptor)]) if described else b""
    return head + block + packet.vp9()


def play(stream: list[bytes], wishes: dict[int, tuple[int, int]]) -> Recorder:
    """``wishes``: the highest layers (spatial, temporal) from that packet on."""
    feed = Feed("cam", 0, Kind.VIDEO, (VP9,), Policy(), Drops())  # type: ignore[arg-type]
    route, packet = Recorder(), Packet()
    route.aim(feed, Binding({}, PLAN, PLAN))
    for index, data in enumerate(stream):
        if index in wishes:
            route.max_spatial, route.max_temporal = wishes[index]
        packet.parse(data, IDS)
        packet.arrival_ms = index * 5.0
        feed.receive(packet, False)
    return route


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[LayeredPacket], dict[int, tuple[int, int]]]:
    publisher = LayeredPublisher(
        sequence=draw(st.integers(0, 65535)), picture=draw(st.integers(0, 32767)),
        frame_number=draw(st.integers(0, 65535)),
    )  # fmt: skip
    packets: list[LayeredPacket] = []
    for index in range(draw(st.integers(1, 25))):
        spatials = draw(st.sampled_from(((0, 1), (0, 1), (0,))))
        packets += publisher.frame(key=index == 0 or draw(st.integers(0, 9)) == 0, spatials=spatials)
    places = st.integers(0, len(packets) - 1)
    layers = st.tuples(st.sampled_from((0, 1, 7)), st.sampled_from((0, 1, 7)))
    return packets, draw(st.dictionaries(places, layers, max_size=8))


@settings(max_examples=150, deadline=None)
@given(streams(), st.booleans())
def test_nothing_lost_leaves_no_gap(
    drawn: tuple[list[LayeredPacket], dict[int, tuple[int, int]]], described: bool
) -> None:
    packets, wishes = drawn
    sent = play([encode(packet, described) for packet in packets], wishes).sent
    assert sent[0][5] == packets[0].sequence
    by_number = {packet.sequence: packet for packet in packets}
    pictures: dict[int, list[tuple[LayeredPacket, bool]]] = {}
    for place, (number, marker, spatial, temporal, _picture, own) in enumerate(sent):
        assert number == (sent[0][0] + place) & 0xFFFF
        packet = by_number[own]
        assert (spatial, temporal) == (packet.spatial, packet.temporal)
        pictures.setdefault(packet.timestamp, []).append((packet, marker))
    for kept in pictures.values():
        # a picture is whole up to its highest kept layer, and only its last packet has the marker
        assert [marker for _, marker in kept] == [False] * (len(kept) - 1) + [True]
        assert len(kept) == 2 * (kept[-1][0].spatial + 1)
    # nothing refers to what was left out: the upper layer begins at a key frame and then goes on
    upper = False
    for packet in packets:
        if packet.spatial == 0 and packet.first:
            here = [other for other, _ in pictures.get(packet.timestamp, ())]
            there = [other for other in packets if other.timestamp == packet.timestamp]
            if packet.key:
                upper = True
            elif len(there) == 4 and here:
                assert upper or len(here) == 2
                upper = upper and len(here) == 4
            if packet.key and len(there) == 4:
                upper = len(here) == 4


@settings(max_examples=150, deadline=None)
@given(streams(), st.booleans(), st.data())
def test_loss_and_reordering_repeat_no_number(
    drawn: tuple[list[LayeredPacket], dict[int, tuple[int, int]]], described: bool, data: st.DataObject
) -> None:
    packets, wishes = drawn
    count = len(packets)
    lost = data.draw(st.sets(st.integers(1, max(1, count - 1)), max_size=count // 3))
    delay = data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    order = sorted(range(count), key=lambda index: index + delay[index] if index else -1)
    stream = [encode(packets[index], described) for index in order if index not in lost]
    sent = play(stream, wishes).sent
    place = {packet.sequence: index for index, packet in enumerate(packets)}
    first = sent[0][0]
    found = sorted((place[entry[5]], (entry[0] - first) & 0xFFFF) for entry in sent)
    numbers = [number for _, number in found]
    assert numbers == sorted(set(numbers))  # no number twice, order is kept
    gaps = numbers[-1] - numbers[0] + 1 - len(numbers)
    missing = [index for index in range(found[0][0], found[-1][0]) if index not in {at for at, _ in found}]
    assert gaps <= len(missing)


@given(st.lists(st.tuples(st.integers(1, 20_000), st.binary(min_size=1, max_size=1300)), max_size=30))
def test_red_brings_back_the_primary_and_the_one_before(frames: list[tuple[int, bytes]]) -> None:
    route = Recorder()
    timestamp, before = 2**32 - 30_000, b""
    for step, payload in frames:
        timestamp = (timestamp + step) & 0xFFFFFFFF
        made = route.redundant(payload, 109, timestamp)
        assert opus.primary(made) == payload
        assert len(made) <= max(opus.MAX_MADE, len(payload) + 1)
        if made[0] & 0x80:
            assert (int.from_bytes(made[:4], "big") >> 10) & 0x3FFF == step
            assert made[5 : 5 + len(before)] == before
            assert made[5 + len(before) :] == payload
        else:
            assert (
                not before or step >= 1 << 14 or len(before) >= 1 << 10
                or 5 + len(before) + len(payload) > opus.MAX_MADE
            )  # fmt: skip
        before = payload
