"""Many byte streams over one channel, each with its own window, so that a stalled stream does not block others.

    OPEN    a new stream; only one end of the channel opens streams
    PUSH    data of a stream
    CREDIT  allows so many more bytes; both ends begin with `WINDOW` for each stream
    END     no more data in this direction (a half-close)
    RESET   ends the stream in both directions at once

Every payload begins with the stream's number, four bytes big-endian. An end that sends more than its window violates
the protocol. Since each end has room for a full window of every stream, it never has to stop reading the channel.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import ChannelError, ConnectionLostError, StreamResetError, TamperedError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind

WINDOW = 1 << 20
"""Maximum bytes of one stream that are in transit or not yet read."""

MAX_STREAMS = 256
_ID_BYTES = 4
_MAX_PIECE = MAX_PAYLOAD - _ID_BYTES


class ByteStream:
    """One stream. `send`, `receive` and `end` raise `StreamResetError`, or `ChannelError` if the channel has ended."""

    def __init__(self, streams: Streams, number: int) -> None:
        self.number = number
        self._streams = streams
        self._credit = WINDOW
        self._room = WINDOW
        self._consumed = 0
        self._unread = bytearray()
        self._wakeup = asyncio.Event()
        self._may_send = asyncio.Event()
        self._peer_ended = self._we_ended = False
        self._error: ChannelError | None = None
        self._reset_event = asyncio.Event()

    async def send(self, data: bytes) -> None:
        """Send all of `data`, as the other end's window allows."""
        position = 0
        while position < len(data):
            while not self._credit and self._error is None:
                self._may_send.clear()
                await self._may_send.wait()
            self._check()
            piece = data[position : position + min(self._credit, _MAX_PIECE)]
            self._credit -= len(piece)
            position += len(piece)
            await self._streams.send_frame(Kind.PUSH, self.number, piece)

    async def receive(self) -> bytes:
        """Return the next data; empty after the other end's END."""
        while not self._unread:
            self._check()
            if self._peer_ended:
                return b""
            self._wakeup.clear()
            await self._wakeup.wait()
        data = bytes(self._unread[:_MAX_PIECE])
        del self._unread[:_MAX_PIECE]
        self._consumed += len(data)
        if self._consumed >= WINDOW // 2 and not self._peer_ended:
            self._room += self._consumed
            granted, self._consumed = self._consumed, 0
            await self._streams.send_frame(Kind.CREDIT, self.number, granted.to_bytes(4, "big"))
        return data

    async def end(self) -> None:
        """Send END: no data follow."""
        self._check()
        if not self._we_ended:
            self._we_ended = True
            await self._streams.send_frame(Kind.END, self.number)
            self._streams.remove_if_over(self)

    async def reset(self) -> None:
        """Send RESET and end both directions, unless they have ended."""
        if self._error is None and not self.over:
            self.fail(StreamResetError("reset by this end"))
            await self._streams.send_frame(Kind.RESET, self.number)

    async def wait_for_reset(self) -> None:
        """Wait until either end resets the stream or the channel ends, and raise the reason.

        Never returns if both directions end with END.
        """
        await self._reset_event.wait()
        self._check()

    @property
    def over(self) -> bool:
        """Whether both directions have ended."""
        return self._error is not None or (self._peer_ended and self._we_ended)

    def fail(self, error: ChannelError) -> None:
        """Make all further calls raise `error`."""
        if self._error is None:
            self._error = error
            self._reset_event.set()
            self._unread.clear()
            self._wake()
            self._streams.remove_if_over(self)

    def handle(self, kind: Kind, payload: bytes) -> None:
        """Handle a frame of this stream. Raises `TamperedError`."""
        match kind:
            case Kind.PUSH:
                self._room -= len(payload)
                if self._room < 0 or self._peer_ended:
                    raise TamperedError("a stream exceeds its window")
                self._unread += payload  # one buffer, because many small objects would need much more memory
            case Kind.CREDIT:
                self._credit += int.from_bytes(payload, "big")
                if len(payload) != 4 or self._credit > WINDOW:
                    raise TamperedError("CREDIT exceeds the window")
            case Kind.END:
                self._peer_ended = True
                self._streams.remove_if_over(self)
            case _:
                self.fail(StreamResetError("reset by the other end"))
        self._wake()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._wakeup.set()
        self._may_send.set()


