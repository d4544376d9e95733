"""Generate captures of floods between two hosts behind NATs, without a network.

A client can send such packets to slow the analysis down. The size of each capture is proportional to `count`.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Mapping, Sequence

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange import HostPair, HostSide

PAIR = HostPair(
    HostSide("a", ("nat_a",), frozenset({"11.0.1.2"})),
    HostSide("b", ("nat_b",), frozenset({"11.0.2.2"})),
    edges={"edge1": frozenset({"11.16.0.2"})},
)
WAYS = frozenset({("nat_a", "nat_b")})
"""The NATs on the only path between the hosts."""

_FIN_ACK, _SYN, _RST, _RST_ACK, _SYN_ACK = 0x11, 0x02, 0x04, 0x14, 0x12
_TCP, _UDP, _ICMP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP
_START_NS, _GAP_NS = 1_800_000_000_000_000_000, 1000

# ">": the node sends the frame; "<": the node receives it.
_FORTH = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "nat_b-eth0<", "nat_b-eth1>", "b-eth0<")
_BACK = ("b-eth0>", "nat_b-eth1<", "nat_b-eth0>", "nat_a-eth0<", "nat_a-eth1>", "a-eth0<")
_TO_EDGE = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "edge1-eth0<")
_TO_GATEWAY, _FROM_GATEWAY = ("a-eth0>", "nat_a-eth1<"), ("nat_a-eth1>", "a-eth0<")
_A, _OUT_A, _B, _OUT_B, _GATEWAY = "192.168.1.2", "11.0.1.2", "192.168.2.2", "11.0.2.2", "192.168.1.1"


class _Tape:
    """Frames, 1 microsecond apart."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def show(self, place: str, data: bytes) -> None:
        """Add a frame at a place."""
        interface, time_ns = place[:-1], _START_NS + _GAP_NS * len(self.frames)
        node = interface.rpartition("-")[0]
        self.frames.append(Frame(time_ns, node, interface, place[-1] == ">", data, len(data)))

    def carry(self, places: Sequence[str], data: bytes) -> None:
        """Add a packet that no NAT changes, at each place."""
        for place in places:
            self.show(place, data)

    def between(
        self, flags: int, sequence: int, acknowledgment: int = 0, *, port: int = 2000, number: int = 0, forth: bool
    ) -> None:
        """Add a segment between the hosts through both NATs, which preserve ports; `port` is the port of a."""
        legs = (
            ((_A, _OUT_B), (_OUT_A, _OUT_B), (_OUT_A, _B)) if forth else ((_OUT_A, _B), (_OUT_A, _OUT_B), (_A, _OUT_B))
        )
        for place, (left, right) in zip(
            _FORTH if forth else _BACK, (leg for leg in legs for _ in range(2)), strict=True
        ):
            one, other = (left, port), (right, 6000)
            ends = (*one, *other) if forth else (*other, *one)
            self.show(place, _segment(*ends, flags, sequence, acknowledgment, number))


def _segment(
    source: str,
    source_port: int,
    destination: str,
    destination_port: int,
    flags: int,
    sequence: int,
    acknowledgment: int = 0,
    number: int = 0,
) -> bytes:
    """Return the frame of a TCP segment over IPv4; numbers are reduced to the size of their fields."""
    ports = source_port % 65536, destination_port % 65536
    numbers = sequence % (1 << 32), acknowledgment % (1 << 32)
    return _packet(source, destination, _TCP, struct.pack("!HHIIBBHHH", *ports, *numbers, 0x50, flags, 0, 0, 0), number)


def _packet(source: str, destination: str, protocol: int, content: bytes, number: int = 0) -> bytes:
    addresses = socket.inet_aton(source), socket.inet_aton(destination)
    length = 20 + len(content)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, number % 65536, 0, 64, protocol, 0, *addresses)
    return bytes(12) + b"\x08\x00" + header + content


def _syns_to_a_closed_port(tape: _Tape, count: int) -> None:
    for number in range(count):
        tape.carry(_TO_GATEWAY, _segment(_A, 5555, _GATEWAY, 9, _SYN, 1000, number=number))
        tape.carry(_FROM_GATEWAY, _segment(_GATEWAY, 9, _A, 5555, _RST_ACK, 0, 1001))


def _equal_syns(tape: _Tape, count: int) -> None:
    for _ in range(count):
        tape.carry(_TO_GATEWAY, _segment(_A, 5555, _GATEWAY, 9, _SYN, 1000))


