"""Twirp RoomService (twitchtv/twirp protocol v7): protobuf and JSON bodies, Twirp's error JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from core import counters
from signaling.livekit import messages, packets
from signaling.livekit.participant import Participant
from signaling.livekit.room import Room
from signaling.livekit.rooms import ACTION, REASON, MediaRooms
from signaling.livekit.token import Claims, TokenError
from signaling.livekit.tracks import Track

log = structlog.get_logger(__name__)
STATUS = {
    "invalid_argument": 400,
    "malformed": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "bad_route": 404,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "internal": 500,
}


class TwirpError(Exception):
    """``code`` is one of Twirp's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Method:
    request: type[Message]
    run: Callable[[MediaRooms, Claims, Any], Awaitable[Message]]


def routes(media: MediaRooms) -> list[web.RouteDef]:
    async def serve(request: web.Request) -> web.Response:
        return await _serve(media, request)

    return [web.post("/twirp/livekit.RoomService/{method}", serve)]


async def _serve(media: MediaRooms, request: web.Request) -> web.Response:
    try:
        method = METHODS.get(request.match_info["method"])
        if method is None:
            raise TwirpError("bad_route", "no such method")
        as_json = request.content_type == "application/json"
        if not as_json and request.content_type != "application/protobuf":
            raise TwirpError("bad_route", "the content type must be application/json or application/protobuf")
        claims = _claims(media, request)
        message = method.request()
        body = await _body(request, media.limits.twirp_bytes)
        try:
            if as_json:
                json_format.Parse(body or b"{}", message, ignore_unknown_fields=True, max_recursion_depth=32)
            else:
                message.MergeFromString(body)
        except (DecodeError, json_format.ParseError, ValueError, RecursionError) as error:
            raise TwirpError("malformed", "the body can't be read") from error
        answer = await method.run(media, claims, message)
    except TwirpError as error:
        counters.refused(f"twirp_{error.code}")
        return web.json_response(
            {"code": error.code, "msg": error.message}, status=STATUS.get(error.code, 500)
        )
    if as_json:
        # Twirp's servers write empty fields too (since v7): "rooms": [] when there is none.
        text = json_format.MessageToJson(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return web.Response(text=text, content_type="application/json")
    return web.Response(body=answer.SerializeToString(), content_type="application/protobuf")


async def _body(request: web.Request, limit: int) -> bytes:
    if (request.content_length or 0) > limit:
        raise TwirpError("invalid_argument", "the body is too large")
    try:
        body = await request.content.read(limit + 1)
        while len(body) <= limit and not request.content.at_eof():
            chunk = await request.content.read(limit + 1 - len(body))
            if not chunk:
                break
            body += chunk
    except (ConnectionError, RequestPayloadError, web.HTTPException) as error:
        raise TwirpError("malformed", "the body did not arrive") from error
    if len(body) > limit:
        raise TwirpError("invalid_argument", "the body is too large")
    return body


def _claims(media: MediaRooms, request: web.Request) -> Claims:
    header = request.headers.get("Authorization", "")
    if not header.startswith("Bearer "):
        raise TwirpError("unauthenticated", "no token was given")
    try:
        return media.keys.verify(header[7:].strip(), media.clock.now())
    except TokenError as error:
        raise TwirpError("unauthenticated", error.text) from error


# ---------------------------------------------------------------- grants and look-ups


def _need(allowed: bool, what: str) -> None:
    if not allowed:
        raise TwirpError("permission_denied", f"the token does not grant {what}")


def _admin(claims: Claims, room: str) -> None:
    _need(claims.grants.room_admin and claims.grants.room == room, f"roomAdmin of {room[:64]!r}")


def _room(media: MediaRooms, name: str) -> Room:
    room = media.rooms.get(name)
    if room is None:
        raise TwirpError("not_found", "there is no such room")
    return room


def _participant(media: MediaRooms, room: str, identity: str) -> Participant:
    participant = _room(media, room).participants.get(identity)
    if participant is None:
        raise TwirpError("not_found", "there is no such participant")
    return participant


# ---------------------------------------------------------------- the methods


async def _create_room(media: MediaRooms, claims: Claims, ask: api.CreateRoomRequest) -> Message:
    _need(claims.grants.room_create, "roomCreate")
    if not ask.name or len(ask.name.encode()) > media.limits.name_bytes:
        raise TwirpError("invalid_argument", "the room needs a name that is not too long")
    if len(ask.metadata.encode()) > media.limits.metadata_bytes:
        raise TwirpError("invalid_argument", "the metadata is too large")
    if media.policy is not None and media.policy.governs(ask.name):
        raise TwirpError("permission_denied", "rooms of meetings are made by meetings")
    try:
        room = media.open_room(ask.name)
    except messages.MessageError as error:
        raise TwirpError("resource_exhausted", str(error)) from error
    if ask.empty_timeout:
        room.empty_timeout_s = min(ask.empty_timeout, 86_400)
    if ask.departure_timeout:
        room.departure_timeout_s = min(ask.departure_timeout, 86_400)
    if ask.max_participants:
        room.max_participants = ask.max_participants
    if ask.metadata:
        room.metadata = ask.metadata
    return room.message()


async def _list_rooms(media: MediaRooms, claims: Claims, ask: api.ListRoomsRequest) -> Message:
    _need(claims.grants.room_list, "roomList")
    names = set(ask.names)
    rooms = [room for room in media.rooms.values() if not names or room.name in names]
    return api.ListRoomsResponse(rooms=[room.message() for room in rooms])


async def _delete_room(media: MediaRooms, claims: Claims, ask: api.DeleteRoomRequest) -> Message:
    _need(claims.grants.room_create, "roomCreate")
    if not await media.close(ask.room):
        raise TwirpError("not_found", "there is no such room")
    return api.DeleteRoomResponse()


async def _list_participants(media: MediaRooms, claims: Claims, ask: api.ListParticipantsRequest) -> Message:
    _admin(claims, ask.room)
    return api.ListParticipantsResponse(
        participants=[p.info() for p in _room(media, ask.room).participants.values()]
    )


async def _get_participant(media: MediaRooms, claims: Claims, ask: api.RoomParticipantIdentity) -> Message:
    _admin(claims, ask.room)
    return _participant(media, ask.room, ask.identity).info()


async def _remove_participant(media: MediaRooms, claims: Claims, ask: api.RoomParticipantIdentity) -> Message:
    _admin(claims, ask.room)
    participant = _participant(media, ask.room, ask.identity)
    media.expel(participant, REASON.PARTICIPANT_REMOVED, ACTION.DISCONNECT, "removed")
    return api.RemoveParticipantResponse()


async def _mute_track(media: MediaRooms, claims: Claims, ask: api.MuteRoomTrackRequest) -> Message:
    """LiveKit refuses remote unmuting unless configured; here the operator's own key may.  In a meeting it
    lifts what it muted itself, never a venue's own mute: that is lifted where it was made.
    """
    _admin(claims, ask.room)
    participant = _participant(media, ask.room, ask.identity)
    track = participant.tracks.get(ask.track_sid)
    if track is None:
        raise TwirpError("not_found", "there is no such track")
    track.admin_muted = ask.muted
    if not ask.muted and not participant.room.governed:
        track.local_muted = False
    participant.show_mute(track)
    participant.tell_mute(track)
    participant.changed()
    return api.MuteRoomTrackResponse(track=track.info)


async def _update_participant(
    media: MediaRooms, claims: Claims, ask: api.UpdateParticipantRequest
) -> Message:
    _admin(claims, ask.room)
    participant = _participant(media, ask.room, ask.identity)
    limits = media.limits
    if (
        len(ask.metadata.encode()) > limits.metadata_bytes
        or len(ask.name.encode()) > limits.name_bytes
        or not messages.within({**participant.attributes, **ask.attributes}, limits.attributes_bytes)
    ):
        raise TwirpError("invalid_argument", "metadata, name or attributes are too large")
    if ask.metadata:
        participant.metadata = ask.metadata
    if ask.name:
        participant.name = ask.name
    participant.describe_self(ask.attributes)
    if ask.HasField("permission"):
        participant.grants = messages.grants_with(participant.grants, ask.permission)
        for track in list(participant.tracks.values()):
            if not participant.grants.may_publish(track.source):
                await _unpublish(participant, track)
    participant.changed()
    participant.room.refresh()
    return participant.info()


async def _unpublish(participant: Participant, track: Track) -> None:
    await participant.unpublish(track)
    participant.send(rtc.SignalResponse(track_unpublished=rtc.TrackUnpublishedResponse(track_sid=track.sid)))


async def _update_subscriptions(
    media: MediaRooms, claims: Claims, ask: api.UpdateSubscriptionsRequest
) -> Message:
    _admin(claims, ask.room)
    participant = _participant(media, ask.room, ask.identity)
    sids = [*ask.track_sids, *(sid for item in ask.participant_tracks for sid in item.track_sids)]
    for sid in sids:
        if sid in participant.room.tracks:
            participant.reception.choices[sid] = ask.subscribe
    participant.room.refresh()
    return api.UpdateSubscriptionsResponse()


async def _send_data(media: MediaRooms, claims: Claims, ask: api.SendDataRequest) -> Message:
    _admin(claims, ask.room)
    room = _room(media, ask.room)
    if len(ask.data) > media.limits.data_packet_bytes:
        raise TwirpError("invalid_argument", "the data is too large")
    packet = models.DataPacket(
        destination_identities=ask.destination_identities,
        user=models.UserPacket(
            payload=ask.data,
            destination_sids=ask.destination_sids,
            destination_identities=ask.destination_identities,
            nonce=ask.nonce,
        ),
    )
    if ask.HasField("topic"):
        packet.user.topic = ask.topic
    lossy = ask.kind == models.DataPacket.Kind.LOSSY
    packets.deliver(room, packet, packets.LOSSY if lossy else packets.RELIABLE)
    return api.SendDataResponse()


async def _update_room_metadata(
    media: MediaRooms, claims: Claims, ask: api.UpdateRoomMetadataRequest
) -> Message:
    _admin(claims, ask.room)
    room = _room(media, ask.room)
    if len(ask.metadata.encode()) > media.limits.metadata_bytes:
        raise TwirpError("invalid_argument", "the metadata is too large")
    room.metadata = ask.metadata
    room.announce_room()
    return room.message()


METHODS: dict[str, Method] = {
    "CreateRoom": Method(api.CreateRoomRequest, _create_room),
    "ListRooms": Method(api.ListRoomsRequest, _list_rooms),
    "DeleteRoom": Method(api.DeleteRoomRequest, _delete_room),
    "ListParticipants": Method(api.ListParticipantsRequest, _list_participants),
    "GetParticipant": Method(api.RoomParticipantIdentity, _get_participant),
    "RemoveParticipant": Method(api.RoomParticipantIdentity, _remove_participant),
    "MutePublishedTrack": Method(api.MuteRoomTrackRequest, _mute_track),
    "UpdateParticipant": Method(api.UpdateParticipantRequest, _update_participant),
    "UpdateSubscriptions": Method(api.UpdateSubscriptionsRequest, _update_subscriptions),
    "SendData": Method(api.SendDataRequest, _send_data),
    "UpdateRoomMetadata": Method(api.UpdateRoomMetadataRequest, _update_room_metadata),
}
