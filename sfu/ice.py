"""ICE-lite on one UDP port (RFC 8445 §2.5): we answer the clients' connectivity checks and send none.

A check is matched to a leg by the first half of its USERNAME and must carry a MESSAGE-INTEGRITY made
with that leg's password (RFC 8445 §7.3).  Its source address is then *validated*: DTLS and media are
accepted only from validated addresses.  The first validated address of a leg is used until the client
nominates one (USE-CANDIDATE); a later nomination elsewhere is a client that has moved.  So is one whose
checks come from another address only: a NAT has given it another port.
"""

from __future__ import annotations

import secrets
import string
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from aioice import stun

from sfu.drops import DropReason, Drops
from sfu.params import IceParameters
from sfu.seams import Address

DISCONNECTED_AFTER_MS = 5_000.0
FAILED_AFTER_MS = 30_000.0  # RFC 7675 §5.1: consent lasts 30 s
ADDRESS_KEPT_MS = 30_000.0
DESERTED_MS = 7_000.0  # no check from the chosen address, but from another: browsers check every 2.5 to 6 s
MAX_ADDRESSES_PER_LEG = 16
MAX_STUN_BYTES = 1500
REFUSALS_PER_SECOND = 50.0  # per port: error answers to those who know no ufrag
REFUSALS_BURST = 100.0
STRANGERS_PER_SECOND = 50.0  # per leg: checks from addresses that were not validated yet
STRANGERS_BURST = 200.0
UFRAG_LENGTH = 16  # RFC 8445 §5.3 asks for 24 bits; longer, because the ufrag alone admits to the HMAC
PWD_LENGTH = 32  # at least 128 bits
ICE_CHARS = string.ascii_letters + string.digits

STUN_HEADER = struct.Struct("!HHI12s")
ATTRIBUTE_HEADER = struct.Struct("!HH")
BINDING_REQUEST = 0x0001
BINDING_INDICATION = 0x0011
USERNAME = 0x0006


class IceState(StrEnum):
    NEW = "new"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


class IceObserver(Protocol):
    """What a leg's owner is told, synchronously."""

    def ice_selected(self, leg: str, address: Address) -> None:
        """The client's address was chosen or has changed."""

    def ice_state(self, leg: str, state: IceState) -> None: ...


@dataclass(slots=True)
class TokenBucket:
    """``rate`` tokens a second up to ``burst``; time is an argument (ms)."""

    rate: float
    burst: float
    tokens: float = field(init=False)
    filled_ms: float | None = None

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now_ms: float) -> bool:
        if self.filled_ms is not None:
            self.tokens = min(self.burst, self.tokens + self.rate * (now_ms - self.filled_ms) / 1000)
        self.filled_ms = now_ms
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class IceLeg:
    """One client's state.  ``previous`` credentials stay valid until the newest have been used."""

    leg: str
    current: IceParameters
    previous: list[IceParameters] = field(default_factory=list)
    state: IceState = IceState.NEW
    selected: Address | None = None
    nominated: bool = False
    waiting_since_ms: float | None = None
    consent_ms: float = 0.0
    alive_ms: float = 0.0
    addresses: dict[Address, float] = field(default_factory=dict)  # validated address → last check, ms
    strangers: TokenBucket = field(default_factory=lambda: TokenBucket(STRANGERS_PER_SECOND, STRANGERS_BURST))


