"""The line between a control process and a worker: frames over a Unix stream socket.

A frame is its length (4 bytes, big-endian) and msgpack of [number, type name, fields].  ``number``
ties a reply to its request; 0 stands for "no answer wanted" and for events.  The name chooses the
dataclass, msgspec checks the fields; an unknown name, a wrong field or an overlong frame ends the
channel, because both ends are ours and the same version.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import typing
from typing import Any

import msgspec

from sfu import messages
from sfu.errors import ChannelError
from sfu.messages import DataReceived, Levels, Report, SendData
from sfu.startup import WorkerConfig, WorkerReady, WorkerRefused

LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_UNSENT_BYTES = 32 * 1024 * 1024
MAX_UNSENT_DROPPABLE_BYTES = 4 * 1024 * 1024


Frame = Any  # one of WORDS
DROPPABLE = (Levels, Report, DataReceived, SendData)  # dropped rather than queued without bound
WORDS: dict[str, type[Any]] = {
    word.__name__: word
    for word in (
        *typing.get_args(messages.Request),
        *typing.get_args(messages.Reply),
        *typing.get_args(messages.Event),
        WorkerConfig,
        WorkerReady,
        WorkerRefused,
    )
}
_encoder = msgspec.msgpack.Encoder()
_envelope = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])
_decoders = {name: msgspec.msgpack.Decoder(word) for name, word in WORDS.items()}


def encode(number: int, word: Frame) -> bytes:
    """One frame's body.  Raises ChannelError when it is too large or none of WORDS."""
    name = type(word).__name__
    if WORDS.get(name) is not type(word):
        raise ChannelError(f"{name} is not a word of this channel")
    body = _encoder.encode((number, name, word))
    if len(body) > MAX_FRAME_BYTES:
        raise ChannelError(f"{name} of {len(body)} bytes is too large")
    return body


def decode(body: bytes) -> tuple[int, Frame]:
    """The number and the dataclass of one frame's body.  Raises ChannelError on anything else."""
    try:
        number, name, fields = _envelope.decode(body)
        decoder = _decoders.get(name)
        if decoder is None:
            raise ChannelError(f"unknown word {name[:64]!r}")
        return number, decoder.decode(fields)
    except msgspec.MsgspecError as error:
        raise ChannelError(str(error)) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ChannelError("frame is no msgpack") from error


class Channel:
    """One end.  ``send`` never waits; ``receive`` waits for the next frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer)

    def send(self, word: Frame, number: int = 0) -> bool:
        """False when a word that nobody waits for was dropped because the other end reads too slowly.

        Raises ChannelError when it has stopped reading or is gone.
        """
        if self._writer.is_closing():
            raise ChannelError("channel is closed")
        unsent = self._writer.transport.get_write_buffer_size()
        if unsent > MAX_UNSENT_DROPPABLE_BYTES and number == 0 and isinstance(word, DROPPABLE):
            return False
        if unsent > MAX_UNSENT_BYTES:
            self._writer.transport.abort()
            raise ChannelError("the other end does not read")
        body = encode(number, word)
        self._writer.writelines((LENGTH.pack(len(body)), body))
        return True

    async def receive(self) -> tuple[int, Frame] | None:
        """(number, word), or None when the other end has closed.  Raises ChannelError on a bad frame."""
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > MAX_FRAME_BYTES:
                raise ChannelError(f"frame of {length} bytes is too large")
            return decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def drain(self) -> None:
        """Wait until what was sent is with the kernel; a closed channel has nothing to wait for."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
