"""Numbers, feedback and extensions for all inputs that hypothesis thinks of."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sfu import rtcp, twcc
from sfu.params import ExtensionUri, HeaderExtension
from sfu.ring import Ring
from sfu.rtp import ExtensionIds, ExtensionPlan, Packet, encode_extensions
from sfu.seq import NumberMap, distance, unwrap


@given(st.integers(0, 1 << 40), st.integers(-32768, 32767))
def test_unwrap_finds_the_nearest(highest: int, step: int) -> None:
    assert unwrap((highest + step) & 0xFFFF, highest) == highest + step
    assert distance((highest + step) & 0xFFFF, highest & 0xFFFF) == step


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, bool]]:
    """A stream in nearly the right order, with losses; True = to be skipped."""
    count = draw(st.integers(1, 200))
    start = draw(st.integers(0, 1 << 20))
    skipped = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    lost = draw(st.sets(st.integers(0, count - 1), max_size=count // 4))
    delay = draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    order = sorted(range(count), key=lambda index: index + delay[index])
    return [(start + index, skipped[index]) for index in order if index not in lost]


@given(arrivals(), st.integers(1, 1 << 15))
def test_sequence_numbers_never_repeat_and_skips_leave_no_gap(
    stream: list[tuple[int, bool]], first: int
) -> None:
    numbers = NumberMap(first)
    numbers.begin(stream[0][0])
    out: dict[int, int] = {}
    for ext_seq, skip in stream:
        if ext_seq > numbers.high:
            if skip:
                numbers.skip(ext_seq)
                continue
            numbers.high = ext_seq
            out[ext_seq] = ext_seq - numbers.shift
        elif not skip:
            shifts = numbers.late(ext_seq)
            if shifts is not None:
                out[ext_seq] = ext_seq - shifts[0]
    assert len(set(out.values())) == len(out)
    pairs = sorted(out.items())
    assert [number for _, number in pairs] == sorted(out.values())  # order is kept
    if stream == sorted(stream) and stream[-1][0] - stream[0][0] + 1 == len(stream):
        values = [number for _, number in pairs]
        assert values == [*range(first, first + len(values))]  # nothing lost: no gap at all


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 50)), min_size=1, max_size=20))
def test_streams_follow_each_other_without_gap(switches: list[tuple[int, int]]) -> None:
    numbers = NumberMap(77)
    out: list[int] = []
    for start, count in switches:
        numbers.begin(start)
        for ext_seq in range(start, start + count):
            numbers.high = ext_seq
            out.append(ext_seq - numbers.shift)
    assert out == [*range(77, 77 + len(out))]


@given(st.lists(st.integers(0, 65535), max_size=200), st.sampled_from([4, 64, 512]))
def test_ring_finds_what_was_put_last(sequences: list[int], size: int) -> None:
    ring = Ring(size)
    model: dict[int, int] = {}
    for place, sequence in enumerate(sequences):
        ring.slots[sequence & ring.mask] = (sequence, 0, place, b"", -1, 0, 0, -1, 0, b"", 0)
        model[sequence % size] = sequence
    for sequence in sequences:
        sent = ring.find(sequence)
        assert (sent is not None) == (model[sequence % size] == sequence)


@settings(max_examples=60)
@given(
    st.integers(0, 65535),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 120_000)), min_size=1, max_size=300),
    st.integers(1, 40),
)
def test_transport_feedback_tells_every_arrival(start: int, steps: list[tuple[int, int]], every: int) -> None:
    recorder = twcc.ArrivalRecorder()
    now, ext = 1_790_000_000_000.0, start
    sent: dict[int, float] = {}
    told: dict[int, float] = {}
    counts: list[int] = []

    def take() -> None:
        for body in recorder.take(now):
            # the whole message fits a datagram and is read by its own reader
            (message,) = rtcp.parse(rtcp.transport_cc(1, 2, body))
            assert isinstance(message, rtcp.TransportCc)
            feedback = twcc.parse(message.body)
            counts.append(feedback.count)
            reference = int.from_bytes(body[4:7], "big")
            for index, arrival in enumerate(feedback.arrivals_ms):
                if arrival is not None:
                    told[(feedback.base + index) & 0xFFFF] = arrival - reference * 64 + reference * 64

    for number, (step, wait_us) in enumerate(steps):
        ext += step
        now += wait_us / 1000
        recorder.record(ext & 0xFFFF, now)
        sent[ext & 0xFFFF] = now
        if number % every == 0:
            take()
    take()
    assert told.keys() == sent.keys()
    wrap = 64 * (1 << 24)
    for number, at in sent.items():
        assert abs((told[number] - at + wrap / 2) % wrap - wrap / 2) <= 0.25
    assert counts == [number & 0xFF for number in range(len(counts))]


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 100)), max_size=300))
def test_recorder_survives_any_numbers(records: list[tuple[int, int]]) -> None:
    recorder = twcc.ArrivalRecorder()
    now = 0.0
    for number, wait in records:
        now += wait
        recorder.record(number, now)
        if wait > 90:
            for body in recorder.take(now):
                assert len(body) < 1300
                twcc.parse(body)
    for body in recorder.take(now):
        assert len(body) < 1300
        twcc.parse(body)


elements = st.lists(
    st.tuples(st.integers(1, 14), st.binary(min_size=1, max_size=40)), max_size=6, unique_by=lambda e: e[0]
)


@given(elements)
def test_extensions_are_read_as_written(given_elements: list[tuple[int, bytes]]) -> None:
    block = encode_extensions(given_elements)
    assert len(block) % 4 == 0
    ids = ExtensionIds()
    ids.passed = dict.fromkeys(range(1, 15), "x")
    packet = Packet()
    head = bytes((0x90 if block else 0x80,)) + bytes(11)
    packet.parse(head + block + b"payload", ids)
    assert (packet.elements or []) == given_elements
    assert packet.data[packet.start : packet.end] == b"payload"


@given(elements, st.permutations(range(1, 15)), st.text("0123456789", min_size=1, max_size=4))
def test_extension_ids_are_rewritten_for_the_receiver(
    incoming: list[tuple[int, bytes]], numbers: list[int], mid: str
) -> None:
    ids = ExtensionIds()
    ids.passed = {number: f"urn:x:{number}" for number in range(1, 15)}
    shared = {f"urn:x:{number}": numbers[number - 1] for number in range(1, 10)}
    outgoing = [HeaderExtension(uri, number) for uri, number in shared.items()]
    outgoing += [
        HeaderExtension(ExtensionUri.TRANSPORT_CC, numbers[12]),
        HeaderExtension(ExtensionUri.MID, numbers[13]),
    ]
    plan = ExtensionPlan(outgoing, ids, mid)
    for _ in range(2):  # the second time from the cache
        block = plan.block(incoming)
        at = plan.transport_place(block)
        written = bytearray(block)
        written[at : at + 2] = b"\x12\x34"
        seen = ExtensionIds()
        seen.passed = dict.fromkeys(range(1, 15), "x")
        packet = Packet()
        packet.parse(b"\x90" + bytes(11) + bytes(written), seen)
        found = dict(packet.elements or [])
        assert found.pop(numbers[12]) == b"\x12\x34"
        assert found.pop(numbers[13]) == mid.encode()
        assert found == {shared[f"urn:x:{n}"]: value for n, value in incoming if n < 10}


@given(st.lists(st.integers(0, 65535), max_size=100))
def test_nack_carries_every_number(sequences: list[int]) -> None:
    if not sequences:
        return
    (message,) = rtcp.parse(rtcp.nack(1, 2, sequences))
    assert isinstance(message, rtcp.Nack)
    assert set(message.sequences) == set(sequences)
