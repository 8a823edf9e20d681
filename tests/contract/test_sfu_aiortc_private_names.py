"""What ``sfu.sctp`` leans on inside aiortc 1.16: when an upgrade breaks one of these, look there."""

from __future__ import annotations

import inspect

import aioice.stun
import aiortc
import pytest
from aiortc import RTCSctpTransport, rtcsctptransport

from sfu.dtls import DtlsTransport


def test_the_version_is_the_one_that_was_read() -> None:
    assert aiortc.__version__ == "1.16.0"


@pytest.mark.parametrize(
    "name",
    [
        "_abort",
        "_data_channel_flush",
        "_data_channel_receive",
        "_handle_data",
        "_receive_data_chunk",
        "_receive_forward_tsn_chunk",
        "_receive_sack_chunk",
        "_send_chunk",
        "_send_reconfig_param",
        "_send_sack",
        "_transmit",
        "_transmit_reconfig",
        "start",
        "stop",
    ],
)
def test_methods_that_we_wrap_are_coroutines(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(RTCSctpTransport, name))


def test_attributes_that_we_read() -> None:
    source = inspect.getsource(RTCSctpTransport.__init__)
    for name in (
        "_advertised_rwnd",
        "_association_state",
        "_data_channels",
        "_inbound_streams",
        "_last_received_tsn",
        "_last_sacked_tsn",
        "_loop",
        "_sack_duplicates",
        "_sack_misordered",
        "_sack_needed",
        "_sent_queue",
    ):
        assert f"self.{name}" in source


def test_everything_it_starts_as_a_task_is_one_of_the_methods_that_we_contain() -> None:
    lines = inspect.getsource(rtcsctptransport).splitlines()
    started = {
        line.split("ensure_future(self.")[1].split("(")[0] for line in lines if "ensure_future(" in line
    }
    assert started == {
        "_data_channel_flush",
        "_send_chunk",
        "_send_reconfig_param",
        "_transmit",
        "_transmit_reconfig",
    }


def test_the_loop_is_used_for_timers_only() -> None:
    lines = inspect.getsource(RTCSctpTransport).splitlines()
    uses = {line.split("self._loop.")[1].split("(")[0] for line in lines if "self._loop." in line}
    assert uses == {"call_later"}


def test_it_waits_for_nothing_but_its_own_methods_and_the_dtls_transport() -> None:
    lines = [line.strip() for line in inspect.getsource(RTCSctpTransport).splitlines()]
    awaited = {
        line.split("await ")[1].split("(")[0] for line in lines if "await " in line and "#" not in line
    }
    outside = {name for name in awaited if not name.startswith("self._") or name.startswith("self.__")}
    assert outside == {"self.__transport._send_data"}


def test_our_dtls_has_what_it_asks_of_one() -> None:
    source = inspect.getsource(RTCSctpTransport)
    for name in ("_send_data", "_register_data_receiver", "_unregister_data_receiver"):
        assert f"self.__transport.{name}" in source
        assert hasattr(DtlsTransport, name)
    assert "self.transport._role" in source


def test_stun_reading_keeps_what_integrity_covers() -> None:
    message = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST)
    message.add_message_integrity(b"key")
    parsed = aioice.stun.parse_message(bytes(message))
    assert parsed.check_message_integrity(b"key")
    assert not parsed.check_message_integrity(b"other")
