"""RTP packets (RFC 3550) and their header extensions (RFC 8285): one parse per packet, one patch per copy."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from sfu.params import ExtensionUri, HeaderExtension

RTP_HEADER = struct.Struct("!BBHII")
EXTENSION_HEADER = struct.Struct("!HH")
U16 = struct.Struct("!H")
U32 = struct.Struct("!I")

ONE_BYTE_PROFILE = 0xBEDE
TWO_BYTE_PROFILE = 0x1000
MAX_ELEMENTS = 16

# Written by us for each leg, or meaningful on one hop only: never passed on as they are
_PER_HOP = frozenset(
    {
        ExtensionUri.MID,
        ExtensionUri.RID,
        ExtensionUri.REPAIRED_RID,
        ExtensionUri.TRANSPORT_CC,
        ExtensionUri.ABS_SEND_TIME,
        "urn:ietf:params:rtp-hdrext:toffset",
        "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
        "http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
    }
)


class RtpError(ValueError):
    """Bytes that are no RTP packet."""


class ExtensionIds:
    """Extension ids of the packets that one leg sends us.  0 = not negotiated."""

    __slots__ = (
        "abs_send_time", "audio_level", "dependency", "mid", "passed", "repaired_rid", "rid", "transport_cc",
    )  # fmt: skip

    def __init__(self) -> None:
        self.mid = self.rid = self.repaired_rid = self.audio_level = self.transport_cc = 0
        self.abs_send_time = self.dependency = 0
        self.passed: dict[int, str] = {}

    def learn(self, extensions: Iterable[HeaderExtension]) -> None:
        """Ids hold for a whole bundle (RFC 8843 §9.2), so those of all sections are one set."""
        for extension in extensions:
            uri, number = extension.uri, extension.id
            if uri == ExtensionUri.MID:
                self.mid = number
            elif uri == ExtensionUri.RID:
                self.rid = number
            elif uri == ExtensionUri.REPAIRED_RID:
                self.repaired_rid = number
            elif uri == ExtensionUri.TRANSPORT_CC:
                self.transport_cc = number
            elif uri == ExtensionUri.ABS_SEND_TIME:
                self.abs_send_time = number
            elif uri == ExtensionUri.AUDIO_LEVEL:
                self.audio_level = number
                self.passed[number] = uri
            elif uri == ExtensionUri.DEPENDENCY_DESCRIPTOR:
                self.dependency = number
                self.passed[number] = uri
            elif uri not in _PER_HOP:
                self.passed[number] = uri


class Packet:
    """What one parse found.  The relay owns a single object and fills it again for each datagram."""

    __slots__ = (
        "abs_send_time",
        "arrival_ms",
        "data",
        "descriptor",
        "elements",
        "end",
        "ext_seq",
        "first",
        "key_frame",
        "last",
        "layered",
        "level",
        "marker",
        "mid",
        "payload",
        "payload_type",
        "picture_at",
        "picture_id",
        "picture_mask",
        "primary",
        "repaired_rid",
        "rid",
        "sequence",
        "size",
        "spatial",
        "ssrc",
        "start",
        "sync",
        "temporal",
        "timestamp",
        "tl0",
        "tl0_at",
        "transport_seq",
    )

    def __init__(self) -> None:
        self.data = b""
        self.payload = b""
        self.primary: bytes | None = None  # of a RED payload, when someone has asked
        self.size = self.start = self.end = 0
        self.sequence = self.timestamp = self.ssrc = self.payload_type = self.marker = 0
        self.mid = self.rid = self.repaired_rid = b""
        self.transport_seq = -1  # transport-wide sequence number, -1 = none
        self.abs_send_time = -1  # 24 bits: seconds in 6.18 fixed point, -1 = none
        self.descriptor: bytes | None = None  # dependency descriptor
        self.level = -1  # RFC 6464: 0 loudest … 127 silence, -1 = none
        self.elements: list[tuple[int, bytes]] | None = None  # to be passed on
        self.arrival_ms = 0.0
        self.ext_seq = 0  # unwrapped by the feed
        self.forget_payload()

    def forget_payload(self) -> None:
        """Before a codec looks: nothing is known."""
        self.key_frame = False  # this packet begins a key frame
        self.first = True  # this packet begins a frame, with all its spatial layers
        self.temporal = 0
        self.sync = False  # decodable from here on at this temporal layer
        self.layered = False  # the feed holds several layers; else spatial and last say nothing
        self.spatial = 0
        self.last = False  # this packet ends its spatial layer of a frame
        self.picture_at = self.tl0_at = -1  # places in the payload, -1 = none
        self.picture_id = self.picture_mask = self.tl0 = 0

    def parse(self, data: bytes, ids: ExtensionIds) -> None:
        """Fill from ``data``.  Raises RtpError."""
        size = len(data)
        if size < 12:
            raise RtpError("shorter than the fixed header")
        b0, b1, self.sequence, self.timestamp, self.ssrc = RTP_HEADER.unpack_from(data)
        if b0 >> 6 != 2:
            raise RtpError("version is not 2")
        self.data, self.size = data, size
        self.payload_type, self.marker = b1 & 0x7F, b1 & 0x80
        self.transport_seq = self.level = self.abs_send_time = -1
        self.mid = self.rid = self.repaired_rid = b""
        self.elements = self.descriptor = None
        start = 12 + ((b0 & 0x0F) << 2)
        if b0 & 0x10:
            if start + 4 > size:
                raise RtpError("no room for the extension header")
            profile, words = EXTENSION_HEADER.unpack_from(data, start)
            start += 4
            stop = start + (words << 2)
            if stop > size:
                raise RtpError("extension is longer than the packet")
            if profile == ONE_BYTE_PROFILE:
                self._read_one_byte(data, start, stop, ids)
            elif profile & 0xFFF0 == TWO_BYTE_PROFILE:
                self._read_two_byte(data, start, stop, ids)
            start = stop
        elif start > size:
            raise RtpError("contributing sources are longer than the packet")
        if b0 & 0x20:
            padding = data[-1]
            if padding == 0 or start + padding > size:
                raise RtpError("padding is longer than the packet")
            self.end = size - padding
        else:
            self.end = size
        self.start = start

    def _read_one_byte(self, data: bytes, at: int, stop: int, ids: ExtensionIds) -> None:
        transport_cc, passed = ids.transport_cc, ids.passed
        while at < stop:
            head = data[at]
            if head == 0:
                at += 1
                continue
            number, following = head >> 4, at + 2 + (head & 0x0F)
            if number == 15:  # RFC 8285 §4.2: stop here
                return
            if following > stop:
                raise RtpError("extension element is longer than its block")
            if number == transport_cc and following - at == 3:
                self.transport_seq = data[at + 1] << 8 | data[at + 2]
            elif number in passed:
                self._pass_on(number, data[at + 1 : following], ids)
            else:
                self._name(number, data[at + 1 : following], ids)
            at = following

    def _read_two_byte(self, data: bytes, at: int, stop: int, ids: ExtensionIds) -> None:
        while at < stop:
            number = data[at]
            if number == 0:
                at += 1
                continue
            if at + 2 > stop:
                raise RtpError("extension element without length")
            following = at + 2 + data[at + 1]
            if following > stop:
                raise RtpError("extension element is longer than its block")
            value = data[at + 2 : following]
            if number == ids.transport_cc and len(value) == 2:
                self.transport_seq = value[0] << 8 | value[1]
            elif number in ids.passed:
                self._pass_on(number, value, ids)
            else:
                self._name(number, value, ids)
            at = following

    def _pass_on(self, number: int, value: bytes, ids: ExtensionIds) -> None:
        if number == ids.audio_level and value:
            self.level = value[0] & 0x7F
        elif number == ids.dependency:
            self.descriptor = value
        if self.elements is None:
            self.elements = [(number, value)]
        elif len(self.elements) < MAX_ELEMENTS:
            self.elements.append((number, value))

    def _name(self, number: int, value: bytes, ids: ExtensionIds) -> None:
        # Used for the first packets of a stream mostly, but few comparisons cost less than asking whether
        if number == ids.mid:
            self.mid = value
        elif number == ids.abs_send_time:
            if len(value) == 3:
                self.abs_send_time = value[0] << 16 | value[1] << 8 | value[2]
        elif number == ids.rid:
            self.rid = value
        elif number == ids.repaired_rid:
            self.repaired_rid = value


def encode_extensions(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A whole extension block with its header (RFC 8285), one-byte form when it can hold all; b"" for none.

    Raises RtpError for an id or a length that no form can hold.
    """
    elements = [*elements]
    if not elements:
        return b""
    body = bytearray(4)
    if all(0 < number < 15 and 1 <= len(value) <= 16 for number, value in elements):
        profile = ONE_BYTE_PROFILE
        for number, value in elements:
            body.append(number << 4 | len(value) - 1)
            body += value
    else:
        profile = TWO_BYTE_PROFILE
        for number, value in elements:
            if not 0 < number < 256 or len(value) > 255:
                raise RtpError("extension element can't be written")
            body.append(number)
            body.append(len(value))
            body += value
    body += bytes(-len(body) % 4)
    EXTENSION_HEADER.pack_into(body, 0, profile, len(body) // 4 - 1)
    return bytes(body)


class ExtensionPlan:
    """How one route writes its header extensions: MID and a transport-wide number, then what is passed on.

    ``plain`` is the block of a packet that brings nothing to pass on; ``transport_at`` is the place of
    the transport-wide number in it (0 = not negotiated).  Receivers without transport-wide numbers get the
    absolute send time instead, at ``send_time_at``.  In a block of the two-byte form (first byte 0x10) both
    places are one byte further.
    """

    __slots__ = ("_cache", "fixed", "passed", "plain", "send_time_at", "transport_at")

    def __init__(
        self,
        outgoing: Iterable[HeaderExtension],
        incoming: ExtensionIds,
        mid: str,
        *,
        repaired_rid: str | None = None,
    ) -> None:
        numbers = {extension.uri: extension.id for extension in outgoing}
        self.fixed: list[tuple[int, bytes]] = []
        transport_cc = numbers.get(ExtensionUri.TRANSPORT_CC, 0)
        if transport_cc:  # first, so that its place is the same with and without others
            self.fixed.append((transport_cc, b"\0\0"))
        send_time = 0 if transport_cc else numbers.get(ExtensionUri.ABS_SEND_TIME, 0)
        if send_time:
            self.fixed.append((send_time, bytes(3)))
        if ExtensionUri.MID in numbers and 0 < len(mid) <= 16:
            self.fixed.append((numbers[ExtensionUri.MID], mid.encode("ascii", "replace")))
        if repaired_rid and ExtensionUri.REPAIRED_RID in numbers:
            self.fixed.append((numbers[ExtensionUri.REPAIRED_RID], repaired_rid.encode("ascii", "replace")))
        self.plain = encode_extensions(self.fixed)
        place = 5 if self.plain[:1] == b"\xbe" else 6
        self.transport_at = place if transport_cc else 0
        self.send_time_at = place if send_time else 0
        self.passed = {
            number: numbers[uri]
            for number, uri in incoming.passed.items()
            if uri in numbers and uri not in _PER_HOP
        }
        self._cache: dict[tuple[int, bytes], bytes] = {}

    def block(self, elements: list[tuple[int, bytes]] | None) -> bytes:
        """The block for a packet that brought ``elements``; the transport-wide number is still zero."""
        if elements is None or not self.passed:
            return self.plain
        if len(elements) == 1:  # an audio level, mostly: 256 values
            block = self._cache.get(elements[0])
            if block is not None:
                return block
        passed = self.passed
        carried = [(passed[number], value) for number, value in elements if number in passed]
        block = encode_extensions(self.fixed + carried) if carried else self.plain
        if len(elements) == 1 and len(elements[0][1]) == 1 and len(self._cache) < 512:
            self._cache[elements[0]] = block
        return block

    def transport_place(self, block: bytes) -> int:
        """Place of the transport-wide number in ``block`` (a block made by this plan)."""
        if not self.transport_at:
            return 0
        return 5 if block[0] == 0xBE else 6
