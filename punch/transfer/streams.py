"""Many byte streams over one channel, each with a window of its own, so that one that stalls holds up no other.

    OPEN    a new stream; only one end of the channel opens streams
    PUSH    bytes of a stream
    CREDIT  so many bytes more may be pushed; both ends begin with `WINDOW` of each stream
    END     no more bytes in this direction (a half-close)
    RESET   the stream is over in both directions, at once

Every payload begins with the stream's number, four bytes big-endian. Whoever pushes more than it was allowed to breaks
the protocol. Because nobody is pushed more than it has room for, the channel itself is always read.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import ChannelError, ConnectionLostError, StreamResetError, TamperedError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind

WINDOW = 1 << 20
"""Bytes of one stream that may be on their way, or wait for whoever reads them."""

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
        self._news = asyncio.Event()
        self._may_send = asyncio.Event()
        self._peer_ended = self._we_ended = False
        self._error: ChannelError | None = None
        self._given_up = asyncio.Event()

    async def send(self, data: bytes) -> None:
        """All of `data`, as fast as the other end takes it."""
        position = 0
        while position < len(data):
            while not self._credit and self._error is None:
                self._may_send.clear()
                await self._may_send.wait()
            self._check()
            piece = data[position : position + min(self._credit, _MAX_PIECE)]
            self._credit -= len(piece)
            position += len(piece)
            await self._streams.say(Kind.PUSH, self.number, piece)

    async def receive(self) -> bytes:
        """The next bytes, or none at the end of the other end's."""
        while not self._unread:
            self._check()
            if self._peer_ended:
                return b""
            self._news.clear()
            await self._news.wait()
        data = bytes(self._unread[:_MAX_PIECE])
        del self._unread[:_MAX_PIECE]
        self._consumed += len(data)
        if self._consumed >= WINDOW // 2 and not self._peer_ended:
            self._room += self._consumed
            granted, self._consumed = self._consumed, 0
            await self._streams.say(Kind.CREDIT, self.number, granted.to_bytes(4, "big"))
        return data

    async def end(self) -> None:
        """Nothing more will be sent."""
        self._check()
        if not self._we_ended:
            self._we_ended = True
            await self._streams.say(Kind.END, self.number)
            self._streams.forget_if_over(self)

    async def reset(self) -> None:
        """Give up both directions; nothing happens if they are over."""
        if self._error is None and not self.over:
            self.fail(StreamResetError("reset by this end"))
            await self._streams.say(Kind.RESET, self.number)

    async def given_up(self) -> None:
        """Wait until both directions are given up by either end, or the channel ends, and raise why.

        Never returns where both directions end as they should.
        """
        await self._given_up.wait()
        self._check()

    @property
    def over(self) -> bool:
        """Whether nothing will be sent any more in either direction."""
        return self._error is not None or (self._peer_ended and self._we_ended)

    def fail(self, error: ChannelError) -> None:
        """From now on everything raises `error`."""
        if self._error is None:
            self._error = error
            self._given_up.set()
            self._unread.clear()
            self._wake()
            self._streams.forget_if_over(self)

    def take(self, kind: Kind, payload: bytes) -> None:
        """What the other end said of this stream. Raises `TamperedError`."""
        match kind:
            case Kind.PUSH:
                self._room -= len(payload)
                if self._room < 0 or self._peer_ended:
                    raise TamperedError("more bytes of a stream than it may have")
                self._unread += payload  # many small ones would take many times their bytes
            case Kind.CREDIT:
                self._credit += int.from_bytes(payload, "big")
                if len(payload) != 4 or self._credit > WINDOW:
                    raise TamperedError("more credit than was used")
            case Kind.END:
                self._peer_ended = True
                self._streams.forget_if_over(self)
            case _:
                self.fail(StreamResetError("reset by the other end"))
        self._wake()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._news.set()
        self._may_send.set()


