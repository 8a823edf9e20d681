"""ICE-lite decisions with a fake clock; every check is a real STUN message."""

from __future__ import annotations

import pytest
from aioice import stun

from sfu.drops import DropReason, Drops
from sfu.ice import (
    DESERTED_MS,
    DISCONNECTED_AFTER_MS,
    FAILED_AFTER_MS,
    MAX_ADDRESSES_PER_LEG,
    REFUSALS_BURST,
    STRANGERS_BURST,
    IceLite,
    IceState,
)
from sfu.params import IceParameters
from sfu.seams import Address

HOME: Address = ("192.0.2.10", 40000)
AWAY: Address = ("198.51.100.7", 50000)


class Port:
    """The UDP port, the clock and the observer of one IceLite."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0
        self.sent: list[tuple[stun.Message, Address]] = []
        self.selected: list[tuple[str, Address]] = []
        self.states: list[tuple[str, IceState]] = []
        self.drops = Drops()
        self.ice = IceLite(self.send, self, lambda: self.now_ms, self.drops)

    def send(self, data: bytes, address: Address) -> None:
        self.sent.append((stun.parse_message(data), address))

    def ice_selected(self, leg: str, address: Address) -> None:
        self.selected.append((leg, address))

    def ice_state(self, leg: str, state: IceState) -> None:
        self.states.append((leg, state))

    def advance(self, ms: float) -> None:
        self.now_ms += ms
        self.ice.tick(self.now_ms)

    def check(
        self,
        credentials: IceParameters,
        address: Address = HOME,
        *,
        nominate: bool = False,
        controlled: bool = False,
        password: str | None = None,
    ) -> stun.Message | None:
        """Send a check and return the answer to it."""
        before = len(self.sent)
        self.ice.on_stun(binding_request(credentials, nominate, controlled, password), address)
        if len(self.sent) == before:
            return None
        message, to = self.sent[-1]
        assert to == address
        return message


def binding_request(
    credentials: IceParameters,
    nominate: bool = False,
    controlled: bool = False,
    password: str | None = None,
) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{credentials.ufrag}:theirs"
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLED" if controlled else "ICE-CONTROLLING"] = 7
    if nominate:
        message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity((password or credentials.pwd).encode())
    return bytes(message)


@pytest.fixture
def port() -> Port:
    return Port()


def test_a_good_check_is_answered_with_the_clients_address_and_signed(port: Port) -> None:
    credentials = port.ice.open("leg")
    answer = port.check(credentials)
    assert answer is not None
    assert answer.message_class is stun.Class.RESPONSE
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == HOME
    assert "FINGERPRINT" in answer.attributes
    assert answer.check_message_integrity(credentials.pwd.encode())
    assert port.selected == [("leg", HOME)]
    assert port.states == [("leg", IceState.CONNECTED)]
    assert port.ice.leg_at(HOME) == "leg"


def test_an_unknown_user_is_refused_and_counted(port: Port) -> None:
    answer = port.check(IceParameters("nobody", "nothing"))
    assert answer is not None
    assert answer.attributes["ERROR-CODE"][0] == 401
    assert port.drops.counts[DropReason.STUN_UNKNOWN_USER] == 1
    assert port.ice.leg_at(HOME) is None


def test_a_forged_check_validates_nothing(port: Port) -> None:
    credentials = port.ice.open("leg")
    answer = port.check(credentials, password="guessed", nominate=True)
    assert answer is not None
    assert answer.attributes["ERROR-CODE"][0] == 401
    assert port.drops.counts[DropReason.STUN_UNAUTHENTICATED] == 1
    assert port.selected == []
    assert port.ice.leg_at(HOME) is None


def test_a_check_without_integrity_validates_nothing(port: Port) -> None:
    credentials = port.ice.open("leg")
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{credentials.ufrag}:x"
    message.attributes["USE-CANDIDATE"] = None
    message.add_fingerprint()
    port.ice.on_stun(bytes(message), HOME)
    assert port.selected == []
    assert port.drops.counts[DropReason.STUN_UNAUTHENTICATED] == 1


def test_a_client_that_wants_to_be_controlled_has_to_take_the_role(port: Port) -> None:
    credentials = port.ice.open("leg")
    answer = port.check(credentials, controlled=True)
    assert answer is not None
    assert answer.attributes["ERROR-CODE"][0] == 487
    assert answer.check_message_integrity(credentials.pwd.encode())
    assert port.selected == []


def test_nomination_chooses_and_a_later_one_moves_the_client(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, HOME)
    port.check(credentials, AWAY)
    assert port.selected == [("leg", HOME)], "not nominated: the first one stays"
    port.check(credentials, AWAY, nominate=True)
    port.check(credentials, HOME)
    assert port.selected == [("leg", HOME), ("leg", AWAY)]
    port.check(credentials, HOME, nominate=True)
    assert port.selected[-1] == ("leg", HOME)


def test_restart_old_credentials_serve_until_the_new_have_succeeded(port: Port) -> None:
    old = port.ice.open("leg")
    port.check(old, HOME, nominate=True)
    unused = port.ice.restart("leg")
    new = port.ice.restart("leg")
    assert len({old, unused, new}) == 3
    answer = port.check(old, HOME)
    assert answer is not None
    assert answer.message_class is stun.Class.RESPONSE
    port.check(new, AWAY)
    assert port.selected[-1] == ("leg", AWAY), "a restarted client chooses anew"
    for stale in (old, unused):
        answer = port.check(stale, HOME)
        assert answer is not None
        assert answer.attributes["ERROR-CODE"][0] == 401


def test_restarts_that_nobody_uses_do_not_pile_up(port: Port) -> None:
    port.ice.open("leg")
    for _ in range(100):
        port.ice.restart("leg")
    assert len(port.ice._by_ufrag) <= 3


def test_silence_disconnects_after_5_s_and_fails_after_30_s(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, nominate=True)
    port.advance(DISCONNECTED_AFTER_MS - 1)
    assert port.states == [("leg", IceState.CONNECTED)]
    port.advance(1)
    assert port.states[-1] == ("leg", IceState.DISCONNECTED)
    port.advance(FAILED_AFTER_MS - DISCONNECTED_AFTER_MS)
    assert port.states[-1] == ("leg", IceState.FAILED)
    assert port.ice.failures == 1


def test_a_check_brings_a_lost_client_back(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, nominate=True)
    port.advance(DISCONNECTED_AFTER_MS)
    port.check(credentials)
    assert [state for _, state in port.states] == [
        IceState.CONNECTED,
        IceState.DISCONNECTED,
        IceState.CONNECTED,
    ]


def test_media_puts_off_disconnected_but_not_failed(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, nominate=True)
    for _ in range(9):
        port.advance(3_000)
        port.ice.note_alive("leg")
    assert port.states == [("leg", IceState.CONNECTED)]
    port.advance(3_000)
    assert port.states[-1] == ("leg", IceState.FAILED)


def test_a_client_that_was_told_and_never_comes_fails(port: Port) -> None:
    port.ice.open("leg")
    port.advance(FAILED_AFTER_MS * 2)
    assert port.states == [], "not told yet"
    port.ice.expect("leg")
    port.advance(FAILED_AFTER_MS - 1)
    assert port.states == []
    port.advance(1)
    assert port.states == [("leg", IceState.FAILED)]


def test_an_address_belongs_to_the_leg_that_proved_it_last(port: Port) -> None:
    first, second = port.ice.open("first"), port.ice.open("second")
    port.check(first, HOME, nominate=True)
    port.check(second, HOME, nominate=True)
    assert port.ice.leg_at(HOME) == "second"
    port.check(first, AWAY)
    assert port.selected[-1] == ("first", AWAY), "the robbed leg takes the next address"
    port.ice.close("second")
    assert port.ice.leg_at(HOME) is None


def test_addresses_per_leg_are_bounded_and_the_selected_one_stays(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, HOME, nominate=True)
    for number in range(MAX_ADDRESSES_PER_LEG * 3):
        port.advance(100)
        port.check(credentials, ("198.51.100.1", 1000 + number))
    assert len(port.ice._by_address) == MAX_ADDRESSES_PER_LEG
    assert port.ice.leg_at(HOME) == "leg"


def test_addresses_that_a_client_has_left_are_forgotten(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, HOME)
    port.check(credentials, AWAY, nominate=True)
    for _ in range(7):
        port.check(credentials, AWAY)
        port.advance(5_000)
    assert port.ice.leg_at(HOME) is None
    assert port.ice.leg_at(AWAY) == "leg"


def test_refusals_are_limited_in_rate(port: Port) -> None:
    for _ in range(1000):
        port.check(IceParameters("nobody", "nothing"))
    assert len(port.sent) == REFUSALS_BURST
    assert port.drops.counts[DropReason.STUN_RATE] == 1000 - REFUSALS_BURST
    credentials = port.ice.open("leg")
    assert port.check(credentials) is not None, "who knows a ufrag does not suffer"


def test_checks_from_many_forged_addresses_are_limited_and_the_client_goes_on(port: Port) -> None:
    credentials = port.ice.open("leg")
    port.check(credentials, HOME, nominate=True)
    for number in range(1000):
        port.check(credentials, ("203.0.113.1", 1000 + number), password="wrong")
    assert port.drops.counts[DropReason.STUN_UNAUTHENTICATED] < STRANGERS_BURST
    answer = port.check(credentials, HOME)
    assert answer is not None
    assert answer.message_class is stun.Class.RESPONSE


def test_opening_twice_gives_the_same_credentials_and_closing_forgets_all(port: Port) -> None:
    credentials = port.ice.open("leg")
    assert port.ice.open("leg") == credentials
    port.ice.restart("leg")
    port.check(credentials, HOME)
    port.ice.close("leg")
    port.ice.close("leg")
    assert port.ice._by_ufrag == {}
    assert port.ice._by_address == {}


def test_indications_and_responses_are_not_answered(port: Port) -> None:
    port.ice.on_stun(bytes(stun.Message(stun.Method.BINDING, stun.Class.INDICATION)), HOME)
    port.ice.on_stun(bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE)), HOME)
    assert port.sent == []
    assert port.drops.counts[DropReason.STUN_UNEXPECTED] == 1


def test_a_client_whose_address_changes_without_nomination_is_followed(port: Port) -> None:
    """A NAT gave it another port, and it nominates but once (regular nomination)."""
    credentials = port.ice.open("leg")
    port.check(credentials, HOME, nominate=True)
    port.advance(DESERTED_MS - 1)
    port.check(credentials, AWAY)
    assert port.selected == [("leg", HOME)], "the chosen address may still answer"
    port.advance(1)
    port.check(credentials, AWAY)
    assert port.selected == [("leg", HOME), ("leg", AWAY)]


def test_when_a_tcp_connection_ends_the_leg_goes_on_where_it_was_heard_last(port: Port) -> None:
    credentials = port.ice.open("leg")
    third = ("203.0.113.1", 1)
    port.check(credentials, third)
    port.advance(10)
    port.check(credentials, AWAY)
    port.advance(10)
    port.check(credentials, HOME, nominate=True)
    port.ice.gone(third)
    assert port.ice.selected("leg") == HOME
    port.ice.gone(HOME)
    assert port.selected[-1] == ("leg", AWAY)
    assert port.ice.leg_at(HOME) is None
    port.ice.gone(AWAY)
    assert port.ice.selected("leg") is None
    port.ice.gone(AWAY)
    port.check(credentials, third)
    assert port.selected[-1] == ("leg", third), "the next address is taken at once"


def test_knows_binding_requests_for_its_own_legs_only(port: Port) -> None:
    credentials = port.ice.open("leg")
    request = binding_request(credentials)
    assert port.ice.knows(request)
    assert not port.ice.knows(binding_request(IceParameters("nobody", "nothing")))
    assert not port.ice.knows(b"\x01\x01" + request[2:])
    assert not port.ice.knows(request[:19])
    assert not port.ice.knows(request[:-4])
    assert not port.ice.knows(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


def test_the_answer_tells_the_address_outside_of_a_bridge(port: Port) -> None:
    port.ice = IceLite(port.send, port, lambda: port.now_ms, port.drops, lambda address: AWAY)
    answer = port.check(port.ice.open("leg"))
    assert answer is not None
    assert answer.attributes["XOR-MAPPED-ADDRESS"] == AWAY
    assert port.selected == [("leg", HOME)]
