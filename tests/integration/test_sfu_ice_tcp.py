"""Clients over TCP: ICE, DTLS, data and media through the bridge into a real worker."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCDtlsFingerprint, RTCDtlsParameters, RTCSctpCapabilities

from sfu.ice_tcp import Refusal
from sfu.messages import (
    CloseTransport,
    Consume,
    DataReceived,
    Done,
    OpenRouter,
    OpenTransport,
    Produce,
    Report,
    TransportOpened,
    TransportState,
)
from sfu.params import CodecParameters, EncodingParameters, Kind, RtpParameters
from sfu.startup import WorkerConfig
from sfu.worker import Worker
from tests.fixtures.sfu_client import EventLog, SfuClient, sfu_client
from tests.fixtures.sfu_tcp_path import TcpPath, tcp_path

OPUS = CodecParameters("audio/opus", 111, 48000, 2)


@pytest.fixture
async def worker(event_log: EventLog) -> AsyncIterator[Worker]:
    worker = Worker(WorkerConfig("w0", 0, ("127.0.0.1",), tcp_port=0), event_log)
    await worker.start()
    assert worker.handle(OpenRouter("r")) == Done()
    yield worker
    await worker.stop()


def open_transport(worker: Worker, transport_id: str = "t") -> TransportOpened:
    opened = worker.handle(OpenTransport("r", transport_id))
    assert isinstance(opened, TransportOpened)
    return opened


async def connect_over(path: TcpPath, worker: Worker, client: SfuClient, transport_id: str = "t") -> None:
    """The client's DTLS and SCTP over TCP; its own UDP agent stays unused."""
    opened = open_transport(worker, transport_id)
    assert worker.handle(client.connect_request(transport_id)) == Done()
    await path.check(opened)
    client.dtls._transport = path
    await client.dtls.start(
        RTCDtlsParameters([RTCDtlsFingerprint(f.algorithm, f.value) for f in opened.fingerprints])
    )
    await client.sctp.start(RTCSctpCapabilities(262144), 5000)


def port_of(worker: Worker) -> int:
    assert worker.tcp_port is not None
    return worker.tcp_port


async def test_candidates_over_tcp_are_passive_and_come_after_udp(worker: Worker) -> None:
    udp, tcp = open_transport(worker).candidates
    assert (udp.protocol, udp.port, udp.tcp_type) == ("udp", worker.udp_port, None)
    assert (tcp.protocol, tcp.port, tcp.tcp_type) == ("tcp", worker.tcp_port, "passive")
    assert tcp.priority < udp.priority
    assert tcp.foundation != udp.foundation


async def test_the_answer_tells_the_clients_own_address(worker: Worker) -> None:
    async with tcp_path(port_of(worker)) as path:
        answer = await path.check(open_transport(worker))
        assert answer.message_class.name == "RESPONSE"
        assert answer.attributes["XOR-MAPPED-ADDRESS"] == path.writer.get_extra_info("sockname")


async def test_dtls_data_and_media_go_over_tcp(
    worker: Worker, event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with sfu_client() as speaker, sfu_client() as listener, tcp_path(port_of(worker)) as path:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(data: bytes, arrival_time_ms: int) -> None:
            heard.put_nowait(data)

        listener.dtls._handle_rtp_data = hear
        listener.create_channel("_reliable")
        await connect_over(path, worker, listener, "t2")
        opened = open_transport(worker, "t1")
        worker.handle(speaker.connect_request("t1"))
        await speaker.connect(opened)
        await event_log.expect(TransportState("t1", "connected"))
        await event_log.expect(TransportState("t2", "connected"))
        channel = await listener.open("_reliable")
        large = bytes(range(256)) * 240
        channel.send(large)
        await event_log.expect(DataReceived("t2", "_reliable", large))

        sending = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=1111),))
        receiving = RtpParameters("0", (OPUS,), encodings=(EncodingParameters(ssrc=2222),))
        assert worker.handle(Produce("t1", "p", Kind.AUDIO, sending)) == Done()
        assert worker.handle(Consume("t2", "c", "p", receiving)) == Done()
        for number in range(100):
            header = struct.pack("!BBHLL", 0x80, 111, 100 + number, 960 * number, 1111)
            await speaker.dtls._send_rtp(header + b"voice %d" % number)
        async with asyncio.timeout(10):
            packets = [await heard.get() for _ in range(100)]
        assert [packet[12:] for packet in packets] == [b"voice %d" % number for number in range(100)]

        def says_tcp(event: object) -> bool:
            return isinstance(event, Report) and any(t.over_tcp for t in event.transports)

        report = await event_log.wait(says_tcp)
        assert isinstance(report, Report)
        assert {t.transport_id: t.over_tcp for t in report.transports} == {"t1": False, "t2": True}
        assert counted(report, "connections") == counted(report, "accepted_total") == 1
        path.state = "closed"
    assert [record for record in caplog.records if record.name.startswith(("sfu", "asyncio"))] == []


async def test_a_client_moves_from_udp_to_tcp_and_back(worker: Worker, event_log: EventLog) -> None:
    """Without an ICE restart: a check over the other path is enough, and DTLS goes on."""
    async with sfu_client() as client, tcp_path(port_of(worker)) as path:
        client.create_channel("_reliable")
        opened = open_transport(worker)
        worker.handle(client.connect_request("t"))
        await client.connect(opened)
        channel = await client.open("_reliable")
        udp = client.dtls._transport
        await path.check(opened)
        client.dtls._transport = path
        forwarding = asyncio.create_task(_forward(path, client))
        channel.send(b"over TCP")
        await event_log.expect(DataReceived("t", "_reliable", b"over TCP"))
        client.dtls._transport = udp
        await path.close()  # nothing else tells the server
        channel.send(b"over UDP")
        await event_log.expect(DataReceived("t", "_reliable", b"over UDP"))
        forwarding.cancel()
        assert TransportState("t", "failed") not in event_log.events


async def _forward(path: TcpPath, client: SfuClient) -> None:
    while True:
        await client.ice._connection._queue.put((await path._recv(), 1))


async def test_a_closed_transport_closes_its_connection(worker: Worker, event_log: EventLog) -> None:
    async with tcp_path(port_of(worker)) as path:
        await path.check(open_transport(worker))
        await event_log.wait(
            lambda event: isinstance(event, Report) and counted(event, "accepted_total") == 1
        )
        worker.handle(CloseTransport("t"))
        await asyncio.wait_for(path.ended, 5)
        assert worker._tcp is not None
        assert not worker._tcp.refused


def counted(report: Report, name: str) -> float:
    return sum(c.value for c in report.counters if c.name == f"lianxin_ice_tcp_{name}")


async def test_a_stranger_is_closed_at_its_first_frame(worker: Worker) -> None:
    async with tcp_path(port_of(worker)) as path:
        await path._send(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(path.ended, 5)
        assert worker._tcp is not None
        assert worker._tcp.refused == {Refusal.FIRST_FRAME: 1}


async def test_the_port_is_named_when_it_is_taken(worker: Worker) -> None:
    second = Worker(WorkerConfig("w1", 0, ("127.0.0.1",), tcp_port=worker.tcp_port), lambda event: None)
    with pytest.raises(OSError, match=f"TCP port {worker.tcp_port} can't be had"):
        await second.start()
