"""Helper process of a NAT that answers unsolicited SYNs after a delay (RFC 5382 REQ-4), which rules cannot do.

Rules send every unsolicited SYN to an NFQUEUE. This process holds it for the delay. If a SYN of the same connection
leaves meanwhile, it is a simultaneous open, and the held SYN is dropped. Otherwise the SYN goes through its chain again
with a mark, and a rule answers it with an ICMP error. Retransmissions of a held SYN are dropped. Without this process
the queue has no reader, and every unsolicited SYN is dropped.

It runs in the NAT's node, prints `ready` when it is ready, and exits when its standard input is closed:

    python3 -m punchlab.lab.nat.silence --outside wan0

It imports only the standard library to start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence

from punchlab.lab.kernel import nfnetlink
from punchlab.lab.nat.site import OVERDUE, QUEUE

MOST_HELD = 4096
"""The maximum number of held SYNs, to bound memory under a flood. Further SYNs are dropped."""

_HEADERS = 80
"""The bytes of a packet that include its IP header with options and its TCP ports."""

_ETH_P_ALL, _SO_ATTACH_FILTER, _OUTGOING = 3, 26, 4
# The tcpdump filter 'outbound and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn', extended to IPv6. On a cooked socket,
# a packet starts with its IP header.
_OUTGOING_SYNS = (
    (0x20, 0, 0, 0xFFFFF004),  # ld [type of packet]
    (0x15, 0, 16, _OUTGOING),
    (0x30, 0, 0, 0),  # ldb [IP version]
    (0x54, 0, 0, 0xF0),
    (0x15, 8, 0, 0x60),
    (0x15, 0, 12, 0x40),
    (0x30, 0, 0, 9),  # IPv4: ldb [protocol]
    (0x15, 0, 10, socket.IPPROTO_TCP),
    (0x28, 0, 0, 6),  # ldh [fragment offset]
    (0x45, 8, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # ldx the length of the IP header
    (0x50, 0, 0, 13),  # ldb [x + TCP flags]
    (0x05, 0, 0, 3),
    (0x30, 0, 0, 6),  # IPv6: ldb [next header]
    (0x15, 0, 3, socket.IPPROTO_TCP),
    (0x30, 0, 0, 53),  # ldb [TCP flags]
    (0x54, 0, 0, 0x12),  # and SYN, ACK
    (0x15, 1, 0, 0x02),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, _HEADERS),  # keep
)

Connection = tuple[bytes, bytes]
"""Source and destination, each an address and a port in network byte order."""


class Held:
    """Held SYNs by connection, in the order of their due times."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._waiting: dict[Connection, tuple[float, int]] = {}

    def add(self, connection: Connection, packet_id: int, now: float) -> bool:
        """Hold a SYN. Return False if it must be dropped instead."""
        if connection in self._waiting or len(self._waiting) >= MOST_HELD:
            return False
        self._waiting[connection] = now + self._silence_s, packet_id
        return True

    def cancel(self, outgoing: Connection) -> int | None:
        """Remove and return the held SYN that forms a simultaneous open with this outgoing SYN, or None."""
        source, destination = outgoing
        _due, packet_id = self._waiting.pop((destination, source), (0.0, None))
        return packet_id

    def overdue(self, now: float) -> Iterator[int]:
        """Remove and yield the packets that are due."""
        while self._waiting and self.next_due <= now:
            connection = next(iter(self._waiting))
            yield self._waiting.pop(connection)[1]

    @property
    def next_due(self) -> float:
        """When the next packet is due, infinity if none is held."""
        return next(iter(self._waiting.values()))[0] if self._waiting else float("inf")


def connection_of(packet: bytes) -> Connection:
    """Return the connection of an IP packet that contains TCP."""
    if packet[0] >> 4 == 6:
        return packet[8:24] + packet[40:42], packet[24:40] + packet[42:44]
    tcp = 4 * (packet[0] & 0xF)
    return packet[12:16] + packet[tcp : tcp + 2], packet[16:20] + packet[tcp + 2 : tcp + 4]


def serve(outside: str, silence_s: float) -> None:
    """Hold unsolicited SYNs until standard input ends. Raises OSError."""
    held, buffer = Held(silence_s), bytearray(1 << 16)
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(nfnetlink.open_queue(QUEUE, lengths=False, whole=True, payload=_HEADERS))
        queue.setblocking(False)
        leaving = stack.enter_context(_outgoing_syns(outside))
        poll = select.poll()
        for fd in (sys.stdin.fileno(), queue.fileno(), leaving.fileno()):
            poll.register(fd, select.POLLIN)
        print("ready", flush=True)
        while True:
            wait_s = held.next_due - time.monotonic()
            ready = {fd for fd, _ in poll.poll(None if wait_s == float("inf") else max(0, int(wait_s * 1000) + 1))}
            if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1):
                return
            # Read incoming SYNs before outgoing ones of the same connection.
            with contextlib.suppress(BlockingIOError):
                while size := queue.recv_into(buffer):
                    packet_id = nfnetlink.packet_id(buffer)
                    if packet_id is None:
                        continue
                    connection = connection_of(nfnetlink.packet_payload(buffer, size))
                    if not held.add(connection, packet_id, time.monotonic()):
                        queue.send(nfnetlink.verdicts(QUEUE, nfnetlink.NF_DROP, [packet_id]))
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet_id = held.cancel(connection_of(leaving.recv(_HEADERS)))
                    if packet_id is not None:
                        queue.send(nfnetlink.verdicts(QUEUE, nfnetlink.NF_DROP, [packet_id]))
            for packet_id in held.overdue(time.monotonic()):
                queue.send(nfnetlink.repeat(QUEUE, packet_id, OVERDUE))


def _outgoing_syns(interface: str) -> socket.socket:
    """Return a packet socket that receives every SYN that leaves the interface, after translation."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in _OUTGOING_SYNS))
    made.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_OUTGOING_SYNS), ctypes.addressof(program))
    )
    # The kernel passes outgoing packets only to sockets for all protocols.
    made.bind((interface, _ETH_P_ALL))
    return made


def main(words: Sequence[str]) -> int:
    """Run the command. argparse is imported late, because it takes as long as all other imports."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python3 -m punchlab.lab.nat.silence", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--outside", required=True, metavar="IF", help="the NAT's outside interface")
    parser.add_argument("--silence", type=float, default=6.0, metavar="S", help="how long to hold a SYN (default 6)")
    given = parser.parse_args(words)
    serve(given.outside, given.silence)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
