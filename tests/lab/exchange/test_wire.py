"""What the decoder makes of single frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from punchlab.lab.exchange import Kind
from punchlab.lab.exchange.wire import decode


def ipv6(payload: Packet, source: str = "2a11::1", destination: str = "2a11::2") -> bytes:
    return bytes(Ether() / IPv6(src=source, dst=destination) / payload)


@pytest.mark.parametrize(
    ("flags", "kind", "acknowledgment"),
    [("S", Kind.SYN, None), ("SA", Kind.SYN_ACK, 6), ("FA", Kind.FIN, 6), ("R", Kind.RST, None), ("A", None, None)],
)
def test_segments_over_ipv6(flags: str, kind: Kind | None, acknowledgment: int | None) -> None:
    packet = decode(ipv6(TCP(flags=flags, seq=5, ack=6, sport=41000, dport=41001)))
    assert (packet and packet.kind) == kind
    if packet is not None:
        assert (packet.source, packet.destination) == ("[2a11::1]:41000", "[2a11::2]:41001")
        assert (packet.sequence, packet.acknowledgment) == (5, acknowledgment)


def test_an_icmpv6_error_quotes_a_segment_and_neighbor_discovery_is_no_error() -> None:
    quoted = IPv6(src="2a11::1", dst="2a11::2") / TCP(flags="S", seq=77, sport=41000, dport=41001)
    packet = decode(ipv6(ICMPv6DestUnreach(code=4) / quoted, "2a11::9", "2a11::1"))
    assert packet is not None
    assert (packet.kind, packet.icmp, packet.sequence) == (Kind.ICMP, (1, 4), 77)
    assert (packet.source, packet.destination) == ("2a11::9", "2a11::1")
    assert decode(ipv6(ICMPv6ND_NS(tgt="2a11::1"))) is None
    for length in range(14, 100):
        decode(ipv6(ICMPv6DestUnreach(code=4) / quoted)[:length])  # cut short: no matter


@pytest.mark.parametrize(
    "packet",
    [
        Ether() / IP() / UDP(),
        Ether() / IP() / TCP(flags="A"),
        Ether() / IP() / ICMP(type=8),
        Ether() / IP(frag=5) / TCP(flags="S"),
        Ether() / IP() / ICMP(type=3, code=3) / IPerror() / UDP(),
        Ether(type=0x0806) / Raw(b"\0" * 28),
        Ether(type=0x86DD) / Raw(b"\0" * 60),
    ],
    ids=["udp", "acknowledgment", "echo", "fragment", "udp-error", "arp", "ipv6"],
)
def test_what_no_story_needs_is_left_out(packet: Packet) -> None:
    assert decode(bytes(packet)) is None


@given(st.binary(max_size=120) | st.binary(max_size=80).map(lambda rest: bytes(12) + b"\x08\x00\x45" + rest))
def test_no_bytes_upset_the_decoder(data: bytes) -> None:
    decode(data)


@given(st.integers(0, 54))
def test_a_frame_cut_short_is_left_out_or_told_the_same(length: int) -> None:
    data = bytes(Ether() / IP(id=1) / TCP(flags="S", seq=5))
    assert decode(data[:length]) in (None, decode(data))
