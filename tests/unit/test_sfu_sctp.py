"""Data channels over a DTLS that is only two lists: what clients do right, and what hostile ones try."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from typing import Any

import pytest
from aiortc import RTCDataChannel, RTCSctpCapabilities, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannelParameters
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_DCEP,
    Chunk,
    DataChunk,
    ForwardTsnChunk,
    HeartbeatChunk,
    SackChunk,
    crc32c,
    serialize_packet,
)

from sfu.drops import DropReason, Drops
from sfu.sctp import (
    MAX_BUFFERED_BYTES,
    MAX_CHANNELS,
    MAX_INBOUND_STREAMS,
    MAX_MESSAGE_BYTES,
    MAX_MISORDERED_CHUNKS,
    DataChannels,
    well_formed,
)

Packets = deque[bytes]


class Wire:
    """One side's DTLS: connected, and keeping what it is given."""

    def __init__(self, role: str) -> None:
        self._role = role
        self.state = "connected"
        self.packets: Packets = deque()

    async def _send_data(self, data: bytes) -> None:
        self.packets.append(data)

    def _register_data_receiver(self, receiver: object) -> None: ...

    def _unregister_data_receiver(self, receiver: object) -> None: ...


class Pair:
    """Our DataChannels and a client's association."""

    def __init__(self) -> None:
        self.drops = Drops()
        self.opened: list[str] = []
        self.received: list[tuple[str, bytes]] = []
        self.ours = Wire("server")
        self.theirs = Wire("client")
        self.server = DataChannels(self.ours, self, self.drops)  # type: ignore[arg-type]
        self.client = RTCSctpTransport(self.theirs)  # type: ignore[arg-type]
        self.client_channels: dict[str, RTCDataChannel] = {}
        self.client_messages: list[tuple[str, str | bytes]] = []
        self.client.on("datachannel", self.adopt)

    def channel_opened(self, label: str) -> None:
        self.opened.append(label)

    def data_received(self, label: str, payload: bytes) -> None:
        self.received.append((label, payload))

    def adopt(self, channel: RTCDataChannel) -> None:
        self.client_channels[channel.label] = channel
        channel.on("message", lambda message: self.client_messages.append((channel.label, message)))

    def create(self, label: str) -> RTCDataChannel:
        channel = RTCDataChannel(self.client, RTCDataChannelParameters(label=label))
        self.adopt(channel)
        return channel

    async def start(self) -> None:
        await self.client.start(RTCSctpCapabilities(MAX_MESSAGE_BYTES), 5000)
        await self.settle()

    async def settle(self) -> None:
        """Carry packets both ways until nobody has anything to say."""
        quiet = 0
        while quiet < 3:
            quiet += 1
            await asyncio.sleep(0)
            while self.ours.packets or self.theirs.packets:
                quiet = 0
                if self.theirs.packets:
                    self.server.on_packet(self.theirs.packets.popleft())
                if self.ours.packets:
                    await self.client._handle_data(self.ours.packets.popleft())

    def forge(self, *chunks: Chunk) -> None:
        """Chunks of a hostile client: right ports, tag and checksum, anything else as it likes."""
        for chunk in chunks:
            tag = self.client._remote_verification_tag
            self.server.on_packet(serialize_packet(5000, 5000, tag, chunk))

    def data(self, ahead: int, payload: bytes, *, stream: int = 2, flags: int = 3, ppid: int = 53) -> Chunk:
        chunk = DataChunk(flags=flags)
        chunk.tsn = (self.client._local_tsn + ahead) % (1 << 32)
        chunk.stream_id = stream
        chunk.stream_seq = 0
        chunk.protocol = ppid
        chunk.user_data = payload
        return chunk

    async def close(self) -> None:
        self.server.close()
        await self.client.stop()


@pytest.fixture
async def pair() -> Any:
    pair = Pair()
    yield pair
    await pair.close()
    await asyncio.sleep(0)


