"""MediaRooms: all LiveKit rooms of this server, the media plane's events, and the clock that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from aiohttp import web
from livekit.protocol import models, rtc

from core import counters
from core.clock import Clock
from sfu.messages import (
    CloseRouter,
    DataReceived,
    Event,
    Levels,
    ProducerLive,
    Report,
    StreamStates,
    TapStopped,
    TransportState,
)
from signaling.livekit import measurements, messages, packets, taps
from signaling.livekit.limits import Limits
from signaling.livekit.node import Node
from signaling.livekit.participant import Participant
from signaling.livekit.policy import RoomObserver, RoomPolicy
from signaling.livekit.room import Room
from signaling.livekit.token import ApiKeys
from signaling.livekit.tracks import Subscription, Track

log = structlog.get_logger(__name__)
ACTION = rtc.LeaveRequest.Action
REASON = models.DisconnectReason
TICK_S = 1.0


class MediaRooms:
    """``policy`` and ``observer`` None: every room is a plain LiveKit room."""

    def __init__(
        self,
        node: Node,
        clock: Clock,
        keys: ApiKeys,
        policy: RoomPolicy | None = None,
        observer: RoomObserver | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.node = node
        self.clock = clock
        self.keys = keys
        self.policy = policy
        self.observer = observer
        self.limits = limits or Limits()
        self.rooms: dict[str, Room] = {}
        self.routers: dict[str, Room] = {}
        self.transports: dict[str, Participant] = {}
        self.producers: dict[str, Track] = {}
        self.taps: dict[str, Track] = {}
        self.consumers: dict[str, Subscription] = {}
        self.stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ the contract

    async def start(self) -> None:
        self.stopping = False
        self.node.on_event.append(self._on_event)
        self.node.on_worker_lost.append(self._on_worker_lost)
        self.spawn(self._tick_for_ever())

    async def stop(self) -> None:
        """Clients are told to come back: another server, or this one after its restart."""
        self.stopping = True
        if self._on_event in self.node.on_event:
            self.node.on_event.remove(self._on_event)
        if self._on_worker_lost in self.node.on_worker_lost:
            self.node.on_worker_lost.remove(self._on_worker_lost)
        for room in list(self.rooms.values()):
            self._end(room, REASON.SERVER_SHUTDOWN, ACTION.RECONNECT, "server_shutdown")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def routes(self) -> list[web.RouteDef]:
        from signaling.livekit import edge, twirp  # they import this module

        return [*edge.routes(self), *twirp.routes(self)]

    def refresh(self, room: str) -> None:
        """The policy's answers may have changed: the room is evaluated anew, soon and once."""
        found = self.rooms.get(room)
        if found is not None:
            found.refresh()

    def participants(self, room: str) -> list[models.ParticipantInfo]:
        found = self.rooms.get(room)
        return [p.info() for p in found.participants.values()] if found is not None else []

    async def remove(self, room: str, identity: str, reason: str) -> bool:
        """Out with one participant; False when it is not there."""
        found = self.rooms.get(room)
        participant = found.participants.get(identity) if found is not None else None
        if participant is None:
            return False
        self.expel(participant, REASON.PARTICIPANT_REMOVED, ACTION.DISCONNECT, reason)
        return True

    async def close(self, room: str) -> bool:
        """Ends a room for all who are in it; False when there is none."""
        found = self.rooms.get(room)
        if found is None:
            return False
        self._end(found, REASON.ROOM_DELETED, ACTION.DISCONNECT, "room_closed")
        return True

    # ------------------------------------------------------------ rooms

    def open_room(self, name: str) -> Room:
        """The room of that name, made when absent.  Raises MessageError at the limit."""
        room = self.rooms.get(name)
        if room is None:
            if len(self.rooms) >= self.limits.rooms:
                raise messages.MessageError("there are too many rooms")
            room = Room(self, name, self.clock.now(), self.clock.monotonic())
            self.rooms[name] = room
        return room

    def expel(
        self,
        participant: Participant,
        reason: models.DisconnectReason,
        action: rtc.LeaveRequest.Action,
        told: str,
    ) -> None:
        """Leave to the client, then everything of it is gone.  ``told`` is the observer's reason."""
        session = participant.session
        if session is not None:
            session.send(messages.leave(reason, action))
            session.close()
        participant.room.dismiss(participant, told)

    def _end(
        self, room: Room, reason: models.DisconnectReason, action: rtc.LeaveRequest.Action, told: str
    ) -> None:
        for participant in list(room.participants.values()):
            self.expel(participant, reason, action, told)
        room.closed = True
        if self.rooms.get(room.name) is room:
            del self.rooms[room.name]
        if room.worker_id is not None:
            room.post(CloseRouter(room.router_id))
            room.worker_id = None
        self.routers.pop(room.router_id, None)

    def index(self, participant: Participant) -> None:
        for peer in (participant.publisher, participant.subscriber):
            if peer is not None:
                self.transports[peer.transport_id] = participant

    def forget(self, participant: Participant) -> None:
        """Undoes ``index``: whoever left in whatever way must not be kept alive by it."""
        for peer in (participant.publisher, participant.subscriber):
            if peer is not None:
                self.transports.pop(peer.transport_id, None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the LiveKit edge failed", error=repr(task.exception()))

    # ------------------------------------------------------------ the media plane's events

    def _on_event(self, worker_id: str, event: Event) -> None:
        match event:
            case DataReceived():
                sender = self.transports.get(event.transport_id)
                if sender is not None:
                    packets.relay(sender, event.label, event.payload, self.clock.monotonic())
            case Levels():
                room = self.routers.get(event.router_id)
                if room is not None:
                    measurements.tell_levels(room, event, self.producers)
            case TransportState():
                participant = self.transports.get(event.transport_id)
                if participant is not None:
                    self._transport_state(participant, event)
            case StreamStates():
                viewer = self.transports.get(event.transport_id)
                if viewer is not None:
                    self._hold(viewer, event)
            case ProducerLive():
                track = self.producers.get(event.producer_id)
                if track is not None and event.mime and event.mime != track.info.mime_type:
                    track.info.mime_type = event.mime
                    for codec in track.info.codecs:
                        codec.mime_type = event.mime
                    for viewer in track.publisher.room.participants.values():
                        # Judged by the codec that was expected.
                        viewer.reception.unservable.discard(track.sid)
                    track.publisher.changed()
                    track.publisher.room.refresh()
            case TapStopped():
                track = self.taps.pop(event.tap_id, None)
                if track is not None and track.tap is not None:
                    path, track.tap = track.tap.path, None
                    log.warning("a tap has ended by itself", track=track.sid, reason=event.reason)
                    taps.ended(track.publisher.room, track, path)
            case Report():
                self._report(worker_id, event)

    def _transport_state(self, participant: Participant, event: TransportState) -> None:
        peers = (participant.publisher, participant.subscriber)
        peer = next((p for p in peers if p is not None and p.transport_id == event.transport_id), None)
        if peer is None:
            return
        if event.state == "connected":
            peer.connected = True
            if peer is participant.primary:
                if not participant.told_joined:
                    counters.joined_after(self.clock.monotonic() - participant.asked_at)
                participant.room.became_active(participant)
        elif event.state in ("disconnected", "failed", "closed"):
            peer.connected = False
        lost = any(p is not None and p.opened is not None and not p.connected for p in peers)
        if lost != participant.media_lost and participant.told_joined:
            participant.media_lost = lost
            # Viewers hear that its pictures stand still, or move again.
            for track in participant.tracks.values():
                for subscription in track.subscriptions.values():
                    if subscription.open:
                        subscription.viewer.reception.tell_stream_states([subscription])

    def _hold(self, viewer: Participant, event: StreamStates) -> None:
        """The viewer's own line can't carry these any longer, or can again."""
        changed = []
        for ids, held in ((event.held, True), (event.freed, False)):
            for consumer_id in ids:
                subscription = self.consumers.get(consumer_id)
                if subscription is not None and subscription.viewer is viewer and subscription.held != held:
                    subscription.held, subscription.told = held, 1
                    changed.append(subscription)
        viewer.reception.tell_stream_states(changed)

    def _report(self, worker_id: str, report: Report) -> None:
        readings = measurements.Readings(report)
        now = self.clock.monotonic()
        for room in list(self.rooms.values()):
            if room.worker_id == worker_id:
                measurements.tell_quality(room, readings, now)

    def _on_worker_lost(self, worker_id: str) -> None:
        """Its rooms are empty shells now: their clients come back and the room is placed elsewhere."""
        for room in list(self.rooms.values()):
            if room.worker_id != worker_id:
                continue
            log.warning("a room lost its media worker", room=room.name, worker=worker_id)
            self.routers.pop(room.router_id, None)
            room.worker_id = None
            for participant in list(room.participants.values()):
                self.expel(participant, REASON.MIGRATION, ACTION.RECONNECT, "worker_lost")

    # ------------------------------------------------------------ time

    async def _tick_for_ever(self) -> None:
        while True:
            await self.clock.sleep(TICK_S)
            try:
                self.tick(self.clock.monotonic())
            except Exception:  # the clock of all rooms must not stop because of one
                log.exception("a tick of the LiveKit edge failed")

    def tick(self, now: float) -> None:
        """Once a second; ``now`` monotonic seconds."""
        for room in list(self.rooms.values()):
            for participant in list(room.participants.values()):
                self._tick_participant(participant, now)
            for track in list(room.tracks.values()):
                room.settle_demand(track, now)
            if room.expired(now):
                self._end(room, REASON.ROOM_CLOSED, ACTION.DISCONNECT, "room_closed")

    def _tick_participant(self, participant: Participant, now: float) -> None:
        limits = self.limits
        session = participant.session
        if session is None:
            lost_at = participant.session_lost_at
            if lost_at is not None and now - lost_at > limits.resume_window_s:
                self.expel(participant, REASON.SIGNAL_CLOSE, ACTION.DISCONNECT, "network_lost")
            return
        if now - session.heard_at > limits.ping_timeout_s:
            counters.refused("livekit_silent")
            session.close(1001, "ping timeout")
            self.detach(participant, now)
            return
        if not participant.told_joined and now - participant.asked_at > limits.join_media_window_s:
            counters.refused("livekit_no_media")
            self.expel(participant, REASON.JOIN_FAILURE, ACTION.DISCONNECT, "join_failed")
            return
        participant.publisher.nudge()
        participant.reception.remind_stream_states()
        if now - participant.token_refreshed_at > limits.refresh_token_s:
            participant.token_refreshed_at = now
            self.refresh_token(participant)

    def detach(self, participant: Participant, now: float) -> None:
        """Its WebSocket is gone; media goes on while it may come back."""
        participant.session = None
        participant.session_lost_at = now

    def refresh_token(self, participant: Participant) -> None:
        """A client that stays long must be able to come back after its first token has expired."""
        token = self.keys.mint(
            participant.room.name,
            participant.identity,
            participant.name,
            ttl=2 * self.limits.refresh_token_s,
            now=self.clock.now(),
            grants=participant.grants,
            metadata=participant.metadata if len(participant.metadata) < 2_048 else "",
            attributes=participant.attributes if messages.within(participant.attributes, 2_048) else None,
            kind=participant.kind,
        )
        participant.send(rtc.SignalResponse(refresh_token=token))
