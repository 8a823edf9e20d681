"""Data packets: who sent them is stamped by us, who receives them is honoured, their order is kept."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.message import DecodeError
from livekit.protocol import models

from core import counters
from sfu.messages import SendData
from signaling.livekit.participant import Participant
from signaling.livekit.peers import LABELS
from signaling.livekit.room import Room

RELIABLE, LOSSY = LABELS


def relay(sender: Participant, label: str, payload: bytes, now: float) -> None:
    """A packet from a client's data channel; ``now`` monotonic seconds.  Bad ones are dropped and counted."""
    room = sender.room
    if label not in LABELS:
        counters.refused("data_label")
        return
    if not sender.grants.can_publish_data:
        counters.refused("data_not_allowed")
        return
    if len(payload) > room.limits.data_packet_bytes or not sender.data_rate.take(now):
        counters.refused("data_limit")
        return
    try:
        packet = models.DataPacket.FromString(payload)
    except (DecodeError, ValueError, RecursionError):
        counters.refused("data_malformed")
        return
    if packet.WhichOneof("value") in (None, "speaker"):
        counters.refused("data_kind")  # who speaks is ours to say
        return
    if label == RELIABLE and packet.sequence:
        # After a resume the client sends again what may have been lost; SCTP had kept it.
        if packet.sequence <= sender.last_sequence:
            return
        sender.last_sequence = packet.sequence
    stamp(packet, sender)
    deliver(room, packet, label, but=sender)


def stamp(packet: models.DataPacket, sender: Participant) -> None:
    packet.participant_sid = sender.sid
    packet.participant_identity = sender.identity
    packet.kind = models.DataPacket.Kind.RELIABLE
    if packet.HasField("user"):
        packet.user.participant_sid = sender.sid
        packet.user.participant_identity = sender.identity
        if not packet.destination_identities:
            packet.destination_identities.extend(packet.user.destination_identities)


def deliver(room: Room, packet: models.DataPacket, label: str, but: Participant | None = None) -> None:
    """To the destinations it names, by identity or (older clients) by sid; to all when it names none."""
    packet.kind = models.DataPacket.Kind.LOSSY if label == LOSSY else models.DataPacket.Kind.RELIABLE
    identities: Collection[str] = set(packet.destination_identities)
    sids: Collection[str] = set(packet.user.destination_sids) if packet.HasField("user") else ()
    data = packet.SerializeToString()
    for participant in room.participants.values():
        if participant is but:
            continue
        if (identities or sids) and participant.identity not in identities and participant.sid not in sids:
            continue
        peer = participant.downstream
        if peer.opened is not None:
            room.post(SendData(peer.transport_id, label, data))
