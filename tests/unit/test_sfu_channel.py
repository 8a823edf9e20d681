"""The channel's frames: what is not one of our words ends it."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from sfu.channel import LENGTH, MAX_FRAME_BYTES, WORDS, Channel, decode, encode
from sfu.errors import ChannelError
from sfu.messages import DataReceived, Done, OpenRouter


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x00\xa3abc",
        msgspec.msgpack.encode((0, "NoSuchWord", {})),
        msgspec.msgpack.encode((0, "OpenRouter", {})),
        msgspec.msgpack.encode((0, "OpenRouter", {"router_id": 7})),
        msgspec.msgpack.encode(("0", "Done", {})),
        msgspec.msgpack.encode((0, "Done")),
        b"\x91" * 5000,
    ],
)
def test_a_bad_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ChannelError):
        decode(body)


def test_only_words_are_sent() -> None:
    with pytest.raises(ChannelError, match="dict"):
        encode(1, {"router_id": "r"})


def test_no_two_words_share_a_name() -> None:
    assert all(word.__name__ == name for name, word in WORDS.items())
    assert len(set(WORDS.values())) == len(WORDS)


async def test_frames_cross_in_order_and_the_end_is_seen() -> None:
    ours, theirs = socket.socketpair()
    near, far = await Channel.over(ours), await Channel.over(theirs)
    near.send(OpenRouter("一号厅"), 1)
    near.send(Done(), 2)
    assert await far.receive() == (1, OpenRouter("一号厅"))
    assert await far.receive() == (2, Done())
    await near.close()
    assert await far.receive() is None
    await far.close()
    with pytest.raises(ChannelError):
        near.send(Done())


async def test_an_overlong_frame_is_refused_before_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    theirs.send(LENGTH.pack(MAX_FRAME_BYTES + 1))
    with pytest.raises(ChannelError, match="too large"):
        await channel.receive()
    await channel.close()
    theirs.close()


async def test_half_a_frame_and_then_the_end_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    theirs.send(LENGTH.pack(100) + b"abc")
    theirs.close()
    async with asyncio.timeout(5):
        assert await channel.receive() is None
    await channel.close()


async def test_a_slow_reader_loses_reports_but_no_replies() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    flood = DataReceived("t", "_lossy", bytes(200_000))
    sent = sum(channel.send(flood) for _ in range(100))
    assert 0 < sent < 100
    assert not channel.send(flood)
    assert channel.send(Done(), 7)

    def ask_for_ever() -> None:
        for number in range(1000):
            channel.send(flood, number + 1)

    with pytest.raises(ChannelError, match="does not read"):
        ask_for_ever()
    theirs.close()
    await channel.close()
