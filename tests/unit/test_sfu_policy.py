"""The small deciding pieces of the media path, each alone and with time as an argument."""

from __future__ import annotations

import itertools

import pytest

from sfu import layers, ortc, rtcp, srtp
from sfu.drops import DropReason, Drops
from sfu.keyframes import KeyFrameRequests
from sfu.legs import Leg
from sfu.nack import MAX_MISSING, MAX_TRIES, NackTracker, ResendBudget
from sfu.params import CodecParameters, EncodingParameters, HeaderExtension, RtpParameters, SrtpKeys
from sfu.ring import Ring
from sfu.rtp import ExtensionIds, Packet, RtpError
from sfu.speakers import Loudness
from sfu.voices import RedSwitch


@pytest.mark.parametrize(
    ("alive", "wanted", "chosen"),
    [
        ([True, True, True], 2, 2),
        ([True, True, True], 9, 2),
        ([True, True, False], 2, 1),
        ([False, True, True], 0, 1),
        ([False, False, True], 1, 2),
        ([True, False, False], 1, 0),
        ([False, False, False], 1, None),
        ([False], 2, 0),
    ],
)
def test_layer_is_the_nearest_living(alive: list[bool], wanted: int, chosen: int | None) -> None:
    assert layers.choose(alive, wanted) == chosen


def test_key_frame_wish_is_throttled_but_never_lost() -> None:
    wish = KeyFrameRequests()
    assert not wish.due(0)
    wish.want()
    assert wish.due(1000)
    wish.came(1050)
    assert wish.answered(1120, 0)
    assert not wish.answered(1140, 0)
    assert wish.answered(1140, 50)
    wish.want()
    assert not wish.due(1100)
    wish.want()
    assert not wish.due(1299)
    assert wish.due(1300)
    times = [ms for ms in range(1301, 20_000) if wish.due(ms)]
    assert times[0] == 2100
    assert all(b - a <= 4001 for a, b in itertools.pairwise(times))
    wish.came(25_000)
    assert not wish.due(30_000)


def test_nack_waits_for_reordering_and_gives_up() -> None:
    tracker = NackTracker()
    tracker.gap(10, 12, 0)
    assert tracker.due(12, 1, 100) == []
    assert tracker.due(13, 2, 100) == [10]
    assert tracker.due(14, 3, 100) == [11]
    assert tracker.due(14, 100, 100) == []
    assert tracker.due(14, 130, 100) == [10, 11]
    assert tracker.found(10, 131)
    assert not tracker.found(10, 131)
    asked = sum(bool(tracker.due(20, ms, 40)) for ms in range(200, 5000, 10))
    assert asked <= MAX_TRIES
    assert tracker.missing == {}
    assert tracker.given_up == 1


def test_nack_learns_how_long_answers_take() -> None:
    for rtt_ms in (5, 200):
        tracker, now_ms = NackTracker(), 0.0
        asked = 0
        for lost in range(100, 400, 5):
            tracker.gap(lost, lost + 1, now_ms)
            asked = 0
            for step in range(rtt_ms):
                asked += len(tracker.due(lost + 9, now_ms + step, 0))
            now_ms += rtt_ms
            assert tracker.found(lost, now_ms)
        assert asked == 1  # not again what is on its way
        assert tracker.rtt_ms == pytest.approx(rtt_ms, rel=0.3)


def test_nack_asks_after_a_while_when_nothing_more_comes() -> None:
    tracker = NackTracker()
    tracker.gap(0x1FFFF, 0x20000, 0)
    assert tracker.due(0x20000, 25, 0) == [0xFFFF]


def test_an_outage_is_no_loss() -> None:
    tracker = NackTracker()
    tracker.gap(0, MAX_MISSING + 1, 0)
    assert tracker.missing == {}
    assert tracker.take_overflow()
    assert not tracker.take_overflow()


def test_resend_budget_refills_with_time() -> None:
    budget = ResendBudget(rate_per_s=100, burst=5)
    assert [budget.take(1000) for _ in range(6)] == [True] * 5 + [False]
    assert budget.take(1010)
    assert not budget.take(1010)


def test_ring_answers_only_what_it_holds() -> None:
    ring = Ring(4)
    for sequence in range(65534, 65540):
        number = sequence & 0xFFFF
        ring.slots[number & ring.mask] = (number, 96, 0, b"x", -1, 0, 0, -1, 0, b"", 0)
    assert ring.find(65534) is None
    assert ring.find(0) is not None
    assert ring.may_resend(0, 100, 20)
    assert not ring.may_resend(0, 110, 20)
    assert ring.may_resend(0, 121, 20)
    for number in range(100):
        ring.may_resend(number, 200, 20)
    assert len(ring.asked_ms) <= 6
    for size in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            Ring(size)


def test_loudness_rises_fast_falls_slowly_and_is_told_once_more_when_silent() -> None:
    loudness = Loudness()
    assert not loudness.update(0, 0)
    assert loudness.update(10 * 10**-2.0, 10)  # -20 dBov
    assert loudness.active
    assert loudness.update(0, 0)
    spoken = [loudness.update(0, 0) for _ in range(20)]
    assert not loudness.active
    assert spoken.count(True) >= 1
    assert spoken[-1] is False
    loudness.update(1, 1)
    assert loudness.silence()
    assert not loudness.silence()


def h264(number: int, mode: str, level: str) -> CodecParameters:
    fmtp = (("packetization-mode", mode), ("profile-level-id", level))
    return CodecParameters("video/H264", number, 90000, fmtp=fmtp)


