"""Dependency descriptors: what an independent writer has written is read, and nothing else is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfu.codecs import svc
from sfu.codecs.dependency import MAX_SPATIAL, MAX_TEMPORAL, Dependencies, DependencyError
from sfu.rtp import Packet
from tests.fixtures.sfu_svc_streams import L2T2, LayeredPublisher, Layout, Template, descriptor, vp9


def read(state: Dependencies, data: bytes, ext_seq: int = 1) -> Packet:
    packet = Packet()
    packet.descriptor, packet.ext_seq = data, ext_seq
    packet.forget_payload()
    state.read(packet)
    return packet


def test_key_frame_brings_the_structure() -> None:
    state = Dependencies()
    key = read(state, descriptor(10, 65535, last=False, layout=L2T2))
    assert (key.spatial, key.temporal, key.first, key.last, key.key_frame) == (0, 0, True, False, True)
    structure = state.structure
    assert structure is not None
    assert (structure.targets, structure.chains, structure.diffs) == (4, 2, [0, 1, 1, 1, 2, 2])
    assert (structure.target_spatial, structure.target_temporal) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert (structure.width, structure.height) == (1280, 720)
    assert (state.active, state.frame_number) == (15, 65535)
    end = read(state, descriptor(10, 65535, first=False), 2)
    assert (end.first, end.last, end.key_frame, end.layered) == (False, True, False, True)
    upper = read(state, descriptor(13, 0), 3)
    assert (upper.spatial, upper.first, upper.key_frame) == (1, False, False)
    base = read(state, descriptor(11, 1), 4)
    assert (base.spatial, base.temporal, base.sync, base.key_frame) == (0, 0, True, False)
    second = read(state, descriptor(12, 3), 5)
    assert (second.temporal, second.sync) == (1, True)  # nothing is above
    assert (read(state, descriptor(15, 4), 6).spatial, state.frame_number) == (1, 4)


def test_custom_fields_overrule_the_template() -> None:
    state = Dependencies()
    read(state, descriptor(10, 1, layout=L2T2))
    assert read(state, descriptor(12, 2, indications="-S-S"), 2).sync
    assert not read(state, descriptor(11, 3, indications="SRRR", diffs=(1, 17, 4096)), 3).sync
    read(state, descriptor(11, 4, active=3, targets=4, diffs=(), chain_diffs=(200, 255)), 4)
    assert state.active == 3
    assert not read(state, descriptor(11, 5, layout=L2T2, diffs=(3,)), 5).key_frame  # refers to an older one
    assert read(state, descriptor(11, 6, layout=L2T2, diffs=()), 6).key_frame


def test_without_structure_the_payload_stands() -> None:
    state = Dependencies()
    assert not read(state, descriptor(3, 1)).layered
    assert not read(state, descriptor(3, 1, active=0, targets=3)).layered
    read(state, descriptor(10, 1, layout=L2T2))
    assert not read(state, descriptor(40, 2)).layered  # of a structure that we have missed


def test_an_older_structure_that_comes_late_is_not_kept() -> None:
    state = Dependencies()
    read(state, descriptor(10, 9, layout=L2T2), 9)
    newest = state.structure
    late = Layout(30, [Template(0, 0, "S")])
    assert read(state, descriptor(30, 5, layout=late), 5).key_frame
    assert state.structure is newest
    assert state.active == 15


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80\0",
        b"\xca\0\1\x80",  # a structure that is cut off
        descriptor(9, 1, layout=L2T2),  # no such template
        descriptor(10, 1, layout=L2T2)[:-5],
        b"\xca\0\1\x80" + b"\0" * 60,  # templates without end
        b"\xca\0\1" + bytes.fromhex("80 1a aa aa aa aa"),  # spatial layers without end
        b"\xca\0\1" + bytes.fromhex("80 15 55 55 55 55 55"),  # temporal layers without end
    ],
)  # fmt: skip
def test_rubbish_is_refused_and_changes_nothing(data: bytes) -> None:
    state = Dependencies()
    with pytest.raises(DependencyError):
        read(state, data)
    assert (state.structure, state.active, state.frame_number) == (None, 0, -1)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    targets = draw(st.integers(1, 32))
    chains = draw(st.integers(0, min(targets, 4)))
    templates = []
    spatial = temporal = 0
    for _ in range(draw(st.integers(1, 12))):
        templates.append(
            Template(
                spatial, temporal,
                draw(st.text("-DSR", min_size=targets, max_size=targets)),
                tuple(draw(st.lists(st.integers(1, 16), max_size=8))),
                tuple(draw(st.integers(0, 15)) for _ in range(chains)),
            )
        )  # fmt: skip
        step = draw(st.integers(0, 2))
        if step == 1 and temporal < MAX_TEMPORAL:
            temporal += 1
        elif step == 2 and spatial < MAX_SPATIAL:
            spatial, temporal = spatial + 1, 0
    protected = tuple(draw(st.integers(0, chains - 1)) for _ in range(targets)) if chains else ()
    if chains and max(protected) != chains - 1:
        protected = (chains - 1, *protected[1:])
    sizes = st.tuples(st.integers(1, 65536), st.integers(1, 65536))
    resolutions = tuple(draw(sizes) for _ in range(templates[-1].spatial + 1)) if draw(st.booleans()) else ()
    return Layout(draw(st.integers(0, 63)), templates, protected, resolutions)


@settings(max_examples=60, deadline=None)
@given(layouts(), st.data())
def test_what_is_written_is_read(layout: Layout, data: st.DataObject) -> None:
    state = Dependencies()
    packet = read(state, descriptor(layout.first_id, 1, layout=layout))
    structure = state.structure
    assert structure is not None
    assert structure.spatial == [template.spatial for template in layout.templates]
    assert structure.temporal == [template.temporal for template in layout.templates]
    assert structure.diffs == [len(template.diffs) for template in layout.templates]
    assert structure.indications == [
        ["-DSR".index(letter) for letter in template.indications] for template in layout.templates
    ]
    assert packet.key_frame is (not layout.templates[0].diffs)
    if layout.resolutions:
        assert (structure.width, structure.height) == layout.resolutions[-1]
    place = data.draw(st.integers(0, len(layout.templates) - 1))
    other = read(state, descriptor(layout.first_id + place, 2), 2)
    assert (other.spatial, other.temporal) == (
        layout.templates[place].spatial, layout.templates[place].temporal
    )  # fmt: skip
    active = data.draw(st.integers(0, (1 << layout.targets) - 1))
    numbers = tuple(data.draw(st.lists(st.integers(1, 4096), max_size=8)))
    read(
        state, descriptor(layout.first_id + place, 3, targets=layout.targets, active=active, diffs=numbers), 3
    )  # fmt: skip
    assert state.active == active


def test_mutated_descriptors_raise_their_own_error_only() -> None:
    rng = random.Random(5)
    seeds = [
        descriptor(10, 1, layout=L2T2), descriptor(11, 2),
        descriptor(11, 3, diffs=(1, 300), indications="SSRR"),
        descriptor(12, 4, active=5, targets=4, chain_diffs=(1, 2)),
    ]  # fmt: skip
    state = Dependencies()
    read(state, seeds[0])
    for round_ in range(4000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            packet = read(state, bytes(data[: rng.randint(0, len(data))]), round_)
        except DependencyError:
            continue
        assert packet.spatial <= MAX_SPATIAL
        assert packet.temporal <= MAX_TEMPORAL


def test_vp9_descriptor_tells_layers() -> None:
    packet = Packet()
    for payload, spatial, temporal, first, last, key, sync in (
        (vp9(5, key=True, last=False), 0, 0, True, False, True, False),
        (vp9(5, spatial=2, key=True), 2, 0, False, True, False, False),
        (vp9(6, spatial=1, temporal=2, switch=True, first=False), 1, 2, False, True, False, True),
        (vp9(7, tl0=9, temporal=1), 0, 1, True, True, False, False),
    ):
        packet.payload = payload
        svc.read_vp9(packet)
        assert (packet.spatial, packet.temporal) == (spatial, temporal)
        assert (packet.first, packet.last) == (first, last)
        assert (packet.key_frame, packet.sync, packet.layered) == (key, sync, True)
    assert (packet.picture_id, packet.tl0) == (7, 9)
    packet.payload = vp9(8, layers=False, key=True)
    svc.read_vp9(packet)
    assert (packet.layered, packet.key_frame, packet.tl0_at) == (False, True, -1)
    packet.payload = b"\xa0\x05"
    with pytest.raises(svc.SvcError):
        svc.read_vp9(packet)


def test_vp9_picture_size() -> None:
    packet = Packet()
    sizes = ((320, 180), (640, 360), (1280, 720))
    for payload, size in (
        (vp9(1, key=True, sizes=sizes), (1280, 720)),
        (vp9(1, key=True, tl0=4, sizes=sizes[:1]), (320, 180)),
        (vp9(1, sizes=sizes[:2]), (640, 360)),
        (vp9(1, key=True), None),
        (vp9(1, key=True, sizes=sizes, size=0)[:-1], None),
        (b"\x02\x18", None),
    ):
        packet.payload = payload
        assert svc.vp9_picture_size(packet) == size


def test_the_writer_s_stream_reads_back() -> None:
    state, stream = Dependencies(), LayeredPublisher()
    for index in range(6):
        for packet in stream.frame(key=index == 0):
            found = read(state, packet.descriptor, index)
            assert (found.spatial, found.temporal, found.last) == (
                packet.spatial, packet.temporal, packet.last
            )  # fmt: skip
            assert found.key_frame is (packet.key and packet.first and packet.spatial == 0)
