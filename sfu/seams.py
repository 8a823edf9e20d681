"""The seams of the SFU: what the relay, the media policy and the transports ask of each other.

The relay does what happens once per packet; everything else is policy above it.  A native relay
replaces ``sfu.relay.PythonRelay`` behind the same ``Relay`` protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sfu.messages import Event, StartTap
from sfu.params import CodecParameters, SrtpKeys

Address = tuple[str, int]
Emit = Callable[[Event], None]


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
