"""Twirp RoomService: with LiveKit's own API client, in protobuf and JSON, and with wrong grants."""

from __future__ import annotations

import io
from typing import Any

import pytest
from livekit import api
from livekit.protocol import models, rtc
from livekit.protocol import room as wire

from sfu.messages import SendData
from signaling.livekit.token import Grants
from tests.fixtures.livekit import FakeNode, LiveKitServer, publish_camera

ALL = Grants(room_create=True, room_list=True, room_admin=True, room="r")


@pytest.fixture
def service(signal_server: LiveKitServer) -> Any:
    from livekit.api.room_service import RoomService

    return RoomService(
        signal_server.http, signal_server.http_url, signal_server.keys.api_key, signal_server.keys.api_secret
    )


async def call(
    server: LiveKitServer,
    method: str,
    body: dict[str, Any] | bytes,
    grants: Grants | None = ALL,
    **headers: str,
) -> tuple[int, Any]:
    """JSON in, JSON out; the token is for room "r"."""
    if grants is not None:
        token = server.keys.mint(grants.room, "operator", now=server.media.clock.now(), grants=grants)
        headers["Authorization"] = f"Bearer {token}"
    url = f"{server.http_url}/twirp/livekit.RoomService/{method}"
    sent: dict[str, Any] = {"json": body} if isinstance(body, dict) else {"data": io.BytesIO(body)}
    async with server.http.post(url, headers=headers, **sent) as response:
        return response.status, await response.json()


async def test_rooms_with_livekits_own_client(signal_server: LiveKitServer, service: Any) -> None:
    made = await service.create_room(api.CreateRoomRequest(name="r", metadata="m", empty_timeout=60))
    assert (made.name, made.metadata, made.empty_timeout) == ("r", "m", 60)
    assert made.sid.startswith("RM_")
    await signal_server.join("r", "ann")
    rooms = (await service.list_rooms(api.ListRoomsRequest())).rooms
    assert [(room.name, room.num_participants) for room in rooms] == [("r", 1)]
    assert not (await service.list_rooms(api.ListRoomsRequest(names=["x"]))).rooms
    await service.delete_room(api.DeleteRoomRequest(room="r"))
    assert not signal_server.media.rooms


async def test_deleting_a_room_tells_those_inside(signal_server: LiveKitServer, service: Any) -> None:
    ann = await signal_server.join("r", "ann")
    await service.delete_room(api.DeleteRoomRequest(room="r"))
    assert (await ann.next("leave")).leave.reason == models.DisconnectReason.ROOM_DELETED


async def test_participants_with_livekits_own_client(signal_server: LiveKitServer, service: Any) -> None:
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.join("r", "bob")
    listed = (await service.list_participants(api.ListParticipantsRequest(room="r"))).participants
    assert {participant.identity for participant in listed} == {"ann", "bob"}
    one = await service.get_participant(api.RoomParticipantIdentity(room="r", identity="ann"))
    assert one.sid == ann.received[0].join.participant.sid
    updated = await service.update_participant(
        api.UpdateParticipantRequest(room="r", identity="ann", metadata="m", name="安", attributes={"a": "1"})
    )
    assert (updated.metadata, updated.name, dict(updated.attributes)) == ("m", "安", {"a": "1"})
    await service.update_room_metadata(api.UpdateRoomMetadataRequest(room="r", metadata="new"))
    assert (await bob.next("room_update")).room_update.room.metadata == "new"
    await service.remove_participant(api.RoomParticipantIdentity(room="r", identity="ann"))
    leave = (await ann.next("leave")).leave
    assert leave.reason == models.DisconnectReason.PARTICIPANT_REMOVED
    await ann.closed()
    with pytest.raises(api.TwirpError) as caught:
        await service.get_participant(api.RoomParticipantIdentity(room="r", identity="ann"))
    assert caught.value.code == "not_found"


async def test_muting_and_permissions(signal_server: LiveKitServer, service: Any) -> None:
    ann = await signal_server.join("r", "ann")
    track = await publish_camera(ann)
    muted = await service.mute_published_track(
        api.MuteRoomTrackRequest(room="r", identity="ann", track_sid=track.sid, muted=True)
    )
    assert muted.track.muted
    assert (await ann.next("mute")).mute == rtc.MuteTrackRequest(sid=track.sid, muted=True)
    await service.update_participant(
        api.UpdateParticipantRequest(
            room="r", identity="ann", permission=models.ParticipantPermission(can_subscribe=True)
        )
    )
    gone = [(await ann.next("track_unpublished")).track_unpublished.track_sid for _ in range(2)]
    assert track.sid in gone
    assert not signal_server.media.rooms["r"].tracks


