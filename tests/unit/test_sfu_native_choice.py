"""The native relay is built where there is a compiler, and taken only if what it leans on is as known."""

from __future__ import annotations

import logging
import shutil
import socket

import pytest

from sfu import relays
from sfu.drops import DropReason, Drops
from sfu.relay import PythonRelay, epoch_clock_ms
from tests.fixtures.sfu_rtp_peers import SinkRecord


def opened(*, native: bool) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return relays.open_relay(sock, SinkRecord(), epoch_clock_ms(), Drops(), native=native)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_make_setup_has_built_it() -> None:
    assert relays.why_not_native() == ""
    assert not isinstance(opened(native=True), PythonRelay)


def test_without_it_the_twin_forwards_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relays, "why_not_native", lambda: "it is not built: no compiler")
    with caplog.at_level(logging.INFO):
        assert isinstance(opened(native=True), PythonRelay)
    assert "it is not built: no compiler" in caplog.text


def test_it_can_be_declined(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(opened(native=False), PythonRelay)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_another_libsrtp_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    native_relay = pytest.importorskip("sfu.native_relay")
    monkeypatch.setattr(native_relay, "RTP_FUNCTION", "int(*)(void *, char *)")
    reason = relays.why_not_native.__wrapped__()
    assert reason.startswith("it failed its test: pylibsrtp's srtp_protect is srtp_err_status_t(*)(")


def test_counts_of_the_native_relay_are_added_to_ours() -> None:
    drops = Drops()
    news = [[(DropReason.PADDING, 3)], [(DropReason.PADDING, 2)], []]
    drops.count(DropReason.PADDING)
    drops.source = lambda: news.pop(0)
    assert drops.counts[DropReason.PADDING] == 4
    assert [(c.labels, c.value) for c in drops.counters()] == [((("reason", "padding"),), 6.0)]
    assert drops.counts[DropReason.PADDING] == 6
