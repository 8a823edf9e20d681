"""Who of a room should receive what: wanted state, pulled as a whole; nothing here keeps deltas."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from sfu.params import Kind
from signaling.livekit.policy import RoomPolicy
from signaling.livekit.tracks import Subscription, Track, TrackSetting

if TYPE_CHECKING:
    from signaling.livekit.participant import Participant
    from signaling.livekit.room import Room


def evaluate_all(room: Room) -> None:
    """Viewers for whom the policy wants the same are worked out together, not pair by pair."""
    policy = room.owner.policy if room.governed else None
    everybody = list(room.participants.values())
    if policy is None or any(p.permission is not None or p.reception.forbidden for p in everybody):
        for viewer in everybody:
            evaluate(room, viewer)
        return
    audiences: dict[Hashable, list[Participant]] = {}
    for viewer in everybody:
        audiences.setdefault(policy.audience(room.name, viewer.identity), []).append(viewer)
    for viewers in audiences.values():
        if len(viewers) < 3:
            for viewer in viewers:
                evaluate(room, viewer)
        else:
            _evaluate_audience(room, policy, viewers)


def _evaluate_audience(room: Room, policy: RoomPolicy, viewers: list[Participant]) -> None:
    """Nobody is asked about itself: the second stands in for the first."""
    common: list[Track] = []
    for publisher in room.participants.values():
        if publisher.hidden:
            continue
        asking = (viewers[1] if publisher is viewers[0] else viewers[0]).identity
        common += [
            track
            for track in publisher.tracks.values()
            if track.published and policy.wants(room.name, asking, publisher.identity, track.source)
        ]
    for viewer in viewers:
        may = common if viewer.grants.can_subscribe else ()
        viewer.reception.want(
            {
                track.sid: track
                for track in may
                if track.publisher is not viewer and _chosen(room, policy, viewer, track)
            }
        )


def _chosen(room: Room, policy: RoomPolicy, viewer: Participant, track: Track) -> bool:
    """What the client said, else what it gets without a word."""
    choice = viewer.reception.choices.get(track.sid)
    if choice is None:
        return policy.unasked(room.name, viewer.identity, track.publisher.identity, track.source)
    return choice


def evaluate(room: Room, viewer: Participant) -> None:
    """Everything that the viewer should receive now, pulled as a whole."""
    wanted: dict[str, Track] = {}
    policy = room.owner.policy if room.governed else None
    for publisher in room.participants.values():
        if publisher is viewer or publisher.hidden:
            continue
        for track in publisher.tracks.values():
            if not track.published:
                continue
            allowed = publisher.allows(viewer, track)
            _tell_permission(viewer, track, allowed)
            if not allowed or not viewer.grants.can_subscribe:
                continue
            if policy is not None:
                wants = policy.wants(
                    room.name, viewer.identity, publisher.identity, track.source
                ) and _chosen(room, policy, viewer, track)
            else:
                wants = viewer.reception.choices.get(track.sid, viewer.auto_subscribe)
            if wants:
                wanted[track.sid] = track
    viewer.reception.want(wanted)


# ---------------------------------------------------------------- priorities

CONTENT = 80  # of a plain room; a policy has its own
TILE = ((0, 10), (181, 20), (361, 30), (721, 40))  # lines asked for, from → priority
UNKNOWN_TILE = 30  # a client that names no size watches it large, as far as we know


def priority(room: Room, subscription: Subscription, setting: TrackSetting) -> int:
    """Sound needs none: it is never limited."""
    track = subscription.track
    if track.kind is not Kind.VIDEO:
        return 0
    policy = room.owner.policy if room.governed else None
    if policy is not None:
        viewer, publisher = subscription.viewer.identity, track.publisher.identity
        found = policy.priority(room.name, viewer, publisher, track.source)
        if found:
            return found
    elif track.source == "screen_share":
        return CONTENT
    return _tile_priority(setting)


def _tile_priority(setting: TrackSetting) -> int:
    if setting.width and setting.height:
        lines = min(setting.width, setting.height)
        return max(value for least, value in TILE if lines >= least)
    if setting.quality >= models.VideoQuality.HIGH:
        return UNKNOWN_TILE
    return 10 * (1 + setting.quality)


def prioritize(room: Room) -> None:
    """Who comes first may have changed for everybody: only differences are sent."""
    for track in room.tracks.values():
        if track.kind is Kind.VIDEO:
            for subscription in track.subscriptions.values():
                subscription.viewer.reception.prioritize(subscription)


def _tell_permission(viewer: Participant, track: Track, allowed: bool) -> None:
    if allowed != (track.sid in viewer.reception.forbidden):
        return
    if allowed:
        viewer.reception.forbidden.discard(track.sid)
    else:
        viewer.reception.forbidden.add(track.sid)
    viewer.send(
        rtc.SignalResponse(
            subscription_permission_update=rtc.SubscriptionPermissionUpdate(
                participant_sid=track.publisher.sid, track_sid=track.sid, allowed=allowed
            )
        )
    )