OPUS = CodecParameters("audio/opus", 111, 48000, 2)
RED = CodecParameters("audio/red", 63, 48000, 2)
H264 = [
    h264(number, mode, level)
    for number, mode, level in ((100, "1", "42e01f"), (101, "0", "42e01f"), (102, "1", "64001f"))
]


def parameters(*codecs: CodecParameters) -> RtpParameters:
    return RtpParameters("0", codecs, (), (EncodingParameters(ssrc=1),))


def test_codecs_are_matched_by_what_they_mean() -> None:
    theirs = [
        h264(number, mode, level)
        for number, mode, level in ((1, "0", "42e01f"), (2, "1", "640c1f"), (3, "1", "42e034"))
    ]
    found = ortc.match(parameters(*H264), parameters(*theirs))
    assert {mine: out.payload_type for mine, out in found.items()} == {100: 3, 101: 1, 102: 2}
    assert ortc.match(parameters(OPUS), parameters(*theirs)) == {}
    stripped = ortc.match(parameters(RED, OPUS), parameters(CodecParameters("audio/opus", 9, 48000, 2)))
    assert stripped[63].strip_red
    assert stripped[63].payload_type == stripped[111].payload_type == 9
    vp9 = [CodecParameters("video/VP9", 98, 90000, fmtp=(("profile-id", one),)) for one in "02"]
    assert ortc.match(parameters(vp9[0]), parameters(vp9[1])) == {}
    assert ortc.match(parameters(OPUS), parameters()) == {}


def test_tap_binding_takes_red_off() -> None:
    binding = ortc.bind_tap(parameters(RED, OPUS), Leg("x"))
    assert binding.codecs[63].payload_type == 111
    assert binding.codecs[63].strip_red
    assert [c.mime for c in ortc.tap_codecs(parameters(RED, OPUS))] == ["audio/opus"]


def test_extension_ids_hold_for_the_whole_bundle() -> None:
    ids = ExtensionIds()
    ids.learn([HeaderExtension("urn:ietf:params:rtp-hdrext:sdes:mid", 4)])
    ids.learn([HeaderExtension("urn:3gpp:video-orientation", 13)])
    assert ids.mid == 4
    assert ids.passed == {13: "urn:3gpp:video-orientation"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(12),
        b"\x8f" + bytes(20),
        b"\x90" + bytes(12),
        b"\x90" + bytes(13) + b"\x00\x05",
        b"\xa0" + bytes(11),
        b"\xa0" + bytes(11) + b"\x05",
        b"\x90" + bytes(11) + b"\xbe\xde\0\x01\x1f\0\0\0",
        b"\x90" + bytes(11) + b"\x10\0\0\x01\0\0\0\x05",
    ],
)
def test_broken_rtp_is_refused(data: bytes) -> None:
    with pytest.raises(RtpError):
        Packet().parse(data, ExtensionIds())


def test_nack_is_packed_and_read() -> None:
    packed = rtcp.nack(1, 2, [65534, 65535, 0, 14, 15, 500])
    assert len(packed) == 12 + 3 * 4
    assert rtcp.parse(packed) == [rtcp.Nack(2, (65534, 65535, 0, 14, 15, 500))]


def test_rtcp_compounds_stay_below_the_mtu() -> None:
    one = rtcp.sender_report(1, 2, 3, 4, 5) + rtcp.source_description(1, "name")
    joined = rtcp.compounds([one] * 100)
    assert all(len(datagram) <= rtcp.MTU for datagram in joined)
    assert sum(len(rtcp.parse(datagram)) for datagram in joined) == 100
    blocks = [rtcp.ReportBlock(number, 1, -5, 7, 8, 9, 10) for number in range(40)]
    read = [m for packet in rtcp.receiver_reports(1, blocks) for m in rtcp.parse(packet)]
    assert read == blocks


def test_ntp_round_trip() -> None:
    assert rtcp.ms_from_ntp(rtcp.ntp_from_ms(1_790_000_000_123.25)) == pytest.approx(
        1_790_000_000_123.25, abs=0.01
    )


def test_srtp_refuses_unknown_profiles_and_short_keys() -> None:
    srtp.self_test()
    with pytest.raises(srtp.SrtpError, match="unknown SRTP profile"):
        srtp.SrtpLeg(SrtpKeys("null", bytes(28), bytes(28)))
    with pytest.raises(srtp.SrtpError):
        srtp.SrtpLeg(SrtpKeys("aead_aes_128_gcm", bytes(3), bytes(28)))
    for profile, size in (("aead_aes_128_gcm", 28), ("aead_aes_256_gcm", 44), ("aes128_cm_sha1_80", 30)):
        srtp.SrtpLeg(SrtpKeys(profile, bytes(size), bytes(size)))


def test_drops_are_counters() -> None:
    drops = Drops()
    assert drops.counters() == []
    drops.count(DropReason.SRTP_AUTH, 3)
    (counter,) = drops.counters()
    assert (counter.name, counter.labels, counter.value) == (
        "lianxin_dropped_total", (("reason", "srtp_auth"),), 3.0,
    )  # fmt: skip


def test_voices_are_doubled_on_lossy_lines_with_hysteresis() -> None:
    switch = RedSwitch()
    told = [switch.update(loss, 1000.0 * second) for second, loss in enumerate([0.05, 0.0, 0.05, 0.04])]
    assert told == [False, False, False, True]  # not for a moment's loss
    for second in range(4, 30):
        assert not switch.update(0.02, 1000.0 * second)
    assert switch.on
    changed = [second for second in range(30, 60) if switch.update(0.005, 1000.0 * second)]
    assert changed == [40]
    assert not switch.on
