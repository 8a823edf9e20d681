"""The dependency descriptor (AV1 RTP payload format, appendix A): which layers a packet belongs to.

A header extension of VP9 and AV1 (any codec may carry it).  Three bytes on most packets name a template of
the structure that came with the last key frame; the template tells the layers.
"""

from __future__ import annotations

from sfu.rtp import Packet

MAX_TEMPLATES = 64
MAX_SPATIAL = 3  # layers 0 … 3; also what libwebrtc takes
MAX_TEMPORAL = 7
MAX_DIFFS = 64  # frame differences of one frame; no encoder has more than 8 references
SWITCH = 2  # decode target indication: from this frame on the target can be decoded


class DependencyError(ValueError):
    """Bytes that are no dependency descriptor."""


class _Bits:
    """Big-endian bits."""

    __slots__ = ("_at", "_bits", "_size")

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "big")
        self._size = len(data) * 8
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        if self._at > self._size:
            raise DependencyError("descriptor is cut off")
        return self._bits >> (self._size - self._at) & ((1 << count) - 1)

    def below(self, limit: int) -> int:
        """A number below ``limit`` in the fewest bits (AV1 §4.10.7, ns(n))."""
        width = limit.bit_length()
        short = (1 << width) - limit
        value = self.take(width - 1)
        return value if value < short else (value << 1) - short + self.take(1)


class Structure:
    """What a key frame announces.  Lists by template or by decode target; nothing changes afterwards."""

    __slots__ = (
        "chains", "diffs", "first_id", "height", "indications", "spatial", "switch", "target_spatial",
        "target_temporal", "targets", "temporal", "width",
    )  # fmt: skip

    def __init__(self, bits: _Bits) -> None:
        """Reads template_dependency_structure().  Raises DependencyError."""
        self.first_id = bits.take(6)
        self.targets = bits.take(5) + 1
        self.spatial: list[int] = []
        self.temporal: list[int] = []
        spatial = temporal = 0
        step = 0
        while step != 3:
            if len(self.spatial) == MAX_TEMPLATES:
                raise DependencyError("too many templates")
            self.spatial.append(spatial)
            self.temporal.append(temporal)
            step = bits.take(2)
            if step == 1:
                temporal += 1
            elif step == 2:
                temporal = 0
                spatial += 1
            if spatial > MAX_SPATIAL or temporal > MAX_TEMPORAL:
                raise DependencyError("too many layers")
        templates = range(len(self.spatial))
        self.indications = [[bits.take(2) for _ in range(self.targets)] for _ in templates]
        self.diffs: list[int] = []  # number of frames that a template refers to
        for _ in templates:
            count = 0
            while bits.take(1):
                bits.take(4)
                count += 1
                if count > MAX_DIFFS:
                    raise DependencyError("too many references")
            self.diffs.append(count)
        self.chains = bits.below(self.targets + 1)
        if self.chains:
            for _ in range(self.targets):
                bits.below(self.chains)
            for _ in templates:
                for _ in range(self.chains):
                    bits.take(4)
        # a target has the layers of the highest template that it needs
        self.target_spatial = [0] * self.targets
        self.target_temporal = [0] * self.targets
        for target in range(self.targets):
            for template in templates:
                if self.indications[template][target]:
                    self.target_spatial[target] = max(self.target_spatial[target], self.spatial[template])
                    self.target_temporal[target] = max(self.target_temporal[target], self.temporal[template])
        self.switch = [
            self.switches(self.spatial[template], self.temporal[template], self.indications[template])
            for template in templates
        ]
        self.width = self.height = 0  # of the highest spatial layer, 0 = not told
        if bits.take(1):
            for _ in range(spatial + 1):
                self.width = bits.take(16) + 1
                self.height = bits.take(16) + 1

    def switches(self, spatial: int, temporal: int, indications: list[int]) -> bool:
        """Whether a frame of these layers lets one go up to any higher temporal layer of its spatial one."""
        for target in range(self.targets):
            if (
                self.target_spatial[target] == spatial
                and self.target_temporal[target] > temporal
                and indications[target] != SWITCH
            ):
                return False
        return True


class Dependencies:
    """The state of one feed: its newest structure and what the newest frame says."""

    __slots__ = ("active", "frame_number", "structure", "structure_seq")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another stream begins."""
        self.structure: Structure | None = None
        self.structure_seq = -1  # unwrapped sequence number of the packet that brought it
        self.active = 0  # bit mask of the decode targets that the publisher sends
        self.frame_number = -1

    def read(self, packet: Packet) -> None:
        """Fill the layers of ``packet`` from its ``descriptor``, after the codec has looked at the payload.

        Where the descriptor names a template that we don't know (the key frame's first packet is lost) what
        the codec found stands.  Raises DependencyError.
        """
        data = packet.descriptor
        assert data is not None
        size = len(data)
        if size < 3:
            raise DependencyError("shorter than the mandatory fields")
        head = data[0]
        number = data[1] << 8 | data[2]
        structure = self.structure
        brings = False
        count = -1  # frames that this one refers to, -1 = as the template says
        indications: list[int] | None = None
        if size > 3:
            bits = _Bits(data[3:])
            flags = bits.take(5)
            brings = flags & 0x10 != 0
            if brings:
                structure = Structure(bits)
            if structure is not None:
                active = (1 << structure.targets) - 1 if brings else self.active
                if flags & 0x08:
                    active = bits.take(structure.targets)
                if flags & 0x04:
                    indications = [bits.take(2) for _ in range(structure.targets)]
                if flags & 0x02:
                    count = 0
                    width = bits.take(2)
                    while width:
                        bits.take(4 * width)
                        count += 1
                        if count > MAX_DIFFS:
                            raise DependencyError("too many references")
                        width = bits.take(2)
                if flags & 0x01:
                    bits.take(8 * structure.chains)
                template = (head - structure.first_id) & 0x3F
                if brings and template >= len(structure.spatial):
                    raise DependencyError("the structure has no such template")
                if brings and packet.ext_seq > self.structure_seq:
                    self.structure, self.structure_seq = structure, packet.ext_seq
                if packet.ext_seq >= self.structure_seq:
                    self.active = active
        self.frame_number = number
        if structure is None:
            return
        template = (head - structure.first_id) & 0x3F
        if template >= len(structure.spatial):
            return
        spatial = structure.spatial[template]
        temporal = structure.temporal[template]
        packet.layered = True
        packet.spatial = spatial
        packet.temporal = temporal
        packet.last = head & 0x40 != 0
        packet.first = head & 0x80 != 0 and spatial == 0
        if indications is not None:
            packet.sync = structure.switches(spatial, temporal, indications)
        else:
            packet.sync = structure.switch[template]
        if count < 0:
            count = structure.diffs[template]
        if brings and packet.first and count == 0:
            packet.key_frame = True
