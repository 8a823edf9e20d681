"""Who may do what in a meeting."""

from __future__ import annotations

from dataclasses import dataclass

from rooms.commands import Answer, Command, Leave, RequestFloor, WithdrawRequest
from rooms.model import Room

OWN = (RequestFloor, WithdrawRequest, Answer, Leave)  # what a venue says for itself


@dataclass(frozen=True, slots=True)
class Actor:
    """Who speaks: ``role`` is "host", "it" or "venue"; ``venue_id`` the venue whose account it is."""

    user_id: str
    username: str
    role: str
    venue_id: str | None = None


def settle(actor: Actor, command: Command, room: Room) -> Command:
    """Fills in the venue that the speaker means when none is named: its own, for a host the main venue."""
    if isinstance(command, OWN) and command.venue is None:
        own = room.main_venue if actor.role == "host" else actor.venue_id
        if own is not None:
            return command.model_copy(update={"venue": own})
    return command


def may(actor: Actor, command: Command, room: Room) -> str | None:
    """The refusal code, None when allowed.  ``command`` has been settled.

    The host: everything.  A venue's account: ask for the floor, withdraw, answer, leave, and only for
    itself.  The IT desk reads.
    """
    match actor.role:
        case "host":
            return None
        case "venue" if isinstance(command, OWN) and actor.venue_id is not None:
            return None if command.venue == actor.venue_id else "forbidden"
    return "forbidden"


def sees(actor: Actor, room: Room) -> bool:
    """Consoles see every meeting, a venue those in which it is listed."""
    return actor.role in ("host", "it") or (actor.role == "venue" and actor.venue_id in room.seats)
