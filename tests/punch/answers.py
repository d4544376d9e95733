"""Invalid answers of a server to a WebSocket request, and a server that sends them.

`ANSWERS` maps names to functions that get the request and the connection, which is closed after them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import struct
import threading
import weakref
import zlib
from collections.abc import Awaitable, Callable
from typing import Self

from punchlab.punch.net.closing import abort_transport, close_by_reset

Answer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_FLOOD = 32 << 20  # bytes; more than a reader may keep
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def accept(request: bytes, *more: bytes) -> bytes:
    """Return the correct response to the request, with additional header lines."""
    lines = request.split(b"\r\n")
    key = next((line for line in lines if line.lower().startswith(b"sec-websocket-key:")), b":")  # plain HTTP has none
    digest = hashlib.sha1(key.split(b":", 1)[1].strip() + _GUID, usedforsecurity=False).digest()
    lines = [b"Sec-WebSocket-Accept: " + base64.b64encode(digest), *more]
    return ACCEPTED + b"\r\n".join(lines) + b"\r\n\r\n"


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a WebSocket frame of a server (RFC 6455 section 5.2)."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    return head + b"\x7e" + struct.pack("!H", len(payload)) + payload


def says(*parts: bytes) -> Answer:
    """Answer with these bytes, and close."""

    async def answer(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(parts)
        await writer.drain()

    return answer


def http(status: str, *headers: str, body: bytes = b"") -> Answer:
    """Answer with an HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return says("\r\n".join(lines).encode(), body)


def accepts(*frames: bytes, heard: int = 0, header: bytes = b"", stays: bool = True) -> Answer:
    """Accepts the WebSocket; sends all `frames` but the last, each after `heard` reads, and then the last.

    Then waits until the other end closes, or closes at once.
    """

    async def answer(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accept(request, *((header,) if header else ())))
        for each in frames:
            for _ in range(heard):
                await reader.read(65_536)
            writer.write(each)
        await writer.drain()
        if stays:
            await reader.read(-1)

    return answer


