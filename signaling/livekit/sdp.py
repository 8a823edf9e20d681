"""SDP as text (RFC 8866, RFC 8829): a tolerant, bounded reader and a plain writer.

Only this module knows the text.  Lines that nobody here understands are skipped (``a=goog-sped-v1``,
``a=sctp-init`` …); what can't be understood inside one section spoils that section only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

from sfu.params import (
    CodecParameters,
    DtlsFingerprint,
    EncodingParameters,
    HeaderExtension,
    IceCandidate,
    IceParameters,
)

MAX_BYTES = 200_000
MAX_LINES = 8_000
MAX_SECTIONS = 128
MAX_CODECS = 128
MAX_EXTENSIONS = 64
MAX_SSRCS = 64
MAX_RIDS = 8
REMEMBERED = 4_096  # sections: a client's descriptions repeat almost all of its last one
REMEMBERED_CHARS = 4_096  # longer sections are read anew, which bounds the memory
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


class SdpError(ValueError):
    """The whole description can't be used; the text says why, in one English sentence."""


@dataclass(frozen=True, slots=True)
class Section:
    """One ``m=`` section.  ``problem`` is set when it can only be rejected."""

    kind: str
    mid: str
    port: int = 9
    protocol: str = "UDP/TLS/RTP/SAVPF"
    formats: tuple[str, ...] = ()
    direction: str = "sendrecv"
    stream_id: str | None = None  # a=msid, first part
    track_id: str | None = None  # a=msid, second part
    codecs: tuple[CodecParameters, ...] = ()
    extensions: tuple[HeaderExtension, ...] = ()
    send_encodings: tuple[EncodingParameters, ...] = ()  # of an offer: what its author would send
    simulcast: tuple[str, ...] = ()  # RIDs in the order of a=simulcast
    simulcast_direction: str = ""  # "send" or "recv"
    ice: IceParameters | None = None
    fingerprints: tuple[DtlsFingerprint, ...] = ()
    setup: str | None = None
    candidates: tuple[IceCandidate, ...] = ()
    sctp_port: int | None = None
    max_message_size: int | None = None
    cname: str = ""
    rejected: bool = False
    problem: str | None = None

    @property
    def sends(self) -> bool:
        return self.direction in ("sendrecv", "sendonly")

    @property
    def receives(self) -> bool:
        return self.direction in ("sendrecv", "recvonly")


@dataclass(frozen=True, slots=True)
class Description:
    sections: tuple[Section, ...]
    bundle: tuple[str, ...] = ()
    session_id: int = 0
    version: int = 0
    ice_lite: bool = False
    extmap_allow_mixed: bool = False
    ice: IceParameters | None = None
    fingerprints: tuple[DtlsFingerprint, ...] = ()
    setup: str | None = None


# ---------------------------------------------------------------- reading


