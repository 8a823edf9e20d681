"""The words that a control process and a media worker exchange.

Requests are answered with their reply (or ``Failed``); events come unasked.  Everything is a frozen
dataclass of plain values, so the same objects travel by reference inside one process and through
msgspec over a Channel.  Ids are made by the control process, so a request may be repeated after a
crash: opening what is open and closing what is closed are both without effect.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfu.params import DtlsFingerprint, IceCandidate, IceParameters, Kind, RtpParameters

# ---------------------------------------------------------------- requests: rooms and transports


@dataclass(frozen=True, slots=True)
class OpenRouter:
    router_id: str


@dataclass(frozen=True, slots=True)
class CloseRouter:
    """Closes its transports, and with them their producers, consumers and taps."""

    router_id: str


@dataclass(frozen=True, slots=True)
class OpenTransport:
    """Answered with TransportOpened.  The worker is ICE-lite and the DTLS server."""

    router_id: str
    transport_id: str


@dataclass(frozen=True, slots=True)
class ConnectTransport:
    """What the client said in its SDP.  May be repeated with new ICE parameters (the client restarts ICE)."""

    transport_id: str
    ice: IceParameters
    fingerprints: tuple[DtlsFingerprint, ...]


@dataclass(frozen=True, slots=True)
class RestartIce:
    """New local credentials (RFC 8445 §9), DTLS and media go on.  Answered with TransportOpened.

    The old credentials stay valid until a check with the new ones has succeeded.
    """

    transport_id: str


@dataclass(frozen=True, slots=True)
class OpenDataChannel:
    """Server-created data channel (RFC 8832 DATA_CHANNEL_OPEN); the client's own need no request."""

    transport_id: str
    label: str
    ordered: bool = True
    max_retransmits: int | None = None


@dataclass(frozen=True, slots=True)
class SendData:
    """To the open channel with this label; dropped and counted when there is none or its buffer is full."""

    transport_id: str
    label: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseTransport:
    transport_id: str


# ---------------------------------------------------------------- requests: media


@dataclass(frozen=True, slots=True)
class Produce:
    """A client's sending section becomes a Producer.  ``paused`` producers are dropped in the relay."""

    transport_id: str
    producer_id: str
    kind: Kind
    rtp: RtpParameters
    paused: bool = False


@dataclass(frozen=True, slots=True)
class SetProducerPaused:
    producer_id: str
    paused: bool


@dataclass(frozen=True, slots=True)
class CloseProducer:
    producer_id: str


@dataclass(frozen=True, slots=True)
class Consume:
    """Forward a Producer to a client's receiving section.  ``rtp.encodings[0]`` gives SSRC and RTX SSRC.

    Fails with code "no_common_codec" when the producer's codecs and the section's have none in common.
    ``spatial_layer`` is the highest encoding wanted (0 = lowest); the nearest one that is alive is sent.
    ``priority`` tells who is served first when the line can't carry all: the higher, the earlier.
    """

    transport_id: str
    consumer_id: str
    producer_id: str
    rtp: RtpParameters
    paused: bool = False
    spatial_layer: int = 2
    temporal_layer: int = 2
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SetConsumerPriority:
    """See ``Consume.priority``; takes effect with the next allocation."""

    consumer_id: str
    priority: int


@dataclass(frozen=True, slots=True)
class SetConsumerPaused:
    consumer_id: str
    paused: bool


@dataclass(frozen=True, slots=True)
class SetLayer:
    consumer_id: str
    spatial_layer: int
    temporal_layer: int = 2


@dataclass(frozen=True, slots=True)
class SetConsumerSource:
    """Another producer of the same kind takes over; numbers and timestamps stay continuous."""

    consumer_id: str
    producer_id: str


@dataclass(frozen=True, slots=True)
class RequestKeyFrame:
    producer_id: str


@dataclass(frozen=True, slots=True)
class CloseConsumer:
    consumer_id: str


@dataclass(frozen=True, slots=True)
class StartTap:
    """Write a Producer's packets (best layer, continuous numbers) to the dump at ``path``."""

    tap_id: str
    producer_id: str
    path: str


