"""A real client (aiortc) through ICE, DTLS and SCTP into a worker."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from sfu.messages import (
    CloseTransport,
    ConnectTransport,
    Consume,
    DataChannelOpened,
    DataReceived,
    Done,
    OpenDataChannel,
    OpenRouter,
    OpenTransport,
    Produce,
    ProducerLive,
    Report,
    RestartIce,
    SendData,
    TransportOpened,
    TransportState,
)
from sfu.params import CodecParameters, DtlsFingerprint, EncodingParameters, Kind, RtpParameters
from sfu.startup import WorkerConfig
from sfu.worker import Worker
from tests.fixtures.sfu_client import EventLog, SfuClient, sfu_client

LOOPBACK = ("127.0.0.1",)


@pytest.fixture
async def worker(event_log: EventLog) -> AsyncIterator[Worker]:
    worker = Worker(WorkerConfig("w0", 0, LOOPBACK), event_log)
    await worker.start()
    assert worker.handle(OpenRouter("r")) == Done()
    yield worker
    await worker.stop()


def open_transport(worker: Worker, transport_id: str = "t") -> TransportOpened:
    opened = worker.handle(OpenTransport("r", transport_id))
    assert isinstance(opened, TransportOpened)
    return opened


async def connect(worker: Worker, client: SfuClient, transport_id: str = "t") -> TransportOpened:
    opened = open_transport(worker, transport_id)
    assert worker.handle(client.connect_request(transport_id)) == Done()
    await client.connect(opened)
    return opened


async def test_client_connects_with_gcm_and_data_goes_both_ways(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as client:
        opened = open_transport(worker)
        worker.handle(client.connect_request("t"))
        worker.handle(OpenDataChannel("t", "_reliable"))
        client.create_channel("_lossy")
        await client.connect(opened)
        await event_log.expect(TransportState("t", "connected"))
        await event_log.expect(DataChannelOpened("t", "_reliable"))
        await event_log.expect(DataChannelOpened("t", "_lossy"))
        assert client.dtls._ssl is not None
        assert client.dtls._ssl.get_selected_srtp_profile() == b"SRTP_AEAD_AES_128_GCM"

        large = bytes(range(256)) * 240  # 61,440 bytes: over fifty chunks
        await client.open("_reliable")
        await client.open("_lossy")
        client.opened["_reliable"].send(large)
        client.opened["_lossy"].send("文字")
        await event_log.expect(DataReceived("t", "_reliable", large))
        await event_log.expect(DataReceived("t", "_lossy", "文字".encode()))
        worker.handle(SendData("t", "_reliable", large))
        worker.handle(SendData("t", "_lossy", b"x"))
        async with asyncio.timeout(10):
            received = {await client.messages.get(), await client.messages.get()}
        assert received == {("_reliable", large), ("_lossy", b"x")}


async def test_close_notify_of_the_client_closes_the_transport(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as client:
        await connect(worker, client)
        await event_log.expect(TransportState("t", "connected"))
        await client.dtls.stop()
        await event_log.expect(TransportState("t", "closed"))


async def test_a_closed_transport_tells_its_client(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as client:
        await connect(worker, client)
        ended = asyncio.Event()
        client.dtls.on("statechange", ended.set)
        worker.handle(CloseTransport("t"))
        async with asyncio.timeout(5):
            await ended.wait()
        assert client.dtls.state == "closed"


async def test_a_client_with_another_certificate_is_not_let_in(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as client:
        opened = open_transport(worker)
        honest = client.connect_request("t")
        worker.handle(ConnectTransport("t", honest.ice, (DtlsFingerprint("sha-256", ":".join(["00"] * 32)),)))
        await client.connect(opened, data=False)
        await event_log.expect(TransportState("t", "failed"))
        assert TransportState("t", "connected") not in event_log.events


async def test_the_clients_description_may_come_after_its_handshake(
    worker: Worker, event_log: EventLog
) -> None:
    async with sfu_client() as client:
        opened = open_transport(worker)
        await client.connect(opened)
        assert TransportState("t", "connected") not in event_log.events
        worker.handle(client.connect_request("t"))
        await event_log.expect(TransportState("t", "connected"))


async def test_ice_restart_keeps_dtls_and_old_credentials_until_the_new_are_used(
    worker: Worker, event_log: EventLog
) -> None:
    async with sfu_client() as first:
        opened = await connect(worker, first)
        await event_log.expect(TransportState("t", "connected"))
        restarted = worker.handle(RestartIce("t"))
        assert isinstance(restarted, TransportOpened)
        assert restarted.ice != opened.ice
        assert restarted.fingerprints == opened.fingerprints
        async with sfu_client() as old_credentials:
            await old_credentials.connect_ice(opened)
            assert old_credentials.ice.state == "completed"
        async with sfu_client() as moved:
            await moved.connect_ice(restarted)
            assert moved.ice.state == "completed"
            await first.move_to(moved)
            worker.handle(OpenDataChannel("t", "_reliable"))
            await event_log.expect(DataChannelOpened("t", "_reliable"))


async def test_two_clients_do_not_disturb_each_other(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as one, sfu_client() as two:
        one.create_channel("_reliable")
        two.create_channel("_reliable")
        await asyncio.gather(connect(worker, one, "t1"), connect(worker, two, "t2"))
        await event_log.expect(DataChannelOpened("t1", "_reliable"))
        await event_log.expect(DataChannelOpened("t2", "_reliable"))
        worker.handle(CloseTransport("t1"))
        await two.open("_reliable")
        two.opened["_reliable"].send(b"still here")
        await event_log.expect(DataReceived("t2", "_reliable", b"still here"))


async def test_nothing_is_logged_for_all_this(
    worker: Worker, event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with sfu_client() as client:
        await connect(worker, client)
        await event_log.expect(TransportState("t", "connected"))
    assert [record for record in caplog.records if record.name.startswith(("sfu", "asyncio"))] == []


OPUS = CodecParameters("audio/opus", 111, 48000, 2)


async def test_rtp_goes_in_at_one_client_and_out_at_the_other(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as speaker, sfu_client() as listener:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(data: bytes, arrival_time_ms: int) -> None:
            heard.put_nowait(data)

        listener.dtls._handle_rtp_data = hear
        await asyncio.gather(connect(worker, speaker, "t1"), connect(worker, listener, "t2"))
        await event_log.expect(TransportState("t1", "connected"))
        await event_log.expect(TransportState("t2", "connected"))
        sending = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=1111),))
        receiving = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=2222),))
        assert worker.handle(Produce("t1", "p", Kind.AUDIO, sending)) == Done()
        assert worker.handle(Consume("t2", "c", "p", receiving)) == Done()
        for number in range(20):
            header = struct.pack("!BBHLL", 0x80, 111, 100 + number, 960 * number, 1111)
            await speaker.dtls._send_rtp(header + b"voice %d" % number)
        packets = []
        async with asyncio.timeout(10):
            while len(packets) < 20:
                packets.append(await heard.get())
        assert [packet[12:] for packet in packets] == [b"voice %d" % number for number in range(20)]
        assert {struct.unpack_from("!L", packet, 8)[0] for packet in packets} == {2222}
        await event_log.expect(ProducerLive("p", "audio/opus"))


async def test_who_nominates_another_address_keeps_receiving_without_new_dtls(
    worker: Worker, event_log: EventLog
) -> None:
    """Without an ICE restart: another socket checks with the same credentials."""
    async with sfu_client() as speaker, sfu_client() as listener, sfu_client() as moved:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(data: bytes, arrival_time_ms: int) -> None:
            heard.put_nowait(data)

        listener.dtls._handle_rtp_data = hear
        _, opened = await asyncio.gather(connect(worker, speaker, "t1"), connect(worker, listener, "t2"))
        sending = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=1111),))
        receiving = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=2222),))
        worker.handle(Produce("t1", "p", Kind.AUDIO, sending))
        worker.handle(Consume("t2", "c", "p", receiving))

        async def say(number: int) -> None:
            header = struct.pack("!BBHLL", 0x80, 111, 100 + number, 960 * number, 1111)
            await speaker.dtls._send_rtp(header + b"voice %d" % number)

        await say(0)
        async with asyncio.timeout(5):
            assert (await heard.get())[12:] == b"voice 0"
        ssl, events = listener.dtls._ssl, len(event_log.events)
        await moved.connect_ice(opened)
        await listener.move_to(moved)
        async with asyncio.timeout(5):
            for number in range(1, 20):
                await say(number)
                assert (await heard.get())[12:] == b"voice %d" % number
        assert listener.dtls._ssl is ssl
        assert not [e for e in event_log.events[events:] if isinstance(e, TransportState)]


async def test_media_before_dtls_and_from_strangers_goes_nowhere(worker: Worker, event_log: EventLog) -> None:
    async with sfu_client() as client:
        opened = open_transport(worker)
        worker.handle(client.connect_request("t"))
        await client.connect_ice(opened)
        rtp = struct.pack("!BBHLL", 0x80, 111, 1, 1, 1111) + b"x"
        await client.ice._send(rtp)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(rtp, ("127.0.0.1", worker.udp_port))
        dropped = {("reason", "no_keys"), ("reason", "unbound_address")}
        report = await event_log.wait(
            lambda event: (
                isinstance(event, Report)
                and dropped <= {label for counter in event.counters for label in counter.labels}
            )
        )
        assert isinstance(report, Report)
