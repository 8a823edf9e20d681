"""What a client may ask for over its WebSocket: one small handler for each kind of SignalRequest."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import structlog
from livekit.protocol import models, rtc

from core import counters
from sfu.errors import SfuError
from signaling.livekit import messages, sdp
from signaling.livekit.participant import STATE, Participant
from signaling.livekit.session import POLICY_VIOLATION, Session
from signaling.livekit.tracks import TrackSetting

log = structlog.get_logger(__name__)
REASON = rtc.RequestResponse.Reason
ACTION = rtc.LeaveRequest.Action


async def handle(participant: Participant, session: Session, request: rtc.SignalRequest) -> None:
    """One message.  What can't be done is answered or counted; only a broken negotiation ends the session."""
    kind = request.WhichOneof("message")
    handler = HANDLERS.get(kind or "")
    if handler is None:
        counters.refused("livekit_unknown_message")
        return
    if participant.left or participant.session is not session:
        return
    try:
        await handler(participant, request)
    except sdp.SdpError as error:
        counters.refused("sdp")
        log.info("an SDP is refused", identity=participant.identity, reason=str(error))
        session.send(messages.leave(models.DisconnectReason.JOIN_FAILURE, ACTION.RECONNECT))
        session.close(POLICY_VIOLATION, str(error)[:100])
    except SfuError as error:
        counters.refused("media_worker")
        log.warning("the media worker refused", identity=participant.identity, code=error.code)
        session.send(messages.leave(models.DisconnectReason.MEDIA_FAILURE, ACTION.RECONNECT))
        session.close()


async def _offer(participant: Participant, request: rtc.SignalRequest) -> None:
    if participant.state == STATE.JOINING:
        participant.state = STATE.JOINED
    await participant.publisher.answer(request.offer.sdp, request.offer.id)


async def _answer(participant: Participant, request: rtc.SignalRequest) -> None:
    if participant.subscriber is None:
        counters.refused("livekit_unexpected_answer")
        return
    await participant.subscriber.accept(request.answer.sdp, request.answer.id)


async def _trickle(participant: Participant, request: rtc.SignalRequest) -> None:
    """We are ICE-lite: the client's candidates are not needed, whenever they come (trap 7)."""
    text = request.trickle.candidateInit
    if len(text) > participant.room.limits.trickle_bytes:
        counters.refused("livekit_trickle_size")
        return
    try:
        json.loads(text or "{}")
    except (ValueError, RecursionError):
        counters.refused("livekit_trickle_malformed")


async def _add_track(participant: Participant, request: rtc.SignalRequest) -> None:
    limit = participant.room.limits.name_bytes
    ask = request.add_track
    texts = (ask.cid, ask.name, ask.stream, *(codec.cid for codec in ask.simulcast_codecs))
    if any(len(text) > limit for text in texts) or len(ask.layers) > 8 or len(ask.simulcast_codecs) > 8:
        counters.refused("add_track_size")
        return
    participant.add_track(ask)


async def _mute(participant: Participant, request: rtc.SignalRequest) -> None:
    track = participant.tracks.get(request.mute.sid)
    if track is not None:
        participant.client_muted(track, request.mute.muted)


async def _subscription(participant: Participant, request: rtc.SignalRequest) -> None:
    ask = request.subscription
    sids = [*ask.track_sids, *(sid for item in ask.participant_tracks for sid in item.track_sids)]
    for sid in sids[:1_024]:
        if sid in participant.room.tracks:
            participant.reception.choices[sid] = ask.subscribe
            if ask.subscribe:
                participant.reception.unservable.discard(sid)
        elif ask.subscribe:
            participant.send(
                rtc.SignalResponse(
                    subscription_response=rtc.SubscriptionResponse(
                        track_sid=sid, err=models.SubscriptionError.SE_TRACK_NOTFOUND
                    )
                )
            )
    participant.room.refresh_viewer(participant)


async def _track_setting(participant: Participant, request: rtc.SignalRequest) -> None:
    ask = request.track_setting
    setting = TrackSetting(ask.disabled, ask.quality, ask.width, ask.height)
    if ask.quality == models.VideoQuality.OFF:
        setting = TrackSetting(True, models.VideoQuality.HIGH, 0, 0)
    participant.room.set_tracks(participant, list(ask.track_sids), setting)


async def _leave(participant: Participant, request: rtc.SignalRequest) -> None:
    session = participant.session
    if session is not None:
        session.left = True
        session.close()
    participant.room.dismiss(participant, "left")


async def _subscription_permission(participant: Participant, request: rtc.SignalRequest) -> None:
    if len(request.subscription_permission.track_permissions) > 1_024:
        counters.refused("subscription_permission_size")
        return
    participant.permission = request.subscription_permission
    participant.room.refresh()


async def _sync_state(participant: Participant, request: rtc.SignalRequest) -> None:
    """After a resume.  Our own state survived, so only what the client unsubscribed from is taken over."""
    ask = request.sync_state.subscription
    sids = [*ask.track_sids, *(sid for item in ask.participant_tracks for sid in item.track_sids)]
    for sid in sids[:1_024]:
        if sid in participant.room.tracks and ask.subscribe != participant.auto_subscribe:
            participant.reception.choices[sid] = ask.subscribe
    participant.room.refresh_viewer(participant)