@dataclass(frozen=True, slots=True)
class StopTap:
    tap_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Close all and end the worker."""


# ---------------------------------------------------------------- replies


@dataclass(frozen=True, slots=True)
class Done:
    pass


@dataclass(frozen=True, slots=True)
class TransportOpened:
    transport_id: str
    ice: IceParameters
    candidates: tuple[IceCandidate, ...]
    fingerprints: tuple[DtlsFingerprint, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """``code`` is stable for programs, ``reason`` is one English sentence for the log."""

    code: str
    reason: str


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class TransportState:
    """``state``: "connected" (ICE and DTLS are done), "disconnected" (no consent for 5 s, may return),
    "failed" or "closed"."""

    transport_id: str
    state: str


@dataclass(frozen=True, slots=True)
class DataReceived:
    transport_id: str
    label: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class DataChannelOpened:
    transport_id: str
    label: str


@dataclass(frozen=True, slots=True)
class ProducerLive:
    """First packet of a producer has come: ``mime`` is the codec that it really sends."""

    producer_id: str
    mime: str


@dataclass(frozen=True, slots=True)
class Level:
    """Smoothed loudness of one audio producer, dBov (RFC 6464): 0 loudest, -127 silence."""

    producer_id: str
    dbov: float
    active: bool


@dataclass(frozen=True, slots=True)
class Levels:
    """Every 300 ms for each router in which anything is audible or has just fallen silent, loudest first."""

    router_id: str
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class TapStopped:
    """A tap ended without being asked to: disk full, producer closed."""

    tap_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StreamStates:
    """The line of this client can't carry these consumers any longer (``held``), or can again (``freed``)."""

    transport_id: str
    held: tuple[str, ...] = ()
    freed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerReport:
    spatial_layer: int
    ssrc: int
    bitrate_bps: float
    packets: int
    bytes: int
    lost: int
    jitter_ms: float
    fps: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ProducerReport:
    """``loss`` is the fraction lost (0..1) on the way to us since the last report."""

    producer_id: str
    kind: Kind
    loss: float
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True, slots=True)
class ConsumerReport:
    """``loss`` and ``rtt_ms`` come from the receiver's RTCP reports (RFC 3550 §6.4)."""

    consumer_id: str
    kind: Kind
    bitrate_bps: float
    packets: int
    bytes: int
    loss: float
    rtt_ms: float
    spatial_layer: int


@dataclass(frozen=True, slots=True)
class TransportReport:
    transport_id: str
    rtt_ms: float
    loss_up: float
    loss_down: float
    bytes_in: int
    bytes_out: int
    jitter_up_ms: float = 0.0  # worst stream of the client's (RFC 3550 A.8)
    jitter_down_ms: float = 0.0  # worst stream by the client's reports
    estimate_bps: float = 0.0  # what the line down to the client carries, 0 = unknown
    wanted_bps: float = 0.0  # what its consumers would take if the line carried all
    held: int = 0  # consumers that wait for a better line
    over_tcp: bool = False


@dataclass(frozen=True, slots=True)
class Counter:
    """One monotonic (or, for names not ending in ``_total``, instantaneous) value of the worker."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Report:
    """Once a second."""

    producers: tuple[ProducerReport, ...]
    consumers: tuple[ConsumerReport, ...]
    transports: tuple[TransportReport, ...]
    counters: tuple[Counter, ...]


Request = (
    OpenRouter | CloseRouter | OpenTransport | ConnectTransport | RestartIce | OpenDataChannel | SendData
    | CloseTransport | Produce | SetProducerPaused | CloseProducer | Consume | SetConsumerPaused | SetLayer
    | SetConsumerPriority | SetConsumerSource | RequestKeyFrame | CloseConsumer | StartTap | StopTap
    | Shutdown
)  # fmt: skip
MediaRequest = (
    Produce | SetProducerPaused | CloseProducer | Consume | SetConsumerPaused | SetLayer
    | SetConsumerPriority | SetConsumerSource | RequestKeyFrame | CloseConsumer | StartTap | StopTap
)  # fmt: skip
Reply = Done | TransportOpened | Failed
Event = (
    TransportState | DataReceived | DataChannelOpened | ProducerLive | Levels | StreamStates | TapStopped
    | Report
)  # fmt: skip
