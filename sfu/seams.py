"""The seams of the SFU: what the relay, the media policy and the transports ask of each other.

The relay does what happens once per packet; everything else is policy above it.  There are two relays
behind the same ``Relay`` protocol: ``sfu.relay.PythonRelay``, the readable reference, and
``sfu.native_relay.NativeRelay``, whose packets never meet the interpreter.  Policy sees legs, feeds and
routes as handles and never touches a packet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sfu.drops import Drops
from sfu.messages import Counter, Event, StartTap
from sfu.params import CodecParameters, HeaderExtension, Kind, SrtpKeys

if TYPE_CHECKING:
    from sfu.route import Binding
    from sfu.rtp import ExtensionIds

Address = tuple[str, int]
Emit = Callable[[Event], None]
# A leg or feed that the very same relay has given out: handles of two relays don't mix
OwnLeg = Any
OwnFeed = Any


class DatagramSink(Protocol):
    """Takes what the relay does not forward: demultiplexed by RFC 7983."""

    def on_stun(self, data: bytes, address: Address) -> None: ...

    def on_dtls(self, data: bytes, address: Address) -> None: ...


class Legs(Protocol):
    """The transports' side of the relay."""

    def send(self, data: bytes, address: Address) -> None:
        """Send a datagram as it is (STUN answers, DTLS records)."""

    def open_leg(self, leg: str, keys: SrtpKeys) -> None:
        """DTLS is done: ``leg`` (the transport id) may send and receive SRTP.  Repeated: re-keyed."""

    def bind_leg(self, leg: str, address: Address) -> None:
        """ICE chose (or changed) the client's address.  Packets of unbound addresses are dropped."""

    def close_leg(self, leg: str) -> None: ...


class TapSink(Protocol):
    """Where a tap's packets go.  Must not block: it has its own writer thread and a bounded queue."""

    def send_rtp(self, packet: bytes, arrival_ms: float) -> None:
        """A plain RTP packet (RFC 3550) with continuous numbers; wall clock in ms since the epoch."""

    def send_sender_report(self, ntp_ms: float, rtp_timestamp: int, arrival_ms: float) -> None:
        """The publisher's clock: its NTP time (ms since the epoch) of an RTP timestamp (RFC 3550 §6.4.1)."""

    def close(self) -> None: ...


TapFactory = Callable[[StartTap, tuple[CodecParameters, ...]], TapSink]


class Group(NamedTuple):
    """Packets that left within 5 ms of each other; the times are those of the last one."""

    send_ms: float  # our clock
    arrival_ms: float  # the receiver's clock
    size: int  # bytes of RTP


class Cluster(NamedTuple):
    """What one feedback acknowledges of a probe."""

    cluster: int
    packets: int
    size: int  # bytes of RTP
    first_send_ms: float
    last_send_ms: float
    first_arrival_ms: float
    last_arrival_ms: float


class Digest(NamedTuple):
    """What one transport-wide feedback of a receiver says about the packets that we sent it."""

    groups: tuple[Group, ...]  # complete ones only; the open group is given out with a later feedback
    received: int
    lost: int  # reported missing for the first time
    acked_bytes: int
    newest_send_ms: float  # of the newest packet acknowledged; 0 = none
    clusters: tuple[Cluster, ...]


class FirstPacket(Protocol):
    """What tells whose an unknown SSRC is."""

    @property
    def ssrc(self) -> int: ...
    @property
    def payload_type(self) -> int: ...
    @property
    def mid(self) -> bytes: ...
    @property
    def rid(self) -> bytes: ...
    @property
    def repaired_rid(self) -> bytes: ...


class CodecView(Protocol):
    @property
    def mime(self) -> str: ...
    @property
    def clock_rate(self) -> int: ...


