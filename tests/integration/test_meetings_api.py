"""Meetings over HTTP: what each role may do and see, and the media tokens."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from livekit.protocol import models

from rooms.commands import Call, End, HangUp, Joined, Lock
from signaling import keys, openapi, shapes
from tests.fixtures.conference import HOST, MAIN, Conference, settled

A, B = "340100", "340200"


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


async def token_for(conference: Conference, who: str, meeting: str, body: Any = None) -> tuple[int, Any]:
    return await conference.request(who, "POST", f"/api/v1/meetings/{meeting}/media-token", body)


async def test_open_list_and_look(conference: Conference) -> None:
    status, view = await conference.request("host", "POST", "/api/v1/meetings", {"title": " 会议 "})
    assert status == 201
    shapes.MeetingView.model_validate(view)
    assert (view["title"], view["main_venue"], len(view["venues"])) == ("会议", MAIN, 122)
    only_b = await conference.open(B)
    status, listed = await conference.request("it", "GET", "/api/v1/meetings")
    shapes.MeetingList.model_validate(listed)
    assert {item["id"] for item in listed["items"]} == {view["id"], only_b}
    _, listed = await conference.request("hefei", "GET", "/api/v1/meetings")
    assert [item["id"] for item in listed["items"]] == [view["id"]]
    status, own = await conference.request("hefei", "GET", f"/api/v1/meetings/{view['id']}")
    assert (status, set(own["venues"])) == (200, {MAIN, A})
    status, problem = await conference.request("hefei", "GET", f"/api/v1/meetings/{only_b}")
    assert (status, problem["code"]) == (404, "meeting_unknown")
    status, venues = await conference.request("hefei", "GET", "/api/v1/venues")
    shapes.VenueList.model_validate(venues)
    assert [v["id"] for v in venues["items"][:3]] == [MAIN, "340100", "340102"]


@pytest.mark.parametrize(
    ("who", "body", "status", "code"),
    [
        ("", {"title": "会议"}, 401, "not_signed_in"),
        ("it", {"title": "会议"}, 403, "not_allowed"),
        ("hefei", {"title": "会议"}, 403, "not_allowed"),
        ("host", {"title": "  "}, 400, "title_required"),
        ("host", {}, 400, "invalid_request"),
        ("host", {"title": "会" * 101}, 400, "invalid_request"),
        ("host", {"title": "会\0议"}, 400, "invalid_request"),
        ("host", {"title": "会议", "colour": "red"}, 400, "invalid_request"),
        ("host", {"title": "会议", "venues": ["../etc"]}, 400, "invalid_request"),
        ("host", {"title": "会议", "venues": ["999999"]}, 404, "unknown_venue"),
        ("host", {"title": "会议", "main_venue": "999999"}, 404, "unknown_venue"),
    ],
)
async def test_not_opened(conference: Conference, who: str, body: Any, status: int, code: str) -> None:
    found, problem = await conference.request(who, "POST", "/api/v1/meetings", body)
    assert (found, problem["code"]) == (status, code)
    assert problem["detail"]
    assert problem["detail_en"]


async def test_commands(conference: Conference) -> None:
    meeting = await conference.open(A, B)
    path = f"/api/v1/meetings/{meeting}/commands"
    for who, body, expected in (
        ("host", {"type": "mute", "venue": A}, (200, None)),
        ("host", {"type": "mute", "venue": A}, (200, None)),
        ("host", {"type": "broadcast", "venue": A}, (409, "not_connected")),
        ("host", {"type": "hang_up", "venue": "340300"}, (404, "not_in_meeting")),
        ("host", {"type": "dance"}, (400, "invalid_request")),
        ("host", ["mute"], (400, "invalid_request")),
        ("it", {"type": "mute", "venue": A}, (403, "forbidden")),
        ("hefei", {"type": "unmute", "venue": A}, (403, "forbidden")),
        ("hefei", {"type": "leave", "venue": B}, (403, "forbidden")),
        ("hefei", {"type": "leave"}, (200, None)),
        ("host", {"type": "end"}, (200, None)),
        ("host", {"type": "call"}, (409, "meeting_ended")),
    ):
        status, answer = await conference.request(who, "POST", path, body)
        assert (status, answer.get("code")) == expected, body
        if status == 200:
            shapes.Done.model_validate(answer)
    status, answer = await conference.request(
        "host", "POST", "/api/v1/meetings/mt_no/commands", {"type": "lock"}
    )
    assert (status, answer["code"]) == (404, "meeting_unknown")


async def test_a_venue_gets_its_own_seat_unless_hung_up(conference: Conference) -> None:
    meeting = await conference.open(A, B)
    status, answer = await token_for(conference, "hefei", meeting)
    assert status == 200
    shapes.MediaToken.model_validate(answer)
    assert (answer["identity"], answer["occupies"]) == (A, A)
    assert claims(answer["token"])["video"]["room"] == meeting
    assert claims(answer["token"])["sub"] == A
    await conference.directory.command(meeting, HOST, Call(venue=A))
    await conference.directory.command(meeting, HOST, HangUp(venue=A))
    status, answer = await token_for(conference, "hefei", meeting)
    assert (status, answer["code"]) == (409, "hung_up")
    await conference.directory.command(meeting, HOST, Lock())
    status, answer = await token_for(conference, "wuhu", meeting)
    assert (status, answer["code"]) == (409, "locked")


async def test_the_host_sits_in_the_main_venue_and_others_watch_hidden(conference: Conference) -> None:
    meeting = await conference.open(A)
    _, answer = await token_for(conference, "host", meeting)
    assert (answer["identity"], answer["occupies"]) == (MAIN, MAIN)
    conference.directory.tell(meeting, Joined(MAIN))
    room = conference.directory.room
    await settled(conference.directory, lambda: bool((r := room(meeting)) and r.seats[MAIN].connected))
    _, again = await token_for(conference, "host", meeting)
    assert again["occupies"] == MAIN  # a reload takes its own seat over
    await conference.add_user("host2", "host")
    for who, body in (("host2", None), ("it", None), ("host", {"observe": True})):
        _, watcher = await token_for(conference, who, meeting, body)
        video = claims(watcher["token"])["video"]
        assert watcher["identity"].startswith("console-us_")
        assert watcher["occupies"] is None
        assert (video["hidden"], video["canPublish"]) == (True, False)
    status, answer = await token_for(conference, "wuhu", meeting)
    assert (status, answer["code"]) == (404, "meeting_unknown")
    await conference.directory.command(meeting, HOST, End())
    status, answer = await token_for(conference, "host", meeting)
    assert (status, answer["code"]) == (409, "meeting_ended")


async def test_every_route_is_described(conference: Conference) -> None:
    assert openapi.undescribed(conference.app) == []
    described = openapi.document(conference.app, "test")
    body = described["paths"]["/api/v1/meetings/{meeting_id}/commands"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert "broadcast" in schema["discriminator"]["mapping"]
    assert conference.app[keys.HUB].pages == 0


async def test_the_console_keeps_the_main_venue_after_a_restart_of_the_server(conference: Conference) -> None:
    meeting = await conference.open()
    path = f"/api/v1/meetings/{meeting}/media-token"
    _, first = await conference.request("host", "POST", path)
    attributes = dict(conference.app[keys.API_KEYS].verify(first["token"]).attributes)
    conference.directory.tell(meeting, Joined(MAIN))
    await settled(conference.directory, lambda: conference.directory.active[0].seats[MAIN].connected)
    conference.directory.presence.forget(meeting)  # what a restart forgets
    conference.seated.append(models.ParticipantInfo(identity=MAIN, attributes={"lianxin.user": "us_other"}))
    _, other = await conference.request("host", "POST", path)
    assert other["occupies"] is None
    conference.seated[:] = [models.ParticipantInfo(identity=MAIN, attributes=attributes)]
    _, again = await conference.request("host", "POST", path)
    assert again["occupies"] == MAIN


async def test_a_page_may_say_that_it_keeps_its_own_mute(conference: Conference) -> None:
    path = f"/api/v1/meetings/{await conference.open()}/media-token"
    api_keys = conference.app[keys.API_KEYS]
    for body, told in (({}, None), ({"own_mute": True}, "1")):
        _, answer = await conference.request("host", "POST", path, body)
        assert api_keys.verify(answer["token"]).attributes.get("lianxin.own_mute") == told
