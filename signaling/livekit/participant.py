"""One participant of a room: what it may do, publishes and receives.  Outlives a lost WebSocket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from livekit.protocol import models, rtc

from core import counters
from core.ids import new_id
from sfu.errors import SfuError
from sfu.messages import (
    CloseProducer,
    CloseTransport,
    Produce,
    SetConsumerSource,
    SetProducerPaused,
)
from sfu.params import Kind, RtpParameters
from signaling.livekit import messages, sdp, taps
from signaling.livekit.limits import Bucket
from signaling.livekit.lines import Judgement
from signaling.livekit.peers import AnsweringPeer, OfferingPeer
from signaling.livekit.reception import Reception
from signaling.livekit.token import Claims
from signaling.livekit.tracks import LayerDemand, Track, track_info

if TYPE_CHECKING:
    from signaling.livekit.room import Room
    from signaling.livekit.session import Session

log = structlog.get_logger(__name__)
STATE = models.ParticipantInfo.State
OWN_MUTE = "lianxin.own_mute"  # attribute of a client that does not obey our mute messages
STREAMS = {"camera": "camera", "microphone": "camera"}  # lip sync: one stream for both


class Participant:
    """``single``: one peer connection (/rtc/v1) instead of two (/rtc)."""

    def __init__(
        self,
        room: Room,
        claims: Claims,
        client: models.ClientInfo,
        *,
        single: bool,
        auto_subscribe: bool,
        now: float,
        monotonic: float,
    ) -> None:
        self.room = room
        self.sid = new_id("PA_")
        self.identity = claims.identity
        self.name = claims.name
        self.metadata = claims.metadata
        self.attributes: dict[str, str] = dict(claims.attributes)
        self.grants = claims.grants
        self.kind = claims.kind
        self.client = client
        self.single = single
        self.auto_subscribe = auto_subscribe
        self.joined_at = now
        self.state: models.ParticipantInfo.State = STATE.JOINING
        self.version = 0
        self.session: Session | None = None
        self.session_lost_at: float | None = None  # monotonic
        self.asked_at = monotonic
        self.token_refreshed_at = monotonic
        self.left = False
        self.told_joined = False  # the observer knows about us
        self.tracks: dict[str, Track] = {}
        self.reception = Reception(self)
        self.permission: rtc.SubscriptionPermission | None = None
        self.last_sequence = 0  # of reliable data packets
        self.data_rate = Bucket(room.limits.data_packets_per_s, room.limits.data_packet_burst, monotonic)
        self.quality = models.ConnectionQuality.EXCELLENT
        self.line = Judgement()
        self.media_lost = False
        self.publisher = AnsweringPeer(self, "both" if single else "up", single)
        self.subscriber = None if single else OfferingPeer(self, "down")

    # ------------------------------------------------------------ what others see

    @property
    def downstream(self) -> AnsweringPeer | OfferingPeer:
        return self.subscriber if self.subscriber is not None else self.publisher

    @property
    def primary(self) -> AnsweringPeer | OfferingPeer:
        """The connection that the client waits for."""
        return self.downstream

    @property
    def hidden(self) -> bool:
        return self.grants.hidden

    def info(self) -> models.ParticipantInfo:
        published = [track.info for track in self.tracks.values() if track.published]
        info = models.ParticipantInfo(
            sid=self.sid,
            identity=self.identity,
            state=self.state,
            tracks=published,
            metadata=self.metadata,
            joined_at=int(self.joined_at),
            joined_at_ms=int(self.joined_at * 1_000),
            name=self.name,
            version=self.version,
            permission=messages.permission_of(self.grants),
            is_publisher=bool(published),
            attributes=self.attributes,
            client_protocol=self.client.client_protocol,
            capabilities=self.client.capabilities,
        )
        kind = self.kind.upper()
        if kind in models.ParticipantInfo.Kind.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
            info.kind = models.ParticipantInfo.Kind.Value(kind)  # type: ignore[assignment]
        return info

    def send(self, message: rtc.SignalResponse) -> None:
        """Dropped while the WebSocket is lost: a resume sends the whole state again."""
        if self.session is not None:
            self.session.send(message)

    def send_encoded(self, message: bytes) -> None:
        if self.session is not None:
            self.session.send_encoded(message)

    def changed(self) -> None:
        """Something in ``info`` is new: everybody is told."""
        self.version += 1
        self.room.announce(self)

    # ------------------------------------------------------------ publishing

    def add_track(self, request: rtc.AddTrackRequest) -> Track | None:
        """Announces a track; None when it is refused (the client is told why)."""
        source = messages.source_name(request.source, request.type)
        if request.type not in (models.TrackType.AUDIO, models.TrackType.VIDEO):
            return self._refuse_track(request, "the track is neither audio nor video", "track_kind")
        if not self.grants.may_publish(source):
            return self._refuse_track(request, f"publishing {source} is not allowed", "publish_not_allowed")
        if len(self.tracks) >= self.room.limits.tracks_per_participant:
            return self._refuse_track(request, "too many tracks", "too_many_tracks")
        if request.sid and request.sid in self.tracks:
            return self._refuse_track(request, "backup codecs are not served", "backup_codec")
        cids = tuple(dict.fromkeys([request.cid, *(codec.cid for codec in request.simulcast_codecs)]))
        for track in self.tracks.values():
            if not track.published and request.cid in track.cids:
                self._confirm(request.cid, track)  # asked again after a resume
                return track
        sid = new_id("TR_")
        stream = request.stream or STREAMS.get(source, "screen_share")
        codec = request.simulcast_codecs[0].codec if request.simulcast_codecs else ""
        track = Track(
            sid=sid,
            publisher=self,
            kind=Kind.AUDIO if request.type == models.TrackType.AUDIO else Kind.VIDEO,
            source=source,
            info=track_info(sid, request, source, stream),
            cids=tuple(cid for cid in cids if cid),
            prefer_codec=codec.rpartition("/")[2].lower(),
            local_muted=request.muted,
        )
        self.tracks[sid] = track
        self.room.index_track(track)
        self._confirm(request.cid, track)
        return track

    def _confirm(self, cid: str, track: Track) -> None:
        self.send(rtc.SignalResponse(track_published=rtc.TrackPublishedResponse(cid=cid, track=track.info)))

    def _refuse_track(self, request: rtc.AddTrackRequest, why: str, reason: str) -> Track | None:
        counters.refused(reason)
        self.send(
            rtc.SignalResponse(
                request_response=rtc.RequestResponse(
                    reason=rtc.RequestResponse.Reason.NOT_ALLOWED, message=why, add_track=request
                )
            )
        )
        return None

    def track_for_section(self, section: sdp.Section) -> Track | None:
        """By mid when it is known, else by the msid track id (trap 9), else the only one that waits."""
        of_kind = [track for track in self.tracks.values() if track.kind.value == section.kind]
        for track in of_kind:
            if track.mid == section.mid and (track.published or section.track_id in track.cids):
                return track
        waiting = [track for track in of_kind if not track.published]
        for track in waiting:
            if section.track_id in track.cids or section.stream_id in track.cids:
                return track
        return waiting[0] if len(waiting) == 1 else None

    async def produce(self, track: Track, transport_id: str, rtp: RtpParameters) -> None:
        """Raises SfuError.  Repeated with the same parameters: nothing; with others: a new producer."""
        if track.producer_id is not None and track.rtp == rtp:
            return
        old = track.producer_id
        self.room.decide_silence(track)
        producer_id = new_id("producer_")
        self.room.index_producer(producer_id, track)
        try:
            await self.room.request(Produce(transport_id, producer_id, track.kind, rtp, paused=track.muted))
        except SfuError:
            self.room.forget_producer(producer_id)
            raise
        if self.left or track.sid not in self.tracks:
            self.room.post(CloseProducer(producer_id))
            self.room.forget_producer(producer_id)
            return
        track.producer_id, track.rtp, track.mid = producer_id, rtp, rtp.mid
        track.info.mid = rtp.mid
        track.info.mime_type = rtp.codecs[0].mime
        for codec in track.info.codecs:
            codec.mime_type, codec.mid = track.info.mime_type, rtp.mid
        if old is not None:
            for subscription in track.subscriptions.values():
                self.room.post(SetConsumerSource(subscription.consumer_id, producer_id))
            self.room.post(CloseProducer(old))
            self.room.forget_producer(old)
            taps.stop(self.room, track)
            track.demand = LayerDemand()
        self.show_mute(track)
        self.changed()
        if old is None:
            self.room.published(track)
        self.room.refresh()

    async def unpublish(self, track: Track) -> None:
        """The track is over; its viewers' sections close with the next negotiation."""
        if self.tracks.pop(track.sid, None) is None:
            return
        self.room.forget_track(track)
        for subscription in list(track.subscriptions.values()):
            subscription.viewer.reception.lose(track)
        if track.producer_id is not None:
            self.room.post(CloseProducer(track.producer_id))
            self.room.forget_producer(track.producer_id)
            self.room.unpublished(track)
        track.producer_id = None
        self.changed()
        self.room.refresh()

    def show_mute(self, track: Track) -> None:
        """Brings TrackInfo and the relay in line with the mute flags."""
        track.info.muted = track.muted
        if track.producer_id is not None:
            self.room.post(SetProducerPaused(track.producer_id, track.muted))

    def tell_mute(self, track: Track) -> None:
        self.send(rtc.SignalResponse(mute=rtc.MuteTrackRequest(sid=track.sid, muted=track.muted)))

    def client_muted(self, track: Track, muted: bool) -> None:
        """The client's own switch.

        A stock client obeys our mute message and sends it back, so while we mute it, its "muted" is only our
        echo.  One that says it keeps its own switch (``OWN_MUTE``) means every word, also then.
        """
        means_it = OWN_MUTE in self.attributes
        if track.silenced and not means_it:
            if not muted:  # its wish is kept for later, but it may not unmute itself now
                self.tell_mute(track)
                if track.local_muted:
                    track.local_muted = False
                    self.room.told_local_mute(track)
            return
        if track.admin_muted:
            if muted and not means_it:
                return
            if not muted:
                track.admin_muted = False  # Twirp's mute is a push: LiveKit lets the client undo it
                track.local_muted = True
        if track.local_muted == muted:
            return
        track.local_muted = muted
        self.show_mute(track)
        self.changed()
        self.room.told_local_mute(track)

    # ------------------------------------------------------------ permissions

    def allows(self, viewer: Participant, track: Track) -> bool:
        """``subscription_permission`` of this publisher: absent means everybody."""
        permission = self.permission
        if permission is None or permission.all_participants:
            return True
        for entry in permission.track_permissions:
            named = (entry.participant_sid and entry.participant_sid == viewer.sid) or (
                entry.participant_identity and entry.participant_identity == viewer.identity
            )
            if named and (entry.all_tracks or track.sid in entry.track_sids):
                return True
        return False

    # ------------------------------------------------------------ the end

    def describe_self(self, changes: Mapping[str, str]) -> None:
        """Attributes merge; an empty value deletes (LiveKit)."""
        for key, value in changes.items():
            if value:
                self.attributes[key] = value
            else:
                self.attributes.pop(key, None)

    def close(self) -> None:
        """Everything of this participant in the relay goes; idempotent."""
        self.left = True
        self.state = STATE.DISCONNECTED
        for track in list(self.tracks.values()):
            for subscription in list(track.subscriptions.values()):
                subscription.viewer.reception.lose(track)
            self.room.forget_track(track)
            if track.producer_id is not None:
                self.room.post(CloseProducer(track.producer_id))
                self.room.forget_producer(track.producer_id)
                self.room.unpublished(track)
        self.tracks.clear()
        self.reception.close()
        for peer in (self.publisher, self.subscriber):
            if peer is not None and peer.opened is not None:
                self.room.post(CloseTransport(peer.transport_id))
