"""/ws over a real server: snapshot and numbered changes, commands, and everything that pages do wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from core import counters
from rooms.commands import Joined, Published
from signaling import keys, shapes, ws
from tests.fixtures.conference import MAIN, PASSWORD, Conference, Page, settled

A, B = "340100", "340200"


async def come_in(conference: Conference, meeting: str, *venues: str) -> None:
    for venue in venues:
        conference.directory.tell(meeting, Joined(venue))
        conference.directory.tell(meeting, Published(venue, "camera"))
    await settled(
        conference.directory,
        lambda: all(
            (room := conference.directory.room(meeting)) and room.seats[v].has_picture for v in venues
        ),
    )


async def test_a_console_watches_a_meeting(conference: Conference) -> None:
    meeting = await conference.open(A, B)
    page = await conference.page("host", meeting)
    view = await page.until(lambda v: v["meeting"])
    me = {"username": "host", "name": "host", "role": "host", "venue_id": None}
    assert view["me"] == {"user_id": view["me"]["user_id"], **me}
    assert list(view["meetings"]) == [meeting]
    assert list(view["meeting"]["venues"]) == [MAIN, A, B]
    shapes.MeetingView.model_validate(view["meeting"])
    assert await page.command(meeting, type="call") == {"type": "result", "id": "c1", "ok": True}
    await page.until(lambda v: v["meeting"]["venues"][A]["status"] == "calling")
    await come_in(conference, meeting, A)
    await page.until(lambda v: v["meeting"]["venues"][A]["camera"])
    await page.command(meeting, type="broadcast", venue=A)
    await page.until(lambda v: v["meeting"]["stage"] == A)
    status, shown = await conference.request("host", "GET", f"/api/v1/meetings/{meeting}")
    assert (status, shown) == (200, page.view["meeting"])
    assert page.snapshots == 1


async def test_a_venue_is_called_answers_and_asks_for_the_floor(conference: Conference) -> None:
    venue = await conference.page("hefei")
    await venue.until(lambda v: v["meetings"] == {} and v["meeting"] is None)
    meeting = await conference.open(A, B)
    console = await conference.page("host", meeting)
    await console.until(lambda v: v["meeting"]["venues"][A]["online"])
    await venue.until(lambda v: meeting in v["meetings"])
    assert not venue.view["meeting"]
    await console.command(meeting, type="call", venue=A)
    await venue.until(lambda v: v["meeting"] and v["meeting"]["venues"][A]["status"] == "calling")
    assert set(venue.view["meeting"]["venues"]) == {MAIN, A}
    assert (await venue.command(meeting, type="answer", accept=True))["ok"]
    await venue.until(lambda v: v["meeting"]["venues"][A]["answered"])
    await come_in(conference, meeting, A, B)
    assert (await venue.command(meeting, type="request_floor"))["ok"]
    await console.until(lambda v: v["meeting"]["queue"] and v["meeting"]["queue"][0]["venue"] == A)
    refused = await venue.command(meeting, type="broadcast", venue=A)
    assert refused["ok"] is False
    assert refused["error"]["code"] == "forbidden"
    await console.command(meeting, type="broadcast", venue=B)
    await venue.until(lambda v: v["meeting"]["stage"] == B and B in v["meeting"]["venues"])
    await console.command(meeting, type="stop_broadcast")
    await venue.until(lambda v: B not in v["meeting"]["venues"])
    await console.command(meeting, type="end")
    await venue.until(lambda v: v["meeting"] is None and v["meetings"] == {})
    await console.until(lambda v: v["meeting"]["status"] == "ended")


async def test_a_lost_message_is_made_good_by_a_snapshot(conference: Conference) -> None:
    meeting = await conference.open(A)
    page = await conference.page("host", meeting)
    await page.until(lambda v: v["meeting"])
    await page.command(meeting, type="lock")
    await page.until(lambda v: v["meeting"]["locked"])
    page.view = None  # as if something had got lost
    await page.say(type="resync")
    view = await page.until(lambda v: v)
    assert page.snapshots == 2
    assert view["meeting"]["locked"]


async def test_a_large_difference_is_sent_as_a_snapshot(
    conference: Conference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "MAX_CHANGES", 3)
    meeting = await conference.open(A, B, "340300")
    page = await conference.page("host", meeting)
    await page.until(lambda v: v["meeting"])
    await page.command(meeting, type="mute_all")
    await page.until(lambda v: v["meeting"]["venues"]["340300"]["muted_by_chair"])
    assert page.snapshots == 1
    await page.command(meeting, type="call")
    await page.until(lambda v: v["meeting"]["venues"]["340300"]["status"] == "calling")
    assert page.snapshots == 2


async def test_a_page_that_does_not_read_skips_states_and_ends_up_right(conference: Conference) -> None:
    """Its socket is full: nothing piles up for it, and the next message brings it to what holds now."""
    meeting = await conference.open()
    slow = await conference.page("it", meeting)
    await slow.until(lambda v: v["meeting"])
    hub_page = next(p for p in conference.hub._pages if p.user.username == "it")
    gate = asyncio.Event()
    send, sent = hub_page.socket.send_str, 0

    async def blocked(text: str, *args: Any) -> None:
        nonlocal sent
        await gate.wait()
        sent += 1
        await send(text)

    hub_page.socket.send_str = blocked  # type: ignore[method-assign, assignment]
    console = await conference.page("host", meeting)
    await console.until(lambda v: v["meeting"])
    for _ in range(10):
        await console.command(meeting, type="lock")
        await console.command(meeting, type="mute", venue=A)
        await console.command(meeting, type="unlock")
        await console.command(meeting, type="unmute", venue=A)
    await console.command(meeting, type="mute", venue=B)
    await console.until(lambda v: v["meeting"]["venues"][B]["muted_by_chair"])
    gate.set()
    await slow.until(lambda v: v["meeting"]["venues"][B]["muted_by_chair"])
    assert slow.view["meeting"] == console.view["meeting"]
    assert sent <= 2


async def test_malformed_messages_are_answered_and_counted(conference: Conference) -> None:
    meeting = await conference.open(A)
    page = await conference.page("host", meeting)
    before = counters.refused_total("ws_invalid_message")
    for bad in (
        "", "{", "[]", "null", '"x"', "{}", '{"type": "dance"}', '{"type": "command"}',
        '{"type": "watch", "meeting": 3}', '{"type": "command", "id": 3, "meeting": "m", "command": {}}',
        '{"type": "profile", "devices": {"camera": "perhaps"}}', "\x00", "[" * 5000,
        json.dumps({"type": "command", "id": "x" * 65, "meeting": meeting, "command": {}}),
    ):  # fmt: skip
        await page.socket.send_str(bad)
        error = await page.next("error")
        assert error["code"] == "invalid_message"
        assert error["message"]
        assert error["message_en"]
    await page.socket.send_bytes(b"\x00\x01")
    assert (await page.next("error"))["code"] == "invalid_message"
    assert counters.refused_total("ws_invalid_message") == before + 15
    for command in ({}, {"type": "dance"}, {"type": "mute"}, {"type": "mute", "venue": "x" * 99},
                    {"type": "end", "more": 1}, {"type": "mute", "venue": 340100}):  # fmt: skip
        await page.say(type="command", id="k", meeting=meeting, command=command)
        result = await page.next("result")
        assert result["error"]["code"] == "invalid_command", command
    await page.say(type="command", id="k", meeting="mt_none", command={"type": "lock"})
    assert (await page.next("result"))["error"]["code"] == "meeting_unknown"
    await page.say(type="ping")
    assert (await page.next("pong"))["now"] > 0


async def test_an_oversize_message_closes_the_socket(conference: Conference) -> None:
    page = await conference.page("host")
    await page.until(lambda v: v)
    before = counters.refused_total("ws_message_too_big")
    await page.socket.send_str('{"type": "ping", "x": "' + "x" * 17_000 + '"}')
    message = await page.socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert page.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await gone(conference)
    assert counters.refused_total("ws_message_too_big") == before + 1


async def gone(conference: Conference) -> None:
    while conference.hub.pages:  # noqa: ASYNC110 (the server needs a few turns to see the end)
        await asyncio.sleep(0)


async def test_a_flood_is_slowed_and_then_closed(
    conference: Conference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "MAX_REFUSALS", 5)
    before = counters.refused_total("ws_too_fast")
    page = await conference.page("host")
    for _ in range(200):
        try:
            await page.say(type="ping")
        except ConnectionError:
            break
    async for _ in page.socket:
        pass  # answers to the first ones, then the end
    assert counters.refused_total("ws_too_fast") == before + 6
    assert page.socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION


async def test_only_signed_in_pages_of_our_own_origin(conference: Conference) -> None:
    url = conference.server.make_url("/ws")
    cookie = {"Cookie": f"lianxin_session={conference.tokens['host']}"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        ({**cookie, "Origin": "https://elsewhere.example"}, 403),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await conference.client.ws_connect(url, headers=headers)
        assert refusal.value.status == status
    own = f"http://{url.host}:{url.port}"
    page = Page(await conference.client.ws_connect(url, headers={**cookie, "Origin": own}))
    await page.until(lambda v: v["me"]["username"] == "host")


async def test_a_limit_per_user(conference: Conference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "MAX_PER_USER", 2)
    pages = [await conference.page("host") for _ in range(2)]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await conference.page("host")
    assert refusal.value.status == 429
    pages.append(await conference.page("it"))
    await pages[2].until(lambda v: v)


async def test_signing_out_closes_the_page(conference: Conference, monkeypatch: pytest.MonkeyPatch) -> None:
    page = await conference.page("hefei")
    await page.until(lambda v: v)
    await conference.request("host", "GET", "/api/v1/meetings")
    await conference.hub.signed_out(conference.tokens["hefei"])
    message = await page.socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert page.socket.close_code == ws.SIGNED_OUT
    assert not conference.directory.presence.online(A) or conference.hub.pages


async def test_a_session_that_ends_unseen_closes_the_page_too(
    conference: Conference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "SESSION_CHECK_S", 0.05)
    await conference.hub.start(conference.app[keys.ACCOUNTS].user_of)
    page = await conference.page("hefei")
    await page.until(lambda v: v)
    await conference.accounts.set_password("hefei", PASSWORD + "2", by="test")
    message = await page.socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert page.socket.close_code == ws.SIGNED_OUT


async def test_online_and_standby_lights(conference: Conference) -> None:
    meeting = await conference.open(A)
    console = await conference.page("it", meeting)
    await console.until(lambda v: not v["meeting"]["venues"][A]["online"])
    first, second = await conference.page("hefei"), await conference.page("hefei")
    await console.until(lambda v: v["meeting"]["venues"][A]["online"])
    await first.say(type="profile", devices={"camera": True, "microphone": False})
    await console.until(
        lambda v: v["meeting"]["venues"][A]["devices"] == {"camera": True, "microphone": False}
    )
    await first.socket.close()
    await second.say(type="ping")
    await second.next("pong")
    assert console.view["meeting"]["venues"][A]["online"]
    await second.socket.close()
    await console.until(lambda v: not v["meeting"]["venues"][A]["online"])
    assert console.view["meeting"]["venues"][A]["devices"] is None


async def test_watching_another_meeting(conference: Conference) -> None:
    first, second = await conference.open(A), await conference.open(B)
    page = await conference.page("host", first)
    await page.until(lambda v: v["meeting"]["id"] == first)
    await page.say(type="watch", meeting=second)
    await page.until(lambda v: v["meeting"]["id"] == second)
    await page.say(type="watch", meeting=None)
    await page.until(lambda v: v["meeting"] is None)
    await page.say(type="watch", meeting="mt_none")
    assert (await page.next("error"))["code"] == "meeting_unknown"
    await page.command(first, type="end")
    await page.until(lambda v: first not in v["meetings"])
    await page.say(type="watch", meeting=first)
    await page.until(lambda v: v["meeting"] and v["meeting"]["status"] == "ended")
    venue = await conference.page("hefei")
    await venue.say(type="watch", meeting=second)
    assert (await venue.next("error"))["code"] == "forbidden"
    stray = await conference.page("host", "mt_none")
    assert (await stray.next("error"))["code"] == "meeting_unknown"


async def test_levels_and_quality_reach_who_watches(conference: Conference) -> None:
    meeting, other = await conference.open(A, B), await conference.open(B)
    console, venue = await conference.page("host", meeting), await conference.page("hefei")
    elsewhere = await conference.page("it", other)
    await elsewhere.until(lambda v: v["meeting"])
    await console.until(lambda v: v["meeting"])
    await console.command(meeting, type="call", venue=A)
    await venue.until(lambda v: v["meeting"])
    conference.hub.levels(meeting, {A: -30.25, B: -60.0})
    conference.hub.levels(meeting, {A: -20.0})  # too soon: waits for the next
    conference.hub.quality(meeting, {A: {"loss_up": 0.01}, B: {"loss_up": 0.5}})
    assert (await console.next("levels"))["venues"] == {A: -30.2, B: -60.0}
    assert (await console.next("quality"))["venues"] == {A: {"loss_up": 0.01}, B: {"loss_up": 0.5}}
    assert (await venue.next("levels"))["venues"] == {A: -30.2}
    assert (await venue.next("quality"))["venues"] == {A: {"loss_up": 0.01}}
    await elsewhere.say(type="ping")
    await elsewhere.next("pong")
    assert elsewhere.others == []


async def test_a_restart_closes_pages_kindly(conference: Conference) -> None:
    page = await conference.page("host")
    await page.until(lambda v: v)
    await conference.hub.close()
    message = await page.socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert page.socket.close_code == aiohttp.WSCloseCode.SERVICE_RESTART
