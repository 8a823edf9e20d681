"""Depacketizers against packets of real encoders: round trip, loss, reordering, redundancy, nonsense."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recording.depacketize import (
    AUDIO_WINDOW,
    VIDEO_WINDOW,
    Frame,
    FrameReader,
    H264Depacketizer,
    OpusDepacketizer,
    RawRtp,
    RedDepacketizer,
    Reorder,
    Vp8Depacketizer,
    parse_rtp,
    red_blocks,
)
from tests.fixtures.synthetic_meeting import (
    OPUS,
    RED,
    VP8,
    encode_opus,
    encode_pictures,
    moving,
    nal_units,
    packetize_h264,
    packetize_red,
    packetize_vp8,
    rtp,
    tone,
)

SIZE = (320, 180)
NOISE = np.random.default_rng(7)


@cache
def pictures(codec: str) -> tuple[tuple[int, bytes, bool], ...]:
    """Noise on top, so that frames are of many packets; a key frame every 10."""

    def noisy(n: int) -> np.ndarray:
        picture = moving((90, 120, 40))(n / 25)
        picture[40:140] = NOISE.integers(0, 255, (100, SIZE[0], 3), np.uint8)
        return picture

    return tuple(encode_pictures(codec, (noisy(n) for n in range(25)), SIZE, 25, 10, bit_rate=4_000_000))


def wire(codec: str, first: int = 65_500) -> list[list[bytes]]:
    """Packets per frame; sequence numbers and timestamps wrap."""
    out, sequence = [], first
    for number, frame, _ in pictures(codec):
        payloads = packetize_vp8(frame, number) if codec == "vp8" else packetize_h264(frame)
        stamp = 2**32 - 20_000 + number * 3600
        out.append([rtp(VP8, sequence + i, stamp, p, i == len(payloads) - 1) for i, p in enumerate(payloads)])
        sequence += len(payloads)
    return out


def reader(codec: str) -> FrameReader:
    depacketizer = Vp8Depacketizer() if codec == "vp8" else H264Depacketizer()
    return FrameReader({VP8: (codec, depacketizer)}, Reorder(VIDEO_WINDOW))


def read(found: FrameReader, packets: Iterable[bytes]) -> list[Frame]:
    frames = [frame for n, packet in enumerate(packets) for _, frame in found.push(packet, 1000.0 + n, n)]
    return frames + [frame for _, frame in found.flush()]


def content(codec: str, frame: bytes) -> object:
    """H.264 may lose its SEI and start codes' lengths on the way: the units count."""
    return frame if codec == "vp8" else [u for u in nal_units(frame) if u[0] & 0x1F in (1, 5, 7, 8)]


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_round_trip(codec: str) -> None:
    packets = wire(codec)
    assert max(len(frame) for frame in packets) > 3
    frames = read(reader(codec), (p for frame in packets for p in frame))
    assert [content(codec, f.payload) for f in frames] == [
        content(codec, data) for _, data, _ in pictures(codec)
    ]
    assert [f.key for f in frames] == [key for _, _, key in pictures(codec)]
    assert [f.timestamp - frames[0].timestamp for f in frames] == [n * 3600 for n in range(25)]


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("seed", range(5))
def test_reordered_and_doubled(codec: str, seed: int) -> None:
    dice = random.Random(seed)
    packets = [p for frame in wire(codec) for p in frame]
    mixed = sorted(range(len(packets)), key=lambda n: n + dice.random() * 6)
    twice = [packets[n] for n in mixed for _ in range(1 + (dice.random() < 0.2))]
    frames = read(reader(codec), twice)
    assert [content(codec, f.payload) for f in frames] == [
        content(codec, data) for _, data, _ in pictures(codec)
    ]


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("part", ["first", "middle", "last", "whole"])
def test_after_a_loss_nothing_until_the_key_frame(codec: str, part: str) -> None:
    packets = wire(codec)
    lost = next(n for n in range(3, 9) if len(packets[n]) >= 3)
    at = {"first": slice(0, 1), "middle": slice(1, 2), "last": slice(-1, None), "whole": slice(None)}[part]
    del packets[lost][at]
    frames = read(reader(codec), (p for frame in packets for p in frame))
    base = frames[0].timestamp
    shown = [(f.timestamp - base) // 3600 for f in frames]
    assert shown == [*range(lost), *range(10, 25)]


def test_a_sender_that_begins_anew_is_followed() -> None:
    first, second = wire("vp8", 10), wire("vp8", 40_000)
    packets = [p for frame in first + second for p in frame]
    frames = read(reader("vp8"), packets)
    assert len(frames) >= 40  # the packets that told of the new beginning cost its first key frame at most


def test_opus_round_trip_with_loss_and_reordering() -> None:
    packets = encode_opus(tone(0.5, 440))
    found = FrameReader({OPUS: ("audio/opus", OpusDepacketizer())}, Reorder(AUDIO_WINDOW))
    order = [0, 2, 1, *range(4, len(packets))]
    frames = read(found, [rtp(OPUS, 65_530 + n, n * 960, packets[n]) for n in order])
    assert [f.payload for f in frames] == [packets[n] for n in sorted(order)]
    assert found.reorder.lost == 1


def test_redundancy_brings_back_what_was_lost() -> None:
    packets = encode_opus(tone(0.5, 440))
    both = RedDepacketizer(OPUS, RED)
    found = FrameReader({RED: ("audio/opus", both), OPUS: ("audio/opus", both)}, Reorder(AUDIO_WINDOW))
    sent = [rtp(RED, n, n * 960, packetize_red(packets, n)) for n in range(len(packets))]
    frames = read(found, sent[:4] + sent[5:12] + sent[13:])
    assert [(f.timestamp, f.payload) for f in frames] == [(n * 960, p) for n, p in enumerate(packets)]
    assert both.recovered == 2


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60))
def test_nonsense_is_refused_quietly(data: bytes) -> None:
    red_blocks(data)
    parse_rtp(data)
    for depacketizer in (Vp8Depacketizer(), H264Depacketizer(), RedDepacketizer(OPUS, VP8)):
        found = FrameReader({VP8: ("x", depacketizer)}, Reorder(8))
        for n, payload in enumerate((data, data[1:], data[::-1])):
            list(found.push(rtp(VP8, n, n // 2, payload, bool(n % 2)), 1.0))
            list(found.push(payload, 1.0))
        list(found.flush())


@settings(max_examples=200, deadline=None)
@given(sequences=st.lists(st.integers(0, 65_535), max_size=60))
def test_reordering_is_bounded_and_rises(sequences: list[int]) -> None:
    reorder = Reorder(16)
    out: list[int] = []
    for sequence in sequences:
        before = reorder.restarts
        given_out = reorder.push(RawRtp(VP8, False, sequence, 0, b"x"), 0.0)
        if reorder.restarts != before:
            out = []
            continue
        out += [packet.sequence for packet in given_out]
        assert out == sorted(set(out))
        assert len(reorder._held) <= 17


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(0, 10_000),
    byte=st.integers(0, 255),
    index=st.integers(0, 10_000),
    codec=st.sampled_from(["vp8", "h264"]),
)
def test_mutated_real_packets_raise_nothing(at: int, byte: int, index: int, codec: str) -> None:
    packets = [p for frame in wire(codec)[:6] for p in frame]
    damaged = bytearray(packets[index % len(packets)])
    damaged[at % min(len(damaged), 40)] = byte
    packets[index % len(packets)] = bytes(damaged)
    read(reader(codec), packets)
