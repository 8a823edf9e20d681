"""What one participant receives: which tracks, how large, which comes first, what stands still."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog
from livekit.protocol import models, rtc

from core import counters
from core.ids import new_id
from sfu.errors import SfuError
from sfu.messages import CloseConsumer, Consume, SetConsumerPaused, SetConsumerPriority, SetLayer
from sfu.params import CodecParameters, EncodingParameters, Kind, RtpParameters
from signaling.livekit import evaluation, sdp
from signaling.livekit.tracks import Subscription, Track, TrackSetting

if TYPE_CHECKING:
    from signaling.livekit.participant import Participant

log = structlog.get_logger(__name__)
TOLD_ENOUGH = 5  # times that a client hears of one held stream


class Reception:
    """``wanted`` comes from the evaluation; a subscription is made once a media section carries it."""

    def __init__(self, viewer: Participant) -> None:
        self.viewer = viewer
        self.wanted: dict[str, Track] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.choices: dict[str, bool] = {}  # the client's own subscribe/unsubscribe by track sid
        self.settings: dict[str, TrackSetting] = {}
        self.unservable: set[str] = set()
        self.forbidden: set[str] = set()  # tracks whose publishers do not let us

    def want(self, wanted: dict[str, Track]) -> None:
        """The tracks that this participant should receive from now on."""
        wanted = {sid: track for sid, track in wanted.items() if sid not in self.unservable}
        if wanted.keys() == self.wanted.keys():
            return
        for sid in self.wanted.keys() - wanted.keys():
            self.unsubscribe(self.wanted[sid])
        self.wanted = wanted
        self.viewer.downstream.poke()

    def subscription(self, track: Track) -> Subscription:
        existing = self.subscriptions.get(track.sid)
        if existing is not None:
            return existing
        taken = {s.ssrc for s in self.subscriptions.values()}
        ssrc = _new_ssrc(taken)
        rtx = _new_ssrc(taken | {ssrc}) if track.kind is Kind.VIDEO else None
        made = Subscription(self.viewer, track, new_id("consumer_"), ssrc, rtx)
        self.subscriptions[track.sid] = made
        track.subscriptions[self.viewer.sid] = made
        self.viewer.room.owner.consumers[made.consumer_id] = made
        self._apply_setting(made)
        return made

    def unsubscribe(self, track: Track) -> None:
        subscription = self.subscriptions.pop(track.sid, None)
        track.subscriptions.pop(self.viewer.sid, None)
        self.viewer.downstream.release(track)
        if subscription is not None:
            self.viewer.room.owner.consumers.pop(subscription.consumer_id, None)
        if subscription is not None and subscription.open:
            self.viewer.room.post(CloseConsumer(subscription.consumer_id))
            subscription.open = False

    async def consume(self, subscription: Subscription, transport_id: str, section: sdp.Section) -> None:
        """Media may flow into ``section``.  What the relay can't serve is told to the client."""
        track = subscription.track
        if track.producer_id is None or self.subscriptions.get(track.sid) is not subscription:
            return
        if not self.can_decode(track, section.codecs):
            self._give_up(track)
            return
        encoding = EncodingParameters(ssrc=subscription.ssrc, rtx_ssrc=subscription.rtx_ssrc)
        rtp = RtpParameters(section.mid, section.codecs, section.extensions, (encoding,))
        subscription.open = True
        self._apply_setting(subscription)
        try:
            await self.viewer.room.request(
                Consume(
                    transport_id,
                    subscription.consumer_id,
                    track.producer_id,
                    rtp,
                    paused=subscription.paused,
                    spatial_layer=subscription.layer,
                    priority=subscription.priority,
                )
            )
        except SfuError as error:
            subscription.open = False
            log.info(
                "a track can't be forwarded", track=track.sid, viewer=self.viewer.identity, code=error.code
            )
            if error.code == "no_common_codec":
                self._give_up(track)
            return
        if self.subscriptions.get(track.sid) is not subscription:
            self.viewer.room.post(CloseConsumer(subscription.consumer_id))
            return
        self.viewer.room.subscribed(track)

    def can_decode(self, track: Track, codecs: tuple[CodecParameters, ...]) -> bool:
        """By the codec that is sent, not by all that its publisher might send.  RED can be taken off."""
        sent = track.info.mime_type.lower()
        offered = {codec.mime.lower() for codec in codecs}
        return sent in offered or (sent == "audio/red" and "audio/opus" in offered)

    def _give_up(self, track: Track) -> None:
        self.cannot_subscribe(track)
        self.unsubscribe(track)

    def cannot_subscribe(self, track: Track) -> None:
        """No codec in common: told once, not tried again."""
        if track.sid in self.unservable:
            return
        self.unservable.add(track.sid)
        self.wanted.pop(track.sid, None)
        counters.refused("no_common_codec")
        self.viewer.send(
            rtc.SignalResponse(
                subscription_response=rtc.SubscriptionResponse(
                    track_sid=track.sid, err=models.SubscriptionError.SE_CODEC_UNSUPPORTED
                )
            )
        )

    def set_track(self, track: Track, setting: TrackSetting) -> None:
        """``track_setting``: which picture size is wanted, or none for now."""
        self.settings[track.sid] = setting
        subscription = self.subscriptions.get(track.sid)
        if subscription is not None:
            self._apply_setting(subscription)

    def _apply_setting(self, subscription: Subscription) -> None:
        track = subscription.track
        setting = self.settings.get(track.sid, TrackSetting())
        layer = track.layer_for(setting)
        paused, changed_layer = setting.disabled, layer != subscription.layer
        changed_pause = paused != subscription.paused
        subscription.layer, subscription.paused = layer, paused
        if subscription.open:
            if changed_layer:
                self.viewer.room.post(SetLayer(subscription.consumer_id, layer))
            if changed_pause:
                self.viewer.room.post(SetConsumerPaused(subscription.consumer_id, paused))
        self.set_priority(subscription, evaluation.priority(self.viewer.room, subscription, setting))
        self.viewer.room.demand_changed(track)

    def prioritize(self, subscription: Subscription) -> None:
        """The room's answer may be another than before."""
        setting = self.settings.get(subscription.track.sid, TrackSetting())
        self.set_priority(subscription, evaluation.priority(self.viewer.room, subscription, setting))

    def set_priority(self, subscription: Subscription, priority: int) -> None:
        """Told to the relay only when it differs."""
        if subscription.priority == priority:
            return
        subscription.priority = priority
        if subscription.open:
            self.viewer.room.post(SetConsumerPriority(subscription.consumer_id, priority))

    def tell_stream_states(self, subscriptions: Iterable[Subscription]) -> None:
        """Stands still or moves: because of this viewer's own line, or of its publisher's."""
        states = [
            rtc.StreamStateInfo(
                participant_sid=subscription.track.publisher.sid,
                track_sid=subscription.track.sid,
                state=rtc.StreamState.PAUSED if subscription.still else rtc.StreamState.ACTIVE,
            )
            for subscription in subscriptions
        ]
        if states:
            self.viewer.send(
                rtc.SignalResponse(stream_state_update=rtc.StreamStateUpdate(stream_states=states))
            )

    def remind_stream_states(self) -> None:
        """Once a second: a client forgets what it is told of a track that has not reached it yet."""
        held = [s for s in self.subscriptions.values() if s.held and s.told < TOLD_ENOUGH]
        for subscription in held:
            subscription.told += 1
        self.tell_stream_states(held)

    def resume_stream_states(self) -> None:
        """What was told on the lost WebSocket may not have arrived: freed ones too."""
        self.tell_stream_states(s for s in self.subscriptions.values() if s.open)

    def lose(self, track: Track) -> None:
        """Its publisher has ended it."""
        self.unsubscribe(track)
        self.wanted.pop(track.sid, None)
        self.viewer.downstream.poke()

    def close(self) -> None:
        """The viewer leaves; its transport takes the consumers with it."""
        for subscription in self.subscriptions.values():
            self.viewer.room.owner.consumers.pop(subscription.consumer_id, None)
            subscription.track.subscriptions.pop(self.viewer.sid, None)
            self.viewer.room.demand_changed(subscription.track)
        self.subscriptions.clear()
        self.wanted.clear()


def _new_ssrc(taken: set[int]) -> int:
    while True:
        ssrc = secrets.randbelow(2**32 - 2) + 1
        if ssrc not in taken:
            return ssrc
