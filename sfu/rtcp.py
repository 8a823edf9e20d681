"""RTCP (RFC 3550 §6) and its feedback messages (RFC 4585, RFC 5104): bounded reader, writers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SR, RR, SDES, BYE, APP, RTPFB, PSFB, XR = 200, 201, 202, 203, 204, 205, 206, 207
FMT_NACK, FMT_TRANSPORT_CC = 1, 15
FMT_PLI, FMT_FIR, FMT_AFB = 1, 4, 15

MAX_PACKETS = 64  # in one compound
MAX_NACKED = 1024  # numbers taken from one compound
MTU = 1200

NTP_EPOCH_S = 2_208_988_800  # 1900-01-01 to 1970-01-01
_HEAD = struct.Struct("!BBH")
_U32 = struct.Struct("!I")
_SR = struct.Struct("!IIIIII")
_BLOCK = struct.Struct("!IIIIII")
_NACK = struct.Struct("!HH")


class RtcpError(ValueError):
    """Bytes that are no RTCP compound packet."""


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """RFC 3550 §6.4.1.  ``fraction_lost`` is 0…255, ``jitter`` in timestamp units, ``dlsr`` in 1/65536 s."""

    ssrc: int
    fraction_lost: int
    lost: int
    highest: int
    jitter: int
    lsr: int
    dlsr: int


@dataclass(frozen=True, slots=True)
class SenderReport:
    """``ntp`` is 64-bit NTP time."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Nack:
    media_ssrc: int
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeyFrameWanted:
    """PLI or FIR."""

    media_ssrc: int


@dataclass(frozen=True, slots=True)
class TransportCc:
    body: bytes


@dataclass(frozen=True, slots=True)
class Remb:
    """draft-alvestrand-rmcat-remb-03: what the receiver believes that its line carries."""

    bitrate_bps: float
    ssrcs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bye:
    ssrcs: tuple[int, ...]


Message = SenderReport | ReportBlock | Nack | KeyFrameWanted | TransportCc | Remb | Bye


def parse(data: bytes) -> list[Message]:
    """What we understand of a compound packet; the rest is skipped by its length.  Raises RtcpError."""
    messages: list[Message] = []
    size = len(data)
    at = 0
    packets = 0
    nacked = 0
    if size < 4:
        raise RtcpError("shorter than a header")
    while at < size:
        if at + 4 > size:
            raise RtcpError("header is cut off")
        packets += 1
        if packets > MAX_PACKETS:
            raise RtcpError("too many packets in a compound")
        head, kind, words = _HEAD.unpack_from(data, at)
        if head >> 6 != 2:
            raise RtcpError("version is not 2")
        end = at + 4 + words * 4
        if end > size:
            raise RtcpError("packet is longer than the compound")
        stop = end
        if head & 0x20:
            padding = data[end - 1]
            if padding == 0 or padding > end - at - 4:
                raise RtcpError("padding is longer than the packet")
            stop = end - padding
        number, body = head & 0x1F, at + 4
        if kind in (SR, RR):
            _read_report(data, body, stop, kind, number, messages)
        elif kind in (RTPFB, PSFB):
            nacked += _read_feedback(data, body, stop, kind, number, messages)
            if nacked > MAX_NACKED:
                raise RtcpError("too many numbers in NACKs")
        elif kind == BYE:
            if body + number * 4 > stop:
                raise RtcpError("BYE is cut off")
            messages.append(Bye(struct.unpack_from(f"!{number}I", data, body)))
        elif not 192 <= kind <= 223:
            raise RtcpError("unknown packet type")
        at = end
    return messages