class IceLite:
    """All legs of one UDP port."""

    def __init__(
        self,
        send: Callable[[bytes, Address], None],
        observer: IceObserver,
        clock_ms: Callable[[], float],
        drops: Drops,
        outer: Callable[[Address], Address] = lambda address: address,
    ) -> None:
        """``outer``: the client's own address behind one that the port sees (``sfu.ice_tcp``)."""
        self._send = send
        self._observer = observer
        self._clock_ms = clock_ms
        self._drops = drops
        self._outer = outer
        self._legs: dict[str, IceLeg] = {}
        self._by_ufrag: dict[str, tuple[IceLeg, IceParameters]] = {}
        self._by_address: dict[Address, IceLeg] = {}
        self._refusals = TokenBucket(REFUSALS_PER_SECOND, REFUSALS_BURST)
        self.checks = 0
        self.failures = 0

    # ------------------------------------------------------------ legs

    def open(self, leg: str) -> IceParameters:
        """Our credentials for a new leg; those it has, when it is open already."""
        known = self._legs.get(leg)
        if known is not None:
            return known.current
        credentials = self._new_credentials()
        opened = self._legs[leg] = IceLeg(leg, credentials)
        self._by_ufrag[credentials.ufrag] = (opened, credentials)
        return credentials

    def expect(self, leg: str) -> None:
        """The client has been told where we are: from now on its silence is a failure."""
        state = self._legs[leg]
        if state.waiting_since_ms is None:
            state.waiting_since_ms = self._clock_ms()

    def restart(self, leg: str) -> IceParameters:
        """New credentials (RFC 8445 §9); the old stay valid until a check with the new has succeeded."""
        state = self._legs[leg]
        # Repeated restarts that no client ever used must not pile up: the last one used and the newest count.
        for forgotten in state.previous[1:]:
            self._by_ufrag.pop(forgotten.ufrag, None)
        state.previous = [*state.previous[:1], state.current]
        state.current = self._new_credentials()
        self._by_ufrag[state.current.ufrag] = (state, state.current)
        return state.current

    def close(self, leg: str) -> None:
        state = self._legs.pop(leg, None)
        if state is None:
            return
        for credentials in (state.current, *state.previous):
            self._by_ufrag.pop(credentials.ufrag, None)
        for address in state.addresses:
            self._by_address.pop(address, None)

    def state(self, leg: str) -> IceState:
        return self._legs[leg].state

    def leg_at(self, address: Address) -> str | None:
        """The leg that has validated this address."""
        state = self._by_address.get(address)
        return state.leg if state is not None else None

    def selected(self, leg: str) -> Address | None:
        state = self._legs.get(leg)
        return state.selected if state is not None else None

    def gone(self, address: Address) -> None:
        """A TCP connection has ended.  The leg goes on where its client was last heard."""
        state = self._by_address.pop(address, None)
        if state is None:
            return
        del state.addresses[address]
        if state.selected != address:
            return
        state.selected = None
        state.nominated = False
        if state.addresses:
            state.selected = max(state.addresses, key=lambda other: state.addresses[other])
            self._observer.ice_selected(state.leg, state.selected)

    def note_alive(self, leg: str) -> None:
        """Media or data has come: the path lives although a check is late.

        Some clients check every 6 s only.  This puts off "disconnected", but only checks are consent
        (RFC 7675 §4.1), so it does not put off "failed".
        """
        state = self._legs.get(leg)
        if state is not None:
            state.alive_ms = self._clock_ms()

    # ------------------------------------------------------------ datagrams

    def knows(self, data: bytes) -> bool:
        """Whether this looks like a binding request for one of our legs; its integrity is not checked."""
        if not STUN_HEADER.size <= len(data) <= MAX_STUN_BYTES:
            return False
        if int.from_bytes(data[:2], "big") != BINDING_REQUEST:
            return False
        username = peek_username(data)
        return username is not None and username.partition(":")[0] in self._by_ufrag

    def on_stun(self, data: bytes, address: Address) -> None:
        """Answer a binding request.  Whatever else arrives is counted and forgotten."""
        if len(data) < STUN_HEADER.size or len(data) > MAX_STUN_BYTES:
            self._drops.count(DropReason.STUN_MALFORMED)
            return
        message_type = int.from_bytes(data[:2], "big")
        if message_type == BINDING_INDICATION:
            return  # a keep-alive (RFC 8445 §11) needs no answer
        if message_type != BINDING_REQUEST:
            self._drops.count(DropReason.STUN_UNEXPECTED)
            return
        username = peek_username(data)
        if username is None:
            self._drops.count(DropReason.STUN_MALFORMED)
            return
        found = self._by_ufrag.get(username.partition(":")[0])
        if found is None:
            self._refuse(data, address, 401, "Unauthorized", DropReason.STUN_UNKNOWN_USER)
            return
        state, credentials = found
        if address not in state.addresses and not state.strangers.take(self._clock_ms()):
            self._drops.count(DropReason.STUN_RATE)
            return
        request = parse_stun(data)
        if request is None:
            self._drops.count(DropReason.STUN_MALFORMED)
            return
        key = credentials.pwd.encode()
        if not request.check_message_integrity(key):
            self._refuse(data, address, 401, "Unauthorized", DropReason.STUN_UNAUTHENTICATED)
            return
        self.checks += 1
        if "ICE-CONTROLLED" in request.attributes:
            # RFC 8445 §7.3.1.1: a lite agent never controls, so the client has to take the role.
            self._answer_error(request, address, 487, "Role Conflict", key)
            return
        self._answer(request, address, key)
        self._accept(state, credentials, address, "USE-CANDIDATE" in request.attributes)

    def tick(self, now_ms: float) -> None:
        """Notice silence; forget addresses that a leg has left.  To be called several times a second."""
        for state in tuple(self._legs.values()):
            self._forget_old_addresses(state, now_ms)
            if state.state is IceState.NEW:
                since_ms = state.waiting_since_ms
                if since_ms is not None and now_ms - since_ms >= FAILED_AFTER_MS:
                    self._enter(state, IceState.FAILED)
                continue
            if now_ms - state.consent_ms >= FAILED_AFTER_MS:
                self._enter(state, IceState.FAILED)
            elif (
                state.state is IceState.CONNECTED
                and now_ms - max(state.consent_ms, state.alive_ms) >= DISCONNECTED_AFTER_MS
            ):
                self._enter(state, IceState.DISCONNECTED)

    # ------------------------------------------------------------ decisions

    def _accept(
        self, state: IceLeg, credentials: IceParameters, address: Address, use_candidate: bool
    ) -> None:
        now_ms = self._clock_ms()
        restarted = credentials is state.current and bool(state.previous)
        if restarted:
            for old in state.previous:
                self._by_ufrag.pop(old.ufrag, None)
            state.previous.clear()
            # A restarted client chooses anew (RFC 8445 §9), and often because it has moved.
            state.nominated = False
        self._validate(state, address, now_ms)
        state.consent_ms = now_ms
        select = use_candidate or restarted or self._deserted(state, now_ms)
        state.nominated = state.nominated or use_candidate
        if select and state.selected != address:
            state.selected = address
            self._observer.ice_selected(state.leg, address)
        self._enter(state, IceState.CONNECTED)

    @staticmethod
    def _deserted(state: IceLeg, now_ms: float) -> bool:
        if state.selected is None:
            return True
        return now_ms - state.addresses.get(state.selected, -DESERTED_MS) >= DESERTED_MS

    def _validate(self, state: IceLeg, address: Address, now_ms: float) -> None:
        other = self._by_address.get(address)
        if other is not None and other is not state:
            # The same socket now speaks for another leg: the client began again, or a NAT gave its port away.
            other.addresses.pop(address, None)
            if other.selected == address:
                other.selected = None
                other.nominated = False
        if address not in state.addresses and len(state.addresses) >= MAX_ADDRESSES_PER_LEG:
            idle = min((a for a in state.addresses if a != state.selected), key=lambda a: state.addresses[a])
            del state.addresses[idle]
            self._by_address.pop(idle, None)
        state.addresses[address] = now_ms
        self._by_address[address] = state

    def _forget_old_addresses(self, state: IceLeg, now_ms: float) -> None:
        if len(state.addresses) < 2:
            return
        for address, seen_ms in tuple(state.addresses.items()):
            if address != state.selected and now_ms - seen_ms >= ADDRESS_KEPT_MS:
                del state.addresses[address]
                self._by_address.pop(address, None)

    def _enter(self, state: IceLeg, new: IceState) -> None:
        if state.state is new:
            return
        state.state = new
        if new is IceState.FAILED:
            self.failures += 1
        self._observer.ice_state(state.leg, new)

    def _new_credentials(self) -> IceParameters:
        while True:
            ufrag = "".join(secrets.choice(ICE_CHARS) for _ in range(UFRAG_LENGTH))
            if ufrag not in self._by_ufrag:
                return IceParameters(ufrag, "".join(secrets.choice(ICE_CHARS) for _ in range(PWD_LENGTH)))

    # ------------------------------------------------------------ answers

    def _answer(self, request: stun.Message, address: Address, key: bytes) -> None:
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
            attributes={"XOR-MAPPED-ADDRESS": self._outer(address)[:2]},
        )
        response.add_message_integrity(key)
        self._send(bytes(response), address)

    def _answer_error(
        self, request: stun.Message, address: Address, code: int, phrase: str, key: bytes
    ) -> None:
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.ERROR,
            transaction_id=request.transaction_id,
            attributes={"ERROR-CODE": (code, phrase)},
        )
        response.add_message_integrity(key)
        self._send(bytes(response), address)

    def _refuse(self, data: bytes, address: Address, code: int, phrase: str, reason: DropReason) -> None:
        """An unsigned error (RFC 8489 §9.1.3), limited in rate: no use as an amplifier."""
        self._drops.count(reason)
        if not self._refusals.take(self._clock_ms()):
            self._drops.count(DropReason.STUN_RATE)
            return
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.ERROR,
            transaction_id=data[8:20],
            attributes={"ERROR-CODE": (code, phrase)},
        )
        response.add_fingerprint()
        self._send(bytes(response), address)


def peek_username(data: bytes) -> str | None:
    """The USERNAME of a binding request, without the cost of parsing (and before any HMAC)."""
    length = len(data)
    if int.from_bytes(data[2:4], "big") != length - STUN_HEADER.size:
        return None
    if int.from_bytes(data[4:8], "big") != stun.COOKIE:
        return None
    position = STUN_HEADER.size
    while position + ATTRIBUTE_HEADER.size <= length:
        kind, size = ATTRIBUTE_HEADER.unpack_from(data, position)
        position += ATTRIBUTE_HEADER.size
        if position + size > length:
            return None
        if kind == USERNAME:
            try:
                return data[position : position + size].decode()
            except UnicodeDecodeError:
                return None
        position += (size + 3) & ~3
    return None


def parse_stun(data: bytes) -> stun.Message | None:
    """aioice's reading, with every complaint about a stranger's bytes turned into None."""
    try:
        return stun.parse_message(data)
    except (ValueError, struct.error, IndexError):
        return None