@dataclass
class _Draft:
    """What has been read of a section so far."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    mid: str = ""
    direction: str = "sendrecv"
    stream_id: str | None = None
    track_id: str | None = None
    rtpmap: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    fmtp: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    feedback: dict[int, list[str]] = field(default_factory=dict)
    extensions: list[HeaderExtension] = field(default_factory=list)
    rids: list[str] = field(default_factory=list)
    simulcast: tuple[str, ...] = ()
    ssrcs: list[int] = field(default_factory=list)
    groups: list[tuple[str, list[int]]] = field(default_factory=list)
    ice_ufrag: str = ""
    ice_pwd: str = ""
    fingerprints: list[DtlsFingerprint] = field(default_factory=list)
    setup: str | None = None
    sctp_port: int | None = None
    max_message_size: int | None = None
    bundle_only: bool = False
    problem: str | None = None


def parse(text: str) -> Description:
    """Reads an offer or an answer.  Raises SdpError when nothing of it can be used."""
    if len(text) > MAX_BYTES:
        raise SdpError("the description is too large")
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES:
        raise SdpError("the description has too many lines")
    if not lines or lines[0].strip() != "v=0":
        raise SdpError("the description does not begin with v=0")
    session = _Draft("session", 0, "", ())
    bundle: tuple[str, ...] = ()
    ice_lite = mixed = False
    origin = (0, 0)
    starts = [at for at, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_SECTIONS:
        raise SdpError("the description has too many sections")
    for line in lines[1 : starts[0] if starts else len(lines)]:
        kind, _, value = line.partition("=")
        value = value.strip()
        if kind == "o":
            parts = value.split()
            if len(parts) >= 3:
                origin = (_number(parts[1], 2**64) or 0, _number(parts[2], 2**64) or 0)
        elif kind == "a":
            name, _, rest = value.partition(":")
            if name == "group" and rest.startswith("BUNDLE"):
                bundle = tuple(rest.split()[1:])
                continue
            ice_lite = ice_lite or name == "ice-lite"
            mixed = mixed or name == "extmap-allow-mixed"
            try:
                _attribute(session, name, rest)
            except ValueError as error:
                raise SdpError(f"the session attribute {name[:32]} can't be read") from error
    if not starts:
        raise SdpError("the description has no media section")
    sections = tuple(
        _section(tuple(lines[at:end]), index)
        for index, (at, end) in enumerate(pairwise([*starts, len(lines)]))
    )
    mids = [section.mid for section in sections]
    if len(set(mids)) != len(mids):
        raise SdpError("two sections have the same mid")
    return Description(
        sections=sections,
        bundle=bundle,
        session_id=origin[0],
        version=origin[1],
        ice_lite=ice_lite,
        extmap_allow_mixed=mixed,
        ice=_ice(session),
        fingerprints=tuple(session.fingerprints),
        setup=session.setup,
    )


def _section(lines: tuple[str, ...], index: int) -> Section:
    """From its m= line on.  Raises SdpError when that line can't be read."""
    if sum(map(len, lines)) > REMEMBERED_CHARS:
        return _read_section(lines, index)
    return _remembered_section(lines, index)


def _read_section(lines: tuple[str, ...], index: int) -> Section:
    draft = _media_line(lines[0].partition("=")[2].strip())
    for line in lines[1:]:
        kind, _, value = line.partition("=")
        if kind == "a":
            name, _, rest = value.strip().partition(":")
            try:
                _attribute(draft, name, rest)
            except ValueError as error:
                # A bad line spoils its own section, except where it would spoil nothing but itself.
                draft.problem = draft.problem or f"attribute {name[:32]}: {error}"
    return _finish(draft, index)


_remembered_section = lru_cache(REMEMBERED)(_read_section)


def _media_line(value: str) -> _Draft:
    parts = value.split()
    if len(parts) < 4:
        raise SdpError("an m= line is incomplete")
    port = _number(parts[1].partition("/")[0], 65_536)
    if port is None:
        raise SdpError("an m= line has no port")
    return _Draft(parts[0][:32], port, parts[2][:64], tuple(parts[3 : 3 + MAX_CODECS]))