async def test_subscriptions_and_data(
    signal_server: LiveKitServer, service: Any, fake_node: FakeNode
) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    track = await publish_camera(ann)
    await service.update_subscriptions(
        api.UpdateSubscriptionsRequest(room="r", identity="bob", track_sids=[track.sid], subscribe=False)
    )
    assert signal_server.media.rooms["r"].participants["bob"].reception.choices == {track.sid: False}
    await service.send_data(
        api.SendDataRequest(
            room="r",
            data=b"x",
            kind=models.DataPacket.Kind.RELIABLE,
            destination_identities=["bob"],
            topic="t",
        )
    )
    (sent,) = fake_node.of(SendData)
    assert sent.transport_id.startswith(bob.received[0].join.participant.sid)
    packet = models.DataPacket.FromString(sent.payload)
    assert (packet.user.payload, packet.user.topic, packet.participant_identity) == (b"x", "t", "")


async def test_json_bodies(signal_server: LiveKitServer) -> None:
    status, room = await call(signal_server, "CreateRoom", {"name": "r", "emptyTimeout": 5, "unknown": 1})
    assert (status, room["name"], room["empty_timeout"]) == (200, "r", 5)
    status, listed = await call(signal_server, "ListParticipants", {"room": "r"})
    assert (status, listed) == (200, {"participants": []})  # empty fields are written, as by Twirp


@pytest.mark.parametrize(
    ("method", "body", "grants", "status", "code"),
    [
        ("CreateRoom", {"name": "r"}, None, 401, "unauthenticated"),
        ("CreateRoom", {"name": "r"}, Grants(room_list=True), 403, "permission_denied"),
        ("ListRooms", {}, Grants(room_join=True, room="r"), 403, "permission_denied"),
        ("DeleteRoom", {"room": "r"}, Grants(room_admin=True, room="r"), 403, "permission_denied"),
        ("DeleteRoom", {"room": "nowhere"}, ALL, 404, "not_found"),
        ("ListParticipants", {"room": "r"}, Grants(room_admin=True, room="s"), 403, "permission_denied"),
        ("SendData", {"room": "r"}, Grants(room_join=True, room="r"), 403, "permission_denied"),
        ("GetParticipant", {"room": "r", "identity": "x"}, ALL, 404, "not_found"),
        ("CreateRoom", {"name": ""}, ALL, 400, "invalid_argument"),
        ("CreateRoom", {"name": "x" * 1_000}, ALL, 400, "invalid_argument"),
        ("CreateRoom", {"name": 5}, ALL, 400, "malformed"),
        ("Explode", {}, ALL, 404, "bad_route"),
    ],
)
async def test_refusals_are_twirp_errors(
    signal_server: LiveKitServer,
    method: str,
    body: dict[str, Any],
    grants: Grants | None,
    status: int,
    code: str,
) -> None:
    got, error = await call(signal_server, method, body, grants)
    assert (got, error["code"]) == (status, code)
    assert error["msg"]


async def test_bodies_that_are_none(signal_server: LiveKitServer) -> None:
    kinds = {"Content-Type": "application/protobuf"}
    status, error = await call(signal_server, "CreateRoom", b"\xff\xff", **kinds)
    assert (status, error["code"]) == (400, "malformed")
    status, error = await call(signal_server, "CreateRoom", b"x" * 2_000_000, **kinds)
    assert (status, error["code"]) == (400, "invalid_argument")
    status, error = await call(
        signal_server, "CreateRoom", b"[" * 50_000, **{"Content-Type": "application/json"}
    )
    assert (status, error["code"]) == (400, "malformed")
    status, error = await call(signal_server, "CreateRoom", b"x", **{"Content-Type": "text/plain"})
    assert (status, error["code"]) == (404, "bad_route")
    body = wire.CreateRoomRequest(name="r").SerializeToString()
    token = signal_server.keys.mint("", "o", now=signal_server.media.clock.now(), grants=ALL)
    async with signal_server.http.post(
        f"{signal_server.http_url}/twirp/livekit.RoomService/CreateRoom",
        data=body,
        headers={**kinds, "Authorization": f"Bearer {token}"},
    ) as response:
        assert models.Room.FromString(await response.read()).name == "r"
