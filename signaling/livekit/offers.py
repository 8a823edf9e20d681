"""Which codecs, header extensions and directions we agree to: pure functions over sdp.Section.

The answer's order of codecs decides what libwebrtc sends, so preference is expressed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sfu.messages import TransportOpened
from sfu.params import (
    CodecParameters,
    EncodingParameters,
    ExtensionUri,
    HeaderExtension,
    Kind,
    RtpParameters,
)
from signaling.livekit.sdp import Description, Section, formats_of, rejected

VIDEO = ("video/vp8", "video/h264", "video/vp9", "video/av1")  # in the order of our preference
RECORDABLE = frozenset({"video/vp8", "video/h264"})  # what recordings can be made of
AUDIO = ("audio/opus", "audio/red")
# Several spatial layers in one stream; others are served too, but told apart by their encodings.
SVC = frozenset({"video/vp9", "video/av1"})
# Of VP9 the 8 and 10 bit profiles with 4:2:0, of AV1 Main: what browsers send (RFC 9628 §6, AV1 RTP §7.2.1)
PROFILES = {"video/vp9": ("profile-id", ("0", "2")), "video/av1": ("profile", ("0",))}
FEEDBACK = {
    "audio": ("nack",),
    "video": ("nack", "nack pli", "ccm fir"),
}
TRANSPORT_CC, REMB = "transport-cc", "goog-remb"
EXTENSIONS = {
    "audio": (
        ExtensionUri.MID,
        ExtensionUri.AUDIO_LEVEL,
        ExtensionUri.TRANSPORT_CC,
        ExtensionUri.ABS_SEND_TIME,
    ),
    "video": (
        ExtensionUri.MID,
        ExtensionUri.RID,
        ExtensionUri.REPAIRED_RID,
        ExtensionUri.TRANSPORT_CC,
        ExtensionUri.ABS_SEND_TIME,
        ExtensionUri.DEPENDENCY_DESCRIPTOR,
    ),
}
MAX_MESSAGE_SIZE = 262_144
RID_ORDER = {"q": 0, "h": 1, "f": 2}

# What we offer on a subscriber connection (v0).  111 and 63 are libwebrtc's own numbers: a RED packet
# carries Opus' number inside, so that publishers and viewers should agree on it.
_VIDEO_FEEDBACK = ("nack", "nack pli", "ccm fir", TRANSPORT_CC, REMB)
OFFERED_AUDIO = (
    CodecParameters(
        "audio/opus", 111, 48_000, 2, (("minptime", "10"), ("useinbandfec", "1")), ("transport-cc", "nack")
    ),
    CodecParameters("audio/red", 63, 48_000, 2, (("111/111", ""),), ("transport-cc", "nack")),
)


def _h264(payload_type: int, profile: str, mode: str) -> CodecParameters:
    fmtp = (("level-asymmetry-allowed", "1"), ("packetization-mode", mode), ("profile-level-id", profile))
    return CodecParameters(
        "video/H264", payload_type, 90_000, 1, fmtp, _VIDEO_FEEDBACK, rtx_payload_type=payload_type + 1
    )


OFFERED_VIDEO = (
    CodecParameters("video/VP8", 96, 90_000, 1, (), _VIDEO_FEEDBACK, rtx_payload_type=97),
    _h264(102, "42e01f", "1"),
    _h264(104, "42001f", "1"),
    _h264(106, "4d001f", "1"),
    _h264(108, "64001f", "1"),
    _h264(112, "42e01f", "0"),
    CodecParameters("video/VP9", 98, 90_000, 1, (("profile-id", "0"),), _VIDEO_FEEDBACK, rtx_payload_type=99),
    CodecParameters(
        "video/VP9", 100, 90_000, 1, (("profile-id", "2"),), _VIDEO_FEEDBACK, rtx_payload_type=101
    ),
    CodecParameters(
        "video/AV1",
        45,
        90_000,
        1,
        (("level-idx", "5"), ("profile", "0"), ("tier", "0")),
        _VIDEO_FEEDBACK,
        rtx_payload_type=46,
    ),
)
OFFERED_EXTENSIONS = {
    "audio": (
        HeaderExtension(ExtensionUri.AUDIO_LEVEL, 1),
        HeaderExtension(ExtensionUri.ABS_SEND_TIME, 2),
        HeaderExtension(ExtensionUri.TRANSPORT_CC, 3),
        HeaderExtension(ExtensionUri.MID, 4),
    ),
    "video": (
        HeaderExtension(ExtensionUri.ABS_SEND_TIME, 2),
        HeaderExtension(ExtensionUri.TRANSPORT_CC, 3),
        HeaderExtension(ExtensionUri.MID, 4),
        HeaderExtension(ExtensionUri.DEPENDENCY_DESCRIPTOR, 12),
    ),
}


def common_codecs(
    section: Section, prefer: str = "", red: bool = False, recorded: bool = False
) -> tuple[CodecParameters, ...]:
    """Our codecs among the section's, the wanted one first.

    ``prefer`` is a name like "h264" (case-insensitive, "" = ours); ``red`` puts audio/red first;
    ``recorded`` leaves out what recordings can't be made of.
    """
    order = list(AUDIO if section.kind == "audio" else VIDEO)
    if recorded and section.kind == "video":
        order = [mime for mime in order if mime in RECORDABLE]
    wanted = f"{section.kind}/{prefer.lower()}"
    if red and section.kind == "audio":
        wanted = "audio/red"
    if wanted in order:
        order.remove(wanted)
        order.insert(0, wanted)
    found = []
    opus = {codec.payload_type for codec in section.codecs if codec.mime.lower() == "audio/opus"}
    for mime in order:
        for codec in section.codecs:
            if codec.mime.lower() != mime:
                continue
            if mime == "audio/red" and not _red_of(codec, opus):
                continue
            if not _known_profile(mime, codec):
                continue
            feedback = _common_feedback(section, codec)
            found.append(replace(codec, mime=canonical_mime(mime), rtcp_feedback=feedback))
    return tuple(found)


def _known_profile(mime: str, codec: CodecParameters) -> bool:
    name, profiles = PROFILES.get(mime, ("", ("0",)))
    return dict(codec.fmtp).get(name, "0") in profiles


def _common_feedback(section: Section, codec: CodecParameters) -> tuple[str, ...]:
    """Transport-wide feedback needs its extension too; who lacks it has REMB, which is worked out from the
    absolute send time.  Never both: then nobody would know whose estimate counts.
    """
    numbered = any(extension.uri == ExtensionUri.TRANSPORT_CC for extension in section.extensions)
    allowed = FEEDBACK[section.kind]
    if numbered and TRANSPORT_CC in codec.rtcp_feedback:
        allowed = (*allowed, TRANSPORT_CC)
    elif section.kind == "video":
        allowed = (*allowed, REMB)
    return tuple(item for item in codec.rtcp_feedback if item in allowed)


def _red_of(codec: CodecParameters, opus: set[int]) -> bool:
    """RFC 2198: fmtp lists the payload types inside; only Opus in RED is ours."""
    inner = next((key for key, value in codec.fmtp if not value and "/" in key), "")
    return bool(inner) and all(part.isdigit() and int(part) in opus for part in inner.split("/"))


def canonical_mime(mime: str) -> str:
    known = {
        "video/vp8": "video/VP8",
        "video/h264": "video/H264",
        "video/vp9": "video/VP9",
        "video/av1": "video/AV1",
    }
    return known.get(mime.lower(), mime.lower())


def common_extensions(section: Section, described: bool = True) -> tuple[HeaderExtension, ...]:
    """``described``: with the dependency descriptor."""
    allowed = EXTENSIONS.get(section.kind, ())
    seen: set[str] = set()
    found = []
    for extension in section.extensions:
        if extension.uri == ExtensionUri.DEPENDENCY_DESCRIPTOR and not described:
            continue
        if extension.uri in allowed and extension.uri not in seen:
            seen.add(extension.uri)
            found.append(extension)
    return tuple(found)


def servable(section: Section) -> bool:
    """Whether the section can be answered at all; otherwise it is rejected alone."""
    if section.problem or section.rejected:
        return False
    if section.kind == "application":
        return "webrtc-datachannel" in section.formats and "SCTP" in section.protocol
    return section.kind in ("audio", "video") and "SAVP" in section.protocol and bool(common_codecs(section))


def order_encodings(
    encodings: Sequence[EncodingParameters], quality_of_rid: dict[str, int]
) -> tuple[EncodingParameters, ...]:
    """From the lowest quality to the highest: q < h < f by name, otherwise by the announced layers."""
    rids = [encoding.rid for encoding in encodings]
    if any(rid is None for rid in rids):
        return tuple(encodings)
    if all(rid in RID_ORDER for rid in rids):
        return tuple(sorted(encodings, key=lambda encoding: RID_ORDER[encoding.rid or ""]))
    if all(rid in quality_of_rid for rid in rids):
        return tuple(sorted(encodings, key=lambda encoding: quality_of_rid[encoding.rid or ""]))
    return tuple(encodings)


@dataclass(frozen=True, slots=True)
class Local:
    """Our side of one transport, as each section repeats it."""

    transport: TransportOpened
    setup: str  # "passive" in answers (we are the DTLS server), "actpass" in offers

    def dress(self, section: Section) -> Section:
        return replace(
            section,
            port=9,
            ice=self.transport.ice,
            fingerprints=self.transport.fingerprints,
            candidates=self.transport.candidates,
            setup=self.setup,
        )


def answer_application(offer: Section) -> Section:
    size = min(offer.max_message_size or MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE)
    return Section(
        kind="application",
        mid=offer.mid,
        protocol=offer.protocol,
        formats=("webrtc-datachannel",),
        sctp_port=5000,
        max_message_size=size,
    )


def answer_media(
    offer: Section,
    codecs: tuple[CodecParameters, ...],
    direction: str,
    *,
    dtx: bool = True,
    stereo: bool = False,
) -> Section:
    """The answer to a media section; in a receiving direction the offered RIDs are kept intact (RFC 8853).

    What comes to us carries the dependency descriptor only with SVC: a viewer of VP8 would follow frame
    numbers that break with each change of layer, which the relay mends in the codec's own descriptor.
    """
    if offer.kind == "audio":
        codecs = tuple(_opus_wishes(codec, dtx, stereo) for codec in codecs)
    receiving = direction == "recvonly" and len(offer.simulcast) > 0
    described = direction != "recvonly" or (bool(codecs) and codecs[0].mime.lower() in SVC)
    return Section(
        kind=offer.kind,
        mid=offer.mid,
        protocol=offer.protocol,
        formats=formats_of(codecs),
        direction=direction,
        codecs=codecs,
        extensions=common_extensions(offer, described),
        simulcast=offer.simulcast if receiving else (),
        simulcast_direction="recv" if receiving else "",
    )


def _opus_wishes(codec: CodecParameters, dtx: bool, stereo: bool) -> CodecParameters:
    """RFC 7587 §6.1: what we, as receiver, prefer the sender to do."""
    if codec.mime != "audio/opus":
        return codec
    values = {key: value for key, value in codec.fmtp if key not in ("usedtx", "stereo", "sprop-stereo")}
    if dtx:
        values["usedtx"] = "1"
    if stereo:
        values["stereo"] = "1"
    return replace(codec, fmtp=tuple(sorted(values.items())))


def sending(section: Section, stream_id: str, track_id: str, encoding: EncodingParameters) -> Section:
    return replace(
        section,
        direction="sendonly",
        stream_id=stream_id,
        track_id=track_id,
        send_encodings=(encoding,),
        cname=stream_id.partition("|")[0],
    )


def offer_media(kind: Kind, mid: str, direction: str = "inactive") -> Section:
    codecs = OFFERED_AUDIO if kind is Kind.AUDIO else OFFERED_VIDEO
    return Section(
        kind=kind.value,
        mid=mid,
        formats=formats_of(codecs),
        direction=direction,
        codecs=codecs,
        extensions=OFFERED_EXTENSIONS[kind.value],
    )


def offer_application(mid: str) -> Section:
    return Section(
        kind="application",
        mid=mid,
        protocol="UDP/DTLS/SCTP",
        formats=("webrtc-datachannel",),
        sctp_port=5000,
        max_message_size=MAX_MESSAGE_SIZE,
    )


def describe(sections: Iterable[Section], session_id: int, version: int, mixed: bool) -> Description:
    """An offer or answer of ours with everything that is not rejected in one bundle."""
    listed = tuple(sections)
    return Description(
        sections=listed,
        bundle=tuple(section.mid for section in listed if not section.rejected),
        session_id=session_id,
        version=version,
        ice_lite=True,
        extmap_allow_mixed=mixed,
    )


def producer_parameters(
    offer: Section, answer: Section, encodings: tuple[EncodingParameters, ...]
) -> RtpParameters:
    return RtpParameters(
        mid=offer.mid,
        codecs=answer.codecs,
        header_extensions=answer.extensions,
        encodings=encodings or (EncodingParameters(),),
    )


def refuse(section: Section) -> Section:
    return replace(rejected(section), formats=section.formats[:1] or ("0",))