class Streams:
    """All streams of a channel; `run` has to run as long as they are used. One end `opens` them, the other accepts."""

    def __init__(self, channel: Channel, *, opens: bool) -> None:
        self._channel = channel
        self._opens = opens
        self._next = 0
        self._live: dict[int, ByteStream] = {}
        self._opened: dict[int, ByteStream] = {}  # live ones that nobody has accepted yet
        self._news = asyncio.Event()
        self._saying = asyncio.Lock()
        self._ended: ChannelError | None = None
        self._over = asyncio.Event()
        self._refusals: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take in what the other end says until it says FINAL. Raises `ChannelError`."""
        error: ChannelError = ConnectionLostError("the other end has finished")
        try:
            while (frame := await self._channel.receive())[0] is not Kind.FINAL:
                self._take(*frame)
        except ChannelError as caught:
            error = caught
            raise
        finally:
            self._ended = error
            self._over.set()
            self._news.set()
            for stream in list(self._live.values()):
                stream.fail(error)
            for task in self._refusals:
                task.cancel()

    async def open(self) -> ByteStream:
        """A new stream. Raises `StreamResetError` if there are too many, `ChannelError` if the channel has ended."""
        if self._ended is not None:
            raise self._ended
        if len(self._live) >= MAX_STREAMS:
            raise StreamResetError(f"more than {MAX_STREAMS} streams")
        stream = self._live[self._next] = ByteStream(self, self._next)
        self._next += 1
        await self.say(Kind.OPEN, stream.number)
        return stream

    async def accept(self) -> ByteStream:
        """The next stream that the other end opens, and has not reset. Raises `ChannelError` if the channel ends."""
        while not self._opened:
            if self._ended is not None:
                raise self._ended
            self._news.clear()
            await self._news.wait()
        return self._opened.pop(next(iter(self._opened)))

    async def ended(self) -> None:
        """Wait for the end of `run`, and raise the `ChannelError` that everything raises from then on."""
        await self._over.wait()
        raise self._ended or ConnectionLostError("the channel has ended")

    async def finish(self) -> None:
        """Nothing more will be said. Raises `ConnectionLostError`."""
        async with self._saying:
            await self._channel.send(Kind.FINAL)

    async def say(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        """One frame about a stream. Raises `ConnectionLostError`."""
        async with self._saying:
            await self._channel.send(kind, number.to_bytes(_ID_BYTES, "big") + payload)

    def forget_if_over(self, stream: ByteStream) -> None:
        """Make room for another stream."""
        if stream.over:
            self._live.pop(stream.number, None)
            self._opened.pop(stream.number, None)

    def _take(self, kind: Kind, payload: bytes) -> None:
        if kind not in (Kind.OPEN, Kind.PUSH, Kind.CREDIT, Kind.END, Kind.RESET) or len(payload) < _ID_BYTES:
            raise TamperedError(f"{kind.name} says nothing of a stream")
        number = int.from_bytes(payload[:_ID_BYTES], "big")
        if kind is Kind.OPEN:
            self._take_open(number)
        elif number >= self._next:
            raise TamperedError("a stream that was never opened")
        elif number in self._live:  # else it was reset, and this was on its way
            self._live[number].take(kind, payload[_ID_BYTES:])

    def _take_open(self, number: int) -> None:
        if self._opens or number != self._next:
            raise TamperedError("a stream that cannot be opened")
        self._next += 1
        if len(self._live) >= MAX_STREAMS:
            task = asyncio.create_task(self._refuse(number))  # never wait to write before the next read
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
            if len(self._refusals) > MAX_STREAMS:
                raise TamperedError("too many streams that are too many")
            return
        self._live[number] = self._opened[number] = ByteStream(self, number)
        self._news.set()

    async def _refuse(self, number: int) -> None:
        try:
            await self.say(Kind.RESET, number)
        except ChannelError:
            return  # `run` sees it, too