def _equal_syns_that_are_in_flight_at_once(tape: _Tape, count: int) -> None:
    data = _segment(_A, 5555, _OUT_B, 9, _SYN, 1000)
    for place in _FORTH:
        for _ in range(count):
            tape.show(place, data)


def _equal_syns_in_any_order(tape: _Tape, count: int) -> None:
    rng, data = random.Random(count), _segment(_A, 5555, _OUT_B, 9, _SYN, 1000)
    for _ in range(6 * count):
        tape.show(rng.choice((*_FORTH, *_BACK)), data)


def _connections(tape: _Tape, count: int) -> None:
    for number in range(count):
        _connect(tape, port=number, sequence=1000 * number)


def _connections_on_one_port(tape: _Tape, count: int) -> None:
    for number in range(count):
        _connect(tape, port=2000, sequence=1000 * number)


def _equal_connections(tape: _Tape, count: int) -> None:
    for _ in range(count):
        _connect(tape, port=2000, sequence=1000)


def _connect(tape: _Tape, port: int, sequence: int) -> None:
    tape.between(_SYN, sequence, port=port, number=port, forth=True)
    tape.between(_SYN_ACK, sequence + 77, sequence + 1, port=port, forth=False)
    tape.between(_FIN_ACK, sequence + 1, sequence + 78, port=port, forth=True)
    tape.between(_RST, sequence + 78, port=port, forth=False)


def _syns_of_both_that_never_cross(tape: _Tape, count: int) -> None:
    for forth in (True, False):
        for number in range(count):
            tape.between(_SYN, 1000 if forth else 2000, number=number, forth=forth)


def _syns_of_near_numbers_and_answers_to_none(tape: _Tape, count: int) -> None:
    for number in range(count):
        tape.between(_SYN, 7 * number, number=number, forth=True)
    for number in range(count):
        tape.between(_SYN_ACK, 7, 7 * number + 4, forth=False)


def _answers_to_one_syn(tape: _Tape, count: int) -> None:
    tape.between(_SYN, 1000, forth=True)
    for number in range(count):
        tape.between(_SYN_ACK, number, 1001, forth=False)


def _connections_with_an_edge(tape: _Tape, count: int) -> None:
    for number in range(count):
        for flags, acknowledgment in ((_SYN, 0), (_SYN_ACK, 1001), (_FIN_ACK, 78), (_RST, 0)):
            answer = flags == _SYN_ACK
            ends = ("11.16.0.2", 7000, _A, number) if answer else (_A, number, "11.16.0.2", 7000)
            data = _segment(*ends, flags, 77 if answer else 1000, acknowledgment)
            tape.carry(_TO_EDGE[::-1] if answer else _TO_EDGE, data)


def _resets(tape: _Tape, count: int) -> None:
    for _ in range(count):
        tape.between(_RST, 1000, forth=True)


def _icmp_errors(tape: _Tape, count: int) -> None:
    quoted = _segment(_A, 5555, _OUT_B, 9, _SYN, 1000)
    for number in range(count):
        tape.carry(_TO_GATEWAY, _segment(_A, 5555, _OUT_B, 9, _SYN, 1000, number=number))
        tape.carry(_FROM_GATEWAY, _packet(_GATEWAY, _A, _ICMP, struct.pack("!BBHI", 3, 13, 0, 0) + quoted[14:42]))


def _datagrams_to_many_addresses(tape: _Tape, count: int) -> None:
    header = struct.pack("!HHHH", 5555, 9, 8, 0)
    for number in range(count):
        address = socket.inet_ntoa(struct.pack("!I", 0x0B000000 + number))
        tape.carry(_TO_GATEWAY, _packet(_A, address, _UDP, header))


FLOODS: Mapping[str, Callable[[_Tape, int], None]] = {
    made.__name__.strip("_").replace("_", " "): made
    for made in (
        _syns_to_a_closed_port,
        _equal_syns,
        _equal_syns_that_are_in_flight_at_once,
        _equal_syns_in_any_order,
        _connections,
        _connections_on_one_port,
        _equal_connections,
        _syns_of_both_that_never_cross,
        _syns_of_near_numbers_and_answers_to_none,
        _answers_to_one_syn,
        _connections_with_an_edge,
        _resets,
        _icmp_errors,
        _datagrams_to_many_addresses,
    )
}
"""Kind -> function that adds frames in proportion to `count` to a tape."""


def flood(kind: str, count: int) -> Sequence[Frame]:
    """Return the frames of this kind of flood, in order of time."""
    tape = _Tape()
    FLOODS[kind](tape, count)
    return tape.frames
