"""VP8, H.264, VP9, AV1 and RED payloads, each by its format's own examples."""

from __future__ import annotations

import struct

import pytest

from sfu.codecs import h264, opus, svc, vp8
from sfu.rtp import Packet


def packet(payload: bytes) -> Packet:
    made = Packet()
    made.payload = payload
    return made


@pytest.mark.parametrize(
    ("payload", "first", "key", "picture", "mask", "tl0", "temporal"),
    [
        (b"\x10\x10\0\0\x9d\x01\x2a", True, True, -1, 0, -1, 0),  # no extension
        (b"\x00\x10\0\0", False, False, -1, 0, -1, 0),  # goes on
        (b"\x11\x10\0\0", False, False, -1, 0, -1, 0),  # begins partition 1, not the frame
        (b"\x90\x80\x7f\x11", True, False, 0x7F, 0x7F, -1, 0),
        (b"\x90\x80\xff\xfe\x10", True, True, 0x7FFE, 0x7FFF, -1, 0),
        (b"\x90\xe0\x80\x05\x09\xa0\x11", True, False, 5, 0x7FFF, 9, 2),
        (b"\x90\x10\x1f\x10", True, True, -1, 0, -1, 0),  # KEYIDX only
    ],
)
def test_vp8_descriptor(
    payload: bytes, first: bool, key: bool, picture: int, mask: int, tl0: int, temporal: int
) -> None:
    read = packet(payload)
    vp8.read(read)
    assert (read.first, read.key_frame, read.temporal) == (first, key, temporal)
    if picture >= 0:
        assert (read.picture_id, read.picture_mask) == (picture, mask)
    else:
        assert read.picture_at == -1
    assert (read.tl0 if read.tl0_at >= 0 else -1) == tl0


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\x80\xe0\x01\x02"])
def test_cut_vp8_descriptor_is_refused(payload: bytes) -> None:
    with pytest.raises(vp8.Vp8Error):
        vp8.read(packet(payload))


def test_vp8_picture_size() -> None:
    body = b"\x90\xe0\x80\x05\x09\x00" + b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", 1280 | 1 << 14, 720)
    assert vp8.picture_size(packet(body)) == (1280, 720)
    assert vp8.picture_size(packet(body[:-1])) is None
    assert vp8.picture_size(packet(b"\x10\x00")) is None


SPS_720P = bytes.fromhex("6742c01fd9005005bb011000000300100000030320f1832480")
SPS_HIGH_1080P = bytes.fromhex("67640028acd940780227e5c04400000fa40002ee023c60c658")


@pytest.mark.parametrize(("sps", "size"), [(SPS_720P, (1280, 720)), (SPS_HIGH_1080P, (1920, 1080))])
def test_h264_parameter_set(sps: bytes, size: tuple[int, int]) -> None:
    assert h264.parse_sps(sps) == size


@pytest.mark.parametrize("cut", [1, 3, 5, 6])
def test_cut_parameter_set_is_refused(cut: int) -> None:
    with pytest.raises(h264.H264Error):
        h264.parse_sps(SPS_720P[:cut])


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b"\x65\x88", True),
        (SPS_720P, True),
        (b"\x41\x9a", False),
        (b"\x68\xce", False),
        (b"\x7c\x85\x88", True),  # FU-A, start, IDR
        (b"\x7c\x05\x88", False),  # FU-A, middle of an IDR
        (b"\x7c\x81\x9a", False),
        (b"\x78\x00\x02\x68\xce\x00\x02\x65\x88", True),
        (b"\x78\x00\x02\x41\x9a", False),
    ],
)
def test_h264_key_frame(payload: bytes, key: bool) -> None:
    read = packet(payload)
    h264.read(read)
    assert read.key_frame is key


def test_vp9_and_av1_key_frames() -> None:
    for payload, key in ((b"\x88\x05\0", True), (b"\xc8\x05\0", False), (b"\xa8\x05\x02\0", False)):
        read = packet(payload)
        svc.read_vp9(read)
        assert read.key_frame is key
    for payload, key in ((b"\x18\0", True), (b"\x10\0", False)):
        read = packet(payload)
        svc.read_av1(read)
        assert read.key_frame is key
    with pytest.raises(svc.SvcError):
        svc.read_vp9(packet(b"\x80"))
    with pytest.raises(svc.SvcError):
        svc.read_av1(packet(b""))


def test_red() -> None:
    payload = bytes((0xEF, 0x0F, 0x00, 3, 0xEF, 0x00, 0x00, 2, 111)) + b"aaabbprimary"
    assert opus.primary(payload) == b"primary"
    assert opus.primary(b"\x6fonly") == b"only"
    renumbered = opus.renumber(payload, 100)
    assert [renumbered[at] for at in (0, 4, 8)] == [0x80 | 100, 0x80 | 100, 100]
    assert renumbered[9:] == payload[9:]
    for broken in (b"", b"\xef", b"\xef\0\0\x05\x6fab", b"\xef\0\0\0" * 9):
        with pytest.raises(opus.RedError):
            opus.primary(broken)
    for broken in (b"", b"\xef\0\0\0" * 9):
        with pytest.raises(opus.RedError):
            opus.renumber(broken, 1)
