"""Taps of a room's tracks follow the policy: a dump begins and ends with its word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from core.ids import new_id
from sfu.errors import SfuError
from sfu.messages import StartTap, StopTap
from signaling.livekit.tracks import Tap, Track

if TYPE_CHECKING:
    from signaling.livekit.room import Room

log = structlog.get_logger(__name__)


def evaluate(room: Room, track: Track) -> None:
    policy = room.owner.policy
    path = None
    if track.published and policy is not None and policy.governs(room.name):
        path = policy.tap(room.name, track.publisher.identity, track.source)
    if track.tap is not None and track.tap.path != path:
        stop(room, track)
    if path is not None and track.tap is None:
        _start(room, track, path)


def _start(room: Room, track: Track, path: str) -> None:
    tap = Tap(new_id("tap_"), path)
    track.tap = tap
    room.owner.taps[tap.tap_id] = track
    room.demand_changed(track)
    room.owner.spawn(_open(room, track, tap))


async def _open(room: Room, track: Track, tap: Tap) -> None:
    if track.producer_id is None or track.tap is not tap:
        return
    try:
        await room.request(StartTap(tap.tap_id, track.producer_id, tap.path))
    except SfuError as error:
        log.warning("a tap can't be started", track=track.sid, code=error.code, reason=error.reason)
        room.owner.taps.pop(tap.tap_id, None)
        if track.tap is tap:
            track.tap = None
        return
    if room.owner.observer is not None and track.tap is tap:
        room.owner.observer.tap_started(
            room.name, track.publisher.identity, track.source, track.sid, tap.path, track.tapped_mime
        )


def stop(room: Room, track: Track) -> None:
    """Also when its producer was replaced: the dump goes on in a new segment."""
    tap = track.tap
    if tap is None:
        return
    track.tap = None
    room.owner.taps.pop(tap.tap_id, None)
    room.post(StopTap(tap.tap_id))
    room.demand_changed(track)
    ended(room, track, tap.path)


def ended(room: Room, track: Track, path: str) -> None:
    if room.owner.observer is not None:
        room.owner.observer.tap_stopped(room.name, track.publisher.identity, track.source, track.sid, path)
