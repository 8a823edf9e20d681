"""What the worker measured goes to clients (levels, connection quality) and to the observer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from sfu.messages import ConsumerReport, Levels, ProducerReport, Report, TransportReport
from signaling.livekit import lines, reports

if TYPE_CHECKING:
    from signaling.livekit.participant import Participant
    from signaling.livekit.room import Room
    from signaling.livekit.tracks import Track

Updates = Sequence[tuple["Participant", rtc.ConnectionQualityInfo]]


def tell_levels(room: Room, event: Levels, producers: Mapping[str, Track]) -> None:
    levels: dict[str, float] = {}
    loud: dict[str, float] = {}
    for level in event.levels:
        track = producers.get(level.producer_id)
        if track is None or track.publisher.room is not room or track.muted:
            continue
        publisher = track.publisher
        levels[publisher.identity] = max(level.dbov, levels.get(publisher.identity, -127.0))
        if level.active and not publisher.hidden:
            loud[publisher.sid] = max(reports.linear_level(level.dbov), loud.get(publisher.sid, 0.0))
    changed = {sid: level for sid, level in loud.items() if room.speaking.get(sid) != level}
    fallen = [sid for sid in room.speaking if sid not in loud]
    if changed or fallen:
        room.speaking = loud
        speakers = [models.SpeakerInfo(sid=sid, level=level, active=True) for sid, level in changed.items()]
        speakers += [models.SpeakerInfo(sid=sid, level=0, active=False) for sid in fallen]
        room.broadcast(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=speakers)))
    if room.owner.observer is not None and levels:
        room.owner.observer.levels(room.name, levels)


class Readings:
    """One worker's report, by id."""

    def __init__(self, report: Report) -> None:
        self._producers: dict[str, ProducerReport] = {item.producer_id: item for item in report.producers}
        self._consumers: dict[str, ConsumerReport] = {item.consumer_id: item for item in report.consumers}
        self._transports: dict[str, TransportReport] = {item.transport_id: item for item in report.transports}

    def link(self, participant: Participant) -> reports.LinkReport:
        producers, consumers, transports = self._producers, self._consumers, self._transports
        peers = (participant.publisher, participant.subscriber)
        return reports.link_report(
            [producers[t.producer_id] for t in participant.tracks.values() if t.producer_id in producers],
            [
                consumers[s.consumer_id]
                for s in participant.reception.subscriptions.values()
                if s.consumer_id in consumers
            ],
            [transports[p.transport_id] for p in peers if p is not None and p.transport_id in transports],
            participant.media_lost,
        )


def tell_quality(room: Room, readings: Readings, now: float) -> None:
    """``now`` monotonic.  Everybody's line is judged beside the others': a common fault is the centre's."""
    links = {participant: readings.link(participant) for participant in room.participants.values()}
    smoothed = {p: lines.smooth(p.line.facts, link.line) for p, link in links.items()}
    centre = lines.central(smoothed.values())
    told: dict[str, dict[str, object]] = {}
    updates: list[tuple[Participant, rtc.ConnectionQualityInfo]] = []
    for participant, link in links.items():
        participant.line = lines.judge(participant.line, smoothed[participant], centre, now)
        told[participant.identity] = reports.facts(link, participant.line)
        quality = reports.BY_LEVEL[participant.line.quality]
        if quality != participant.quality:
            participant.quality = quality
            updates.append((participant, quality_info(participant.sid, quality)))
    _send_updates(room, updates)
    if room.owner.observer is not None and told:
        room.owner.observer.quality(room.name, told)


def _send_updates(room: Room, updates: Updates) -> None:
    if not updates:
        return
    concerned = {about.sid for about, _ in updates}
    of_others = [info for about, info in updates if not about.hidden]
    encoded = rtc.SignalResponse(
        connection_quality=rtc.ConnectionQualityUpdate(updates=of_others)
    ).SerializeToString()
    for viewer in room.participants.values():
        if viewer.sid not in concerned:
            if of_others:
                viewer.send_encoded(encoded)
            continue
        # "Lost" about itself makes a browser reconnect fully after 10 s; it knows better (trap 12).
        infos = [
            info
            for about, info in updates
            if (about is viewer and info.quality != reports.QUALITY.LOST)
            or (about is not viewer and not about.hidden)
        ]
        if infos:
            update = rtc.ConnectionQualityUpdate(updates=infos)
            viewer.send(rtc.SignalResponse(connection_quality=update))


def quality_info(sid: str, quality: models.ConnectionQuality) -> rtc.ConnectionQualityInfo:
    return rtc.ConnectionQualityInfo(participant_sid=sid, quality=quality, score=reports.SCORE[quality])
