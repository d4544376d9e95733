"""Exchanges for tests: frames that scapy builds, told journey by journey."""

from __future__ import annotations

from collections.abc import Sequence

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from punchlab.lab.capture import Frame
from punchlab.lab.exchange import Exchange, HostPair, HostSide, Segment
from punchlab.lab.exchange.timeline import render

A = B = "192.168.1.2:41000"
OUT_A, OUT_B = "11.0.1.2:41000", "11.0.2.2:41000"
EDGE = "11.0.0.1:7000"
PAIR = HostPair(
    HostSide("a", ("nat_a",), frozenset({"11.0.1.2"})),
    HostSide("b", ("nat_b",), frozenset({"11.0.2.2"})),
    edges={"edge1": frozenset({"11.16.0.2", "11.0.0.1"})},
)
START_NS = 1_800_000_000_000_000_000

# Interface, ">" for out of the node and "<" for into it. The frames of a journey are 10 microseconds apart,
# and 20 ms between the NATs.
FORTH = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "nat_b-eth0<", "nat_b-eth1>", "b-eth0<")
BACK = ("b-eth0>", "nat_b-eth1<", "nat_b-eth0>", "nat_a-eth0<", "nat_a-eth1>", "a-eth0<")
DELAY_MS = 20.0


class Story:
    """Frames, added journey by journey."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._identification = 0

    @property
    def frames(self) -> list[Frame]:
        return sorted(self._frames, key=lambda frame: frame.time_ns)

    def told(self, pair: HostPair = PAIR, agreed: tuple[str, str] | None = None) -> Exchange:
        exchange = Exchange(self.frames, pair, agreed)
        print(render(exchange))
        return exchange

    def add(self, at_ms: float, places: Sequence[str], ends: Sequence[tuple[str, str]], packet: Packet) -> None:
        """A packet that is at `places` in turn, with source and destination `ends` (the last one holds on)."""
        for number, place in enumerate(places):
            source, destination = ends[min(number, len(ends) - 1)]
            wire = packet.copy()
            wire[IP].src, wire[IP].dst = source.partition(":")[0], destination.partition(":")[0]
            if TCP in wire and ICMP not in wire:
                wire[TCP].sport, wire[TCP].dport = int(source.partition(":")[2]), int(destination.partition(":")[2])
            if number and place[:-1] in ("nat_a-eth0", "nat_b-eth0") and place.endswith("<"):
                at_ms += DELAY_MS
            data = bytes(wire)
            interface = place[:-1]
            time_ns = START_NS + round(at_ms * 1e6)
            node = interface.rpartition("-")[0]
            self._frames.append(Frame(time_ns, node, interface, place.endswith(">"), data, len(data)))
            at_ms += 0.01

    def tcp(
        self,
        at_ms: float,
        flags: str,
        sequence: int,
        acknowledgment: int = 0,
        *,
        forth: bool = True,
        source: tuple[str, str, str] | None = None,
        destination: tuple[str, str, str] | None = None,
        until: int | None = None,
        after: int = 0,
        identification: int | None = None,
    ) -> None:
        """A segment between a and b through both NATs, seen at the places from `after` to before `until`.

        `source` and `destination` are the endpoints before the first NAT, between the NATs and behind the second.
        """
        source = source or ((A, OUT_A, OUT_A) if forth else (B, OUT_B, OUT_B))
        destination = destination or ((OUT_B, OUT_B, B) if forth else (OUT_A, OUT_A, A))
        ends = [(source[leg], destination[leg]) for leg in range(3) for _ in range(2)]
        self._identification += 1
        packet = self.segment(flags, sequence, acknowledgment, identification or self._identification)
        self.add(at_ms, (FORTH if forth else BACK)[after:until], ends[after:], packet)

    @staticmethod
    def segment(flags: str, sequence: int, acknowledgment: int = 0, identification: int = 0) -> Packet:
        return Ether() / IP(id=identification, flags="DF") / TCP(flags=flags, seq=sequence, ack=acknowledgment)

    def handshake(
        self,
        at_ms: float,
        sequence: int = 100,
        local: str = A,
        outside: str = OUT_A,
        remote: str = OUT_B,
        peer: str = B,
    ) -> None:
        """a's SYN and the SYN-ACK of a listener of b."""
        to_b, to_a = (remote, remote, peer), (outside, outside, local)
        self.tcp(at_ms, "S", sequence, source=(local, outside, outside), destination=to_b)
        self.tcp(
            at_ms + 25,
            "SA",
            sequence + 5000,
            sequence + 1,
            forth=False,
            source=(peer, remote, remote),
            destination=to_a,
        )


def only(segments: Sequence[Segment]) -> Segment:
    (segment,) = segments
    return segment