def _attribute(draft: _Draft, name: str, rest: str) -> None:
    """Raises ValueError when the section can't be used with this line."""
    if name == "mid":
        if not rest or len(rest) > 64 or not rest.isascii() or " " in rest:
            raise ValueError("not a mid")
        draft.mid = rest
    elif name in DIRECTIONS and not rest:
        draft.direction = name
    elif name == "msid":
        parts = rest.split()
        draft.stream_id = parts[0][:256] if parts and parts[0] != "-" else None
        draft.track_id = parts[1][:256] if len(parts) > 1 else None
    elif name == "rtpmap":
        _rtpmap(draft, rest)
    elif name == "fmtp":
        pt, _, config = rest.partition(" ")
        payload_type = _payload_type(pt)
        if len(config) > 4_096:
            raise ValueError("too long")
        draft.fmtp[payload_type] = _fmtp(config)
    elif name == "rtcp-fb":
        pt, _, feedback = rest.partition(" ")
        if pt != "*":
            values = draft.feedback.setdefault(_payload_type(pt), [])
            if len(values) < 16:
                values.append(feedback.strip()[:64])
    elif name == "extmap":
        head, _, uri = rest.partition(" ")
        number = _number(head.partition("/")[0], 256)
        if number is None or number == 0 or not uri:
            raise ValueError("not an extension")
        if len(draft.extensions) < MAX_EXTENSIONS:
            draft.extensions.append(HeaderExtension(uri.split()[0][:256], number))
    elif name == "rid":
        parts = rest.split()
        if len(parts) >= 2 and parts[1] == "send" and len(draft.rids) < MAX_RIDS:
            if not (parts[0].isascii() and parts[0].replace("-", "").replace("_", "").isalnum()):
                raise ValueError("not a rid")
            draft.rids.append(parts[0][:16])
    elif name == "simulcast":
        draft.simulcast = _simulcast(rest)
    elif name == "ssrc":
        ssrc = _number(rest.split()[0] if rest else "", 2**32)
        if ssrc is None:
            raise ValueError("not an SSRC")
        if ssrc not in draft.ssrcs:
            if len(draft.ssrcs) >= MAX_SSRCS:
                raise ValueError("too many SSRCs")
            draft.ssrcs.append(ssrc)
    elif name == "ssrc-group":
        parts = rest.split()
        numbers = [_number(part, 2**32) for part in parts[1:17]]
        if len(draft.groups) < MAX_SSRCS and parts and None not in numbers:
            draft.groups.append((parts[0], [number for number in numbers if number is not None]))
    elif name == "ice-ufrag":
        draft.ice_ufrag = rest[:256]
    elif name == "ice-pwd":
        draft.ice_pwd = rest[:256]
    elif name == "fingerprint":
        algorithm, _, digest = rest.partition(" ")
        if not digest or len(digest) > 256:
            raise ValueError("not a fingerprint")
        if len(draft.fingerprints) < 8:
            draft.fingerprints.append(DtlsFingerprint(algorithm.lower(), digest.strip().upper()))
    elif name == "setup":
        draft.setup = rest[:16]
    elif name == "sctp-port":
        draft.sctp_port = _number(rest, 65_536)
    elif name == "max-message-size":
        draft.max_message_size = _number(rest, 2**32)
    elif name == "bundle-only":
        draft.bundle_only = True


def _rtpmap(draft: _Draft, rest: str) -> None:
    pt, _, encoding = rest.partition(" ")
    parts = encoding.strip().split("/")
    payload_type = _payload_type(pt)
    rate = _number(parts[1], 10**9) if len(parts) > 1 else None
    if rate is None or not parts[0] or len(parts[0]) > 64:
        raise ValueError("not a codec")
    channels = _number(parts[2], 256) if len(parts) > 2 else 1
    draft.rtpmap[payload_type] = (parts[0], rate, channels or 1)


