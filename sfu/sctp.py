"""Data channels (RFC 8831, RFC 8832) over one client's DTLS: aiortc's SCTP, kept on a short lead.

aiortc's association is written as coroutines and starts tasks of its own.  Over our DTLS no send ever
waits, so its coroutines are run to their end on the spot (``run_now``); everything that it starts as a
task is wrapped, so a stranger's packet can't raise in the background.  What it does not check itself is
checked here before it sees a packet: parameter lengths (a zero one would never end), gap blocks,
windows, and how many channels a client may have.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import (
    DataChunk,
    ForwardTsnChunk,
    RTCSctpCapabilities,
    RTCSctpTransport,
    SackChunk,
)

from sfu.drops import DropReason, Drops
from sfu.dtls import DtlsTransport

logger = logging.getLogger(__name__)

SCTP_PORT = 5000
MAX_MESSAGE_BYTES = 262_144  # what Chromium announces and what our SDP says (RFC 8841 §6)
MAX_BUFFERED_BYTES = 1_048_576  # per channel, waiting to be sent
MAX_CHANNELS = 32
MAX_LABEL_CHARS = 128
MAX_INBOUND_STREAMS = 1024
MAX_MISORDERED_CHUNKS = 256  # as many gap blocks as fit one datagram
MAX_TSN_AHEAD = 8192
MAX_REPORTED_DUPLICATES = 16
MAX_CHUNKS_PER_PACKET = 80  # more than DATA chunks of one byte that fit a datagram of 1200

COMMON_HEADER_BYTES = 12
CHUNK_HEADER = struct.Struct("!BBH")
PARAMETER_HEADER = struct.Struct("!HH")
INIT = 1
FORWARD_TSN = 192
# chunk type → smallest body, and where its parameters begin (None: it has none)
CHUNK_SHAPES: dict[int, tuple[int, int | None]] = {
    0: (12, None),  # DATA
    1: (16, 16),  # INIT
    2: (16, 16),  # INIT ACK
    3: (12, None),  # SACK
    4: (0, 0),  # HEARTBEAT
    5: (0, 0),  # HEARTBEAT ACK
    6: (0, 0),  # ABORT
    7: (4, None),  # SHUTDOWN
    9: (0, 0),  # ERROR
    130: (0, 0),  # RE-CONFIG
    192: (4, None),  # FORWARD TSN
}


class DataObserver(Protocol):
    """What the owner of the channels is told, synchronously."""

    def channel_opened(self, label: str) -> None: ...

    def data_received(self, label: str, payload: bytes) -> None: ...


class NotSynchronous(RuntimeError):
    """A coroutine of aiortc waited for something: its SCTP is no longer what this module was written for."""


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise NotSynchronous


class ContainedTimers:
    """The part of an event loop that aiortc's SCTP uses for its timers; errors end here."""

    def __init__(self, drops: Drops) -> None:
        self._loop = asyncio.get_running_loop()
        self._drops = drops

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, self._call, callback)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            self._drops.count(DropReason.SCTP_MALFORMED)
            logger.debug("SCTP: timer contained", exc_info=True)


