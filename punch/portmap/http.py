"""HTTP with a gateway device: one request per connection, and a bounded response.

The device that answers a search on the local network is untrusted. So the time and the size of the response are
bounded, redirects are not followed, and the client connects to no other host than the one that answered. Existing
libraries for UPnP and HTTP do not limit these.
"""

from __future__ import annotations

import asyncio
import os
import re
from http.client import parse_headers
from io import BytesIO
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, PortMappingError
from punchlab.punch.net.closing import abort_transport

TIMEOUT_S = 3.0
MAX_HEAD = 16_384  # bytes of the status line and the header
MAX_BODY = 262_144  # bytes; descriptions of gateway devices have about 10,000
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,6})[ \t]*(?:;[^\r\n]*)?\r\n")
_PATH = re.compile(r"/[!-~]*")


class DeviceUrl(NamedTuple):
    """An `http://` URL: the `server`, and the path with the query."""

    server: Endpoint
    path: str

    def __str__(self) -> str:
        return f"http://{self.server}{self.path}"

    @classmethod
    def parse(cls, text: str, ip: str) -> DeviceUrl:
        """Parse a URL at the address `ip`. Raises `PortMappingError` for any other URL."""
        try:
            parts = urlsplit(text)
            server = Endpoint.parse(f"{parts.hostname}:{parts.port or 80}")
        except (ValueError, ArgumentError):
            raise PortMappingError(f"{text[:200]!r} is not the URL of a gateway device") from None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.scheme != "http" or server.ip != ip or _PATH.fullmatch(path) is None:
            raise PortMappingError(f"{text[:200]!r} is not at {ip}, the address of the gateway device")
        return cls(server, path)

    def joined(self, reference: str) -> DeviceUrl:
        """Return the URL of a reference in a document at this URL, at the same address. Raises `PortMappingError`."""
        try:
            return self.parse(urljoin(str(self), reference), self.server.ip)
        except ValueError:
            raise PortMappingError(f"{reference[:200]!r} is not the URL of a gateway device") from None


async def ask(url: DeviceUrl, local_ip: str, body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
    """Send a GET, or with a body a POST, from `local_ip`; return status and body of the response.

    `fields` are further header fields, named with `_` instead of `-`. Raises `PortMappingError`.
    """
    head = [
        f"{'GET' if body is None else 'POST'} {url.path} HTTP/1.1",
        f"Host: {url.server}",
        "Connection: close",
        *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()),
        *(() if body is None else (f"Content-Length: {len(body)}",)),
        *("", ""),
    ]
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                *url.server, local_addr=(local_ip, 0), limit=MAX_HEAD, family=url.server.family
            )
            writer.write("\r\n".join(head).encode() + (body or b""))
            return await _answer(reader)
    except TimeoutError:
        raise PortMappingError(f"{url}: no answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise PortMappingError(f"{url}: {os.strerror(error.errno) if error.errno else error}") from None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise PortMappingError(f"{url}: expected the HTTP response of a gateway device") from None
    finally:
        if writer is not None:
            abort_transport(writer.transport)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a response. Raises `ValueError` if it is not HTTP or too long, and the errors of `StreamReader`."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = _STATUS.match(head)
    if status is None:
        raise ValueError("no status line")
    fields = parse_headers(BytesIO(head[status.end() :]))
    if fields.get("Transfer-Encoding", "").strip().lower() == "chunked":
        return int(status[1]), await _chunks(reader)
    length = fields.get("Content-Length")
    if length is None:
        return int(status[1]), await _to_the_end(reader)
    if not (length.isascii() and length.isdigit() and len(length) <= 9 and int(length) <= MAX_BODY):
        raise ValueError("invalid Content-Length, or too long")
    return int(status[1]), await reader.readexactly(int(length))


async def _to_the_end(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while data := await reader.read(MAX_HEAD):
        body += data
        if len(body) > MAX_BODY:
            raise ValueError("too long")
    return body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """RFC 9112 section 7.1; trailers are not read."""
    body = b""
    while True:
        size = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
        if size is None or len(body) + int(size[1], 16) > MAX_BODY:
            raise ValueError("invalid chunk, or too long")
        if int(size[1], 16) == 0:
            return body
        body += (await reader.readexactly(int(size[1], 16) + 2))[:-2]
