"""Bounds on what a stranger may ask of the LiveKit edge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, rates per second, times in seconds."""

    token_bytes: int = 8_192
    join_request_bytes: int = 262_144
    message_bytes: int = 262_144
    messages_per_s: float = 100.0
    message_burst: int = 400
    unanswered_joins: int = 256  # WebSockets accepted that have not finished joining
    unanswered_joins_per_address: int = 64
    send_queue: int = 512  # messages waiting for a slow client; overflow closes its WebSocket
    send_timeout_s: float = 15.0
    participants_per_room: int = 1_000
    rooms: int = 1_000
    tracks_per_participant: int = 32
    trickles_per_s: float = 50.0
    trickle_bytes: int = 4_096
    metadata_bytes: int = 65_536
    attributes_bytes: int = 65_536
    name_bytes: int = 256  # of a participant, a room, a track
    identity_bytes: int = 256
    data_packet_bytes: int = 262_144
    data_packets_per_s: float = 500.0
    data_packet_burst: int = 2_000
    twirp_bytes: int = 1_048_576
    resume_window_s: float = 20.0  # a lost WebSocket may come back this long
    join_media_window_s: float = 20.0  # media must have connected this long after the join
    quality_down_delay_s: float = 5.0  # before an unneeded layer is switched off at the sender
    ping_interval_s: int = 5
    ping_timeout_s: int = 20
    refresh_token_s: float = 300.0
    empty_timeout_s: int = 300
    departure_timeout_s: int = 20


class Bucket:
    """Token bucket; the time is an argument (seconds, monotonic)."""

    __slots__ = ("_burst", "_level", "_rate", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._updated = now

    def take(self, now: float, cost: float = 1.0) -> bool:
        """False when the allowance is used up."""
        self._level = min(self._burst, self._level + (now - self._updated) * self._rate)
        self._updated = now
        if self._level < cost:
            return False
        self._level -= cost
        return True
