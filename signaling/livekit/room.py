"""One LiveKit room: its participants, its router in a media worker, and when its wanted state is worked out.

Who gets what is in ``evaluation``, what is recorded in ``taps``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from livekit.protocol import models, rtc

from core.ids import new_id
from sfu.errors import SfuError
from sfu.messages import OpenRouter, Reply, Request
from signaling.livekit import evaluation, messages, taps
from signaling.livekit.limits import Limits
from signaling.livekit.participant import STATE, Participant
from signaling.livekit.tracks import Track, TrackSetting

if TYPE_CHECKING:
    from signaling.livekit.rooms import MediaRooms

log = structlog.get_logger(__name__)
LARGE = 20  # participants; from here on news is told, and wishes are evaluated, in batches
BATCH_S = 0.075  # the first change of a quiet room acts at once, the next ones this long after it


class Room:
    """``worker_id`` None: not placed yet, or its worker died."""

    def __init__(self, owner: MediaRooms, name: str, now: float, monotonic: float) -> None:
        self.owner = owner
        self.name = name
        self.sid = new_id("RM_")
        self.limits: Limits = owner.limits
        self.worker_id: str | None = None
        self.router_id = ""
        self.metadata = ""
        self.max_participants = 0
        self.empty_timeout_s = owner.limits.empty_timeout_s
        self.departure_timeout_s = owner.limits.departure_timeout_s
        self.created_at = now
        self.empty_since = monotonic
        self.ever_joined = False
        self.participants: dict[str, Participant] = {}  # by identity
        self.tracks: dict[str, Track] = {}
        self.tcp_only: set[str] = set()  # identities that asked for it
        self.speaking: dict[str, float] = {}  # participant sid → level last told
        self._dirty = False  # everybody is to be evaluated
        self._doubtful: dict[str, Participant] = {}  # by sid: only these are
        self._news: dict[str, Participant] = {}  # by sid: the others are to be told
        self._woken = False
        self._ran_at = float("-inf")  # time of the loop
        self._opening = asyncio.Lock()
        self.closed = False

    # ------------------------------------------------------------ the media worker

    async def open(self) -> None:
        """Places the room on a worker.  Raises SfuError when there is none."""
        async with self._opening:
            if self.worker_id is not None:
                return
            worker_id = self.owner.node.place()
            self.router_id = f"{self.sid}:{new_id('', 4)}"
            self.owner.routers[self.router_id] = self
            self.worker_id = worker_id
            try:
                await self.owner.node.request(worker_id, OpenRouter(self.router_id))
            except SfuError:
                self.worker_id = None
                self.owner.routers.pop(self.router_id, None)
                raise

    async def request(self, message: Request) -> Reply:
        """Raises SfuError."""
        if self.worker_id is None:
            raise SfuError("no_worker", "the room has no media worker at the moment")
        return await self.owner.node.request(self.worker_id, message)

    def post(self, message: Request) -> None:
        if self.worker_id is not None:
            self.owner.node.post(self.worker_id, message)

    # ------------------------------------------------------------ indexes

    def index_track(self, track: Track) -> None:
        self.tracks[track.sid] = track

    def forget_track(self, track: Track) -> None:
        taps.stop(self, track)
        self.tracks.pop(track.sid, None)
        for participant in self.participants.values():
            participant.reception.choices.pop(track.sid, None)
            participant.reception.settings.pop(track.sid, None)
            participant.reception.unservable.discard(track.sid)
            participant.reception.forbidden.discard(track.sid)

    def index_producer(self, producer_id: str, track: Track) -> None:
        self.owner.producers[producer_id] = track

    def forget_producer(self, producer_id: str) -> None:
        self.owner.producers.pop(producer_id, None)

    def by_sid(self, sid: str) -> Participant | None:
        return next((p for p in self.participants.values() if p.sid == sid), None)

    # ------------------------------------------------------------ telling

    def message(self) -> models.Room:
        visible = [p for p in self.participants.values() if not p.hidden]
        return models.Room(
            sid=self.sid,
            name=self.name,
            empty_timeout=self.empty_timeout_s,
            departure_timeout=self.departure_timeout_s,
            max_participants=self.max_participants,
            creation_time=int(self.created_at),
            creation_time_ms=int(self.created_at * 1_000),
            enabled_codecs=messages.enabled_codecs(self.governed),
            metadata=self.metadata,
            num_participants=len(visible),
            num_publishers=sum(any(t.published for t in p.tracks.values()) for p in visible),
            active_recording=any(track.tap is not None for track in self.tracks.values()),
        )

    def broadcast(self, message: rtc.SignalResponse, but: Participant | None = None) -> None:
        encoded = message.SerializeToString()
        for participant in self.participants.values():
            if participant is not but:
                participant.send_encoded(encoded)

    def announce(self, participant: Participant) -> None:
        """A participant's news; of a hidden one only to itself."""
        if self.large and not participant.hidden and not participant.left:
            self._news[participant.sid] = participant
            self._wake()
            return
        update = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[participant.info()]))
        if participant.hidden:
            participant.send(update)
            return
        self.broadcast(update)
        if participant.left:
            participant.send(update)

    def _tell_news(self) -> None:
        """Comes before any offer of the tracks it tells of: clients can't place a track of a stranger."""
        infos = [participant.info() for participant in self._news.values() if not participant.left]
        self._news.clear()
        if infos:
            self.broadcast(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=infos)))

    def others(self, viewer: Participant) -> list[models.ParticipantInfo]:
        return [p.info() for p in self.participants.values() if p is not viewer and not p.hidden]

    def announce_room(self) -> None:
        self.broadcast(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=self.message())))

    # ------------------------------------------------------------ facts for the observer

    def active(self, participant: Participant) -> None:
        """Its media connection stands."""
        if participant.told_joined or participant.left:
            return
        participant.told_joined = True
        if self.owner.observer is not None:
            self.owner.observer.participant_joined(self.name, participant.identity)

    def published(self, track: Track) -> None:
        self.active(track.publisher)
        observer = self.owner.observer
        if observer is not None:
            identity = track.publisher.identity
            observer.track_published(self.name, identity, track.source, track.sid, track.info.mime_type)
            observer.local_mute(self.name, identity, track.source, track.local_muted)

    def unpublished(self, track: Track) -> None:
        if self.owner.observer is not None:
            identity = track.publisher.identity
            self.owner.observer.track_unpublished(self.name, identity, track.source, track.sid)

    def told_local_mute(self, track: Track) -> None:
        if self.owner.observer is not None:
            self.owner.observer.local_mute(
                self.name, track.publisher.identity, track.source, track.local_muted
            )

    def subscribed(self, track: Track) -> None:
        """The publisher hears once that somebody receives its track."""
        if not track.subscribed_once:
            track.subscribed_once = True
            track.publisher.send(
                rtc.SignalResponse(track_subscribed=rtc.TrackSubscribed(track_sid=track.sid))
            )

    # ------------------------------------------------------------ desired state

    @property
    def governed(self) -> bool:
        policy = self.owner.policy
        return policy is not None and policy.governs(self.name)

    def refresh(self) -> None:
        """Coalesced: many changes in one turn of the loop (of a large room: in 75 ms) are evaluated once."""
        self._dirty = True
        self._wake()

    def refresh_viewer(self, viewer: Participant) -> None:
        """As ``refresh``, when only this viewer's own wishes have changed."""
        self._doubtful[viewer.sid] = viewer
        self._wake()

    @property
    def large(self) -> bool:
        return len(self.participants) >= LARGE

    def _wake(self) -> None:
        if self._woken or self.closed:
            return
        self._woken = True
        loop = asyncio.get_running_loop()
        wait_s = self._ran_at + BATCH_S - loop.time() if self.large else 0
        if wait_s > 0:
            loop.call_later(wait_s, self._run)
        else:
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._woken = False
        self._ran_at = asyncio.get_running_loop().time()
        dirty, self._dirty = self._dirty, False
        doubtful = list(self._doubtful.values())
        self._doubtful.clear()
        if self.closed:
            return
        if self.worker_id is None:
            self._tell_news()
            return
        if not dirty:
            self._tell_news()
            for viewer in doubtful:
                if not viewer.left:
                    evaluation.evaluate(self, viewer)
            return
        for track in list(self.tracks.values()):
            was = track.silenced
            if track.published and self.decide_silence(track) != was:
                track.publisher.show_mute(track)
                track.publisher.tell_mute(track)
                track.publisher.changed()
        self._tell_news()
        evaluation.evaluate_all(self)
        evaluation.prioritize(self)
        for track in list(self.tracks.values()):
            taps.evaluate(self, track)

    def decide_silence(self, track: Track) -> bool:
        """Asked before the producer opens, so that not even its first packet passes."""
        policy = self.owner.policy
        track.silenced = (
            policy is not None
            and policy.governs(self.name)
            and policy.silenced(self.name, track.publisher.identity, track.source)
        )
        track.info.muted = track.muted
        return track.silenced

    # ------------------------------------------------------------ layers

    def demand_changed(self, track: Track) -> None:
        """More is told to the sender at once; less waits for ``settle_demand``."""
        self.settle_demand(track, self.owner.clock.monotonic())

    def settle_demand(self, track: Track, now: float) -> None:
        if not track.published or track.kind.value != "video" or track.publisher.left:
            return
        if track.demand.told is None:
            # A client begins with all its layers, and does not know its new track yet when we answer.
            track.demand.told = track.layers - 1
        highest = track.demand.update(track.wanted_layer(), now, self.limits.quality_down_delay_s)
        if highest is not None:
            track.publisher.send(track.quality_update(highest))

    def set_tracks(self, viewer: Participant, sids: list[str], setting: TrackSetting) -> None:
        for sid in sids[:256]:
            track = self.tracks.get(sid)
            if track is not None:
                viewer.reception.set_track(track, setting)

    # ------------------------------------------------------------ coming and going

    def admit(self, participant: Participant) -> None:
        self.participants[participant.identity] = participant
        self.ever_joined = True

    def dismiss(self, participant: Participant, reason: str) -> None:
        """Out of the room: media closed, everybody told.  Idempotent."""
        if participant.left:
            return
        participant.close()
        self.owner.forget(participant)
        if self.participants.get(participant.identity) is participant:
            del self.participants[participant.identity]
        self.speaking.pop(participant.sid, None)
        self._news.pop(participant.sid, None)
        self._doubtful.pop(participant.sid, None)
        participant.version += 1
        if not participant.hidden:
            update = rtc.ParticipantUpdate(participants=[participant.info()])
            self.broadcast(rtc.SignalResponse(update=update))
        if not self.participants:
            self.empty_since = self.owner.clock.monotonic()
        if participant.told_joined and self.owner.observer is not None:
            self.owner.observer.participant_left(self.name, participant.identity, reason)
        self.refresh()

    def expired(self, now: float) -> bool:
        """``now`` monotonic."""
        if self.participants:
            return False
        limit = self.departure_timeout_s if self.ever_joined else self.empty_timeout_s
        return now - self.empty_since >= limit

    def became_active(self, participant: Participant) -> None:
        if participant.state != STATE.ACTIVE and not participant.left:
            participant.state = STATE.ACTIVE
            participant.changed()
            self.active(participant)
