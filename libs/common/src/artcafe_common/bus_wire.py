"""The socket of a `Bus`, read without a task: direct messages go to their handlers where they come in.

nats-py reads through a stream, a task and regular expressions. That is most of what a message costs, so once
its handshake is done this protocol takes the socket over. It finds where each command of the server ends,
hands the messages of direct subscriptions over at once, and keeps everything else, whole and in order, for
nats-py's own parser.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from nats.errors import ProtocolError, UnexpectedEOF

logger = logging.getLogger(__name__)

# A command without its payload: subjects are short, INFO is long.
CONTROL_LINE_BYTES_MAX = 1024 * 1024

_LINE_END = b"\r\n"
_MESSAGE = b"MSG "
_MESSAGE_WITH_HEADERS = b"HMSG "

DirectHandler = Callable[[bytes, bytes], None]


class Wire(asyncio.Protocol):
    """Reads for one connection.

    `direct` are the handlers by the number of their subscription, as it stands on the wire. `writable` is
    called when the socket takes bytes again after `full` was true.
    """

    def __init__(self, direct: Mapping[bytes, DirectHandler], writable: Callable[[], None]) -> None:
        self.full = False
        self._direct = direct
        self._writable = writable
        # What is to be called when all that was read has been handed over; None between reads.
        self._after_read: list[Callable[[], None]] | None = None
        # The beginning of a command whose rest has not come yet.
        self._rest = b""
        self._others: deque[bytes] = deque()
        self._error: Exception | None = None
        self._news = asyncio.Event()
        # The stream's own protocol goes on hearing of the rest: nats-py waits for it.
        self._stream: Any = None
        self._transport: asyncio.Transport | None = None

    def take_over(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        """Read from now on what the stream would have read, beginning with what it has read already."""
        self._transport = writer.transport  # type: ignore[assignment]
        assert self._transport is not None
        self._stream = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if reader.at_eof() or reader.exception() is not None:
            self._end(reader.exception() or UnexpectedEOF())
        # Private, but the only way to what came together with the handshake's last line.
        begun = bytes(reader._buffer)  # type: ignore[attr-defined]
        if begun:
            self.data_received(begun)
        # The stream may have stopped reading at its limit.
        self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them until the socket takes them."""
        assert self._transport is not None
        self._transport.write(data)

    async def others(self) -> bytes:
        """Return whole commands that are not for direct handlers.

        Raises: OSError or nats's `UnexpectedEOF` where the connection has ended, `ProtocolError`.
        """
        while not self._others:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        commands = b"".join(self._others)
        self._others.clear()
        return commands

    def data_received(self, data: bytes) -> None:
        """Take the commands in what was read, and keep the last where it is not whole."""
        if self._rest:
            data = self._rest + data
        after_read = self._after_read = []
        try:
            self._rest = data[self._take(data) :]
        except (ValueError, IndexError):
            # What follows cannot be understood without it.
            self._rest = b""
            self._end(ProtocolError())
        self._after_read = None
        for callback in after_read:
            try:
                callback()
            except Exception:
                logger.exception("direct_handler_failed")

    def at_end_of_read(self, callback: Callable[[], None]) -> None:
        """Call a function when all that was read with this message has been handed over, in the same turn."""
        if self._after_read is None:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._after_read.append(callback)

    def eof_received(self) -> bool:
        """Note that the server has ended the connection; the transport closes itself."""
        self._end(UnexpectedEOF())
        self._stream.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._end(exc or UnexpectedEOF())
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the server reads too slowly."""
        self.full = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Note that the server has caught up, and send what waited."""
        self.full = False
        self._stream.resume_writing()
        self._writable()

    def _take(self, data: bytes) -> int:
        """Hand over the whole commands in `data` and return where the one begins that is not whole."""
        direct = self._direct
        start = 0
        while True:
            line_end = data.find(_LINE_END, start)
            if line_end < 0:
                if len(data) - start > CONTROL_LINE_BYTES_MAX:
                    raise ValueError("a command without an end")
                return start
            if data.startswith(_MESSAGE, start):
                # MSG <subject> <number of the subscription> [reply] <bytes>
                fields = data[start + 4 : line_end].split()
                payload_start = line_end + 2
            elif data.startswith(_MESSAGE_WITH_HEADERS, start):
                # HMSG <subject> <number of the subscription> [reply] <bytes of headers> <bytes of both>
                fields = data[start + 5 : line_end].split()
                payload_start = line_end + 2 + int(fields[-2])
            else:
                self._keep(data[start : line_end + 2])
                start = line_end + 2
                continue
            payload_end = line_end + 2 + int(fields[-1])
            if payload_end + 2 > len(data):
                return start
            handler = direct.get(fields[1])
            if handler is None:
                self._keep(data[start : payload_end + 2])
            else:
                try:
                    handler(fields[0], data[payload_start:payload_end])
                except Exception:
                    # Raising here would end the connection, and with it every subscription of the process.
                    logger.exception("direct_handler_failed")
            start = payload_end + 2

    def _keep(self, command: bytes) -> None:
        self._others.append(command)
        self._news.set()

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._news.set()