class Streams:
    """All streams of a channel. `run` must run while they are used. One end `opens` streams, the other accepts them."""

    def __init__(self, channel: Channel, *, opens: bool) -> None:
        self._channel = channel
        self._opens = opens
        self._next = 0
        self._live: dict[int, ByteStream] = {}
        self._opened: dict[int, ByteStream] = {}  # live ones that have not been accepted yet
        self._wakeup = asyncio.Event()
        self._sending = asyncio.Lock()
        self._ended: ChannelError | None = None
        self._over = asyncio.Event()
        self._refusals: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Handle the frames of the other end until FINAL. Raises `ChannelError`."""
        error: ChannelError = ConnectionLostError("the other end has finished")
        try:
            while (frame := await self._channel.receive())[0] is not Kind.FINAL:
                self._handle(*frame)
        except ChannelError as caught:
            error = caught
            raise
        finally:
            self._ended = error
            self._over.set()
            self._wakeup.set()
            for stream in list(self._live.values()):
                stream.fail(error)
            for task in self._refusals:
                task.cancel()

    async def open(self) -> ByteStream:
        """Open a stream. Raises `StreamResetError` if there are too many, `ChannelError` if the channel has ended."""
        if self._ended is not None:
            raise self._ended
        if len(self._live) >= MAX_STREAMS:
            raise StreamResetError(f"more than {MAX_STREAMS} streams")
        stream = self._live[self._next] = ByteStream(self, self._next)
        self._next += 1
        await self.send_frame(Kind.OPEN, stream.number)
        return stream

    async def accept(self) -> ByteStream:
        """Return the next stream that the other end has opened and not reset. Raises `ChannelError` at the end."""
        while not self._opened:
            if self._ended is not None:
                raise self._ended
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._opened.pop(next(iter(self._opened)))

    async def ended(self) -> None:
        """Wait for the end of `run`, and raise its `ChannelError`, which all further calls raise as well."""
        await self._over.wait()
        raise self._ended or ConnectionLostError("the channel has ended")

    async def finish(self) -> None:
        """Send FINAL. Raises `ConnectionLostError`."""
        async with self._sending:
            await self._channel.send(Kind.FINAL)

    async def send_frame(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        """Send one frame of a stream. Raises `ConnectionLostError`."""
        async with self._sending:
            await self._channel.send(kind, number.to_bytes(_ID_BYTES, "big") + payload)

    def remove_if_over(self, stream: ByteStream) -> None:
        """Remove a stream that has ended, which makes room for another one."""
        if stream.over:
            self._live.pop(stream.number, None)
            self._opened.pop(stream.number, None)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        if kind not in (Kind.OPEN, Kind.PUSH, Kind.CREDIT, Kind.END, Kind.RESET) or len(payload) < _ID_BYTES:
            raise TamperedError(f"unexpected {kind.name} frame on a channel of streams")
        number = int.from_bytes(payload[:_ID_BYTES], "big")
        if kind is Kind.OPEN:
            self._handle_open(number)
        elif number >= self._next:
            raise TamperedError(f"{kind.name} for a stream that was not opened")
        elif number in self._live:  # otherwise it was reset while this frame was in transit
            self._live[number].handle(kind, payload[_ID_BYTES:])

    def _handle_open(self, number: int) -> None:
        if self._opens or number != self._next:
            raise TamperedError("unexpected OPEN frame")
        self._next += 1
        if len(self._live) >= MAX_STREAMS:
            task = asyncio.create_task(self._refuse(number))  # reading must not wait for writing
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
            if len(self._refusals) > MAX_STREAMS:
                raise TamperedError("too many rejected streams")
            return
        self._live[number] = self._opened[number] = ByteStream(self, number)
        self._wakeup.set()

    async def _refuse(self, number: int) -> None:
        try:
            await self.send_frame(Kind.RESET, number)
        except ChannelError:
            return  # `run` raises it as well
