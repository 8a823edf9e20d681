"""Pure functions on RTP parameters: which payload type of a receiver fits which of a producer."""

from __future__ import annotations

from sfu.params import CodecParameters, RtpParameters
from sfu.route import Binding, OutCodec
from sfu.rtp import ExtensionPlan
from sfu.seams import LegHandle

OPUS, RED = "audio/opus", "audio/red"
AUXILIARY = frozenset({"video/rtx", "audio/rtx", "video/ulpfec", "video/flexfec-03", "video/red"})


def _fmtp(codec: CodecParameters, key: str, default: str) -> str:
    return next((value for name, value in codec.fmtp if name.lower() == key), default)


def _fit(mine: CodecParameters, theirs: CodecParameters) -> int:
    """How well a receiver's codec takes a producer's: 0 not at all, more is better."""
    if mine.mime.lower() != theirs.mime.lower() or mine.clock_rate != theirs.clock_rate:
        return 0
    mime = mine.mime.lower()
    if mime == "video/h264":
        if _fmtp(mine, "packetization-mode", "0") != _fmtp(theirs, "packetization-mode", "0"):
            return 0
        ours = _fmtp(mine, "profile-level-id", "42e01f").lower()
        other = _fmtp(theirs, "profile-level-id", "42e01f").lower()
        # libwebrtc decodes any profile whatever was negotiated; the same profile is merely the better word
        return 4 if ours == other else 3 if ours[:4] == other[:4] else 2 if ours[:2] == other[:2] else 1
    if mime in ("video/vp9", "video/av1"):
        name = "profile-id" if mime == "video/vp9" else "profile"
        return 1 if _fmtp(mine, name, "0") == _fmtp(theirs, name, "0") else 0
    return 1


def match(
    producer: RtpParameters, receiver: RtpParameters, *, make_red: bool = False, strip_red: bool = False
) -> dict[int, OutCodec]:
    """The producer's payload types → the receiver's.  Empty when they have no codec in common.

    ``make_red``: plain Opus goes out as RED if the receiver takes it; ``strip_red``: RED as plain Opus.
    """
    found: dict[int, OutCodec] = {}
    theirs_opus = next((c for c in receiver.codecs if c.mime.lower() == OPUS), None)
    theirs_red = next((c for c in receiver.codecs if c.mime.lower() == RED), None)
    for codec in producer.codecs:
        mime = codec.mime.lower()
        if mime in AUXILIARY:
            continue
        best = max(receiver.codecs, key=lambda other: _fit(codec, other), default=None)
        fits = best is not None and bool(_fit(codec, best))
        if mime == RED and theirs_opus is not None and (strip_red or not fits):
            found[codec.payload_type] = OutCodec(theirs_opus.payload_type, codec.clock_rate, strip_red=True)
            continue
        if best is None or not fits:
            continue
        inner = -1
        if mime == RED and theirs_opus is not None:
            mine_opus = next((c for c in producer.codecs if c.mime.lower() == OPUS), None)
            if mine_opus is not None and mine_opus.payload_type != theirs_opus.payload_type:
                inner = theirs_opus.payload_type
        rtx = best.rtx_payload_type
        found[codec.payload_type] = OutCodec(
            best.payload_type,
            codec.clock_rate,
            red_inner=inner,
            rtx_type=-1 if rtx is None else rtx,
            make_red=theirs_red.payload_type if make_red and mime == OPUS and theirs_red is not None else -1,
        )
    return found


def bind(
    producer: RtpParameters,
    leg: LegHandle,
    receiver: RtpParameters,
    make_red: bool = False,
    strip_red: bool = False,
) -> Binding:
    """How packets of ``producer``, sent on ``leg``, are written for ``receiver``."""
    encoding = receiver.encodings[0] if receiver.encodings else None
    rid = encoding.rid if encoding is not None else None
    return Binding(
        match(producer, receiver, make_red=make_red, strip_red=strip_red),
        ExtensionPlan(receiver.header_extensions, leg.ids, receiver.mid),
        ExtensionPlan(receiver.header_extensions, leg.ids, receiver.mid, repaired_rid=rid),
    )


def bind_tap(producer: RtpParameters, leg: LegHandle) -> Binding:
    """A tap takes the producer's own numbers, RED stripped, no extensions."""
    codecs: dict[int, OutCodec] = {}
    opus = next((c for c in producer.codecs if c.mime.lower() == OPUS), None)
    for codec in producer.codecs:
        mime = codec.mime.lower()
        if mime == RED and opus is not None:
            codecs[codec.payload_type] = OutCodec(opus.payload_type, codec.clock_rate, strip_red=True)
        elif mime not in AUXILIARY and mime != RED:
            codecs[codec.payload_type] = OutCodec(codec.payload_type, codec.clock_rate)
    plan = ExtensionPlan((), leg.ids, "")
    return Binding(codecs, plan, plan)


def tap_codecs(producer: RtpParameters) -> tuple[CodecParameters, ...]:
    """What a tap of this producer may meet: RED is taken off before."""
    return tuple(c for c in producer.codecs if c.mime.lower() not in AUXILIARY and c.mime.lower() != RED)


def resends(receiver: RtpParameters) -> bool:
    """Whether the receiver may ask for packets again (RFC 4585 generic NACK)."""
    return any("nack" in codec.rtcp_feedback for codec in receiver.codecs)