async def test_channels_of_both_sides_open_and_carry_text_and_bytes(pair: Pair) -> None:
    pair.server.open_channel("_reliable", True, None)
    mine = pair.create("mine")
    await pair.start()
    assert sorted(pair.opened) == ["_reliable", "mine"]
    mine.send("你好")
    mine.send(b"")
    pair.client_channels["_reliable"].send(bytes(MAX_MESSAGE_BYTES))
    assert pair.server.send("_reliable", b"down")
    await pair.settle()
    assert pair.received == [
        ("mine", "你好".encode()),
        ("mine", b""),
        ("_reliable", bytes(MAX_MESSAGE_BYTES)),
    ]
    assert pair.client_messages == [("_reliable", b"down")]


async def test_nothing_is_sent_before_a_channel_is_wanted(pair: Pair) -> None:
    pair.server.on_dtls_connected()
    assert not pair.ours.packets


async def test_lossy_channel_is_unordered_and_not_repeated(pair: Pair) -> None:
    pair.server.open_channel("_lossy", False, 0)
    await pair.start()
    assert pair.client_channels["_lossy"].ordered is False
    assert pair.client_channels["_lossy"].maxRetransmits == 0


async def test_opening_twice_makes_one_channel(pair: Pair) -> None:
    pair.server.open_channel("_reliable", True, None)
    pair.server.open_channel("_reliable", True, None)
    await pair.start()
    pair.server.open_channel("_reliable", True, None)
    await pair.settle()
    assert pair.opened == ["_reliable"]


async def test_a_clients_channel_takes_the_label_over(pair: Pair) -> None:
    pair.server.open_channel("_reliable", True, None)
    await pair.start()
    server_made = pair.client_channels["_reliable"]
    pair.create("_reliable")
    await pair.settle()
    pair.server.send("_reliable", b"x")
    await pair.settle()
    assert pair.client_messages == [("_reliable", b"x")]
    server_made.send(b"still heard")
    await pair.settle()
    assert pair.received == [("_reliable", b"still heard")]


async def test_what_can_not_be_sent_is_dropped_and_counted(pair: Pair) -> None:
    assert not pair.server.send("_reliable", b"x")
    pair.server.open_channel("_reliable", True, None)
    assert not pair.server.send("_reliable", b"not open yet")
    assert pair.drops.counts[DropReason.DATA_CHANNEL_UNKNOWN] == 2
    await pair.start()
    assert not pair.server.send("_reliable", bytes(MAX_MESSAGE_BYTES + 1))
    assert pair.drops.counts[DropReason.DATA_TOO_LARGE] == 1
    while pair.server.send("_reliable", bytes(60_000)):
        pass
    assert pair.drops.counts[DropReason.DATA_BUFFER_FULL] == 1
    await pair.settle()
    assert len(pair.client_messages) == MAX_BUFFERED_BYTES // 60_000
    assert pair.server.send("_reliable", b"there is room again")


async def test_an_aborted_association_is_replaced_when_a_channel_is_wanted(pair: Pair) -> None:
    pair.server.open_channel("_reliable", True, None)
    await pair.start()
    await pair.client.stop()
    await pair.settle()
    assert not pair.server.send("_reliable", b"x")
    pair.client = RTCSctpTransport(pair.theirs)  # type: ignore[arg-type]
    pair.client.on("datachannel", pair.adopt)
    await pair.client.start(RTCSctpCapabilities(MAX_MESSAGE_BYTES), 5000)
    pair.create("again")
    await pair.settle()
    assert pair.opened[-1] == "again"


async def test_a_parameter_of_no_length_does_not_hang_the_worker(pair: Pair) -> None:
    await pair.start()
    pair.server.open_channel("x", True, None)
    await pair.settle()
    bad = HeartbeatChunk()
    bad.params = []
    packet = bytearray(serialize_packet(5000, 5000, pair.client._remote_verification_tag, bad))
    packet[14:16] = struct.pack("!H", 8)
    packet += bytes(4)  # type 0, length 0
    assert not well_formed(bytes(packet))
    pair.server.on_packet(bytes(packet))
    assert pair.drops.counts[DropReason.SCTP_MALFORMED] == 1


