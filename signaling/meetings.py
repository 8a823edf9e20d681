"""Meetings over HTTP: open, look, command, and the token for the media."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from core import counters
from core.errors import BadRequest, LianxinError
from rooms import views
from rooms.commands import COMMAND, AnyCommand, Command, StartRecording, VenueId
from rooms.facts import may_enter
from rooms.model import CONSOLE_PREFIX, Room
from rooms.policy import Actor, sees
from rooms.refusals import Refused
from rooms.seed import ROOT
from signaling import keys, shapes
from signaling.http import read_model, read_value
from signaling.livekit.participant import OWN_MUTE
from signaling.livekit.token import Grants
from signaling.openapi import operation
from signaling.replies import json_response
from signaling.sessions import User, require_user

SITTER = "lianxin.user"  # attribute of a participant: whose page it is
TOKEN_TTL_S = 6 * 3600.0  # long enough to come back all day; who was hung up is refused all the same


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewMeeting(_Body):
    """``venues`` omitted: all that there are.  ``main_venue`` omitted: the centre."""

    title: Annotated[str, Field(min_length=1, max_length=100)]
    venues: Annotated[list[VenueId], Field(max_length=1000)] | None = None
    main_venue: VenueId | None = None


class TokenRequest(_Body):
    """``observe``: only watch, also when the main venue's seat is free.  ``own_mute``: the page leaves its
    microphone alone when the server mutes it, so that each mute that it reports is its own.
    """

    observe: bool = False
    own_mute: bool = False


def actor_of(user: User) -> Actor:
    return Actor(user.user_id, user.username, user.role, user.venue_id)


def _view(request: web.Request, user: User, room: Room) -> views.Json:
    directory = request.app[keys.DIRECTORY]
    presence = directory.presence
    if user.role == "venue" and user.venue_id is not None:
        return views.venue_view(room, user.venue_id, directory.venues, presence)
    return views.meeting_view(room, directory.venues, presence)


async def _room(request: web.Request, user: User) -> Room:
    """The meeting in the address.  A meeting that a venue is not listed in does not exist for it."""
    room = await request.app[keys.DIRECTORY].find(request.match_info["meeting_id"])
    if not sees(actor_of(user), room):
        raise Refused("meeting_unknown")
    return room


@operation(
    "Open a meeting",
    tag="meetings",
    body=NewMeeting,
    response=shapes.MeetingView,
    status=201,
    roles=("host",),
    errors={404: "A venue is not known."},
    description="Nobody is called yet: send the command call.",
)
async def open_meeting(request: web.Request) -> web.Response:
    user = await require_user(request, "host")
    wanted = await read_model(request, NewMeeting)
    title = wanted.title.strip()
    if not title:
        raise LianxinError("title_required", 400, "请填写会议名称。", "The meeting needs a title.")
    if any(ord(c) < 32 for c in title):
        raise BadRequest("invalid_request", "会议名称含有控制字符。", "The title holds control characters.")
    main_venue = wanted.main_venue or ROOT
    room = await request.app[keys.DIRECTORY].open(actor_of(user), title, main_venue, wanted.venues)
    return json_response(_view(request, user, room), status=201)


@operation("List meetings, newest first", tag="meetings", response=shapes.MeetingList)
async def list_meetings(request: web.Request) -> web.Response:
    user = await require_user(request)
    directory = request.app[keys.DIRECTORY]
    if user.role == "venue":
        items = [
            views.summary(room.meeting_id, room.title, room.status, room.created_at)
            for room in directory.active
            if sees(actor_of(user), room)
        ]
    else:
        items = [
            {
                **views.summary(found.meeting_id, found.title, found.status, found.created_at),
                "main_venue": found.main_venue,
                "ended_at": None if found.ended_at is None else views.ms(found.ended_at),
            }
            for found in await directory.summaries()
        ]
    return json_response({"items": items})


@operation(
    "Look at a meeting",
    tag="meetings",
    response=shapes.MeetingView,
    errors={404: "There is no such meeting."},
)
async def show_meeting(request: web.Request) -> web.Response:
    user = await require_user(request)
    return json_response(_view(request, user, await _room(request, user)))


@operation(
    "Give a command",
    tag="meetings",
    body=AnyCommand,
    response=shapes.Done,
    errors={
        403: "Not for this account.",
        404: "No such meeting or venue.",
        409: "A rule stands against it; code says which.",
    },
    description="The body is one command, told apart by type: call, hang_up, broadcast, …",
)
async def command_meeting(request: web.Request) -> web.Response:
    user = await require_user(request)
    command: Command = await read_value(request, COMMAND)
    room = await _room(request, user)
    directory = request.app[keys.DIRECTORY]
    revision = await directory.command(room.meeting_id, actor_of(user), command)
    if isinstance(command, StartRecording):
        await directory.recording_opened(room.meeting_id)
    return json_response({"ok": True, "revision": revision})


def _may_sit(request: web.Request, room: Room, user: User) -> bool:
    """The main venue's seat is free or this user's own.  After a restart of the server only the token of who
    sits there can tell: a page that came back by itself still carries its own.
    """
    if request.app[keys.DIRECTORY].presence.may_sit(room, user.user_id):
        return True
    seated = request.app[keys.MEDIA_ROOMS].participants(room.meeting_id)
    return any(p.identity == room.main_venue and p.attributes.get(SITTER) == user.user_id for p in seated)


@operation(
    "Get a token for the media",
    tag="meetings",
    response=shapes.MediaToken,
    errors={404: "No such meeting.", 409: "The venue may not come in now; code says why."},
    description=(
        "A venue's account gets its own seat. The host's console occupies the main venue unless another"
        " account sits there or it only observes. An empty url means: where this page came from."
    ),
)
async def media_token(request: web.Request) -> web.Response:
    user = await require_user(request)
    wanted = await read_model(request, TokenRequest) if request.can_read_body else TokenRequest()
    room = await _room(request, user)
    if not room.active:
        raise Refused("meeting_ended")
    directory = request.app[keys.DIRECTORY]
    presence = directory.presence
    if user.role == "venue":
        occupies = user.venue_id
    elif user.role == "host" and not wanted.observe:
        occupies = room.main_venue if _may_sit(request, room, user) else None
    else:
        occupies = None
    if occupies is not None:
        refusal = may_enter(room, occupies)
        if refusal is not None:
            counters.refused(f"media_token_{refusal}")
            raise Refused(refusal)
        if occupies == room.main_venue:
            presence.sits(room.meeting_id, user.user_id)
        venue = directory.venues.get(occupies)
        identity, name = occupies, venue.name if venue else occupies
        grants = Grants(room_join=True, room=room.meeting_id)
    else:
        identity, name = f"{CONSOLE_PREFIX}{user.user_id}", user.name
        grants = Grants(
            room_join=True, room=room.meeting_id, can_publish=False, can_publish_data=False, hidden=True
        )
    attributes = {SITTER: user.user_id, **({OWN_MUTE: "1"} if wanted.own_mute else {})}
    token = request.app[keys.API_KEYS].mint(
        room.meeting_id, identity, name, TOKEN_TTL_S, now=request.app[keys.CLOCK].now(), grants=grants,
        attributes=attributes,
    )  # fmt: skip
    return json_response({"url": "", "token": token, "identity": identity, "occupies": occupies})


@operation("List venues in protocol order", tag="venues", response=shapes.VenueList)
async def list_venues(request: web.Request) -> web.Response:
    await require_user(request)
    directory = request.app[keys.DIRECTORY]
    items = [views.venue_line(venue, directory.presence) for venue in directory.venues.values()]
    return json_response({"items": items})


def routes() -> list[web.RouteDef]:
    return [
        web.post("/api/v1/meetings", open_meeting),
        web.get("/api/v1/meetings", list_meetings),
        web.get("/api/v1/meetings/{meeting_id}", show_meeting),
        web.post("/api/v1/meetings/{meeting_id}/commands", command_meeting),
        web.post("/api/v1/meetings/{meeting_id}/media-token", media_token),
        web.get("/api/v1/venues", list_venues),
    ]
