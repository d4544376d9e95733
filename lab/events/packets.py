"""Encode and decode Ethernet frames with TCP and UDP over IPv4. Takes microseconds per packet."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_TCP, _UDP = struct.Struct("!HHIIBBHHH"), struct.Struct("!HHHH")
_ETHERTYPE_IPV4, _DONT_FRAGMENT, _TTL, _WINDOW = 0x0800, 0x4000, 64, 65535
_SEQUENCES = 0xFFFFFFFF

Endpoint = tuple[bytes, int]
"""A packed IPv4 address and a port."""


@dataclass(frozen=True, slots=True)
class Received:
    """A TCP segment. `end` is the sequence number after it."""

    source: Endpoint
    destination: Endpoint
    flags: int
    acknowledgment: int
    end: int


def tcp(
    macs: tuple[bytes, bytes], source: Endpoint, destination: Endpoint, flags: int, numbers: tuple[int, int]
) -> bytes:
    """Return a segment without data. `macs`: destination, source; `numbers`: sequence, acknowledgment."""
    header = _TCP.pack(source[1], destination[1], *numbers, _TCP.size // 4 << 4, flags, _WINDOW, 0, 0)
    checksum = _transport_checksum(source, destination, socket.IPPROTO_TCP, header)
    return _framed(macs, source, destination, socket.IPPROTO_TCP, header[:16] + checksum + header[18:])


def udp(macs: tuple[bytes, bytes], source: Endpoint, destination: Endpoint) -> bytes:
    """Return a datagram of one byte."""
    length = _UDP.size + 1
    header, data = _UDP.pack(source[1], destination[1], length, 0), b"?"
    checksum = _transport_checksum(source, destination, socket.IPPROTO_UDP, header + data)
    return _framed(macs, source, destination, socket.IPPROTO_UDP, header[:6] + checksum + data)


def read_tcp(frame: bytes) -> Received | None:
    """Return the TCP segment in an IPv4 frame, or None for any other frame."""
    if len(frame) < _ETHERNET.size + _IPV4.size:
        return None
    versioned, _tos, total, _id, _fragment, _ttl, protocol, _sum, source, destination = _IPV4.unpack_from(
        frame, _ETHERNET.size
    )
    start = _ETHERNET.size + (versioned & 0x0F) * 4
    if protocol != socket.IPPROTO_TCP or len(frame) < start + _TCP.size:
        return None
    source_port, destination_port, sequence, acknowledgment, offset, flags, *_rest = _TCP.unpack_from(frame, start)
    payload = _ETHERNET.size + total - start - (offset >> 4) * 4
    end = sequence + payload + bool(flags & SYN) + bool(flags & FIN)
    return Received((source, source_port), (destination, destination_port), flags, acknowledgment, end & _SEQUENCES)


def _framed(macs: tuple[bytes, bytes], source: Endpoint, destination: Endpoint, protocol: int, content: bytes) -> bytes:
    fields = (0x45, 0, _IPV4.size + len(content), 0, _DONT_FRAGMENT, _TTL, protocol)
    addresses = (source[0], destination[0])
    checksum = _checksum(_IPV4.pack(*fields, 0, *addresses))
    return _ETHERNET.pack(*macs, _ETHERTYPE_IPV4) + _IPV4.pack(*fields, checksum, *addresses) + content


def _transport_checksum(source: Endpoint, destination: Endpoint, protocol: int, content: bytes) -> bytes:
    pseudo_header = struct.pack("!4s4sHH", source[0], destination[0], protocol, len(content))
    # Zero would mean that there is no checksum (RFC 768).
    return (_checksum(pseudo_header + content) or 0xFFFF).to_bytes(2)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return 0xFFFF - (total + (total >> 16) & 0xFFFF)
