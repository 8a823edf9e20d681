"""H.264 payloads (RFC 6184): where a key frame begins, and the picture size in its parameter set."""

from __future__ import annotations

from sfu.rtp import Packet

IDR, SPS, STAP_A, FU_A = 5, 7, 24, 28
MAX_UNITS = 16  # aggregated units looked at in one packet
MAX_SPS = 256  # bytes of a parameter set that are read


class H264Error(ValueError):
    """Bytes that are no H.264 payload."""


def read(packet: Packet) -> None:
    """Fill the packet's payload fields.  Raises H264Error."""
    payload = packet.payload
    if not payload:
        raise H264Error("empty payload")
    packet.picture_at = packet.tl0_at = -1
    packet.temporal = 0
    packet.sync = False
    kind = payload[0] & 0x1F
    packet.first = True
    if kind == FU_A:
        if len(payload) < 2:
            raise H264Error("fragment without header")
        begins = bool(payload[1] & 0x80)
        packet.first = begins
        packet.key_frame = begins and payload[1] & 0x1F in (IDR, SPS)
    elif kind == STAP_A:
        packet.key_frame = any(unit[0] & 0x1F in (IDR, SPS) for unit in _units(payload))
    else:
        packet.key_frame = kind in (IDR, SPS)


def _units(payload: bytes) -> list[bytes]:
    """NAL units of an aggregation packet (STAP-A)."""
    units: list[bytes] = []
    at = 1
    while at + 2 < len(payload) and len(units) < MAX_UNITS:
        size = payload[at] << 8 | payload[at + 1]
        at += 2
        if size == 0 or at + size > len(payload):
            break
        units.append(payload[at : at + size])
        at += size
    return units


def picture_size(packet: Packet) -> tuple[int, int] | None:
    """(width, height) when the packet holds a whole sequence parameter set that can be read."""
    payload = packet.payload
    kind = payload[0] & 0x1F
    units = [payload] if kind == SPS else _units(payload) if kind == STAP_A else []
    for unit in units:
        if unit[0] & 0x1F == SPS:
            try:
                return parse_sps(unit)
            except H264Error:
                return None
    return None


class _Bits:
    """Exp-Golomb reader (H.264 §9.1) over an unescaped unit."""

    __slots__ = ("_at", "_bits", "_size")

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "big")
        self._size = len(data) * 8
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        if self._at > self._size:
            raise H264Error("parameter set is cut off")
        return self._bits >> (self._size - self._at) & ((1 << count) - 1)

    def unsigned(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise H264Error("number is too long")
        return (1 << zeros) - 1 + (self.take(zeros) if zeros else 0)

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number & 1 else -(number // 2)


_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


def parse_sps(unit: bytes) -> tuple[int, int]:
    """(width, height) of a sequence parameter set NAL unit (H.264 §7.3.2.1.1).  Raises H264Error."""
    bits = _Bits(unit[1:MAX_SPS].replace(b"\0\0\3", b"\0\0"))
    profile = bits.take(8)
    bits.take(16)  # constraint flags, level
    bits.unsigned()  # seq_parameter_set_id
    chroma = 1
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()
        if chroma == 3:
            bits.take(1)
        bits.unsigned()  # bit depths
        bits.unsigned()
        bits.take(1)
        if bits.take(1):  # scaling matrices
            for index in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.unsigned()  # log2_max_frame_num_minus4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        count = bits.unsigned()
        if count > 255:
            raise H264Error("too many reference frames in a cycle")
        for _ in range(count):
            bits.signed()
    bits.unsigned()  # max_num_ref_frames
    bits.take(1)
    width = (bits.unsigned() + 1) * 16
    height_units = bits.unsigned() + 1
    frame_only = bits.take(1)
    height = height_units * 16 * (2 - frame_only)
    if not frame_only:
        bits.take(1)
    bits.take(1)
    if bits.take(1):  # cropping
        left, right, top, bottom = (bits.unsigned() for _ in range(4))
        step_x = 2 if chroma in (1, 2) else 1
        step_y = (2 if chroma == 1 else 1) * (2 - frame_only)
        width -= (left + right) * step_x
        height -= (top + bottom) * step_y
    if not (0 < width <= 16384 and 0 < height <= 16384):
        raise H264Error("impossible picture size")
    return width, height


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