def _read_report(data: bytes, at: int, stop: int, kind: int, number: int, messages: list[Message]) -> None:
    if at + 4 > stop:
        raise RtcpError("report without sender")
    if kind == SR:
        if at + 24 > stop:
            raise RtcpError("sender report is cut off")
        ssrc, high, low, rtp, packets, octets = _SR.unpack_from(data, at)
        messages.append(SenderReport(ssrc, high << 32 | low, rtp, packets, octets))
        at += 24
    else:
        at += 4
    if at + number * 24 > stop:
        raise RtcpError("report blocks are cut off")
    for _ in range(number):
        ssrc, loss, highest, jitter, lsr, dlsr = _BLOCK.unpack_from(data, at)
        lost = loss & 0xFFFFFF
        if lost & 0x800000:
            lost -= 0x1000000
        messages.append(ReportBlock(ssrc, loss >> 24, lost, highest, jitter, lsr, dlsr))
        at += 24


def _read_feedback(data: bytes, at: int, stop: int, kind: int, fmt: int, messages: list[Message]) -> int:
    """Returns how many numbers were asked for again."""
    if at + 8 > stop:
        raise RtcpError("feedback is cut off")
    (media_ssrc,) = _U32.unpack_from(data, at + 4)
    at += 8
    if kind == PSFB:
        if fmt == FMT_PLI:
            messages.append(KeyFrameWanted(media_ssrc))
        elif fmt == FMT_FIR:
            messages.extend(
                KeyFrameWanted(_U32.unpack_from(data, entry)[0]) for entry in range(at, stop - 7, 8)
            )
        elif fmt == FMT_AFB and data[at : at + 4] == b"REMB":
            messages.append(_read_remb(data, at, stop))
        return 0
    if fmt == FMT_TRANSPORT_CC:
        messages.append(TransportCc(data[at:stop]))
        return 0
    if fmt != FMT_NACK:
        return 0
    sequences: list[int] = []
    for entry in range(at, stop - 3, 4):
        pid, mask = _NACK.unpack_from(data, entry)
        sequences.append(pid)
        while mask:
            low = mask & -mask
            sequences.append((pid + low.bit_length()) & 0xFFFF)
            mask ^= low
        if len(sequences) > MAX_NACKED:
            raise RtcpError("too many numbers in NACKs")
    messages.append(Nack(media_ssrc, tuple(sequences)))
    return len(sequences)


def _read_remb(data: bytes, at: int, stop: int) -> Remb:
    if at + 8 > stop or at + 8 + 4 * data[at + 4] > stop:
        raise RtcpError("REMB is cut off")
    (word,) = _U32.unpack_from(data, at + 4)
    exponent, mantissa = word >> 18 & 0x3F, word & 0x3FFFF
    return Remb(float(mantissa << exponent), struct.unpack_from(f"!{data[at + 4]}I", data, at + 8))


# ---------------------------------------------------------------- writers


def ntp_from_ms(epoch_ms: float) -> int:
    """64-bit NTP time (RFC 5905) of milliseconds since 1970."""
    return (int((epoch_ms / 1000 + NTP_EPOCH_S) * 0x1_0000_0000)) & 0xFFFF_FFFF_FFFF_FFFF


def ms_from_ntp(ntp: int) -> float:
    """Milliseconds since 1970 of 64-bit NTP time."""
    return (ntp / 0x1_0000_0000 - NTP_EPOCH_S) * 1000


def middle_of_ntp(ntp: int) -> int:
    """The 32 bits that LSR fields carry."""
    return ntp >> 16 & 0xFFFF_FFFF


def write_block(block: ReportBlock) -> bytes:
    loss = (block.fraction_lost & 0xFF) << 24 | max(-0x800000, min(0x7FFFFF, block.lost)) & 0xFFFFFF
    return _BLOCK.pack(
        block.ssrc, loss, block.highest & 0xFFFFFFFF, block.jitter & 0xFFFFFFFF,
        block.lsr, block.dlsr & 0xFFFFFFFF,
    )  # fmt: skip


def sender_report(ssrc: int, ntp: int, rtp_timestamp: int, packets: int, octets: int) -> bytes:
    return _HEAD.pack(0x80, SR, 6) + _SR.pack(
        ssrc, ntp >> 32, ntp & 0xFFFFFFFF, rtp_timestamp & 0xFFFFFFFF,
        packets & 0xFFFFFFFF, octets & 0xFFFFFFFF,
    )  # fmt: skip


