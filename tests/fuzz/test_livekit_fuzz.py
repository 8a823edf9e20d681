"""Strangers' bytes at the LiveKit edge: real ones mutated, and nothing but stated refusals comes out."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from signaling.livekit import messages, offers, sdp
from signaling.livekit.token import ApiKeys, TokenError

CAPTURED = sorted((Path(__file__).parent.parent / "data" / "sdp").glob("*.sdp"))
TEXTS = [path.read_bytes().decode() for path in CAPTURED]
KEYS = ApiKeys("APIkey", "a secret that is long enough for HS256 to be content")
TOKEN = KEYS.mint("r", "ann", now=1_700_000_000)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LINES = sorted({line for text in TEXTS for line in text.splitlines()})
NAMES = [
    "rtpmap", "fmtp", "extmap", "rid", "simulcast", "ssrc", "ssrc-group", "mid", "msid", "rtcp-fb",
    "fingerprint", "candidate", "setup", "sctp-port",
]  # fmt: skip
strange_lines = st.one_of(
    st.sampled_from(LINES),
    st.text(max_size=60),
    st.builds("a={}:{}".format, st.sampled_from(NAMES), st.text(max_size=40)),
    st.builds("m={}".format, st.text(max_size=40)),
)  # fmt: skip


@st.composite
def mutated_sdp(draw: st.DrawFn) -> str:
    """A real description with lines lost, doubled, moved, replaced and cut."""
    lines = draw(st.sampled_from(TEXTS)).split("\r\n")
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, draw(strange_lines))
            case 2:
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines[at])
            case 3:
                lines[at] = lines[at][: draw(st.integers(0, 40))]
            case 4:
                lines[at] = draw(strange_lines)
        if not lines:
            lines = [""]
    return "\r\n".join(lines)


def answer_all(text: str) -> None:
    """Whatever can be read can be answered, and the answer can be read."""
    try:
        described = sdp.parse(text)
    except sdp.SdpError:
        return
    answers = []
    for section in described.sections:
        if not offers.servable(section):
            answers.append(offers.refuse(section))
        elif section.kind == "application":
            answers.append(offers.answer_application(section))
        else:
            codecs = offers.common_codecs(section, red=True)
            answers.append(offers.answer_media(section, codecs, "recvonly"))
            offers.order_encodings(section.send_encodings, {})
    written = sdp.write(offers.describe(answers, 1, 1, mixed=True))
    assert all(line == line.strip("\n") for line in written.split("\r\n"))
    back = sdp.parse(written)
    assert [s.rejected for s in back.sections] == [s.rejected for s in answers]


@SETTINGS
@given(mutated_sdp())
def test_mutated_descriptions(text: str) -> None:
    answer_all(text)


@SETTINGS
@given(st.text(max_size=400))
def test_any_text_is_no_description_or_a_good_one(text: str) -> None:
    answer_all(text)
    answer_all("v=0\r\n" + text)


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in CAPTURED])
def test_descriptions_cut_anywhere(text: str) -> None:
    for at in range(0, len(text), 37):
        answer_all(text[:at])


@SETTINGS
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_any_text_is_refused_as_a_token(text: str) -> None:
    with pytest.raises(TokenError):
        KEYS.verify(text, 1_700_000_000)


@SETTINGS
@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_a_token_with_one_character_changed_is_refused(at: int, character: str) -> None:
    changed = TOKEN[:at] + character + TOKEN[at + 1 :]
    padding_bits = at == len(TOKEN) - 1  # base64 ignores the last bits of the last character
    if changed == TOKEN or padding_bits:
        return
    with pytest.raises(TokenError):
        KEYS.verify(changed, 1_700_000_000)


REQUESTS = [
    rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=TEXTS[0], id=3)),
    rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid="c", layers=[models.VideoLayer(rid="q", width=4)])),
    rtc.SignalRequest(sync_state=rtc.SyncState(publish_tracks=[rtc.TrackPublishedResponse(cid="x")])),
]


@SETTINGS
@given(st.sampled_from(REQUESTS), st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), max_size=8))
def test_mutated_signal_requests(request: rtc.SignalRequest, changes: list[tuple[int, int]]) -> None:
    data = bytearray(request.SerializeToString())
    for at, value in changes:
        data[at % len(data)] = value
    try:
        messages.parse_request(bytes(data))
    except messages.MessageError:
        return


@SETTINGS
@given(
    st.binary(max_size=400)
    | st.binary(max_size=400).map(lambda b: b"\x08\x01\x12" + bytes([len(b) % 128]) + b)
)
def test_any_bytes_as_a_join_request(data: bytes) -> None:
    for text in (base64.b64encode(data).decode(), data.decode("latin-1")):
        try:
            messages.parse_join_request(text, 100_000)
        except messages.MessageError:
            continue