def _fmtp(config: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in config.split(";")[:32]:
        key, _, value = item.strip().partition("=")
        if key:
            pairs.append((key.strip(), value.strip()))
    return tuple(sorted(pairs))


def _simulcast(rest: str) -> tuple[str, ...]:
    """The RIDs after ``send``: first alternative of each, without the paused mark (RFC 8853 §5.1)."""
    parts = rest.split()
    for word, rids in pairwise(parts):
        if word == "send":
            return tuple(item.split(",")[0].lstrip("~") for item in rids.split(";")[:MAX_RIDS])
    return ()


def _finish(draft: _Draft, index: int) -> Section:
    """An old-style section without a=mid gets its index, so that it can be answered."""
    return Section(
        kind=draft.kind,
        mid=draft.mid or f"-{index}",
        port=draft.port,
        protocol=draft.protocol,
        formats=draft.formats,
        direction=draft.direction,
        stream_id=draft.stream_id,
        track_id=draft.track_id,
        codecs=_codecs(draft),
        extensions=tuple(draft.extensions),
        send_encodings=_encodings(draft),
        simulcast=draft.simulcast if set(draft.simulcast) <= set(draft.rids) else (),
        simulcast_direction="send" if draft.simulcast else "",
        ice=_ice(draft),
        fingerprints=tuple(draft.fingerprints),
        setup=draft.setup,
        sctp_port=draft.sctp_port,
        max_message_size=draft.max_message_size,
        rejected=draft.port == 0 and not draft.bundle_only,
        problem=draft.problem or (None if draft.mid else "the section has no mid"),
    )


def _codecs(draft: _Draft) -> tuple[CodecParameters, ...]:
    """In the order of the m= line; an RTX payload type is folded into the codec it repairs (RFC 4588)."""
    repairs: dict[int, int] = {}
    for pt, (name, _, _) in draft.rtpmap.items():
        if name.lower() == "rtx":
            apt = _number(dict(draft.fmtp.get(pt, ())).get("apt", ""), 128)
            if apt is not None:
                repairs.setdefault(apt, pt)
    codecs = []
    for text in draft.formats:
        pt_or_none = _number(text, 128)
        if pt_or_none is None or pt_or_none not in draft.rtpmap:
            continue
        name, rate, channels = draft.rtpmap[pt_or_none]
        if name.lower() == "rtx":
            continue
        codecs.append(
            CodecParameters(
                mime=f"{draft.kind}/{name}",
                payload_type=pt_or_none,
                clock_rate=rate,
                channels=channels,
                fmtp=draft.fmtp.get(pt_or_none, ()),
                rtcp_feedback=tuple(draft.feedback.get(pt_or_none, ())),
                rtx_payload_type=repairs.get(pt_or_none),
            )
        )
    return tuple(codecs)


def _encodings(draft: _Draft) -> tuple[EncodingParameters, ...]:
    if draft.rids:
        return tuple(EncodingParameters(rid=rid) for rid in dict.fromkeys(draft.rids))
    repair = {group[0]: group[1] for name, group in draft.groups if name == "FID" and len(group) == 2}
    layers = next((group for name, group in draft.groups if name == "SIM"), None)
    if layers is None:
        layers = [ssrc for ssrc in draft.ssrcs if ssrc not in repair.values()][:1]
    return tuple(EncodingParameters(ssrc=ssrc, rtx_ssrc=repair.get(ssrc)) for ssrc in layers[:MAX_RIDS])


def _ice(draft: _Draft) -> IceParameters | None:
    if not draft.ice_ufrag or not draft.ice_pwd:
        return None
    return IceParameters(draft.ice_ufrag, draft.ice_pwd)


def _number(text: str, below: int) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 20:
        number = int(text)
        if number < below:
            return number
    return None


def _payload_type(text: str) -> int:
    number = _number(text, 128)
    if number is None:
        raise ValueError("not a payload type")
    return number


# ---------------------------------------------------------------- writing


def write(description: Description) -> str:
    """The text of an offer or an answer of ours."""
    lines = [
        "v=0",
        f"o=- {description.session_id} {description.version} IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
    ]
    if description.ice_lite:
        lines.append("a=ice-lite")
    if description.bundle:
        lines.append("a=group:BUNDLE " + " ".join(description.bundle))
    if description.extmap_allow_mixed:
        lines.append("a=extmap-allow-mixed")
    lines.append("a=msid-semantic: WMS *")
    for section in description.sections:
        lines.extend(_section_lines(section, bundled=section.mid in description.bundle))
    return "\r\n".join(lines) + "\r\n"


def _section_lines(section: Section, bundled: bool) -> list[str]:
    formats = " ".join(section.formats) or "0"
    port = 0 if section.rejected else section.port
    lines = [f"m={section.kind} {port} {section.protocol} {formats}", "c=IN IP4 0.0.0.0"]
    if section.mid and not section.mid.startswith("-"):
        lines.append(f"a=mid:{section.mid}")
    if section.rejected:
        return [*lines, "a=inactive"]
    if section.ice is not None:
        lines += [f"a=ice-ufrag:{section.ice.ufrag}", f"a=ice-pwd:{section.ice.pwd}"]
    lines += [f"a=fingerprint:{item.algorithm} {item.value}" for item in section.fingerprints]
    if section.setup:
        lines.append(f"a=setup:{section.setup}")
    for item in section.candidates:
        lines.append(
            f"a=candidate:{item.foundation} {item.component} {item.protocol} {item.priority} "
            f"{item.ip} {item.port} typ host" + (f" tcptype {item.tcp_type}" if item.tcp_type else "")
        )
    if section.candidates:
        lines.append("a=end-of-candidates")
    if section.kind == "application":
        lines.append(f"a=sctp-port:{section.sctp_port or 5000}")
        lines.append(f"a=max-message-size:{section.max_message_size or 262_144}")
        return lines
    lines.append("a=rtcp-mux")
    lines.append("a=rtcp-rsize")
    lines += [f"a=extmap:{extension.id} {extension.uri}" for extension in section.extensions]
    lines.append(f"a={section.direction}")
    if section.stream_id is not None and section.track_id is not None:
        lines.append(f"a=msid:{section.stream_id} {section.track_id}")
    for codec in section.codecs:
        lines += _codec_lines(codec)
    if section.simulcast:
        lines += [f"a=rid:{rid} {section.simulcast_direction}" for rid in section.simulcast]
        lines.append(f"a=simulcast:{section.simulcast_direction} " + ";".join(section.simulcast))
    if section.sends:
        lines += _ssrc_lines(section)
    return lines


def _codec_lines(codec: CodecParameters) -> list[str]:
    pt = codec.payload_type
    name = codec.mime.partition("/")[2]
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    lines = [f"a=rtpmap:{pt} {name}/{codec.clock_rate}{channels}"]
    lines += [f"a=rtcp-fb:{pt} {feedback}" for feedback in codec.rtcp_feedback]
    if codec.fmtp:
        config = ";".join(f"{key}={value}" if value else key for key, value in codec.fmtp)
        lines.append(f"a=fmtp:{pt} {config}")
    if codec.rtx_payload_type is not None:
        lines.append(f"a=rtpmap:{codec.rtx_payload_type} rtx/{codec.clock_rate}")
        lines.append(f"a=fmtp:{codec.rtx_payload_type} apt={pt}")
    return lines


def _ssrc_lines(section: Section) -> list[str]:
    lines = []
    for encoding in section.send_encodings:
        if encoding.ssrc is None:
            continue
        ssrcs = [encoding.ssrc]
        if encoding.rtx_ssrc is not None:
            ssrcs.append(encoding.rtx_ssrc)
            lines.append(f"a=ssrc-group:FID {encoding.ssrc} {encoding.rtx_ssrc}")
        for ssrc in ssrcs:  # both, or libwebrtc refuses the group
            lines.append(f"a=ssrc:{ssrc} cname:{section.cname}")
            if section.stream_id is not None and section.track_id is not None:
                lines.append(f"a=ssrc:{ssrc} msid:{section.stream_id} {section.track_id}")
    return lines


def formats_of(codecs: tuple[CodecParameters, ...]) -> tuple[str, ...]:
    """The payload types of an m= line: every codec, each followed by its RTX."""
    formats: list[str] = []
    for codec in codecs:
        formats.append(str(codec.payload_type))
        if codec.rtx_payload_type is not None:
            formats.append(str(codec.rtx_payload_type))
    return tuple(formats)


def rejected(section: Section) -> Section:
    """The answer to a section that we can't serve: port 0, the others go on (RFC 3264 §6)."""
    return replace(section, rejected=True, port=0, direction="inactive", codecs=(), extensions=())
