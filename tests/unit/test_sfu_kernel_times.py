"""Packets arrive when the kernel saw them: a busy loop must not look like a congested line."""

from __future__ import annotations

import socket
import time

import pytest

from sfu.relay import ANCILLARY, SO_TIMESTAMPNS, TIMESPEC, age_ms


def told(when_ns: int) -> list[tuple[int, int, bytes]]:
    seconds, nanoseconds = divmod(when_ns, 1_000_000_000)
    return [(socket.SOL_SOCKET, SO_TIMESTAMPNS, TIMESPEC.pack(seconds, nanoseconds))]


def test_age_is_the_time_since_the_kernel_saw_the_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_795_000_000_123_456_789
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert age_ms(told(now - 40_000_000)) == pytest.approx(40.0)
    assert age_ms([]) == 0.0  # no kernel time: now
    assert age_ms(told(now + 5_000_000)) == 0.0  # the clock was set back
    assert age_ms(told(now - 60_000_000_000)) == 0.0  # the clock was set forward


def test_the_kernel_tells_it_in_this_form() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", receiver.getsockname())
        buffer = bytearray(16)
        size, ancillary, _, _ = receiver.recvmsg_into([buffer], ANCILLARY)
        assert (size, len(ancillary), len(ancillary[0][2])) == (1, 1, TIMESPEC.size)
        seconds, _ = TIMESPEC.unpack(ancillary[0][2])
        assert abs(seconds - time.time()) < 60
        assert 0.0 < age_ms(ancillary) < 2000.0