def endless(first: bytes, block: bytes, *, accepted: bool = False) -> Answer:
    """Send `first`, and then `block` repeatedly, up to `_FLOOD` bytes."""

    async def answer(request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((accept(request) if accepted else b"") + first)
        for _ in range(_FLOOD // len(block)):
            writer.write(block)
            await writer.drain()

    return answer


def drips(text: bytes, pause_s: float = 0.2) -> Answer:
    """Send the bytes one by one, and then the last one forever."""

    async def answer(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in itertools.chain(text, itertools.repeat(text[-1])):
            writer.write(bytes([each]))
            await writer.drain()
            await asyncio.sleep(pause_s)

    return answer


async def silence(_request: bytes, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def reset(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    close_by_reset(writer.get_extra_info("socket"), True)
    abort_transport(writer.transport)


async def redirect_to_itself(request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"host:")).split(b":", 1)[1].strip()
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://%s/\r\nContent-Length: 0\r\n\r\n" % host)


def _deflated() -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(bytes(1 << 22)) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_CHUNKED = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
_REDIRECTS = {
    "relative": "/elsewhere",
    "absolute": "ws://127.0.0.9:9/",
    "http": "http://127.0.0.9/",
    "port": "ws://127.0.0.1:99999/",
    "bracket": "ws://[::1/",
    "empty": "",
    "control": "ws://127.0.0.1/\x1b[31m",
    "user": "ws://user:secret@127.0.0.9:9/",
}

NO_WEBSOCKET: dict[str, Answer] = {
    **{
        f"{status}-{name}": http(f"{status} Moved", f"Location: {where}")
        for status in (301, 302, 307, 308)
        for name, where in _REDIRECTS.items()
        if status == 302 or name in ("relative", "absolute")
    },
    "302-loop": redirect_to_itself,
    "302-twice": http("302 Found", "Location: /a", "Location: /b"),
    "302-nowhere": http("302 Found"),
    "300": http("300 Multiple Choices", "Location: /"),
    "303": http("303 See Other", "Location: /"),
    **{str(status): http(f"{status} No", body=b"no\n") for status in (200, 204, 304, 401, 403, 404, 429, 500, 503)},
    "401-basic": http("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'),
    "403-escapes": http("403 Forbidden", body=b"\x1b]0;owned\x07\xe2\x80\xaeevil\n"),
    "403-latin": http("403 Forbidden", body=b"\xff\xfe\xfd"),
    "999": http("999 What"),
    "negative": http("-1 What"),
    "digits": says(b"HTTP/1.1 " + b"9" * 5000 + b" x\r\n\r\n"),
    "http09": says(b"<html>hello</html>"),
    "http10": says(b"HTTP/1.0 200 OK\r\n\r\nhello"),
    "http2": says(b"HTTP/2 200\r\n\r\n"),
    "line-feeds": says(b"HTTP/1.1 200 OK\n\n"),
    "nothing": says(),
    "binary": says(bytes(range(256)) * 40),
    "zeros": says(bytes(20_000)),
    "ssh": says(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "tls-alert": says(b"\x15\x03\x01\x00\x02\x02\x46"),
    "long-line": says(b"HTTP/1.1 200 " + b"x" * 100_000),
    "long-header": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
    "many-headers": says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n"),
    "bad-header": says(b"HTTP/1.1 200 OK\r\nX y\r\n\r\n"),
    "escape-header": says(b"HTTP/1.1 101 \x1b[31m\r\nX: y\r\n\r\n"),
    "content-length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
    "content-lengths": says(b"HTTP/1.1 403 No\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "content-length-huge": says(b"HTTP/1.1 403 No\r\nContent-Length: 99999999999999999\r\n\r\nhello"),
    "content-length-digits": says(b"HTTP/1.1 403 No\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello"),
    "content-encoding": http("403 Forbidden", "Content-Encoding: gzip", body=zlib.compress(bytes(1 << 22))),
    "chunks": says(_CHUNKED, _chunk(b"no"), b"0\r\n\r\n"),
    "chunk-size": says(_CHUNKED, b"zz\r\nno\r\n"),
    "chunk-size-digits": says(_CHUNKED, b"f" * 5000 + b"\r\nno\r\n"),
    "transfer-encoding": says(b"HTTP/1.1 403 No\r\nTransfer-Encoding: \xff\r\n\r\n"),
    "cut-short": says(b"HTTP/1.1 403 Forb"),
    "body-cut-short": says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nno"),
    "reset": reset,
    "101-no-accept": says(ACCEPTED, b"\r\n"),
    "101-wrong-accept": says(ACCEPTED, b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"),
    "101-two-accepts": says(ACCEPTED, b"Sec-WebSocket-Accept: AAAA\r\nSec-WebSocket-Accept: BBBB\r\n\r\n"),
    "101-no-upgrade": says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "101-bad-upgrade": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: \xff,,;\r\nConnection: \x7f\r\n\r\n"),
    "101-extension": accepts(header=b"Sec-WebSocket-Extensions: permessage-deflate"),
    "101-protocol": accepts(header=b"Sec-WebSocket-Protocol: chat"),
    "101-body": says(b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 5\r\n\r\nhello"),
    "100-continue": says(b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    "endless-line": endless(b"HTTP/1.1 200 ", b"x" * 65_536),
    "endless-headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "endless-body": endless(b"HTTP/1.1 403 Forbidden\r\n\r\n", bytes(65_536)),
    "endless-chunks": endless(_CHUNKED, _chunk(b"x" * 65_536)),
    "drip": drips(b"HTTP/1.1 200 OK\r\nX: y"),
    "silence": silence,
}
"""Answers that do not open a WebSocket."""


def _close(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, 8)


BAD: dict[str, bytes] = {
    "compressed": frame(_deflated()[:60_000], rsv=4),
    "garbage": bytes(range(256)) * 40,
    "opcode": frame(b"x", 5),
    "masked": b"\x81\x85abcdhello",
    "rsv": frame(b"x", rsv=7),
    "huge": b"\x81\x7f" + b"\x00\x00\xff\xff\xff\xff\xff\xff",
    "negative": b"\x81\x7f" + b"\xff" * 8,
    "too-long": frame(b"x" * 60_000),
    "not-utf8": frame(b"\xff\xfe\xfd"),
    "continuation": frame(b"x", 0),
    "two-beginnings": frame(b"x", fin=False) * 2,
    "long-ping": frame(b"x" * 200, 9),
    "split-ping": frame(b"x", 9, fin=False),
    "empty": frame(b""),
    "json": frame(b'{"type": 5}'),
    "escapes": frame('{"type": "\x1b]0;owned\x07\u202eevil"}'.encode()),
    "nested": frame(b"[" * 4000),
    "number": frame(b'{"type":"welcome","x":' + b"9" * 4000 + b"}"),
    "nan": frame(b'{"type":"welcome","edge":NaN,"public":Infinity}'),
    "surrogate": frame(b'{"type":"\\ud800","edge":"\\udfff"}'),
    "close-one-byte": frame(b"x", 8),
    **{f"close-{code}": _close(code) for code in (0, 999, 1005, 1006, 1015, 2999, 65535)},
    "close-not-utf8": _close(1008, b"\xff\xfe"),
    "close-escapes": _close(1008, b"\x1b]0;owned\x07\xe2\x80\xae"),
    "fragments": frame(b"", fin=False) + frame(b"", 0, fin=False) * 100_000,
    "messages": frame(b"x" * 100) * 5000,
}
"""Messages that no edge sends over a WebSocket; each ends the session."""

LOST: dict[str, Answer] = {
    "end": accepts(stays=False),
    "end-after-frame": accepts(frame(b"{}"), stays=False),
    "close-empty": accepts(frame(b"", 8)),
    "close-4999": accepts(_close(4999)),
    "close-1001": accepts(_close(1001)),
    "pings": endless(b"", frame(b"x" * 125, 9) * 500, accepted=True),
}
"""Answers that end the connection, after which another edge may succeed."""


class Server:
    """Gives the same answer to every connection, at `port` of 127.0.0.1 (and ::1)."""

    def __init__(self, server: asyncio.Server, requests: list[bytes]) -> None:
        self.requests = requests
        self.port: int = server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"


class Servers:
    """Runs servers in a thread within the `with` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def answering(self, answer: Answer, host: str = "127.0.0.1", port: int = 0, *, asked: bool = True) -> Server:
        """Start a new server. With `asked` it waits for a request before it answers."""
        return asyncio.run_coroutine_threadsafe(self._serve(answer, host, port, asked), self._loop).result()

    async def _serve(self, answer: Answer, host: str, port: int, asked: bool) -> Server:
        requests: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                request = await reader.readuntil(b"\r\n\r\n") if asked else b""
                requests.append(request)
                await answer(request, reader, writer)
                if not writer.transport.is_closing():
                    writer.write_eof()  # closing with unread data would send a RST
                    async with asyncio.timeout(1):
                        await reader.read()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._transports.add(writer.transport)
            task = asyncio.ensure_future(serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(connected, host, port)
        self._servers.append(server)
        return Server(server, requests)

    async def _end(self) -> None:
        # A closed server leaves connections open that asyncio has accepted without creating a transport.
        for sock in (each for server in self._servers for each in server.sockets):
            self._loop.remove_reader(sock.fileno())
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        for server in self._servers:
            server.close()
        for transport in self._transports:
            abort_transport(transport)  # unread data would keep it open
        await asyncio.sleep(0)  # a transport closes in the next iteration of the loop