class Association(RTCSctpTransport):
    """aiortc's association with limits, and with its background errors contained."""

    def __init__(self, dtls: DtlsTransport, drops: Drops) -> None:
        super().__init__(cast(RTCDtlsTransport, dtls), port=SCTP_PORT)
        self._loop = cast(asyncio.AbstractEventLoop, ContainedTimers(drops))
        self.drops = drops

    @property
    def closed(self) -> bool:
        return self._association_state is self.State.CLOSED

    # -------------------------------------------------------- started as tasks or timers by aiortc

    async def _data_channel_flush(self) -> None:
        await self._contained(super()._data_channel_flush())

    async def _transmit(self) -> None:
        await self._contained(super()._transmit())

    async def _transmit_reconfig(self) -> None:
        await self._contained(super()._transmit_reconfig())

    async def _send_chunk(self, chunk: Any) -> None:
        await self._contained(super()._send_chunk(chunk))

    async def _send_reconfig_param(self, param: Any) -> None:
        await self._contained(super()._send_reconfig_param(param))

    async def _contained(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception:
            # Provoked by what the client sent before; its association may be spoilt, nobody else's.
            self.drops.count(DropReason.SCTP_MALFORMED)
            logger.debug("SCTP: contained", exc_info=True)

    # -------------------------------------------------------- limits

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        last = self._last_received_tsn
        if last is None or len(chunk.user_data) == 0:
            self.drops.count(DropReason.SCTP_MALFORMED)
            return
        ahead = (chunk.tsn - last) % (1 << 32)
        is_new = 0 < ahead < (1 << 31)
        if is_new and (
            ahead > MAX_TSN_AHEAD
            or (ahead > 1 and len(self._sack_misordered) >= MAX_MISORDERED_CHUNKS)
            or self._advertised_rwnd < len(chunk.user_data)
            or (chunk.stream_id not in self._inbound_streams and self._streams_full())
        ):
            # Beyond what a peer that respects our window sends (RFC 9260 §6.2): it has to repeat it.
            self.drops.count(DropReason.SCTP_WINDOW)
            self._sack_needed = True
            return
        await super()._receive_data_chunk(chunk)

    async def _receive_forward_tsn_chunk(self, chunk: ForwardTsnChunk) -> None:
        unknown = {stream for stream, _ in chunk.streams if stream not in self._inbound_streams}
        if self._last_received_tsn is None or len(unknown) + len(self._inbound_streams) > MAX_INBOUND_STREAMS:
            self.drops.count(DropReason.SCTP_MALFORMED)
            return
        await super()._receive_forward_tsn_chunk(chunk)

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        # Gap blocks are walked number by number: none may reach beyond what is outstanding.
        outstanding = len(self._sent_queue)
        ahead = (chunk.cumulative_tsn - self._last_sacked_tsn) % (1 << 32)
        blocks_fit = all(0 < first <= last <= outstanding for first, last in chunk.gaps)
        acknowledged = sum(last - first + 1 for first, last in chunk.gaps)
        is_old = ahead >= (1 << 31)
        if not is_old and (ahead > outstanding or not blocks_fit or acknowledged > outstanding):
            self.drops.count(DropReason.SCTP_MALFORMED)
            return
        await super()._receive_sack_chunk(chunk)

    async def _send_sack(self) -> None:
        if self._last_received_tsn is None:
            return
        del self._sack_duplicates[MAX_REPORTED_DUPLICATES:]
        await super()._send_sack()

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if len(data) > MAX_MESSAGE_BYTES:
            self.drops.count(DropReason.DATA_TOO_LARGE)
            return
        if stream_id not in self._data_channels and len(self._data_channels) >= MAX_CHANNELS:
            self.drops.count(DropReason.SCTP_MALFORMED)
            return
        await super()._data_channel_receive(stream_id, pp_id, data)

    def _streams_full(self) -> bool:
        return len(self._inbound_streams) >= MAX_INBOUND_STREAMS


class DataChannels:
    """The data channels of one client, known by their labels."""

    def __init__(self, dtls: DtlsTransport, observer: DataObserver, drops: Drops) -> None:
        self._dtls = dtls
        self._observer = observer
        self._drops = drops
        self._association: Association | None = None
        self._channels: dict[str, RTCDataChannel] = {}
        self._wanted: dict[str, tuple[bool, int | None]] = {}

    def open_channel(self, label: str, ordered: bool, max_retransmits: int | None) -> None:
        """Server-created channel; kept until DTLS is there.  An open one of that label is left alone."""
        self._wanted[label] = (ordered, max_retransmits)
        if self._dtls.state == "connected":
            self._create_wanted()

    def on_dtls_connected(self) -> None:
        if self._wanted:
            self._create_wanted()

    def on_packet(self, data: bytes) -> None:
        """One SCTP packet from the client."""
        if not well_formed(data):
            self._drops.count(DropReason.SCTP_MALFORMED)
            return
        if self._association is None or self._association.closed:
            if data[COMMON_HEADER_BYTES] != INIT:
                self._drops.count(DropReason.SCTP_MALFORMED)
                return
            self._associate(remote_port=int.from_bytes(data[:2], "big"))
        association = cast(Association, self._association)
        try:
            run_now(association._handle_data(data))
        except NotSynchronous:
            raise
        except Exception:
            # aiortc asserts and unpacks on what strangers send.
            self._drops.count(DropReason.SCTP_MALFORMED)
            logger.debug("SCTP: packet refused", exc_info=True)

    def send(self, label: str, payload: bytes) -> bool:
        """False, and counted, when there is no such channel, or it is full, or the message is too large."""
        channel = self._channels.get(label)
        if channel is None or channel.readyState != "open":
            self._drops.count(DropReason.DATA_CHANNEL_UNKNOWN)
            return False
        if len(payload) > MAX_MESSAGE_BYTES:
            self._drops.count(DropReason.DATA_TOO_LARGE)
            return False
        if channel.bufferedAmount + len(payload) > MAX_BUFFERED_BYTES:
            self._drops.count(DropReason.DATA_BUFFER_FULL)
            return False
        channel.send(payload)
        return True

    def close(self) -> None:
        self._channels.clear()
        self._wanted.clear()
        if self._association is not None:
            self._discard(self._association)
            self._association = None

    # ------------------------------------------------------------ inside

    def _discard(self, association: Association) -> None:
        try:
            run_now(association.stop())
        except NotSynchronous:
            raise
        except Exception:
            logger.debug("SCTP: stop", exc_info=True)

    def _associate(self, remote_port: int = SCTP_PORT) -> Association:
        """Both ends begin (RFC 8841 §9.3), but not before the client, or our side, wants a channel.

        An association that was aborted or never answered is replaced by a new one.
        """
        if self._association is not None:
            self._discard(self._association)
        self._channels.clear()
        association = self._association = Association(self._dtls, self._drops)
        association.on("datachannel", self._on_client_channel)
        run_now(association.start(RTCSctpCapabilities(MAX_MESSAGE_BYTES), remote_port or SCTP_PORT))
        return association

    def _create_wanted(self) -> None:
        association = self._association
        if association is None or association.closed:
            association = self._associate()
        for label, (ordered, max_retransmits) in self._wanted.items():
            known = self._channels.get(label)
            if known is not None and known.readyState in ("connecting", "open"):
                continue
            channel = RTCDataChannel(
                association,
                RTCDataChannelParameters(label=label, ordered=ordered, maxRetransmits=max_retransmits),
            )
            self._adopt(label, channel)
            channel.on("open", self._opened_callback(label, channel))

    def _on_client_channel(self, channel: RTCDataChannel) -> None:
        label = channel.label
        if not label or len(label) > MAX_LABEL_CHARS:
            self._drops.count(DropReason.SCTP_MALFORMED)
            channel.close()
            return
        # A client's own channel takes the label over: some clients read nothing from ours.
        self._adopt(label, channel)
        self._observer.channel_opened(label)

    def _adopt(self, label: str, channel: RTCDataChannel) -> None:
        self._channels[label] = channel
        channel.on("message", self._message_callback(label))

    def _opened_callback(self, label: str, channel: RTCDataChannel) -> Callable[[], None]:
        def opened() -> None:
            if self._channels.get(label) is channel:
                self._observer.channel_opened(label)

        return opened

    def _message_callback(self, label: str) -> Callable[[str | bytes], None]:
        def received(message: str | bytes) -> None:
            payload = message.encode() if isinstance(message, str) else message
            self._observer.data_received(label, payload)

        return received


def well_formed(data: bytes) -> bool:
    """Whether every chunk and parameter lies within the packet and has at least its smallest size."""
    length = len(data)
    if length < COMMON_HEADER_BYTES + CHUNK_HEADER.size:
        return False
    position = COMMON_HEADER_BYTES
    chunks = 0
    while position + CHUNK_HEADER.size <= length:
        chunks += 1
        if chunks > MAX_CHUNKS_PER_PACKET:
            return False  # each may ask for an answer
        kind, _, size = CHUNK_HEADER.unpack_from(data, position)
        end = position + size
        if size < CHUNK_HEADER.size or end > length:
            return False
        minimum, parameters = CHUNK_SHAPES.get(kind, (0, None))
        body = position + CHUNK_HEADER.size
        if end - body < minimum:
            return False
        if kind == INIT and position != COMMON_HEADER_BYTES:
            return False  # never bundled (RFC 9260 §3.1)
        if kind == FORWARD_TSN and (end - body) % 4:
            return False
        if parameters is not None and not parameters_well_formed(data, body + parameters, end):
            return False
        position = end + (-size % 4)
    return True


def parameters_well_formed(data: bytes, position: int, end: int) -> bool:
    while position + PARAMETER_HEADER.size <= end:
        _, size = PARAMETER_HEADER.unpack_from(data, position)
        if size < PARAMETER_HEADER.size or position + size > end:
            return False
        position += size + (-size % 4)
    return True
