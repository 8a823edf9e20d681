"""Transport-wide feedback, written and read: the Python twin and the native one agree to the byte."""

from __future__ import annotations

import ctypes

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfu.history import SendHistory
from sfu.twcc import ArrivalRecorder, TwccError
from tests.fixtures.sfu_native_parts import Digest

START_MS = 1_790_000_000_000.0
BOUNDED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

# (jump of the number, ms since the last one): mostly in order, sometimes far away
STEPS = st.tuples(
    st.one_of(st.just(1), st.integers(-6, 9), st.integers(-3000, 3000), st.integers(0, 0xFFFF)),
    st.one_of(st.floats(0, 30), st.floats(-200, 700), st.floats(0, 20_000)),
)
BATCHES = st.lists(st.lists(st.tuples(STEPS, st.integers(1, 400)), max_size=12), min_size=1, max_size=8)


@BOUNDED
@given(first=st.integers(0, 0xFFFF), batches=BATCHES)
def test_the_same_arrivals_are_reported_in_the_same_bytes(native_parts, first, batches) -> None:
    python, native = ArrivalRecorder(), native_parts.arrivals_new()
    out = ctypes.create_string_buffer(1400)
    try:
        number, now_ms = first, START_MS
        for batch in batches:
            for (jump, pause_ms), run in batch:
                number = (number + jump) & 0xFFFF
                now_ms += pause_ms
                for _ in range(run):
                    python.record(number, now_ms)
                    native_parts.arrivals_record(native, number, now_ms)
                    number = (number + 1) & 0xFFFF
                    now_ms += 0.3
            expected = python.take(now_ms)
            got = []
            while size := native_parts.arrivals_take(native, now_ms, out):
                got.append(out.raw[:size])
            assert got == expected
    finally:
        native_parts.arrivals_free(native)


def acknowledge(parts: ctypes.CDLL, history: int, body: bytes) -> tuple | None:
    digest = Digest()
    if parts.history_acknowledge(history, body, len(body), START_MS, ctypes.byref(digest)):
        return None
    return (
        tuple((one.send_ms, one.arrival_ms, one.size) for one in digest.group[: digest.groups]),
        digest.received, digest.lost, digest.acked_bytes, digest.newest_send_ms,
        tuple(
            tuple(getattr(one, name) for name, _ in one._fields_)
            for one in digest.cluster[: digest.clusters]
        ),
    )  # fmt: skip


def acknowledged(history: SendHistory, body: bytes) -> tuple | None:
    try:
        digest = history.acknowledge(body)
    except TwccError:
        return None
    return (tuple(map(tuple, digest.groups)), *digest[1:5], tuple(map(tuple, digest.clusters)))


SENT = st.lists(  # packets, ms between them, bytes, cluster, share of them that arrives
    st.tuples(
        st.integers(1, 60), st.floats(0, 12), st.integers(40, 1400), st.integers(0, 3),
        st.sampled_from((0, 1, 2, 5, 1000)), st.integers(0, 4000),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


@BOUNDED
@given(
    first=st.integers(0, 0xFFFF),
    rounds=SENT,
    damage=st.lists(st.tuples(st.integers(0), st.binary(max_size=3))),
)
def test_the_same_feedback_gives_the_same_digest(native_parts, first, rounds, damage) -> None:
    """Real feedback of a receiver's recorder, some of it damaged, some of it late."""
    python, native = SendHistory(), native_parts.history_new()
    receiver = ArrivalRecorder()
    try:
        number, now_ms = first, START_MS
        bodies: list[bytes] = []
        for packets, pause_ms, size, cluster, lose, skip in rounds:
            number = (number + (skip if skip > 3900 else 0)) & 0xFFFF
            for count in range(packets):
                python.record(number, now_ms, size, cluster)
                native_parts.history_record(native, number, now_ms, size, cluster)
                if not lose or count % lose:
                    receiver.record(number, now_ms + 40)
                number = (number + 1) & 0xFFFF
                now_ms += pause_ms
            bodies += receiver.take(now_ms)
        for place, junk in damage:
            body = bytearray(bodies[place % len(bodies)] if bodies else b"")
            at = place // 7 % (len(body) + 1)
            body[at : at + len(junk)] = junk or body[at:]
            bodies.insert(place % (len(bodies) + 1), bytes(body))
        for body in bodies:
            assert acknowledge(native_parts, native, body) == acknowledged(python, body)
    finally:
        native_parts.history_free(native)


@BOUNDED
@given(base=st.integers(0, 0xFFFF), bodies=st.lists(st.binary(max_size=80), max_size=6))
def test_rubbish_is_refused_alike(native_parts, base, bodies) -> None:
    python, native = SendHistory(), native_parts.history_new()
    try:
        for offset in range(300):
            python.record((base + offset) & 0xFFFF, START_MS + offset, 1000, 0)
            native_parts.history_record(native, (base + offset) & 0xFFFF, START_MS + offset, 1000, 0)
        for body in bodies:
            body = base.to_bytes(2, "big") + body
            assert acknowledge(native_parts, native, body) == acknowledged(python, body)
    finally:
        native_parts.history_free(native)


def test_bursts_are_told_again_after_a_long_silence(native_parts) -> None:
    """Half of all numbers went by without a report: what is newer looks older than what was told last."""
    native, python = native_parts.history_new(), SendHistory()

    def send(first: int, count: int) -> None:
        for number in range(first, first + count):
            now_ms = START_MS + number * 10
            native_parts.history_record(native, number & 0xFFFF, now_ms, 1000, 0)
            python.record(number & 0xFFFF, now_ms, 1000, 0)

    def report(first: int) -> bytes:  # of eight numbers
        return bytes((first >> 8 & 0xFF, first & 0xFF, 0, 8, 0, 0, 1, 0, 0x20, 8)) + b"\x28" * 8

    try:
        for first in (100, 40_000, 73_000):
            send(first - 20, 40)
            told = acknowledge(native_parts, native, report(first))
            assert told == acknowledged(python, report(first))
            assert told is not None
            assert len(told[0]) >= 7
    finally:
        native_parts.history_free(native)
