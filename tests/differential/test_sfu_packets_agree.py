"""RTP, payload descriptors and dependency descriptors: both readers find the same, or refuse the same."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfu.codecs import h264, opus, svc, vp8
from sfu.codecs.dependency import Dependencies
from sfu.rtp import ExtensionIds, Packet, RtpError
from tests.fixtures.sfu_native_parts import NATIVE, STRICT

VP8, H264, VP9, AV1, OPUS = 1, 2, 3, 4, 5  # CODEC_… of relay.h
CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "native"
IDS = ExtensionIds()
IDS.mid, IDS.rid, IDS.repaired_rid, IDS.audio_level, IDS.transport_cc = 4, 10, 11, 1, 3
IDS.abs_send_time, IDS.dependency = 2, 8
IDS.passed = dict.fromkeys((1, 8, 13, 200), "x")
READERS = {
    VP8: (vp8.read, vp8.picture_size),
    H264: (h264.read, h264.picture_size),
    VP9: (svc.read_vp9, svc.vp9_picture_size),
    AV1: (svc.read_av1, None),
}


class Native:
    """describe.c around the native parsers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.out = ctypes.create_string_buffer(16384)
        self.state = library.describe_new()

    def describe(self, data: bytes, codec: int, ext_seq: int) -> str:
        size = self.library.describe(self.state, data, len(data), codec, ext_seq, self.out, len(self.out))
        return self.out.raw[:size].decode()

    def close(self) -> None:
        self.library.describe_free(self.state)


class Twin:
    def __init__(self) -> None:
        self.dependencies = Dependencies()
        self.packet = Packet()

    def describe(self, data: bytes, codec: int, ext_seq: int) -> str:
        packet = self.packet
        try:
            packet.parse(data, IDS)
        except RtpError:
            return "malformed"
        text = (
            f"{packet.sequence} {packet.timestamp} {packet.ssrc} {packet.payload_type} {packet.marker} "
            f"{packet.start} {packet.end} {packet.transport_seq} {packet.abs_send_time} {packet.level} "
            f"{packet.mid.hex()};{packet.rid.hex()};{packet.repaired_rid.hex()};"
        )
        text += "".join(f"{number}:{value.hex()};" for number, value in packet.elements or ())
        if packet.start == packet.end:
            return text + " padding"
        packet.payload = data[packet.start : packet.end]
        if codec == OPUS:
            try:
                return text + f" red {len(opus.primary(packet.payload))}"
            except opus.RedError:
                return text + " no red"
        return text + self._payload(packet, codec, ext_seq)

    def _payload(self, packet: Packet, codec: int, ext_seq: int) -> str:
        read, picture_size = READERS[codec]
        packet.ext_seq = ext_seq
        packet.layered = False
        try:
            read(packet)
            if codec in (VP9, AV1) and packet.descriptor is not None:
                self.dependencies.read(packet)
        except ValueError:
            return " no payload"
        text = f" {packet.key_frame:d} {packet.first:d} {packet.sync:d} {packet.temporal}"
        if packet.layered:
            text += f" layers {packet.spatial} {packet.last:d}"
        if packet.picture_at >= 0:
            text += f" picture {packet.picture_at} {packet.picture_id} {packet.picture_mask}"
        if packet.tl0_at >= 0:
            text += f" tl0 {packet.tl0_at} {packet.tl0}"
        if packet.key_frame:
            size = picture_size(packet) if picture_size is not None else None
            text += f" size {size[0]} {size[1]}" if size is not None else " size 0 0"
            structure = self.dependencies.structure
            if structure is not None:
                text += (
                    f" structure {len(structure.spatial)} {structure.targets} "
                    f"{structure.width} {structure.height}"
                )
        return text


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("native") / "describe.so"
    names = ("fuzz/describe.c", "packet.c", "codec.c", "h264.c", "dependency.c", "red.c")
    sources = [str(NATIVE / name) for name in names]
    subprocess.run(["gcc", *STRICT, "-fPIC", "-shared", "-o", str(path), *sources], check=True)
    found = ctypes.CDLL(str(path))
    found.describe_new.restype = ctypes.c_void_p
    found.describe_free.argtypes = (ctypes.c_void_p,)
    found.describe.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p,
        ctypes.c_int,
    )  # fmt: skip
    return found


def compare(library: ctypes.CDLL, packets: list[bytes], codec: int, numbers: Iterator[int]) -> None:
    native, twin = Native(library), Twin()
    try:
        for data, number in zip(packets, numbers, strict=False):
            assert native.describe(data, codec, number) == twin.describe(data, codec, number), data.hex()
    finally:
        native.close()


# ---------------------------------------------------------------- packets like real ones, then damaged

