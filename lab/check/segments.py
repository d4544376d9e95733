"""Send and receive hand-made TCP segments at nodes of a lab, which the kernel's TCP would not send on request.

A `RawTcp` is one address of a node. The node's kernel does not know these connections and would reset them; a rule in
the node drops its RSTs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Self

from punchlab.lab.check.waiting import within
from punchlab.lab.process.node import Node

_SO_MARK, _OURS = 36, 0x5382
_HEADER = struct.Struct("!HHIIBBHHH")
_WINDOW, _NO_OPTIONS = 65535, 5 << 4
SILENCE_S = 1.0
"""A packet that does not arrive within this time is lost: the labs of these tests have no delay."""
PATIENCE_S = 6.0
"""How long to retransmit packets that must arrive. The machine may be busy, and a NAT that draws a port in use drops
the packet, so that its retransmission draws again.
"""

Address = tuple[str, int]


class Flag(IntFlag):
    """TCP flags."""

    FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A received segment. `packet` is the whole IP packet."""

    source: Address
    flags: Flag
    sequence: int
    acknowledgment: int
    packet: bytes


class RawTcp:
    """Sends and receives segments for one address of a node. Use it in one event loop, as a context manager."""

    def __init__(self, node: Node, address: str) -> None:
        self.address = address
        with node.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, _OURS)
        self._socket.bind((address, 0))
        self._received: dict[int, asyncio.Queue[Segment]] = {}

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    async def __aexit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def send(self, port: int, to: Address, flags: Flag, sequence: int, acknowledgment: int, data: bytes = b"") -> None:
        """Send one segment from the port."""
        fields = port, to[1], sequence, acknowledgment, _NO_OPTIONS, flags, _WINDOW
        segment = _HEADER.pack(*fields, 0, 0) + data
        pseudo = socket.inet_aton(self.address) + socket.inet_aton(to[0]) + struct.pack("!HH", 6, len(segment))
        segment = _HEADER.pack(*fields, checksum(pseudo + segment), 0) + data
        self._socket.sendto(segment, (to[0], 0))

    async def receive(self, port: int, flags: Flag) -> Segment | None:
        """Return the next segment to the port with exactly these flags (except PSH), or None after `SILENCE_S`."""
        return await within(SILENCE_S, self._next(port, flags))

    async def _next(self, port: int, flags: Flag) -> Segment:
        queue = self._received.setdefault(port, asyncio.Queue())
        while True:
            segment = await queue.get()
            if segment.flags & ~Flag.PSH == flags & ~Flag.PSH:
                return segment

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (source, _zero) = self._socket.recvfrom(65535)
                start = 4 * (packet[0] & 0xF)
                from_port, port, sequence, acknowledgment, _length, flags, *_ = _HEADER.unpack_from(packet, start)
                segment = Segment((source, from_port), Flag(flags & 0x1F), sequence, acknowledgment, packet)
                self._received.setdefault(port, asyncio.Queue()).put_nowait(segment)


class Conversation:
    """A TCP connection between an inside host and a server, sent segment by segment.

    `external` is the external endpoint of the inside host, once the server has received a segment.
    """

    def __init__(self, inside: RawTcp, inside_port: int, server: RawTcp, server_port: int) -> None:
        self._inside, self._inside_port = inside, inside_port
        self._server, self._server_port = server, server_port
        self.external: Address | None = None
        # Sequence numbers of the inside host and of the server: that of the SYN, and the next one.
        self._first = [_initial(), _initial()]
        self._next = list(self._first)

    async def out(self, flags: Flag, data: bytes = b"") -> Segment | None:
        """Send from inside and retransmit until the server receives it. Return the received segment."""
        send = self._sender(self._inside, self._inside_port, (self._server.address, self._server_port), 0, flags, data)
        received = await _until_received(send, lambda: self._server.receive(self._server_port, flags))
        if received is not None:
            self.external = received.source
        return received

    async def back(self, flags: Flag, data: bytes = b"", *, must: bool = False) -> Segment | None:
        """Send from the server to the external endpoint. Return the segment that the inside host receives, or None.

        With `must`, retransmit until it arrives.
        """
        if self.external is None:
            return None
        send = self._sender(self._server, self._server_port, self.external, 1, flags, data)
        if must:
            return await _until_received(send, lambda: self._inside.receive(self._inside_port, flags))
        send()
        return await self._inside.receive(self._inside_port, flags)

    async def establish(self) -> bool:
        """Perform the three-way handshake."""
        return all(
            [await self.out(Flag.SYN), await self.back(Flag.SYN | Flag.ACK, must=True), await self.out(Flag.ACK)]
        )

    def renumber(self) -> None:
        """Use a new initial sequence number for the server's next SYN."""
        self._first[1] = self._next[1] = _initial()

    def _sender(self, end: RawTcp, port: int, to: Address, side: int, flags: Flag, data: bytes) -> Callable[[], None]:
        sequence = self._first[side] if flags & Flag.SYN else self._next[side]
        acknowledgment = self._next[1 - side] if flags & Flag.ACK else 0
        self._next[side] = sequence + len(data) + bool(flags & (Flag.SYN | Flag.FIN))
        return lambda: end.send(port, to, flags, sequence, acknowledgment, data)


async def _until_received(send: Callable[[], None], receive: Callable[[], Awaitable[Segment | None]]) -> Segment | None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        send()
        if (received := await receive()) is not None:
            return received
    return None


def block_resets(nodes: Sequence[Node]) -> None:
    """Drop all RSTs that the kernels of these nodes send."""
    for node in nodes:
        rule = ["-p", "tcp", "--tcp-flags", "RST", "RST", "-m", "mark", "!", "--mark", hex(_OURS), "-j", "DROP"]
        node.run(["iptables", "-A", "OUTPUT", *rule])


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _initial() -> int:
    return int.from_bytes(os.urandom(3), "big")
