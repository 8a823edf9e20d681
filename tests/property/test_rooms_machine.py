"""The room as a state machine: whatever people press and whatever lines drop, these things hold."""

from __future__ import annotations

from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rooms import views
from rooms.commands import (
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
from rooms.model import SOURCES, AfterFloor, Room, Rules, Status, decode, encode
from rooms.plan import diff, patch, plan
from rooms.policy import Actor, may, settle
from rooms.presence import Presence
from rooms.refusals import Refused
from rooms.room import apply, next_deadline, open_room

MAIN = "340000"
LISTED = [MAIN, "340100", "340200", "340300"]
VENUES = [*LISTED, "340400"]
venues = st.sampled_from(VENUES)
sources = st.sampled_from(sorted(SOURCES))

commands = st.one_of(
    st.builds(Call, venue=st.none() | venues),
    st.sampled_from([
        StopBroadcast(), FreeDiscussion(), MuteAll(), Unmute(), Lock(), Unlock(), StartRecording(),
        StopRecording(),
    ]),
    st.builds(HangUp, venue=venues),
    st.builds(Broadcast, venue=venues),
    st.builds(GiveFloor, venue=venues),
    st.builds(Mute, venue=venues),
    st.builds(Unmute, venue=venues),
    st.builds(RequestFloor, venue=venues),
    st.builds(WithdrawRequest, venue=venues),
    st.builds(Answer, venue=venues, accept=st.booleans()),
    st.builds(Leave, venue=venues),
)  # fmt: skip
facts = st.one_of(
    st.builds(Joined, venues),
    st.builds(Departed, venues),
    st.builds(Published, venues, sources),
    st.builds(Unpublished, venues, sources),
    st.builds(LocalMute, venues, sources, st.booleans()),
    st.builds(MovedAway, venues),
    st.just(RecordingOpened("rec_1")),
)
CHAIR_UNMUTES = (Unmute, GiveFloor, FreeDiscussion, HangUp, End)  # the last two end the floor


class RoomMachine(RuleBasedStateMachine):
    room: Room
    now: float

    @initialize(after_floor=st.sampled_from(AfterFloor))
    def begin(self, after_floor: AfterFloor) -> None:
        self.now = 1000.0
        self.room = open_room("mt_1", "会议", MAIN, LISTED, self.now, Rules(after_floor=after_floor))

    def step(self, word: Command | Fact) -> None:
        before = self.room
        try:
            room, events = apply(before, word, self.now)
        except Refused:
            return
        if room is before:
            assert events == []
        else:
            assert room.revision == before.revision + 1
        self.unmuted_only_by_the_chair(before, room, word)
        self.same_again_changes_nothing(room, word)
        assert patch(plan(before), diff(plan(before), plan(room))) == plan(room)
        self.pictures_follow(before, room)
        stages = [e.venue for e in events if e.happened is Happened.STAGE]
        assert stages == ([room.stage] if room.stage != before.stage else [])
        self.room = room

    def unmuted_only_by_the_chair(self, before: Room, room: Room, word: Command | Fact) -> None:
        for venue, seat in before.seats.items():
            if not seat.muted_by_chair or room.seats[venue].muted_by_chair or isinstance(word, CHAIR_UNMUTES):
                continue
            # The one other way: the floor that had closed it ends because its holder leaves for good.
            assert isinstance(word, Leave | MovedAway | Answer)
            assert before.floor == word.venue
            assert venue not in (before.muted_before_floor or ())

    def same_again_changes_nothing(self, room: Room, word: Command | Fact) -> None:
        try:
            again, _ = apply(room, word, self.now)
        except Refused:
            return
        assert again == room

    def pictures_follow(self, before: Room, room: Room) -> None:
        presence = Presence()
        for venue in (None, MAIN, "340100"):
            old, new = (
                views.meeting_view(r, {}, presence)
                if venue is None
                else views.venue_view(r, venue, {}, presence)
                for r in (before, room)
            )
            assert views.patched(old, views.changes(old, new)) == new

    @rule(command=commands)
    def command(self, command: Command) -> None:
        self.step(command)

    @rule(fact=facts)
    def fact(self, fact: Fact) -> None:
        self.step(fact)

    @rule(venue=venues)
    def come_in(self, venue: str) -> None:
        for word in (Call(venue=venue), Joined(venue), Published(venue, "camera")):
            self.step(word)

    @rule(seconds=st.sampled_from([1.0, 29.0, 31.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.step(Tick())

    @rule()
    def restart(self) -> None:
        self.room = decode(encode(self.room))
        self.step(Restarted())
        assert not any(seat.connected for seat in self.room.seats.values())

    @rule(chance=st.integers(0, 9))
    def end(self, chance: int) -> None:
        if chance == 0:
            self.step(End())

    @invariant()
    def one_stage(self) -> None:
        room = self.room
        if room.floor is not None:
            assert room.broadcast is not None
            assert room.muted_before_floor is not None
            assert room.seats[room.floor].belongs
        else:
            assert room.muted_before_floor is None
        if room.broadcast is not None:
            assert room.seats[room.broadcast].belongs
        assert room.stage in (None, *room.seats)

    @invariant()
    def queue_without_duplicates(self) -> None:
        asking = [request.venue for request in self.room.queue]
        assert len(set(asking)) == len(asking)
        assert all(self.room.seats[venue].belongs for venue in asking)
        assert self.room.floor not in asking
        assert [r.at for r in self.room.queue] == sorted(r.at for r in self.room.queue)

    @invariant()
    def seats_are_consistent(self) -> None:
        for seat in self.room.seats.values():
            assert not seat.tracks or seat.connected
            assert not seat.connected or seat.belongs
            assert (seat.ring_until > 0) == (seat.status is Status.CALLING)
            assert not seat.rejoins or seat.belongs
        assert set(self.room.sharing) == {v for v, s in self.room.seats.items() if "screen_share" in s.tracks}

    @invariant()
    def rings_end(self) -> None:
        deadline = next_deadline(self.room)
        assert deadline is None or deadline <= self.now + self.room.rules.ring_s

    @invariant()
    def ended_is_quiet(self) -> None:
        if not self.room.active:
            assert not any(s.connected or s.belongs for s in self.room.seats.values())
            assert self.room.stage is None
            assert plan(self.room).closed

    @invariant()
    def silence_is_planned(self) -> None:
        wanted = plan(self.room)
        for venue, seat in self.room.seats.items():
            if seat.muted_by_chair and self.room.active:
                assert wanted.silences(venue, "microphone")
                assert wanted.silences(venue, "screen_share_audio")
            assert not wanted.wants(venue, venue, "camera")

    @invariant()
    def one_camera_for_a_branch(self) -> None:
        wanted = plan(self.room)
        for viewer in VENUES:
            if viewer != MAIN:
                assert sum(wanted.wants(viewer, p, "camera") for p in VENUES) <= 1


TestRoom = RoomMachine.TestCase
TestRoom.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(old=json_values, new=json_values)
@settings(max_examples=300, deadline=None)
def test_changes_lead_from_one_value_to_the_other(old: Any, new: Any) -> None:
    found = views.changes(old, new)
    assert views.patched(old, found) == new
    assert (found == []) == (old == new)


@given(command=commands, venue=venues)
@settings(max_examples=200, deadline=None)
def test_a_venue_speaks_only_for_itself(command: Command, venue: str) -> None:
    room = open_room("mt_1", "会议", MAIN, LISTED, 0.0)
    actor = Actor("us_1", "v", "venue", venue)
    settled = settle(actor, command, room)
    allowed = may(actor, settled, room) is None
    own = isinstance(settled, RequestFloor | WithdrawRequest | Answer | Leave)
    assert allowed == (own and getattr(settled, "venue", None) == venue)
    assert may(Actor("us_2", "it", "it"), settled, room) == "forbidden"
    assert may(Actor("us_3", "host", "host"), settled, room) is None
