"""The native relay's output and events, each alone."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.sfu_native_parts import SINK, Destination, EventHead

TAP, RTCP, STUN, ALIVE = 9, 3, 1, 5
NO_SINK = SINK()


def destination(address: tuple[str, int]) -> Destination:
    to = Destination(family=socket.AF_INET)
    to.port[:] = address[1].to_bytes(2, "big")
    to.ip[:] = socket.inet_aton(address[0])
    return to


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


def receivers(count: int) -> list[socket.socket]:
    found = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        found.append(sock)
    return found


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    while select.select([sock], [], [], 0)[0]:
        found.append(sock.recv(4096))
    return found


def put(parts: ctypes.CDLL, output: int, to: Destination, data: bytes, arrival_ms: float = 0) -> None:
    ctypes.memmove(parts.output_reserve(output), data, len(data))
    parts.output_commit(output, ctypes.byref(to), len(data), arrival_ms)


@pytest.mark.parametrize("gso", [True, False])
def test_each_destination_gets_its_datagrams_in_order(native_parts, sender, gso) -> None:
    socks = receivers(3)
    targets = [destination(sock.getsockname()) for sock in socks]
    output = native_parts.output_new(sender.fileno(), gso, NO_SINK, None)
    sizes = [1000] * 9 + [500] + [1200] * 3 + [80, 90, 90] + [1000] * 2
    sent: list[list[bytes]] = [[], [], []]
    for count, size in enumerate(sizes):
        for index, to in enumerate(targets):
            data = bytes((index, count)) * (size // 2)
            put(native_parts, output, to, data, 1000.0)
            sent[index].append(data)
    native_parts.output_flush(output, 1000.3)
    assert [drain(sock) for sock in socks] == sent
    counts = native_parts.output_counts(output).contents
    assert counts.datagrams == 3 * len(sizes)
    assert counts.system_calls == 1
    if native_parts.output_has_gso(output):  # nine and a shorter one, three and a shorter one, two, two
        assert counts.messages == 3 * 4
    else:
        assert counts.messages == 3 * len(sizes)
    assert list(counts.latency)[3] == counts.datagrams
    assert counts.latency_sum_ms == pytest.approx(0.3 * counts.datagrams)
    native_parts.output_free(output)
    for sock in socks:
        sock.close()


def test_more_than_fits_leaves_early(native_parts, sender) -> None:
    (sock,) = receivers(1)
    sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    to = destination(sock.getsockname())
    output = native_parts.output_new(sender.fileno(), True, NO_SINK, None)
    for count in range(1500):
        put(native_parts, output, to, count.to_bytes(4, "big") * 10)
    early = native_parts.output_counts(output).contents.datagrams
    assert early == 1024
    native_parts.output_forget(output, ctypes.byref(to))
    assert native_parts.output_counts(output).contents.datagrams == 1500
    native_parts.output_forget(output, ctypes.byref(to))
    native_parts.output_free(output)
    sock.close()


def test_segments_too_long_for_the_route_go_alone(native_parts, sender) -> None:
    """Loopback carries 64 KB, so an address that we may not use stands for the refusal."""
    (sock,) = receivers(1)
    output = native_parts.output_new(sender.fileno(), True, NO_SINK, None)
    refused, fine = destination(("255.255.255.255", 9)), destination(sock.getsockname())
    for to in (refused, fine):
        for _ in range(5):
            put(native_parts, output, to, bytes(300))
    native_parts.output_flush(output, 0)
    counts = native_parts.output_counts(output).contents
    assert (counts.failed, counts.datagrams) == (5, 5)
    assert drain(sock) == [bytes(300)] * 5
    native_parts.output_free(output)
    sock.close()


def test_without_a_socket_the_sink_gets_all(native_parts) -> None:
    got = []
    sink = SINK(lambda _context, data, size, _to: got.append(ctypes.string_at(data, size)))
    output = native_parts.output_new(-1, True, sink, None)
    to = destination(("192.0.2.1", 5))
    for data in (b"one", b"two"):
        put(native_parts, output, to, data)
    assert got == []
    native_parts.output_flush(output, 0)
    assert got == [b"one", b"two"]
    native_parts.output_free(output)


def test_what_the_kernel_has_no_room_for_is_counted(native_parts) -> None:
    """Unix datagrams: their queue is short, and an abstract name is as long as an IPv4 address."""
    ours, theirs = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    ours.setblocking(False)
    name = b"\0" + os.urandom(6).hex().encode() + b"x"
    theirs.bind(name)
    to = Destination(family=socket.AF_UNIX)
    to.port[:], to.ip[:], to.zero[:] = name[:2], name[2:6], name[6:]
    output = native_parts.output_new(ours.fileno(), True, NO_SINK, None)
    assert not native_parts.output_has_gso(output)
    for _ in range(1000):
        put(native_parts, output, to, b"x")
    native_parts.output_flush(output, 0)
    counts = native_parts.output_counts(output).contents
    assert counts.full > 0
    assert counts.full + counts.datagrams == 1000
    assert counts.failed == 0
    assert len(drain(theirs)) == counts.datagrams
    native_parts.output_free(output)
    ours.close()
    theirs.close()


# ---------------------------------------------------------------- events


def push(parts: ctypes.CDLL, events: int, kind: int, data: bytes, subject: int = 0) -> bool:
    head = EventHead(kind=kind, size=len(data), subject=subject)
    return parts.events_push(events, ctypes.byref(head), data)


def pop(parts: ctypes.CDLL, events: int) -> tuple[int, int, bytes] | None:
    data = ctypes.c_void_p()
    head = parts.events_pop(events, ctypes.byref(data))
    if not head:
        return None
    return head.contents.kind, head.contents.subject, ctypes.string_at(data.value, head.contents.size)


def readable(parts: ctypes.CDLL, events: int) -> bool:
    return bool(select.select([parts.events_fd(events)], [], [], 0)[0])


def test_the_descriptor_says_whether_records_wait(native_parts) -> None:
    events = native_parts.events_new()
    assert not readable(native_parts, events)
    assert push(native_parts, events, RTCP, b"a", 7)
    assert push(native_parts, events, RTCP, b"", 8)
    assert readable(native_parts, events)
    assert pop(native_parts, events) == (RTCP, 7, b"a")
    assert pop(native_parts, events) == (RTCP, 8, b"")
    assert pop(native_parts, events) is None
    assert not readable(native_parts, events)
    assert push(native_parts, events, RTCP, b"b")
    assert readable(native_parts, events)
    native_parts.events_free(events)


def test_taps_and_strangers_leave_room(native_parts) -> None:
    events = native_parts.events_new()
    counts = []
    for kind in (TAP, STUN, RTCP, ALIVE):
        count = 0
        while push(native_parts, events, kind, bytes(1600)):
            count += 1
        counts.append(count)
    assert [round(count * 1632 / (1 << 20), 1) for count in counts] == [2.0, 0.5, 1.0, 0.5]
    assert native_parts.events_lost(events) == 4
    assert pop(native_parts, events) is not None  # makes room when the next one is asked for,
    assert pop(native_parts, events) is not None  # for its own kind
    for kind, fits in ((STUN, False), (ALIVE, False), (TAP, True)):
        assert push(native_parts, events, kind, bytes(1600)) is fits
    native_parts.events_free(events)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(1, 400), st.sampled_from((0, 3, 1000, 9000, 60_000))),
        max_size=60,
    )
)
def test_records_come_out_as_they_went_in(native_parts, steps) -> None:
    events = native_parts.events_new()
    expected: deque[tuple[int, int, bytes]] = deque()
    number = lost = 0
    for is_push, times, size in steps:
        for _ in range(times):
            if is_push:
                number += 1
                data = number.to_bytes(4, "big") * (size // 4)
                if push(native_parts, events, RTCP, data, number):
                    expected.append((RTCP, number, data))
                else:
                    lost += 1
            elif expected:
                assert pop(native_parts, events) == expected.popleft()
            else:
                assert pop(native_parts, events) is None
    while expected:
        assert pop(native_parts, events) == expected.popleft()
    assert pop(native_parts, events) is None
    assert native_parts.events_lost(events) == lost
    native_parts.events_free(events)