ELEMENTS = st.lists(
    st.tuples(st.sampled_from((1, 2, 3, 4, 8, 10, 11, 13, 14, 15, 0)), st.binary(max_size=18)), max_size=5
)
# structure of L2T2 with two targets, and frames that lean on it
DESCRIPTORS = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.builds(
        lambda head, number, rest: bytes((head,)) + struct.pack("!H", number) + rest,
        st.integers(0, 255),
        st.integers(0, 0xFFFF),
        st.one_of(
            st.just(b""),
            st.builds(
                lambda flags, tail: bytes((flags,)) + tail,
                st.sampled_from((0x80, 0x84, 0x40, 0x20, 0x10, 0x08, 0xF8, 0xC0, 0x88)),
                st.binary(max_size=30),
            ),
        ),
    ),
)
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.builds(bytes.__add__, st.sampled_from([
        b"\x90\xe0\x80\x01\x01\x00\x10\x00\x00\x9d\x01\x2a\x80\x02\x68\x01", b"\x90\xe0\x80\x02\x02\x60\x11",
        b"\x90\x80\x05\x10\x00\x00\x9d\x01\x2a", b"\xae\x80\x03\x10\x04\x18\x01\x40\x00\x30\x10", b"\x8e\x05",
        b"\x78\x00\x0a\x67\x42\x00\x1f\x96\x54\x05\x01\xed\x80\x00\x02\x65\x88", b"\x67\x42\xc0\x1e\xd9",
        b"\x7c\x85\x88", b"\xef\x00\x04\x03\x6f\x01\x02\x03", b"\x18\x0a\x03\x00\x00\x00\x32", b"\x6f\x09",
    ]), st.binary(max_size=30)),
)  # fmt: skip


def build(
    head: int, second: int, elements, two_byte: bool, descriptor: bytes | None, payload: bytes
) -> bytes:
    if descriptor is not None:
        elements = [(8, descriptor), *elements]
        two_byte |= len(descriptor) > 16
    body = b""
    for number, value in elements:
        if two_byte:
            body += bytes((number, len(value))) + value
        elif value:
            body += bytes(((number & 15) << 4 | (len(value) - 1) & 15,)) + value[:16]
    body += bytes(-len(body) % 4)
    block = struct.pack("!HH", 0x1000 if two_byte else 0xBEDE, len(body) // 4) + body if body else b""
    head = head & 0x2F | 0x80 | (0x10 if block else 0)
    contributing = bytes(4 * (head & 15))
    return bytes((head, second)) + bytes(range(10)) + contributing + block + payload


PACKETS = st.builds(
    build, st.sampled_from((0, 0, 0, 0, 0x20, 1, 15)), st.integers(0, 255), ELEMENTS, st.booleans(),
    st.one_of(st.none(), DESCRIPTORS), PAYLOADS,
)  # fmt: skip


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(
    packets=st.lists(PACKETS, min_size=1, max_size=8),
    codec=st.sampled_from((VP8, H264, VP9, AV1, OPUS)),
    numbers=st.lists(st.integers(0, 200), min_size=8, max_size=8),
    damage=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2000), st.integers(0, 255)), max_size=4),
)
def test_both_readers_find_the_same(library, packets, codec, numbers, damage) -> None:
    for index, at, value in damage:
        if index < len(packets):
            broken = bytearray(packets[index])
            if value == 255:
                del broken[at % len(broken) :]
            else:
                broken[at % len(broken)] = value
            packets[index] = bytes(broken)
    compare(library, packets, codec, iter(numbers))


def inputs(target: str) -> list[bytes]:
    with zipfile.ZipFile(CORPUS / f"{target}.zip") as packed:
        return [packed.read(name) for name in packed.namelist()]


@pytest.mark.parametrize("codec", [VP8, H264, VP9, AV1, OPUS])
def test_both_readers_find_the_same_in_what_the_fuzzer_found(library, codec) -> None:
    """The fuzzer's corpus reaches every branch of the native parser: payloads, and whole packets."""
    head = bytes((0x80, 96)) + bytes(10)
    packets = []
    packets += inputs("packet")
    for data in inputs("codecs"):
        for at in range(0, len(data), 7):
            packets.append(head + data[at:])
            block = data[at : at + 60]
            block += bytes(-(len(block) + 2) % 4)
            packets.append(
                bytes((0x90, 96)) + bytes(10) + struct.pack("!HH", 0x1000, (len(block) + 2) // 4)
                + bytes((8, len(block))) + block + data[at + 3 :]
            )  # fmt: skip
    packets = [packet[:1600] for packet in packets]
    compare(library, packets, codec, iter(range(len(packets))))
