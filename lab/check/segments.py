"""TCP segments made by hand, sent and heard at the nodes of a lab: what no kernel's TCP would send when it is wanted.

A `RawTcp` is one address of a node. The node's own TCP knows nothing of these conversations and would end them with
RSTs; a rule in the node keeps those in.
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
"""What may be lost and does not come for so long is: the labs of such tests have no delay."""
PATIENCE_S = 6.0
"""How long to send again what must come through: a busy machine is slow, and a NAT that draws a port which is taken
drops the packet, so that its retransmission draws again."""

Address = tuple[str, int]


class Flag(IntFlag):
    """The TCP flags that matter here."""

    FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as it came: `packet` is the whole IP packet."""

    source: Address
    flags: Flag
    sequence: int
    acknowledgment: int
    packet: bytes


class RawTcp:
    """Segments from and to one address of a node. Use it inside one event loop, and as a context manager."""

    def __init__(self, node: Node, address: str) -> None:
        self.address = address
        with node.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, _OURS)
        self._socket.bind((address, 0))
        self._heard: dict[int, asyncio.Queue[Segment]] = {}

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

    async def hear(self, port: int, flags: Flag) -> Segment | None:
        """The next segment to the port with exactly these flags (PSH aside); None if there is silence."""
        return await within(SILENCE_S, self._next(port, flags))

    async def _next(self, port: int, flags: Flag) -> Segment:
        queue = self._heard.setdefault(port, asyncio.Queue())
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
                self._heard.setdefault(port, asyncio.Queue()).put_nowait(segment)


class Conversation:
    """TCP between an inside host and a server, segment by segment, through whatever is in between.

    `external` is where the server sees the inside end, once it has heard of it.
    """

    def __init__(self, inside: RawTcp, inside_port: int, server: RawTcp, server_port: int) -> None:
        self._inside, self._inside_port = inside, inside_port
        self._server, self._server_port = server, server_port
        self.external: Address | None = None
        # Sequence numbers of the inside end and of the server: that of the SYN, and the next one.
        self._first = [_initial(), _initial()]
        self._next = list(self._first)

    async def out(self, flags: Flag, data: bytes = b"") -> Segment | None:
        """Send from inside, and again until it is heard; what the server hears of it."""
        send = self._sender(self._inside, self._inside_port, (self._server.address, self._server_port), 0, flags, data)
        heard = await _until_heard(send, lambda: self._server.hear(self._server_port, flags))
        if heard is not None:
            self.external = heard.source
        return heard

    async def back(self, flags: Flag, data: bytes = b"", *, must: bool = False) -> Segment | None:
        """Send from the server to where it has seen the inside end; what the inside end hears of it.

        Once, or if it `must` come through again until it is heard.
        """
        if self.external is None:
            return None
        send = self._sender(self._server, self._server_port, self.external, 1, flags, data)
        if must:
            return await _until_heard(send, lambda: self._inside.hear(self._inside_port, flags))
        send()
        return await self._inside.hear(self._inside_port, flags)

    async def establish(self) -> bool:
        """The three-way handshake."""
        return all(
            [await self.out(Flag.SYN), await self.back(Flag.SYN | Flag.ACK, must=True), await self.out(Flag.ACK)]
        )

    def renumber(self) -> None:
        """The server's next SYN is that of a new connection."""
        self._first[1] = self._next[1] = _initial()

    def _sender(self, end: RawTcp, port: int, to: Address, side: int, flags: Flag, data: bytes) -> Callable[[], None]:
        sequence = self._first[side] if flags & Flag.SYN else self._next[side]
        acknowledgment = self._next[1 - side] if flags & Flag.ACK else 0
        self._next[side] = sequence + len(data) + bool(flags & (Flag.SYN | Flag.FIN))
        return lambda: end.send(port, to, flags, sequence, acknowledgment, data)


async def _until_heard(send: Callable[[], None], hear: Callable[[], Awaitable[Segment | None]]) -> Segment | None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        send()
        if (heard := await hear()) is not None:
            return heard
    return None


def keep_resets_in(nodes: Sequence[Node]) -> None:
    """Let no RST leave these nodes but those made here."""
    for node in nodes:
        rule = ["-p", "tcp", "--tcp-flags", "RST", "RST", "-m", "mark", "!", "--mark", hex(_OURS), "-j", "DROP"]
        node.run(["iptables", "-A", "OUTPUT", *rule])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _initial() -> int:
    return int.from_bytes(os.urandom(3), "big")
