"""The chair's rules, command by command, with every refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rooms.commands import (
    COMMAND,
    Answer,
    Broadcast,
    Call,
    Command,
    Departed,
    End,
    Fact,
    FreeDiscussion,
    GiveFloor,
    HangUp,
    Joined,
    Leave,
    LocalMute,
    Lock,
    MovedAway,
    Mute,
    MuteAll,
    Published,
    RecordingFailed,
    RecordingOpened,
    RequestFloor,
    Restarted,
    StartRecording,
    StopBroadcast,
    StopRecording,
    Tick,
    Unlock,
    Unmute,
    Unpublished,
    WithdrawRequest,
)  # fmt: skip
from rooms.events import Happened
from rooms.facts import may_enter
from rooms.model import AfterFloor, MeetingStatus, Reason, Room, Rules, Status, decode, encode
from rooms.refusals import REFUSALS, Refused
from rooms.room import apply, next_deadline, open_room

MAIN, A, B, C, D = "340000", "340100", "340200", "340300", "340400"
NOW = 1_000.0


def play(room: Room, *words: Command | Fact, now: float = NOW) -> Room:
    for word in words:
        room, _ = apply(room, word, now)
    return room


def fresh(rules: Rules | None = None) -> Room:
    return open_room("mt_1", "测试", MAIN, [A, B, C], NOW, rules)


def came(room: Room, *venues: str) -> Room:
    for venue in venues:
        room = play(
            room, Call(venue=venue), Joined(venue), Published(venue, "camera"), Published(venue, "microphone")
        )
    return room


def meeting(rules: Rules | None = None) -> Room:
    """Main venue, A and B are in with camera and microphone; C has not been called."""
    return came(fresh(rules), MAIN, A, B)


def after(*words: Command | Fact) -> Room:
    return play(meeting(), *words)


ANSWER = Answer(venue=C, accept=True)


def muted(room: Room) -> set[str]:
    return {v for v, seat in room.seats.items() if seat.muted_by_chair}


# ---------------------------------------------------------------- refusals: room, command, code

REFUSED: list[tuple[str, Callable[[], Room], Command, str]] = [
    ("broadcast unlisted", meeting, Broadcast(venue=D), "not_in_meeting"),
    ("broadcast unconnected", meeting, Broadcast(venue=C), "not_connected"),
    ("broadcast lost", lambda: after(Departed(A)), Broadcast(venue=A), "not_connected"),
    ("broadcast no camera", lambda: after(Unpublished(A, "camera")), Broadcast(venue=A), "no_picture"),
    ("broadcast camera off", lambda: after(LocalMute(A, "camera", True)), Broadcast(venue=A), "no_picture"),
    ("stop broadcast in floor", lambda: after(GiveFloor(venue=A)), StopBroadcast(), "floor_held"),
    ("floor unlisted", meeting, GiveFloor(venue=D), "not_in_meeting"),
    ("floor unconnected", meeting, GiveFloor(venue=C), "not_connected"),
    ("hang up unlisted", meeting, HangUp(venue=D), "not_in_meeting"),
    ("hang up main", meeting, HangUp(venue=MAIN), "main_venue"),
    ("request unconnected", meeting, RequestFloor(venue=C), "not_connected"),
    ("request unlisted", meeting, RequestFloor(venue=D), "not_in_meeting"),
    ("request by holder", lambda: after(GiveFloor(venue=A)), RequestFloor(venue=A), "has_floor"),
    ("request for nobody", meeting, RequestFloor(), "venue_required"),
    ("withdraw unlisted", meeting, WithdrawRequest(venue=D), "not_in_meeting"),
    ("withdraw for nobody", meeting, WithdrawRequest(), "venue_required"),
    ("mute unlisted", meeting, Mute(venue=D), "not_in_meeting"),
    ("unmute unlisted", meeting, Unmute(venue=D), "not_in_meeting"),
    ("answer uncalled", meeting, Answer(venue=C, accept=True), "not_calling"),
    ("refuse connected", meeting, Answer(venue=A, accept=False), "not_calling"),
    ("answer unlisted", meeting, Answer(venue=D, accept=True), "not_in_meeting"),
    ("answer for nobody", meeting, Answer(accept=True), "venue_required"),
    ("leave unlisted", meeting, Leave(venue=D), "not_in_meeting"),
    ("leave for nobody", meeting, Leave(), "venue_required"),
]  # fmt: skip
ANY: list[Command] = [
    Call(), Call(venue=A), HangUp(venue=A), Broadcast(venue=A), StopBroadcast(), GiveFloor(venue=A),
    FreeDiscussion(), RequestFloor(venue=A), WithdrawRequest(venue=A), Mute(venue=A), Unmute(venue=A),
    Unmute(), MuteAll(), Lock(), Unlock(), StartRecording(), StopRecording(), Answer(venue=A, accept=True),
    Leave(venue=A),
]  # fmt: skip
REFUSED += [
    (f"{command.type} after the end", lambda: after(End()), command, "meeting_ended") for command in ANY
]


@pytest.mark.parametrize(("before", "command", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(before: Callable[[], Room], command: Command, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        apply(before(), command, NOW)
    assert refusal.value.code == code
    assert refusal.value.status == REFUSALS[code][0]
    assert refusal.value.message
    assert refusal.value.message_en


def test_every_command_has_a_rule() -> None:
    assert {c.type for c in ANY} | {"end"} == {
        m.removeprefix("#/$defs/") and s["properties"]["type"]["const"]
        for m, s in COMMAND.json_schema()["$defs"].items()
    }


# ---------------------------------------------------------------- what changes nothing

IDLE: list[tuple[str, Callable[[], Room], Command | Fact]] = [
    ("call connected", meeting, Call(venue=A)),
    ("call calling", lambda: after(Call(venue=C)), Call(venue=C)),
    ("call all twice", lambda: after(Call()), Call()),
    ("hang up uncalled", meeting, HangUp(venue=C)),
    ("hang up twice", lambda: after(HangUp(venue=A)), HangUp(venue=A)),
    ("broadcast twice", lambda: after(Broadcast(venue=A)), Broadcast(venue=A)),
    ("broadcast what is on but lost", lambda: after(Broadcast(venue=A), Departed(A)), Broadcast(venue=A)),
    ("stop nothing", meeting, StopBroadcast()),
    ("floor twice", lambda: after(GiveFloor(venue=A)), GiveFloor(venue=A)),
    ("free discussion in it", meeting, FreeDiscussion()),
    ("request twice", lambda: after(RequestFloor(venue=A)), RequestFloor(venue=A)),
    ("withdraw nothing", meeting, WithdrawRequest(venue=A)),
    ("mute twice", lambda: after(Mute(venue=A)), Mute(venue=A)),
    ("unmute open", meeting, Unmute(venue=A)),
    ("unmute all open", meeting, Unmute()),
    ("mute all twice", lambda: after(MuteAll()), MuteAll()),
    ("lock twice", lambda: after(Lock()), Lock()),
    ("unlock open", meeting, Unlock()),
    ("record twice", lambda: after(StartRecording()), StartRecording()),
    ("stop no recording", meeting, StopRecording()),
    ("end twice", lambda: after(End()), End()),
    ("answer twice", lambda: after(Call(venue=C), ANSWER), ANSWER),
    ("answer connected", meeting, Answer(venue=A, accept=True)),
    ("answer lost", lambda: after(Departed(A)), Answer(venue=A, accept=True)),
    ("leave twice", lambda: after(Leave(venue=A)), Leave(venue=A)),
    ("joined twice", meeting, Joined(A)),
    ("joined after hang up", lambda: after(HangUp(venue=A)), Joined(A)),
    ("departed uncalled", meeting, Departed(C)),
    ("departed unknown", meeting, Departed("guest")),
    ("published outside", meeting, Published(C, "camera")),
    ("published unknown source", meeting, Published(A, "smell")),
    ("published twice", meeting, Published(A, "camera")),
    ("unpublished nothing", meeting, Unpublished(A, "screen_share")),
    ("local mute unknown", meeting, LocalMute("guest", "microphone", True)),
    ("local mute of a screen", meeting, LocalMute(A, "screen_share", True)),
    ("moved unknown", meeting, MovedAway(D)),
    ("tick early", lambda: after(Call(venue=C)), Tick()),
    ("recording opened unasked", meeting, RecordingOpened("rec_1")),
    ("recording failed unasked", meeting, RecordingFailed()),
    ("fact after the end", lambda: after(End()), Joined(A)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "word"), [i[1:] for i in IDLE], ids=[i[0] for i in IDLE])
def test_changes_nothing(before: Callable[[], Room], word: Command | Fact) -> None:
    room = before()
    same, events = apply(room, word, NOW + 1)
    assert same is room
    assert events == []


# ---------------------------------------------------------------- calling


def test_call_rings_and_joining_connects() -> None:
    room, events = apply(fresh(), Call(venue=A), NOW)
    assert room.seats[A].status is Status.CALLING
    assert next_deadline(room) == NOW + 30
    assert [e.happened for e in events] == [Happened.CALLED]
    assert room.revision == 1
    room = play(room, Answer(venue=A, accept=True), now=NOW + 20)
    assert room.seats[A].status is Status.CALLING
    assert next_deadline(room) == NOW + 50  # time to bring the media in
    room, events = apply(room, Joined(A), NOW + 21)
    assert room.seats[A].status is Status.CONNECTED
    assert room.seats[A].since == NOW + 21
    assert next_deadline(room) is None
    assert [e.happened for e in events] == [Happened.CONNECTED]


def test_call_all_spares_the_main_venue_and_who_is_in() -> None:
    room = play(came(fresh(), A), Call())
    assert {v: s.status.value for v, s in room.seats.items()} == {
        MAIN: "idle", A: "connected", B: "calling", C: "calling",
    }  # fmt: skip


def test_no_answer_rings_three_times_more_then_gives_up() -> None:
    room = play(fresh(), Call(venue=A))
    for rings in (2, 3, 4):
        room = play(room, Tick(), now=NOW + 30 * (rings - 1))
        assert (room.seats[A].status, room.seats[A].rings) == (Status.CALLING, rings)
        assert room.seats[A].reason is Reason.NO_ANSWER
    room = play(room, Tick(), now=NOW + 120)
    assert (room.seats[A].status, room.seats[A].reason) == (Status.LEFT, Reason.NO_ANSWER)
    assert next_deadline(room) is None


def test_answered_but_no_media_rings_again() -> None:
    room = play(fresh(), Call(venue=A), Answer(venue=A, accept=True))
    room = play(room, Tick(), now=NOW + 30)
    assert (room.seats[A].answered, room.seats[A].rings) == (False, 2)


def test_calling_a_lost_venue_in_vain_leaves_its_way_back_open() -> None:
    room = play(meeting(), Departed(A), Call(venue=A))
    for n in range(1, 5):
        room = play(room, Tick(), now=NOW + 30 * n)
    assert room.seats[A].reason is Reason.NETWORK_LOST
    assert play(room, Joined(A)).seats[A].connected


def test_refusing_a_call() -> None:
    room = play(fresh(), Call(venue=A), Answer(venue=A, accept=False))
    assert (room.seats[A].status, room.seats[A].reason) == (Status.LEFT, Reason.REFUSED)
    assert play(room, Call(venue=A)).seats[A].status is Status.CALLING


def test_the_chair_may_call_an_unlisted_venue_into_a_locked_meeting() -> None:
    room = play(meeting(), Lock(), Call(venue=D), Joined(D))
    assert room.seats[D].connected


def test_lock_keeps_new_venues_out_and_lets_listed_ones_back() -> None:
    room = play(meeting(), Leave(venue=A), Departed(B), Lock())
    assert may_enter(room, A) is None
    assert may_enter(room, B) is None
    assert may_enter(room, MAIN) is None
    assert may_enter(room, C) == "locked"
    assert may_enter(room, D) == "locked"
    assert D not in play(room, Joined(D)).seats
    assert may_enter(play(room, Unlock()), C) is None
    assert play(room, Unlock(), Joined(D)).seats[D].connected


def test_hung_up_is_out_until_called() -> None:
    room = play(meeting(), HangUp(venue=A))
    assert (room.seats[A].status, room.seats[A].reason) == (Status.LEFT, Reason.HUNG_UP)
    assert room.seats[A].tracks == ()
    assert may_enter(room, A) == "hung_up"
    assert play(room, Call(venue=A), Joined(A)).seats[A].connected


def test_hanging_up_cancels_a_call_and_ends_a_lost_seat() -> None:
    room = play(meeting(), Call(venue=C), Departed(A), HangUp(venue=C), HangUp(venue=A))
    assert {room.seats[v].reason for v in (A, C)} == {Reason.HUNG_UP}


def test_a_lost_line_keeps_the_seat() -> None:
    room = play(meeting(), Mute(venue=A), RequestFloor(venue=A), Broadcast(venue=A), Departed(A))
    seat = room.seats[A]
    assert (seat.status, seat.reason, seat.rejoins) == (Status.LEFT, Reason.NETWORK_LOST, True)
    assert room.stage == A
    assert seat.muted_by_chair
    assert room.queued(A)
    back = play(room, Joined(A))
    assert back.seats[A].connected
    assert back.stage == A
    assert back.seats[A].muted_by_chair


def test_restart_loses_every_line_and_nothing_else() -> None:
    room = play(meeting(), GiveFloor(venue=A), RequestFloor(venue=B), Call(venue=C), StartRecording())
    room = decode(encode(room))
    up = play(room, Restarted(), now=NOW + 100)
    assert {up.seats[v].reason for v in (MAIN, A, B)} == {Reason.NETWORK_LOST}
    assert (up.floor, up.stage, up.queue) == (A, A, room.queue)
    assert muted(up) == muted(room)
    assert up.recording == room.recording
    assert next_deadline(up) == NOW + 130


def test_who_goes_to_another_meeting_has_left_this_one() -> None:
    room = play(meeting(), Broadcast(venue=A), MovedAway(A))
    assert (room.seats[A].reason, room.stage) == (Reason.LEFT, None)


# ---------------------------------------------------------------- stage and floor


def test_broadcast_and_stop() -> None:
    room, events = apply(meeting(), Broadcast(venue=A), NOW)
    assert (room.broadcast, room.stage, room.mode) == (A, A, "broadcast")
    assert [(e.happened, e.venue) for e in events] == [(Happened.STAGE, A)]
    room = play(room, Broadcast(venue=B))
    assert room.stage == B
    assert play(room, StopBroadcast()).mode == "free"


def test_floor_closes_all_other_microphones_and_opens_its_own() -> None:
    room = play(meeting(), Mute(venue=A), RequestFloor(venue=B), RequestFloor(venue=A), GiveFloor(venue=A))
    assert (room.floor, room.broadcast, room.stage, room.mode) == (A, A, A, "floor")
    assert muted(room) == {B, C}
    assert [r.venue for r in room.queue] == [B]


def test_free_discussion_restores_the_microphones() -> None:
    room = play(
        meeting(), Mute(venue=A), Mute(venue=C), GiveFloor(venue=A), GiveFloor(venue=B), FreeDiscussion()
    )
    assert (room.floor, room.broadcast, room.mode) == (None, None, "free")
    assert muted(room) == {A, C}


def test_free_discussion_may_open_all_microphones() -> None:
    room = play(meeting(Rules(after_floor=AfterFloor.OPEN)), MuteAll(), GiveFloor(venue=A), FreeDiscussion())
    assert muted(room) == set()
    assert not room.mute_new


def test_what_the_chair_says_during_the_floor_holds_after_it() -> None:
    room = play(meeting(), Mute(venue=C), GiveFloor(venue=A), Mute(venue=B), Unmute(venue=C), Mute(venue=A))
    assert muted(room) == {A, B}
    assert muted(play(room, FreeDiscussion())) == {A, B}


def test_giving_the_floor_again_opens_the_holder() -> None:
    room = play(meeting(), GiveFloor(venue=A), Mute(venue=A), GiveFloor(venue=A))
    assert A not in muted(room)


def test_giving_the_floor_again_does_not_forget_that_the_holder_had_been_muted() -> None:
    room = play(meeting(), Mute(venue=A), GiveFloor(venue=A), GiveFloor(venue=A), FreeDiscussion())
    assert muted(room) == {A}


def test_mute_all_spares_main_venue_and_holder_and_holds_after_the_floor() -> None:
    room = play(meeting(), GiveFloor(venue=A), MuteAll())
    assert muted(room) == {B, C}
    room = play(room, FreeDiscussion())
    assert muted(room) == {B, C}
    assert room.mute_new


def test_who_comes_during_the_floor_enters_muted_and_is_opened_by_free_discussion() -> None:
    room = play(meeting(), GiveFloor(venue=A), Call(venue=D), Joined(D))
    assert D in muted(room)
    assert D not in muted(play(room, FreeDiscussion()))


def test_who_comes_after_mute_all_stays_muted_after_the_floor() -> None:
    room = play(meeting(), MuteAll(), GiveFloor(venue=A), Call(venue=D), Joined(D))
    assert D in muted(play(room, FreeDiscussion()))


def test_unmuting_all_lets_late_joiners_speak() -> None:
    room = play(meeting(), MuteAll())
    assert muted(room) == {A, B, C}
    room = play(room, Unmute(), Call(venue=D), Joined(D))
    assert muted(room) == set()


def test_mute_outlives_leaving_and_hanging_up() -> None:
    for word in (Leave(venue=A), HangUp(venue=A), Departed(A)):
        room = play(meeting(), Mute(venue=A), word, Call(venue=A), Joined(A))
        assert muted(room) == {A}


def test_another_picture_during_the_floor_and_back() -> None:
    room = play(meeting(), GiveFloor(venue=A), Broadcast(venue=B))
    assert (room.stage, room.floor, room.mode) == (B, A, "floor")
    room = play(room, StopBroadcast())
    assert (room.stage, room.floor) == (A, A)


def test_a_venue_without_picture_may_speak() -> None:
    room = play(meeting(), Unpublished(A, "camera"), GiveFloor(venue=A))
    assert room.floor == A


@pytest.mark.parametrize("word", [HangUp(venue=A), Leave(venue=A)])
def test_the_floor_ends_with_its_holder(word: Command) -> None:
    room = play(meeting(), Mute(venue=B), GiveFloor(venue=A), word)
    assert (room.floor, room.broadcast, muted(room)) == (None, None, {B})


def test_the_picture_returns_to_the_floor_when_the_broadcast_venue_goes() -> None:
    room = play(meeting(), GiveFloor(venue=A), Broadcast(venue=B), HangUp(venue=B))
    assert (room.stage, room.floor) == (A, A)


def test_queue_by_arrival_and_withdrawal() -> None:
    room = play(meeting(), RequestFloor(venue=B), RequestFloor(venue=A), RequestFloor(venue=MAIN))
    assert [r.venue for r in room.queue] == [B, A, MAIN]
    room = play(room, WithdrawRequest(venue=A))
    assert [r.venue for r in room.queue] == [B, MAIN]
    assert [r.venue for r in play(room, HangUp(venue=B)).queue] == [MAIN]


# ---------------------------------------------------------------- tracks, content, recording, end


def test_local_mute_is_a_separate_flag() -> None:
    room = play(meeting(), Mute(venue=A), LocalMute(A, "microphone", True), Unmute(venue=A))
    assert (room.seats[A].muted_by_chair, room.seats[A].muted_locally) == (False, True)
    room = play(room, Mute(venue=A), LocalMute(A, "microphone", False))
    assert (room.seats[A].muted_by_chair, room.seats[A].muted_locally) == (True, False)


def test_the_newest_screen_is_the_content() -> None:
    room = play(meeting(), Published(A, "screen_share"), Published(B, "screen_share"))
    assert room.content == B
    assert play(room, Unpublished(B, "screen_share")).content == A
    assert play(room, Departed(B), HangUp(venue=A)).content is None


def test_recording_gets_its_id_and_ends() -> None:
    room = play(meeting(), StartRecording())
    assert room.recording is not None
    assert room.recording.since == NOW
    room = play(room, RecordingOpened("rec_1"), RecordingOpened("rec_2"))
    assert room.recording is not None
    assert room.recording.recording_id == "rec_1"
    assert play(room, StopRecording()).recording is None
    assert play(room, RecordingFailed()).recording is None


def test_end_disconnects_all() -> None:
    room, events = apply(
        play(meeting(), Call(venue=C), GiveFloor(venue=A), Departed(B), StartRecording()), End(), NOW + 5
    )
    assert room.status is MeetingStatus.ENDED
    assert room.ended_at == NOW + 5
    assert {s.reason for s in room.seats.values()} == {Reason.HUNG_UP}
    assert (room.stage, room.recording, room.queue) == (None, None, ())
    assert Happened.ENDED in [e.happened for e in events]
    assert may_enter(room, A) == "meeting_ended"


def test_stored_and_read_again() -> None:
    room = play(meeting(), GiveFloor(venue=A), RequestFloor(venue=B), StartRecording(), Lock())
    assert decode(encode(room)) == room
