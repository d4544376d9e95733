"""Encode and decode netlink messages (netlink(7)): the header and the attributes that all netlink families share.

It imports only the standard library, because helper processes use it that must start at once.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NETFILTER = 12
ERROR, DONE = 2, 3
REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
NETFILTER_HEADER = struct.Struct("=BBH")  # nfgenmsg: family, version, resource (big-endian)
_CODE = struct.Struct("=i")  # nlmsgerr: negative errno, 0 for an acknowledgment
_TYPE_MASK = 0x3FFF
_ANSWER_BYTES = 1 << 16


def open_socket(protocol: int) -> socket.socket:
    """Return a netlink socket of this thread's network namespace. `protocol`: NETLINK_ROUTE or `NETFILTER`."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """Return a request."""
    return HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """Return an attribute, padded to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def text(kind: int, value: str) -> bytes:
    """Return an attribute with a null-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, sequence, body) of every message in received data."""
    offset = 0
    while offset < len(data):
        length, kind, _flags, sequence, _port = HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """Return type -> payload of the attributes from byte `start` on."""
    found = {}
    while start < len(body):
        length, kind = ATTRIBUTE.unpack_from(body, start)
        found[kind & _TYPE_MASK] = body[start + ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return found


def find(data: bytes | bytearray, start: int, end: int, wanted: int) -> bytes | None:
    """Return the payload of the first attribute of the type between two offsets, or None."""
    while start < end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if kind == wanted:
            return bytes(data[start + ATTRIBUTE.size : start + length])
        start += (length + 3) & ~3
    return None


def error_code(body: bytes) -> int:
    """Return the errno of an `ERROR` message, 0 for an acknowledgment."""
    return -int(_CODE.unpack_from(body)[0])


def request(channel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Send one request and wait for its acknowledgment. Raises OSError if the kernel rejects it."""
    channel.send(message(kind, flags | ACK, body))
    ((answer, _sequence, content),) = messages(channel.recv(_ANSWER_BYTES))
    code = error_code(content)
    if answer != ERROR or code:
        raise OSError(code, os.strerror(code))
