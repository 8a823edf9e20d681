"""SDP of real clients, read and answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfu.messages import TransportOpened
from sfu.params import DtlsFingerprint, EncodingParameters, ExtensionUri, IceCandidate, IceParameters, Kind
from signaling.livekit import offers, sdp

CAPTURED = Path(__file__).parent.parent / "data" / "sdp"
LOCAL = offers.Local(
    TransportOpened(
        "t",
        IceParameters("abcd", "0123456789abcdefghijklmn"),
        (IceCandidate("1", "192.0.2.9", 7882, 2_130_706_431),),
        (DtlsFingerprint("sha-256", "AB:CD"),),
    ),
    "passive",
)


def captured(name: str) -> sdp.Description:
    return sdp.parse((CAPTURED / f"{name}.sdp").read_bytes().decode())


@pytest.mark.parametrize("path", sorted(CAPTURED.glob("*.sdp")), ids=lambda path: path.stem)
def test_every_captured_description_is_read_whole(path: Path) -> None:
    description = sdp.parse(path.read_bytes().decode())
    assert all(offers.servable(section) for section in description.sections)
    assert set(description.bundle) == {section.mid for section in description.sections}
    first = description.sections[0]
    assert first.ice is not None
    assert first.fingerprints[0].algorithm == "sha-256"


def test_chromium_offers_its_simulcast_by_rid() -> None:
    video = captured("chromium-v1-2").sections[-1]
    assert (video.kind, video.direction) == ("video", "sendonly")
    assert video.simulcast == ("q", "h", "f")
    assert video.send_encodings == tuple(EncodingParameters(rid=rid) for rid in "qhf")
    assert video.track_id == "95946149-b48d-424b-a9fb-9f1acd52181d"


@pytest.mark.parametrize("name", ["python-v0-publish", "python-v1-publish"])
def test_the_python_sdk_names_its_rids_in_another_order(name: str) -> None:
    video = next(section for section in captured(name).sections if section.simulcast)
    assert video.simulcast == ("h", "q")
    ordered = offers.order_encodings(video.send_encodings, {"h": 0, "q": 1})
    assert [encoding.rid for encoding in ordered] == ["q", "h"]  # the name counts, whatever is announced
    assert [codec.mime for codec in offers.common_codecs(video)] == ["video/VP8"]


def test_the_answer_keeps_every_rid_of_the_offer_in_its_order() -> None:
    video = captured("chromium-v0-1").sections[1]
    answer = offers.answer_media(video, offers.common_codecs(video), "recvonly")
    text = sdp.write(offers.describe([LOCAL.dress(answer)], 1, 1, mixed=True))
    for rid in "qhf":
        assert f"a=rid:{rid} recv\r\n" in text
    assert "a=simulcast:recv q;h;f\r\n" in text
    uris = {extension.uri for extension in answer.extensions}
    assert {ExtensionUri.MID, ExtensionUri.RID, ExtensionUri.REPAIRED_RID, ExtensionUri.TRANSPORT_CC} <= uris


def test_the_answer_is_ice_lite_passive_bundled_and_read_back_the_same() -> None:
    offer = captured("chromium-v1-2")
    answered = []
    for section in offer.sections:
        if section.kind == "application":
            answered.append(LOCAL.dress(offers.answer_application(section)))
        else:
            codecs = offers.common_codecs(section)
            answered.append(LOCAL.dress(offers.answer_media(section, codecs, "inactive")))
    text = sdp.write(offers.describe(answered, 5, 2, offer.extmap_allow_mixed))
    back = sdp.parse(text)
    assert back.ice_lite
    assert back.extmap_allow_mixed
    assert [section.mid for section in back.sections] == [section.mid for section in offer.sections]
    assert back.bundle == offer.bundle
    assert {section.setup for section in back.sections} == {"passive"}
    assert {section.ice for section in back.sections} == {LOCAL.transport.ice}


def test_codecs_come_in_our_order_whatever_the_offer_says() -> None:
    video = captured("chromium-v1-0").sections[3]
    assert offers.common_codecs(video)[0].mime == "video/VP8"
    assert offers.common_codecs(video, prefer="h264")[0].mime == "video/H264"
    assert all(codec.rtx_payload_type is not None for codec in offers.common_codecs(video)[:3])
    mimes = [codec.mime for codec in offers.common_codecs(video)]
    assert list(dict.fromkeys(mimes)) == ["video/VP8", "video/H264", "video/VP9", "video/AV1"]
    assert (mimes.count("video/VP9"), mimes.count("video/AV1")) == (2, 1)  # profiles 0 and 2; Main


def test_red_comes_first_only_when_the_track_wants_it() -> None:
    audio = captured("chromium-v1-0").sections[0]
    assert [c.mime for c in offers.common_codecs(audio)] == ["audio/opus", "audio/red"]
    assert [c.mime for c in offers.common_codecs(audio, red=True)] == ["audio/red", "audio/opus"]
    assert dict(offers.common_codecs(audio, red=True)[0].fmtp) == {"111/111": ""}


def test_transport_wide_feedback_is_agreed_and_remb_is_not() -> None:
    video = captured("chromium-v1-0").sections[3]
    assert set(offers.common_codecs(video)[0].rtcp_feedback) == {
        "transport-cc",
        "ccm fir",
        "nack",
        "nack pli",
    }


def test_dtx_is_asked_for_unless_the_track_says_no() -> None:
    audio = captured("chromium-v1-0").sections[0]
    codecs = offers.common_codecs(audio)
    assert ("usedtx", "1") in offers.answer_media(audio, codecs, "recvonly").codecs[0].fmtp
    assert ("usedtx", "1") not in offers.answer_media(audio, codecs, "recvonly", dtx=False).codecs[0].fmtp
    assert ("stereo", "1") in offers.answer_media(audio, codecs, "recvonly", stereo=True).codecs[0].fmtp


def test_our_offer_names_both_ssrcs_of_the_fid_group() -> None:
    section = offers.sending(
        offers.offer_media(Kind.VIDEO, "1"), "PA_a|TR_b", "TR_b", EncodingParameters(ssrc=11, rtx_ssrc=12)
    )
    text = sdp.write(offers.describe([LOCAL.dress(section)], 1, 1, mixed=True))
    assert "a=ssrc-group:FID 11 12\r\n" in text
    assert "a=ssrc:11 cname:PA_a\r\n" in text
    assert "a=ssrc:12 cname:PA_a\r\n" in text
    assert "a=msid:PA_a|TR_b TR_b\r\n" in text
    back = sdp.parse(text).sections[0]
    assert back.send_encodings == (EncodingParameters(ssrc=11, rtx_ssrc=12),)
    assert (back.stream_id, back.track_id) == ("PA_a|TR_b", "TR_b")


def test_a_section_that_is_off_says_nothing_of_streams() -> None:
    text = sdp.write(offers.describe([LOCAL.dress(offers.offer_media(Kind.AUDIO, "3"))], 1, 1, mixed=True))
    assert "a=inactive" in text
    assert "msid:" not in text
    assert "a=ssrc" not in text


@pytest.mark.parametrize(
    ("rids", "expected"),
    [(("f", "h", "q"), "qhf"), (("h", "q"), "qh"), (("q", "h", "f"), "qhf"), (("x", "y"), "xy")],
)
def test_encodings_are_sorted_by_name(rids: tuple[str, ...], expected: str) -> None:
    encodings = [EncodingParameters(rid=rid) for rid in rids]
    assert "".join(e.rid or "" for e in offers.order_encodings(encodings, {})) == expected


def test_announced_layers_decide_the_order_of_unknown_names() -> None:
    encodings = [EncodingParameters(rid="big"), EncodingParameters(rid="small")]
    ordered = offers.order_encodings(encodings, {"small": 0, "big": 1})
    assert [encoding.rid for encoding in ordered] == ["small", "big"]


HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


def video(mid: str, *lines: str, port: int = 9) -> str:
    common = ["a=mid:" + mid, "a=rtpmap:96 VP8/90000", *lines]
    return f"m=video {port} UDP/TLS/RTP/SAVPF 96\r\n" + "".join(f"{line}\r\n" for line in common)


def test_unknown_lines_are_skipped() -> None:
    text = (
        HEAD
        + "a=goog-sped-v1\r\nb=AS:3\r\n"
        + video("0", "a=sctp-init:1", "a=what", "i=x", "a=ts-refclk:local")
    )
    assert offers.servable(sdp.parse(text).sections[0])


def test_a_bad_line_spoils_only_its_own_section() -> None:
    description = sdp.parse(HEAD + video("0", "a=ssrc:what cname:x") + video("1"))
    assert [offers.servable(section) for section in description.sections] == [False, True]
    refused = offers.refuse(description.sections[0])
    text = sdp.write(offers.describe([refused, LOCAL.dress(description.sections[1])], 1, 1, mixed=False))
    assert "m=video 0 UDP/TLS/RTP/SAVPF 96\r\n" in text
    assert "a=group:BUNDLE 1\r\n" in text


def test_sections_of_other_kinds_are_not_servable() -> None:
    text = HEAD + "m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:0\r\na=rtpmap:98 t140/1000\r\n"
    other = "m=video 9 UDP/TLS/RTP/SAVPF 35\r\na=mid:1\r\na=rtpmap:35 H265/90000\r\n"
    plain = "m=audio 9 RTP/AVP 0\r\na=mid:2\r\na=rtpmap:0 opus/48000/2\r\n"
    assert not any(offers.servable(s) for s in sdp.parse(text + other + plain).sections)


def test_a_rejected_section_and_a_bundle_only_section_are_told_apart() -> None:
    sections = sdp.parse(HEAD + video("0", port=0) + video("1", "a=bundle-only", port=0)).sections
    assert [section.rejected for section in sections] == [True, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "v=0"),
        ("hello", "v=0"),
        (HEAD, "no media"),
        (HEAD + "m=video\r\n", "m= line"),
        (HEAD + "m=video x UDP/TLS/RTP/SAVPF 96\r\n", "port"),
        (HEAD + video("0") + video("0"), "same mid"),
        (HEAD + "x" * sdp.MAX_BYTES, "too large"),
        (HEAD + "a=x\r\n" * (sdp.MAX_LINES + 1), "too many lines"),
        (HEAD + "m=audio 9 X 0\r\n" * (sdp.MAX_SECTIONS + 1), "too many sections"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(sdp.SdpError, match=why):
        sdp.parse(text)
