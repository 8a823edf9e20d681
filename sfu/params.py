"""What a client can send and receive, in ORTC's shape: frozen, without SDP text, fit to travel.

Nouns follow the ORTC draft (RTCRtpParameters) and mediasoup.  The SFU never sees an SDP line;
``signaling/livekit/sdp.py`` translates in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    AUDIO = "audio"
    VIDEO = "video"


class ExtensionUri(StrEnum):
    """RTP header extensions that the relay reads or writes (RFC 8285 carries them)."""

    MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
    RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
    REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
    AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
    TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
    ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
    DEPENDENCY_DESCRIPTOR = (
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
    )


@dataclass(frozen=True, slots=True)
class IceParameters:
    """RFC 8445 credentials of one side."""

    ufrag: str
    pwd: str


@dataclass(frozen=True, slots=True)
class IceCandidate:
    """A host candidate of an ICE-lite agent (RFC 8445 §5.3); over TCP a passive one (RFC 6544 §4.5)."""

    foundation: str
    ip: str
    port: int
    priority: int
    protocol: str = "udp"  # or "tcp"
    component: int = 1
    tcp_type: str | None = None  # "passive" for TCP


@dataclass(frozen=True, slots=True)
class DtlsFingerprint:
    """RFC 8122: ``algorithm`` as in SDP ("sha-256"), ``value`` as colon-separated upper-case hex."""

    algorithm: str
    value: str


@dataclass(frozen=True, slots=True)
class CodecParameters:
    """One negotiated payload type.  ``fmtp``: sorted pairs, such as (("packetization-mode", "1"),)."""

    mime: str  # "audio/opus", "audio/red", "video/VP8", "video/H264", ... as registered with IANA
    payload_type: int
    clock_rate: int
    channels: int = 1
    fmtp: tuple[tuple[str, str], ...] = ()
    rtcp_feedback: tuple[str, ...] = ()  # "nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"
    rtx_payload_type: int | None = None


@dataclass(frozen=True, slots=True)
class HeaderExtension:
    uri: str
    id: int


@dataclass(frozen=True, slots=True)
class EncodingParameters:
    """One encoding of a stream: known by RID (simulcast) or by SSRC, or only by the section's MID."""

    rid: str | None = None
    ssrc: int | None = None
    rtx_ssrc: int | None = None


@dataclass(frozen=True, slots=True)
class RtpParameters:
    """What flows in one media section, in one direction.

    For a producer ``encodings`` are ordered from the lowest quality to the highest (RFC 8853 gives no
    order, so signalling sorts by name: q < h < f, otherwise by the announced layers).
    For a consumer there is exactly one encoding with an SSRC chosen by signalling.
    """

    mid: str
    codecs: tuple[CodecParameters, ...]
    header_extensions: tuple[HeaderExtension, ...] = ()
    encodings: tuple[EncodingParameters, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """Keying material of one leg (RFC 5764 §4.2): key and salt concatenated, as libsrtp wants them.

    ``profile`` is libsrtp's name: "aead_aes_128_gcm", "aead_aes_256_gcm", "aes128_cm_sha1_80".
    """

    profile: str
    receive: bytes
    send: bytes