class FeedHandle(Protocol):
    """One encoding of a producer.  Counters only grow, but for ``renew``."""

    source: str  # producer id
    index: int  # spatial layer, 0 = lowest
    kind: Kind
    rid: str | None
    paused: bool

    @property
    def codecs(self) -> Mapping[int, CodecView]: ...
    @property
    def rtx_types(self) -> Mapping[int, int]:
        """RTX payload type → payload type."""

    @property
    def ssrc(self) -> int:
        """0 until a packet tells it."""

    @property
    def rtx_ssrc(self) -> int: ...
    @property
    def wanted(self) -> bool:
        """A route sends it or waits for its next key frame."""

    @property
    def packets(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def rtx_packets(self) -> int: ...
    @property
    def rtx_bytes(self) -> int: ...
    @property
    def layer_bytes(self) -> Sequence[int]:
        """Of each spatial layer alone, where the feed holds several (VP9, AV1): four counters."""

    @property
    def frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def recovered(self) -> int: ...
    @property
    def jitter(self) -> float:
        """In ticks of ``clock_rate`` (RFC 3550 A.8)."""

    @property
    def clock_rate(self) -> int: ...
    @property
    def highest(self) -> int:
        """Unwrapped sequence number, -1 = nothing yet."""

    @property
    def base_seq(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def report_ntp(self) -> int:
        """Of the newest sender report, 0 = none."""

    @property
    def report_arrival_ms(self) -> float: ...

    def alive(self, now_ms: float) -> bool: ...
    def take_fraction(self) -> int:
        """Fraction lost since the last call, 0…255 (RFC 3550 A.3)."""

    def take_level(self) -> tuple[float, int]:
        """Audio since the last call: summed power (1 = 0 dBov) and number of packets with a level."""

    def note_report(self, ntp: int, rtp_timestamp: int, local_ms: float, arrival_ms: float) -> None: ...


class RouteHandle(Protocol):
    """A consumer's way through the relay."""

    max_temporal: int
    max_spatial: int  # wanted of a feed that holds several spatial layers

    @property
    def spatial(self) -> int:
        """Highest spatial layer in force: down at the next picture, up at the next key frame."""

    @property
    def feed(self) -> FeedHandle | None:
        """What is sent now."""

    @property
    def target(self) -> FeedHandle | None:
        """What is sent from its next key frame (audio: packet) on."""

    @property
    def ssrc(self) -> int: ...
    @property
    def packets(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def timestamp_shift(self) -> int: ...

    def aim(self, feed: OwnFeed, binding: Binding) -> None:
        """Go over to ``feed`` at its next key frame (audio: at once); the old one goes on until then."""

    def stop(self) -> None:
        """Nothing is forwarded until the next ``aim``."""

    def hush(self, now_ms: float) -> None:
        """A voice ends here by order: a few frames of silence.  To be called before ``stop``."""

    def out_timestamp(self, now_ms: float) -> int | None:
        """The receiver's RTP timestamp of ``now_ms``; None when unknown."""

    def close(self) -> None: ...


class LegRouteHandle(RouteHandle, Protocol):
    """A route to a client."""

    @property
    def resent(self) -> int: ...
    @property
    def resent_bytes(self) -> int: ...
    def resend(self, sequence: int, now_ms: float) -> bool:
        """Answer a NACK for this number of ours."""


class TapRouteHandle(RouteHandle, Protocol):
    """A route into a file."""

    broken: str  # why the sink takes no more, "" = it does


class LegHandle(Protocol):
    """One client."""

    name: str
    rtt_ms: float  # by the receiver's reports, 0 = unknown
    ntp_shift_ms: float | None  # our clock minus the publisher's
    mending_until_ms: float  # after an outage NACKs for video rest until then, 0 = they never did

    @property
    def ready(self) -> bool:
        """Keys and address are there."""

    @property
    def ids(self) -> ExtensionIds:
        """What its packets call their header extensions."""

    @property
    def feeds(self) -> Mapping[int, FeedHandle]:
        """By SSRC."""

    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def other_packets(self) -> int:
        """Of no producer."""

    @property
    def other_bytes(self) -> int: ...

    def learn(self, extensions: Iterable[HeaderExtension]) -> None:
        """The ids that this client's packets use."""

    def bind(self, ssrc: int, feed: OwnFeed) -> None:
        """Packets of ``ssrc`` are ``feed``'s from now on; a feed that had another one begins anew."""

    def bind_rtx(self, ssrc: int, feed: OwnFeed) -> None: ...
    def drop(self, feed: OwnFeed) -> None:
        """``feed`` gets no more packets; its routes stop."""

    def acknowledge(self, body: bytes, now_ms: float) -> Digest:
        """A receiver's transport-wide feedback (what follows the header).  ValueError if it is none."""

    def set_pacing(self, rate_bps: float) -> None:
        """Video that has RTX leaves at this rate at most; 0 = at once."""

    @property
    def queued(self) -> int:
        """Packets that wait for it."""

    def probe(self, cluster: int, rate_bps: float, size: int) -> bool:
        """Send ``size`` bytes of padding at ``rate_bps`` beside the media; False: no stream can carry it.

        ``cluster`` (above 0) names all that leaves meanwhile in the digests to come.
        """

    def take_feedback(self, now_ms: float) -> list[bytes]:
        """Transport-wide feedback that is due (what follows the RTCP feedback header)."""


class MediaSide(Protocol):
    """The policy above the relay.  All calls are synchronous and come from the worker's loop."""

    def resolve(self, leg: LegHandle, packet: FirstPacket) -> bool:
        """An authenticated packet of an unknown SSRC; True when it has been bound."""

    def on_rtcp(self, leg: LegHandle, data: bytes, now_ms: float) -> None:
        """A decrypted compound packet."""

    def on_leg_ready(self, leg: LegHandle) -> None:
        """Keys and address are there, for the first time or anew."""

    def on_lost_feed(self, feed: FeedHandle) -> None:
        """More packets are missing than retransmission can mend."""

    def on_alive(self, feed: FeedHandle, payload_type: int, now_ms: float) -> None:
        """The first packet, or the first after a silence; called before it is forwarded."""

    def on_key_frame(self, feed: FeedHandle) -> None:
        """A key frame begins."""

    def on_restart(self, feed: FeedHandle) -> None:
        """The numbers have begun anew: receivers need a key frame."""


class Relay(Legs, Protocol):
    """What the media policy asks of a relay, beside the transports' ``Legs``."""

    drops: Drops

    @property
    def nacks_sent(self) -> int:
        """Numbers that publishers were asked for."""

    @property
    def nacks_in(self) -> int:
        """Numbers that receivers asked for and that the relay has dealt with by itself."""

    def counters(self) -> list[Counter]:
        """What this relay measures of itself."""

    def attach(self, side: MediaSide) -> None: ...

    def leg(self, name: str) -> LegHandle:
        """The leg of this name, made if need be."""

    def legs(self) -> Sequence[LegHandle]: ...

    def open_feed(
        self, source: str, index: int, kind: Kind, codecs: tuple[CodecParameters, ...]
    ) -> FeedHandle: ...

    def open_route(
        self, leg: OwnLeg, *, is_video: bool, ssrc: int, rtx_ssrc: int, resends: bool
    ) -> LegRouteHandle: ...

    def open_tap(self, sink: TapSink, *, is_video: bool) -> TapRouteHandle: ...

    def send_rtcp(self, leg: OwnLeg, data: bytes) -> None: ...

    def release(self, now_ms: float) -> None:
        """Let go what pacers hold and is due.  The relay does it by itself every 5 ms; tests by hand."""

    def ask_again(self, leg: OwnLeg, now_ms: float) -> None:
        """Send the NACKs that are due to this publisher."""