def receiver_reports(sender_ssrc: int, blocks: Sequence[ReportBlock]) -> list[bytes]:
    """As many RR packets as the blocks need (31 each); one empty RR for none."""
    packets = []
    for start in range(0, max(1, len(blocks)), 31):
        part = blocks[start : start + 31]
        body = _U32.pack(sender_ssrc) + b"".join(write_block(block) for block in part)
        packets.append(_HEAD.pack(0x80 | len(part), RR, len(body) // 4) + body)
    return packets


def source_description(ssrc: int, cname: str) -> bytes:
    """SDES with a CNAME (RFC 3550 §6.5.1)."""
    name = cname.encode()[:255]
    chunk = _U32.pack(ssrc) + bytes((1, len(name))) + name + b"\0"
    chunk += bytes(-len(chunk) % 4)
    return _HEAD.pack(0x81, SDES, len(chunk) // 4) + chunk


def _feedback(kind: int, fmt: int, sender_ssrc: int, media_ssrc: int, body: bytes) -> bytes:
    return (
        _HEAD.pack(0x80 | fmt, kind, 2 + len(body) // 4)
        + _U32.pack(sender_ssrc)
        + _U32.pack(media_ssrc)
        + body
    )


def picture_loss(sender_ssrc: int, media_ssrc: int) -> bytes:
    return _feedback(PSFB, FMT_PLI, sender_ssrc, media_ssrc, b"")


def full_intra_request(sender_ssrc: int, media_ssrc: int, number: int) -> bytes:
    body = _U32.pack(media_ssrc) + bytes((number & 0xFF, 0, 0, 0))
    return _feedback(PSFB, FMT_FIR, sender_ssrc, 0, body)


def transport_cc(sender_ssrc: int, media_ssrc: int, body: bytes) -> bytes:
    return _feedback(RTPFB, FMT_TRANSPORT_CC, sender_ssrc, media_ssrc, body)


def remb(sender_ssrc: int, bitrate_bps: float, ssrcs: Sequence[int]) -> bytes:
    """What we believe that the line to us carries, of all ``ssrcs`` together (255 at most)."""
    mantissa, exponent = max(0, int(bitrate_bps)), 0
    while mantissa > 0x3FFFF:
        mantissa >>= 1
        exponent += 1
    kept = [*ssrcs][:255]
    body = b"REMB" + _U32.pack(len(kept) << 24 | min(exponent, 63) << 18 | mantissa)
    return _feedback(PSFB, FMT_AFB, sender_ssrc, 0, body + struct.pack(f"!{len(kept)}I", *kept))


def nack(sender_ssrc: int, media_ssrc: int, sequences: Iterable[int]) -> bytes:
    """Generic NACK; ``sequences`` are 16-bit numbers in sending order."""
    body = bytearray()
    pid, mask = -1, 0
    for sequence in sequences:
        after = (sequence - pid) & 0xFFFF
        if pid >= 0 and 1 <= after <= 16:
            mask |= 1 << (after - 1)
            continue
        if pid >= 0:
            body += _NACK.pack(pid, mask)
        pid, mask = sequence, 0
    if pid >= 0:
        body += _NACK.pack(pid, mask)
    return _feedback(RTPFB, FMT_NACK, sender_ssrc, media_ssrc, bytes(body))


def compounds(packets: Iterable[bytes], limit: int = MTU) -> list[bytes]:
    """Join packets into as few datagrams as fit ``limit`` bytes each."""
    joined: list[bytes] = []
    current: list[bytes] = []
    size = 0
    for packet in packets:
        if current and size + len(packet) > limit:
            joined.append(b"".join(current))
            current, size = [], 0
        current.append(packet)
        size += len(packet)
    if current:
        joined.append(b"".join(current))
    return joined
