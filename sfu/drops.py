"""Why a packet died: every drop is counted under one stable word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from sfu.messages import Counter


class DropReason(StrEnum):
    """The ``reason`` label of ``lianxin_dropped_total``; values are stable for dashboards."""

    # at the socket
    OVERSIZE = "oversize"
    UNKNOWN_PROTOCOL = "unknown_protocol"  # first byte is none of RFC 7983's
    UNBOUND_ADDRESS = "unbound_address"  # ICE has not chosen this address
    NO_KEYS = "no_keys"  # DTLS is not done
    SEND_BUFFER_FULL = "send_buffer_full"
    SEND_FAILED = "send_failed"
    # SRTP
    SRTP_AUTH = "srtp_auth"
    SRTP_REPLAY = "srtp_replay"
    SRTP_FAILED = "srtp_failed"
    SRTCP_AUTH = "srtcp_auth"
    SRTCP_REPLAY = "srtcp_replay"
    SRTCP_FAILED = "srtcp_failed"
    # RTP and RTCP from publishers
    MALFORMED_RTP = "malformed_rtp"
    MALFORMED_RTCP = "malformed_rtcp"
    RTCP_RATE = "rtcp_rate"  # more compounds than a client needs: each one costs us more than its sender
    MALFORMED_PAYLOAD = "malformed_payload"
    TOO_MANY_SSRCS = "too_many_ssrcs"
    UNKNOWN_SSRC = "unknown_ssrc"
    UNKNOWN_PAYLOAD_TYPE = "unknown_payload_type"
    PRODUCER_PAUSED = "producer_paused"
    DUPLICATE = "duplicate"
    PADDING = "padding"
    HELD = "held"  # more packets than are kept while policy decides
    # towards one receiver
    NOT_CONNECTED = "not_connected"
    WAITING_FOR_KEY_FRAME = "waiting_for_key_frame"
    TEMPORAL_LAYER = "temporal_layer"
    SPATIAL_LAYER = "spatial_layer"
    NO_CODEC = "no_codec"  # the receiver has no payload type for this codec
    TOO_OLD = "too_old"
    PACER_FULL = "pacer_full"  # a key frame for a line that can't take it
    TAP_OVERFLOW = "tap_overflow"
    # NACK from receivers
    NACK_MISS = "nack_miss"
    NACK_LIMIT = "nack_limit"
    NACK_TOO_SOON = "nack_too_soon"
    NACK_OUTAGE = "nack_outage"  # what was lost in an outage is not sent again: a key frame mends it
    # transports
    STUN_MALFORMED = "stun_malformed"
    STUN_UNKNOWN_USER = "stun_unknown_user"
    STUN_UNAUTHENTICATED = "stun_unauthenticated"
    STUN_RATE = "stun_rate"
    STUN_UNEXPECTED = "stun_unexpected"  # neither a binding request nor an indication
    TCP_SLOW = "tcp_slow"  # a client behind TCP reads slower than we send
    TCP_INNER_FULL = "tcp_inner_full"  # between a TCP bridge and our own port
    DTLS_MALFORMED = "dtls_malformed"
    DTLS_UNKNOWN_ADDRESS = "dtls_unknown_address"
    SCTP_MALFORMED = "sctp_malformed"
    SCTP_WINDOW = "sctp_window"  # beyond what our receive window allows
    DATA_CHANNEL_UNKNOWN = "data_channel_unknown"
    DATA_BUFFER_FULL = "data_buffer_full"
    DATA_TOO_LARGE = "data_too_large"
    CHANNEL_FULL = "channel_full"  # an event that the control process did not fetch in time


class Drops:
    """Counts of one worker, monotonic.  ``source``: what a native relay has counted since the last call."""

    __slots__ = ("_counts", "source")

    def __init__(self) -> None:
        self._counts: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        self.source: Callable[[], Iterable[tuple[DropReason, int]]] | None = None

    @property
    def counts(self) -> Mapping[DropReason, int]:
        if self.source is not None:
            for reason, number in self.source():
                self._counts[reason] += number
        return self._counts

    def count(self, reason: DropReason, number: int = 1) -> None:
        self._counts[reason] += number

    def counters(self) -> list[Counter]:
        return [
            Counter("lianxin_dropped_total", (("reason", reason.value),), float(number))
            for reason, number in self.counts.items()
            if number
        ]