async def _ping(participant: Participant, request: rtc.SignalRequest) -> None:
    participant.send(rtc.SignalResponse(pong=_now_ms(participant)))


async def _ping_req(participant: Participant, request: rtc.SignalRequest) -> None:
    pong = rtc.Pong(last_ping_timestamp=request.ping_req.timestamp, timestamp=_now_ms(participant))
    participant.send(rtc.SignalResponse(pong=pong.timestamp))
    participant.send(rtc.SignalResponse(pong_resp=pong))


def _now_ms(participant: Participant) -> int:
    return int(participant.room.owner.clock.now() * 1_000)


async def _update_metadata(participant: Participant, request: rtc.SignalRequest) -> None:
    ask = request.update_metadata
    limits = participant.room.limits
    response = rtc.RequestResponse(request_id=ask.request_id, reason=REASON.OK, update_metadata=ask)
    if not participant.grants.can_update_own_metadata:
        response.reason = REASON.NOT_ALLOWED
        response.message = "the token does not allow to update own metadata"
        counters.refused("update_metadata_not_allowed")
    elif (
        len(ask.metadata.encode()) > limits.metadata_bytes
        or len(ask.name.encode()) > limits.name_bytes
        or not messages.within({**participant.attributes, **ask.attributes}, limits.attributes_bytes)
    ):
        response.reason = REASON.LIMIT_EXCEEDED
        response.message = "metadata, name or attributes are too large"
        counters.refused("update_metadata_size")
    else:
        if ask.metadata:
            participant.metadata = ask.metadata
        if ask.name:
            participant.name = ask.name
        participant.describe_self(ask.attributes)
        participant.changed()
    participant.send(rtc.SignalResponse(request_response=response))


async def _update_audio_track(participant: Participant, request: rtc.SignalRequest) -> None:
    track = participant.tracks.get(request.update_audio_track.track_sid)
    if track is not None:
        del track.info.audio_features[:]
        track.info.audio_features.extend(list(request.update_audio_track.features)[:16])
        participant.changed()


async def _update_video_track(participant: Participant, request: rtc.SignalRequest) -> None:
    ask = request.update_video_track
    track = participant.tracks.get(ask.track_sid)
    if track is not None:
        track.info.width, track.info.height = ask.width, ask.height
        participant.changed()


async def _update_layers(participant: Participant, request: rtc.SignalRequest) -> None:
    ask = request.update_layers
    track = participant.tracks.get(ask.track_sid)
    if track is not None and len(ask.layers) <= 8:
        del track.info.layers[:]
        track.info.layers.extend(ask.layers)
        participant.changed()


async def _data_track(participant: Participant, request: rtc.SignalRequest) -> None:
    counters.refused("data_track")
    participant.send(
        rtc.SignalResponse(
            request_response=rtc.RequestResponse(
                reason=REASON.UNSUPPORTED_TYPE,
                message="data tracks are not served",
                publish_data_track=request.publish_data_track_request,
            )
        )
    )


async def _simulate(participant: Participant, request: rtc.SignalRequest) -> None:
    """What SDKs use to test their own recovery; each touches only the one who asks."""
    scenario = request.simulate.WhichOneof("scenario")
    session = participant.session
    if session is None:
        return
    if scenario in ("leave_request_full_reconnect", "node_failure"):
        session.send(messages.leave(models.DisconnectReason.SERVER_SHUTDOWN, ACTION.RECONNECT))
        participant.room.dismiss(participant, "reconnecting")
        session.close()
    elif scenario == "server_leave":
        session.send(messages.leave(models.DisconnectReason.SERVER_SHUTDOWN, ACTION.DISCONNECT))
        participant.room.dismiss(participant, "left")
        session.close()
    elif scenario == "migration":
        session.send(messages.leave(models.DisconnectReason.MIGRATION, ACTION.RESUME))
        session.close()
    elif scenario == "switch_candidate_protocol":
        # The client comes back by itself, as the same identity; of TLS we have TCP.
        chosen = participant.room.tcp_only
        if request.simulate.switch_candidate_protocol == rtc.CandidateProtocol.UDP:
            chosen.discard(participant.identity)
        elif len(chosen) < participant.room.limits.participants_per_room:
            chosen.add(participant.identity)


HANDLERS: dict[str, Callable[[Participant, rtc.SignalRequest], Awaitable[None]]] = {
    "offer": _offer,
    "answer": _answer,
    "trickle": _trickle,
    "add_track": _add_track,
    "mute": _mute,
    "subscription": _subscription,
    "track_setting": _track_setting,
    "leave": _leave,
    "update_layers": _update_layers,
    "subscription_permission": _subscription_permission,
    "sync_state": _sync_state,
    "simulate": _simulate,
    "ping": _ping,
    "ping_req": _ping_req,
    "update_metadata": _update_metadata,
    "update_audio_track": _update_audio_track,
    "update_video_track": _update_video_track,
    "publish_data_track_request": _data_track,
}