async def test_gap_blocks_beyond_what_is_outstanding_are_not_walked(pair: Pair) -> None:
    pair.create("c")
    await pair.start()
    sack = SackChunk()
    sack.cumulative_tsn = pair.server._association._last_sacked_tsn  # type: ignore[union-attr]
    sack.advertised_rwnd = 1
    sack.gaps = [(1, 65535)] * 250
    pair.forge(sack)
    assert pair.drops.counts[DropReason.SCTP_MALFORMED] == 1


async def test_reassembly_is_bounded_by_the_window(pair: Pair) -> None:
    pair.create("c")
    await pair.start()
    for number in range(2000):  # a message that never ends
        pair.forge(pair.data(number, bytes(1100), flags=2 if number == 0 else 0))
    association = pair.server._association
    assert association is not None
    held = sum(len(c.user_data) for s in association._inbound_streams.values() for c in s.reassembly)
    assert held <= 1024 * 1024
    assert pair.drops.counts[DropReason.SCTP_WINDOW] > 0


async def test_holes_in_the_numbers_are_bounded(pair: Pair) -> None:
    pair.create("c")
    await pair.start()
    for number in range(2, 6000, 2):
        pair.forge(pair.data(number, b"x", flags=0))
    association = pair.server._association
    assert association is not None
    assert len(association._sack_misordered) <= MAX_MISORDERED_CHUNKS
    assert max(map(len, pair.ours.packets)) <= 1200, "reports still fit a datagram"


async def test_streams_and_channels_are_bounded(pair: Pair) -> None:
    pair.create("c")
    await pair.start()
    label = b"x"
    dcep = struct.pack("!BBHLHH", 3, 0, 0, 0, len(label), 0) + label
    for number in range(MAX_CHANNELS * 4):
        pair.forge(pair.data(number, dcep, stream=100 + number, ppid=WEBRTC_DCEP))
    association = pair.server._association
    assert association is not None
    assert len(association._data_channels) <= MAX_CHANNELS
    forward = ForwardTsnChunk()
    forward.cumulative_tsn = (pair.client._local_tsn + 5000) % (1 << 32)
    forward.streams = [(stream, 0) for stream in range(MAX_INBOUND_STREAMS + 1)]
    pair.forge(forward)
    assert len(association._inbound_streams) <= MAX_INBOUND_STREAMS


async def test_nonsense_in_data_channel_messages_is_dropped(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pair.create("c")
    await pair.start()
    (stream,) = pair.server._association._data_channels  # type: ignore[union-attr]
    for number, (ppid, payload) in enumerate(
        [
            (WEBRTC_DCEP, b"\x03"),
            (WEBRTC_DCEP, b"\x03" + bytes(11)),  # open for an open channel
            (WEBRTC_DCEP, b"\x07"),
            (WEBRTC_DCEP, struct.pack("!BBHLHH", 3, 0, 0, 0, 2, 0) + b"\xff\xfe"),
            (51, b"\xff\xfe"),  # text that is none
            (99, b"unknown kind"),
            (WEBRTC_BINARY, b"fine"),
        ]
    ):
        pair.forge(pair.data(number, payload, stream=stream, flags=7, ppid=ppid))
    assert pair.received == [("c", b"fine")]
    assert caplog.records == []


async def test_only_an_init_begins_an_association(pair: Pair) -> None:
    pair.server.on_packet(serialize_packet(5000, 5000, 1, HeartbeatChunk()))
    assert pair.drops.counts[DropReason.SCTP_MALFORMED] == 1
    assert pair.server._association is None


async def test_a_packet_of_many_chunks_that_ask_for_answers_is_refused(pair: Pair) -> None:
    pair.create("c")
    await pair.start()
    packet = serialize_packet(5000, 5000, pair.client._remote_verification_tag, HeartbeatChunk())
    packet += b"\x04\x00\x00\x04" * 200
    pair.server.on_packet(
        packet[:8] + struct.pack("<L", crc32c(packet[:8] + bytes(4) + packet[12:])) + packet[12:]
    )
    assert not pair.ours.packets
    assert pair.drops.counts[DropReason.SCTP_MALFORMED] == 1
