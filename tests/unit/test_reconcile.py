"""Between rules and media: facts in, wanted state out, the recorder told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from rooms.commands import Broadcast, Call, End, GiveFloor, HangUp, Leave, Mute, StartRecording, StopRecording
from rooms.directory import RoomDirectory
from signaling.reconcile import Reconciler
from tests.fixtures.conference import HOST, MAIN, Ground, settled, venue_actor

A, B = "340100", "340200"


class Media:
    """What the LiveKit edge would do, written down."""

    def __init__(self) -> None:
        self.refreshed: list[str] = []
        self.removed: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.called = asyncio.Event()

    def refresh(self, room: str) -> None:
        self.refreshed.append(room)
        self.called.set()

    async def remove(self, room: str, identity: str, reason: str) -> None:
        self.removed.append((room, identity))
        self.called.set()

    async def close(self, room: str) -> None:
        self.closed.append(room)
        self.called.set()


class Recorder:
    def __init__(self) -> None:
        self.started = 0
        self.stopped: list[str] = []
        self.notes: list[dict[str, Any]] = []
        self.paths = 0
        self.failing: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def start(self, meeting_id: str, title: str) -> str:
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        self.started += 1
        return f"rec_{self.started}"

    async def stop(self, recording_id: str) -> None:
        self.stopped.append(recording_id)
        self.called.set()

    def tap_path(self, recording_id: str, venue_id: str, source: str, track_sid: str) -> str:
        self.paths += 1
        return f"{recording_id}/{venue_id}-{source}-{track_sid}-{self.paths}"

    def note(self, recording_id: str, event: dict[str, Any]) -> None:
        self.notes.append({"recording": recording_id, **event})


class Gauges:
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def levels(self, meeting_id: str, venues: Mapping[str, float]) -> None:
        self.seen.append((meeting_id, dict(venues)))

    def quality(self, meeting_id: str, venues: Mapping[str, Mapping[str, object]]) -> None:
        self.seen.append((meeting_id, dict(venues)))


class Bench:
    def __init__(self, directory: RoomDirectory, meeting: str, ground: Ground) -> None:
        self.directory = directory
        self.meeting = meeting
        self.media, self.recorder, self.gauges = Media(), Recorder(), Gauges()
        self.reconciler = Reconciler(directory, ground.clock, self.recorder, self.gauges)
        self.reconciler.attach(self.media)

    async def until(self, condition: Callable[[], bool]) -> None:
        await settled(self.directory, condition)

    async def done(self, event: asyncio.Event, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                event.clear()
                await event.wait()

    def seat(self, venue: str) -> Any:
        room = self.directory.room(self.meeting)
        assert room is not None
        return room.seats[venue]

    async def enter(self, venue: str) -> None:
        edge = self.reconciler
        edge.participant_joined(self.meeting, venue)
        for source, mime in (("camera", "video/VP8"), ("microphone", "audio/opus")):
            edge.track_published(self.meeting, venue, source, f"TR_{venue}_{source}", mime)
            edge.local_mute(self.meeting, venue, source, False)
        await self.until(lambda: set(self.seat(venue).tracks) == {"camera", "microphone"})

    async def record(self) -> str:
        await self.directory.command(self.meeting, HOST, StartRecording())
        await self.until(lambda: bool((p := self.directory.plan(self.meeting)) and p.taps))
        plan = self.directory.plan(self.meeting)
        assert plan is not None
        assert plan.taps is not None
        return plan.taps


@pytest.fixture
async def bench(ground: Ground, directory: RoomDirectory) -> AsyncIterator[Bench]:
    room = await directory.open(HOST, "会议", MAIN, [A, B])
    made = Bench(directory, room.meeting_id, ground)
    yield made
    await made.reconciler.close()


async def test_who_is_let_in(bench: Bench) -> None:
    edge, meeting = bench.reconciler, bench.meeting
    assert edge.governs(meeting)
    assert not edge.governs("somebody-elses-room")
    assert edge.admits(meeting, A) is None
    assert edge.admits(meeting, "guest") is None
    assert edge.admits("mt_none", A) == "meeting_unknown"
    await bench.enter(A)
    await bench.directory.command(meeting, HOST, HangUp(venue=A))
    assert edge.admits(meeting, A) == "hung_up"
    await bench.directory.command(meeting, HOST, End())
    assert edge.governs(meeting)
    assert edge.admits(meeting, B) == "meeting_ended"
    assert edge.admits(meeting, "console-us_1") == "meeting_ended"


async def test_media_follows_the_plan(bench: Bench) -> None:
    edge, meeting = bench.reconciler, bench.meeting
    for venue in (MAIN, A, B):
        await bench.enter(venue)
    assert edge.wants(meeting, B, MAIN, "camera")
    assert not edge.wants(meeting, B, A, "camera")
    assert edge.wants(meeting, B, A, "microphone")
    assert edge.wants(meeting, MAIN, A, "camera")
    assert edge.wants(meeting, "console-us_1", A, "camera")
    assert edge.wants(meeting, "guest", MAIN, "camera")
    assert not edge.wants(meeting, A, "guest", "microphone")
    bench.media.refreshed.clear()
    await bench.directory.command(meeting, HOST, Broadcast(venue=A))
    assert bench.media.refreshed == [meeting]
    assert edge.wants(meeting, B, A, "camera")
    assert not edge.wants(meeting, B, MAIN, "camera")
    assert edge.wants(meeting, A, MAIN, "camera")
    assert edge.wants(meeting, MAIN, B, "camera")
    edge.track_published(meeting, B, "screen_share", "TR_s", "video/VP8")
    await bench.until(lambda: edge.wants(meeting, A, B, "screen_share"))
    ranks = [edge.priority(meeting, MAIN, *of) for of in ((A, "camera"), (B, "screen_share"), (B, "camera"))]
    assert ranks == [100, 80, 0]
    assert edge.priority(meeting, A, MAIN, "camera") == 60
    assert edge.priority("mt_none", A, MAIN, "camera") == 0


async def test_silence_is_known_before_the_first_packet(bench: Bench) -> None:
    edge, meeting = bench.reconciler, bench.meeting
    await bench.directory.command(meeting, HOST, Mute(venue=A))
    assert edge.silenced(meeting, A, "microphone")
    assert edge.silenced(meeting, A, "screen_share_audio")
    assert not edge.silenced(meeting, A, "camera")
    assert edge.wants(meeting, B, A, "microphone") is False  # it is not in yet
    await bench.enter(MAIN)
    await bench.enter(B)
    await bench.directory.command(meeting, HOST, GiveFloor(venue=B))
    assert edge.silenced(meeting, "340300", "microphone")  # no seat yet: enters muted
    assert not edge.silenced(meeting, MAIN, "microphone")
    assert not edge.silenced(meeting, B, "microphone")


async def test_a_lost_line_is_no_farewell(bench: Bench) -> None:
    await bench.enter(A)
    bench.reconciler.participant_left(bench.meeting, A, "left")
    await bench.until(lambda: not bench.seat(A).connected)
    assert bench.seat(A).rejoins
    assert bench.media.removed == []
    await bench.enter(A)
    assert bench.seat(A).connected


async def test_hung_up_and_gone_are_put_out(bench: Bench) -> None:
    await bench.enter(A)
    await bench.enter(B)
    await bench.directory.command(bench.meeting, HOST, HangUp(venue=A))
    await bench.directory.command(bench.meeting, venue_actor(B), Leave())
    expected = [(bench.meeting, A), (bench.meeting, B)]
    await bench.done(bench.media.called, lambda: set(bench.media.removed) >= set(expected))
    bench.media.removed.clear()
    bench.reconciler.participant_left(bench.meeting, A, "removed")
    bench.reconciler.participant_joined(bench.meeting, A)  # slipped in before the refusal was known
    await bench.done(bench.media.called, lambda: (bench.meeting, A) in bench.media.removed)
    assert not bench.seat(A).connected


async def test_the_end_closes_the_media_room(bench: Bench) -> None:
    await bench.enter(A)
    await bench.directory.command(bench.meeting, HOST, End())
    await bench.done(bench.media.called, lambda: bench.media.closed == [bench.meeting])
    assert not bench.reconciler.wants(bench.meeting, B, A, "camera")


async def test_recording_taps_every_track_of_members_once(bench: Bench) -> None:
    edge, meeting = bench.reconciler, bench.meeting
    await bench.enter(A)
    assert edge.tap(meeting, A, "camera") is None
    recording = await bench.record()
    path = edge.tap(meeting, A, "camera")
    assert path == f"{recording}/340100-camera-TR_340100_camera-1"
    assert edge.tap(meeting, A, "camera") == path
    assert edge.tap(meeting, A, "screen_share") is None
    assert edge.tap(meeting, B, "camera") is None
    edge.tap_started(meeting, A, "camera", "TR_340100_camera", path, "video/VP8")
    edge.tap_stopped(meeting, A, "camera", "TR_340100_camera", path)
    again = edge.tap(meeting, A, "camera")
    assert again is not None
    assert again != path
    bench.media.refreshed.clear()
    edge.track_published(meeting, A, "screen_share", "TR_s", "video/VP8")
    assert bench.media.refreshed == [meeting]
    assert edge.tap(meeting, A, "screen_share") is not None


async def test_the_time_line_follows_the_stage(bench: Bench) -> None:
    await bench.enter(A)
    await bench.directory.command(bench.meeting, HOST, Broadcast(venue=A))
    await bench.record()
    await bench.directory.command(bench.meeting, HOST, HangUp(venue=A))
    stages = [(n["recording"], n["venue"]) for n in bench.recorder.notes if n["type"] == "stage"]
    assert stages == [("rec_1", A), ("rec_1", None)]


async def test_stopping_waits_for_the_dumps(bench: Bench) -> None:
    edge, meeting = bench.reconciler, bench.meeting
    await bench.enter(A)
    await bench.record()
    path = edge.tap(meeting, A, "camera")
    assert path is not None
    edge.tap_started(meeting, A, "camera", "TR_340100_camera", path, "video/VP8")
    await bench.directory.command(meeting, HOST, StopRecording())
    assert edge.tap(meeting, A, "camera") is None
    assert bench.recorder.stopped == []
    edge.tap_stopped(meeting, A, "camera", "TR_340100_camera", path)
    await bench.done(bench.recorder.called, lambda: bench.recorder.stopped == ["rec_1"])


async def test_stopped_while_the_recorder_was_still_opening(bench: Bench) -> None:
    bench.recorder.gate.clear()
    await bench.directory.command(bench.meeting, HOST, StartRecording())
    await bench.directory.command(bench.meeting, HOST, StopRecording())
    bench.recorder.gate.set()
    await bench.reconciler.close()
    assert bench.recorder.started == len(bench.recorder.stopped)


@pytest.mark.parametrize(
    "error", [OSError("disk full"), OperationalError("INSERT", {}, Exception("database is locked"))]
)
async def test_a_recorder_that_cannot_begin_turns_the_light_off(bench: Bench, error: Exception) -> None:
    bench.recorder.failing = error
    await bench.directory.command(bench.meeting, HOST, StartRecording())
    await bench.until(lambda: bool((r := bench.directory.room(bench.meeting)) and r.recording is None))


async def test_the_recording_goes_on_after_a_restart(ground: Ground, bench: Bench) -> None:
    await bench.record()
    await bench.directory.close()
    again = ground.directory()
    second = Bench(again, bench.meeting, ground)
    await again.start()
    await second.reconciler.close()
    assert second.recorder.started == 0
    await second.enter(A)
    assert second.reconciler.tap(bench.meeting, A, "camera") == "rec_1/340100-camera-TR_340100_camera-1"
    await again.command(bench.meeting, HOST, End())
    await second.done(second.recorder.called, lambda: second.recorder.stopped == ["rec_1"])
    await again.close()


async def test_measurements_of_venues_only(bench: Bench) -> None:
    bench.reconciler.levels(bench.meeting, {A: -20.0, "guest": -3.0})
    bench.reconciler.quality(bench.meeting, {"console-us_1": {}})
    bench.reconciler.levels("mt_none", {A: -20.0})
    assert bench.gauges.seen == [(bench.meeting, {A: -20.0})]


async def test_calling_is_not_connecting(bench: Bench) -> None:
    await bench.directory.command(bench.meeting, HOST, Call())
    assert not bench.reconciler.wants(bench.meeting, A, MAIN, "camera")
