"""The live meetings on a real database: stored before told, restored after a crash."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from rooms.commands import (
    Broadcast,
    Call,
    End,
    GiveFloor,
    HangUp,
    Joined,
    Leave,
    LocalMute,
    Mute,
    MuteAll,
    Published,
    RequestFloor,
    StartRecording,
    WithdrawRequest,
)  # fmt: skip
from rooms.directory import Change, RoomDirectory
from rooms.model import Status
from rooms.refusals import Refused
from rooms.seed import load_tree
from tests.fixtures.conference import HOST, IT, MAIN, Ground, asleep, settled, venue_actor

A, B = "340100", "340200"


async def come_in(directory: RoomDirectory, meeting: str, *venues: str) -> None:
    for venue in venues:
        directory.tell(meeting, Joined(venue))
        directory.tell(meeting, Published(venue, "camera"))
        directory.tell(meeting, Published(venue, "microphone"))
    await settled(directory, lambda: all(seat(directory, meeting, v).has_picture for v in venues))


def seat(directory: RoomDirectory, meeting: str, venue: str) -> Any:
    room = directory.room(meeting)
    assert room is not None
    return room.seats[venue]


def test_the_demo_tree_is_whole() -> None:
    tree = load_tree()
    assert [sum(org.tier == tier for org in tree) for tier in (0, 1, 2)] == [1, 18, 103]
    known: set[str | None] = {None}
    for place, org in enumerate(tree):
        assert org.order_no == place
        assert org.parent_id in known
        known.add(org.org_id)
    assert len(known) == 123


async def test_all_venues_are_listed_in_protocol_order(directory: RoomDirectory) -> None:
    room = await directory.open(HOST, "会议", MAIN)
    assert list(room.seats) == [org.org_id for org in load_tree()]


async def test_only_known_venues_and_only_by_the_host(directory: RoomDirectory) -> None:
    for actor, main, venues, code in (
        (IT, MAIN, None, "forbidden"),
        (venue_actor(A), MAIN, None, "forbidden"),
        (HOST, "999999", None, "unknown_venue"),
        (HOST, MAIN, ["999999"], "unknown_venue"),
        (HOST, MAIN, [A] * 1001, "too_many_venues"),
    ):
        with pytest.raises(Refused) as refusal:
            await directory.open(actor, "会议", main, venues)
        assert refusal.value.code == code


async def test_stored_before_told(ground: Ground, directory: RoomDirectory) -> None:
    room = await directory.open(HOST, "会议", MAIN, [A])
    stored: list[asyncio.Task[Any]] = []

    def listener(change: Change) -> None:
        stored.append(asyncio.create_task(ground.store.find(change.new.meeting_id)))

    directory.listeners.append(listener)
    revision = await directory.command(room.meeting_id, HOST, Mute(venue=A))
    assert revision == 1
    found = await stored[0]
    assert found.seats[A].muted_by_chair
    assert found == directory.room(room.meeting_id)


async def test_everything_comes_back_after_a_crash(ground: Ground, directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A, B])).meeting_id
    ended = (await directory.open(HOST, "别的会议", MAIN, [A])).meeting_id
    await come_in(directory, meeting, MAIN, A, B)
    for command in (MuteAll(), GiveFloor(venue=A), RequestFloor(venue=B), StartRecording()):
        await directory.command(meeting, HOST, command)
    await directory.command(ended, HOST, End())
    before = directory.room(meeting)
    assert before is not None
    await directory.close()  # writes nothing: as good as kill -9

    again = ground.directory()
    await again.start()
    room = again.room(meeting)
    assert room is not None
    assert again.room(ended) is None
    assert (room.floor, room.stage, room.queue, room.recording) == (A, A, before.queue, before.recording)
    assert {v for v, s in room.seats.items() if s.muted_by_chair} == {B}
    assert all(room.seats[v].rejoins for v in (MAIN, A, B))
    assert again.meeting_of(A) is room
    assert room.revision == before.revision + 1
    await come_in(again, meeting, A, B)
    assert seat(again, meeting, B).muted_by_chair
    assert (await again.find(ended)).active is False
    await again.close()


async def test_a_broken_state_does_not_keep_the_others_from_coming_back(
    ground: Ground, directory: RoomDirectory
) -> None:
    good = (await directory.open(HOST, "好", MAIN, [A])).meeting_id
    bad = (await directory.open(HOST, "坏", MAIN, [A])).meeting_id
    from sqlalchemy import update

    from rooms.store import MeetingRow

    async with ground.database.session() as session:
        await session.execute(
            update(MeetingRow).where(MeetingRow.meeting_id == bad).values(state='{"meeting_id": 3}')
        )
    again = ground.directory()
    await again.start()
    assert [room.meeting_id for room in again.active] == [good]
    await again.close()


async def test_commands_are_refused_undone_and_facts_kept_while_nothing_can_be_stored(
    ground: Ground, directory: RoomDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A])).meeting_id
    save = ground.store.save

    async def full(*args: Any) -> None:
        raise OperationalError("UPDATE", {}, Exception("disk is full"))

    monkeypatch.setattr(ground.store, "save", full)
    with pytest.raises(Refused) as refusal:
        await directory.command(meeting, HOST, Mute(venue=A))
    assert refusal.value.code == "storage_failed"
    assert not seat(directory, meeting, A).muted_by_chair
    directory.tell(meeting, Joined(A))
    await settled(directory, lambda: seat(directory, meeting, A).connected)
    monkeypatch.setattr(ground.store, "save", save)
    await directory.command(meeting, HOST, Mute(venue=A))
    stored = await ground.store.find(meeting)
    assert stored is not None
    assert stored.seats[A].connected
    assert stored.seats[A].muted_by_chair


async def test_looking_for_an_old_meeting_while_the_database_is_locked_is_a_refusal(
    ground: Ground, directory: RoomDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(*args: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(ground.store, "find", locked)
    for meeting, code in (("mt_old", "storage_failed"), ("mt_\0", "meeting_unknown")):
        with pytest.raises(Refused) as refusal:
            await directory.find(meeting)
        assert refusal.value.code == code


async def test_rings_again_by_the_clock(ground: Ground, directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A])).meeting_id
    await directory.command(meeting, HOST, Call(venue=A))

    def rang(times: int) -> bool:
        return bool(seat(directory, meeting, A).rings == times)

    for rings in (2, 3, 4):
        await asleep(ground.clock)
        ground.clock.advance(30)
        await settled(directory, partial(rang, rings))
    await asleep(ground.clock)
    ground.clock.advance(30)
    await settled(directory, lambda: seat(directory, meeting, A).status is Status.LEFT)
    assert seat(directory, meeting, A).reason == "no_answer"


async def test_venues_command_only_themselves(directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A, B])).meeting_id
    await come_in(directory, meeting, A, B)
    hefei = venue_actor(A)
    await directory.command(meeting, hefei, RequestFloor())
    room = directory.room(meeting)
    assert room is not None
    assert room.queue[0].venue == A
    for actor, command in (
        (hefei, RequestFloor(venue=B)),
        (hefei, Mute(venue=A)),
        (hefei, Broadcast(venue=A)),
        (IT, End()),
        (IT, WithdrawRequest(venue=A)),
    ):
        with pytest.raises(Refused) as refusal:
            await directory.command(meeting, actor, command)
        assert refusal.value.code == "forbidden"


async def test_unknown_meetings_and_venues(directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A])).meeting_id
    for where, command, code in (
        ("mt_none", Call(), "meeting_unknown"),
        (meeting, Call(venue="999999"), "unknown_venue"),
        (meeting, HangUp(venue="999999"), "not_in_meeting"),
    ):
        with pytest.raises(Refused) as refusal:
            await directory.command(where, HOST, command)
        assert refusal.value.code == code
    await directory.command(meeting, HOST, End())
    for actor, code in ((HOST, "meeting_ended"), (IT, "forbidden")):
        with pytest.raises(Refused) as refusal:
            await directory.command(meeting, actor, Call())
        assert refusal.value.code == code


async def test_a_venue_sits_in_one_meeting(directory: RoomDirectory) -> None:
    first = (await directory.open(HOST, "一", MAIN, [A])).meeting_id
    second = (await directory.open(HOST, "二", MAIN, [A])).meeting_id
    await come_in(directory, first, A)
    await come_in(directory, second, A)
    await settled(directory, lambda: not seat(directory, first, A).connected)
    assert seat(directory, first, A).reason == "left"


async def test_guests_have_no_seat(directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A])).meeting_id
    directory.tell(meeting, Joined("somebody"))
    directory.tell(meeting, LocalMute("somebody", "microphone", True))
    directory.tell("mt_none", Joined(A))
    await come_in(directory, meeting, A, B)  # B is not listed, but it is a venue
    room = directory.room(meeting)
    assert room is not None
    assert set(room.seats) == {MAIN, A, B}


async def test_every_command_is_in_the_audit_trail(ground: Ground, directory: RoomDirectory) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN, [A])).meeting_id
    await directory.command(meeting, HOST, Mute(venue=A))
    await directory.command(meeting, HOST, Mute(venue=A))
    with pytest.raises(Refused):
        await directory.command(meeting, HOST, Broadcast(venue=A))
    await directory.command(meeting, venue_actor(A), Leave())
    trail = [(e.actor, e.action, e.subject, e.detail) for e in reversed(await ground.audit.list())]
    assert trail == [
        ("host", "meeting.open", meeting, {"title": "会议", "venues": 1}),
        ("host", "meeting.mute", meeting, {"venue": A, "changed": True}),
        ("host", "meeting.mute", meeting, {"venue": A, "changed": False}),
        ("host", "meeting.broadcast", meeting, {"venue": A, "refused": "not_connected"}),
        ("v340100", "meeting.leave", meeting, {"venue": A, "changed": False}),
    ]


async def test_a_hundred_venues_at_once_cost_few_writes(
    ground: Ground, directory: RoomDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = (await directory.open(HOST, "会议", MAIN)).meeting_id
    save, writes = ground.store.save, 0

    async def counted(*args: Any) -> None:
        nonlocal writes
        writes += 1
        await save(*args)

    monkeypatch.setattr(ground.store, "save", counted)
    await directory.command(meeting, HOST, Call())
    await come_in(directory, meeting, *list(directory.venues))
    assert writes <= 4


async def test_one_deaf_listener_does_not_silence_the_others(directory: RoomDirectory) -> None:
    heard: list[Change] = []

    def deaf(change: Change) -> None:
        raise RuntimeError("deaf")

    directory.listeners.extend([deaf, heard.append])
    room = await directory.open(HOST, "会议", MAIN, [A])
    await directory.command(room.meeting_id, HOST, Mute(venue=A))
    assert len(heard) == 2
