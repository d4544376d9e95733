"""Which external endpoint a new mapping gets: iptables' SNAT, and an nft map where ports follow one another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lab.nat.site import CLASH, HAIRPIN, TRANSPORTS, Site
from punch.nat.behavior import Hairpinning, Pooling, PortAllocation

SEQUENCE_LENGTH = 4096
"""Sequential allocation starts anew at its first port after at most so many, to keep the rules readable."""

_BLOCKS = 256


def nat_table(site: Site) -> Iterator[str]:
    """The nat table, as `iptables-restore` input."""
    behavior = site.behavior
    yield from ("*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":ALLOCATE -")
    yield f"-A POSTROUTING -o {site.outside} -j ALLOCATE"
    if behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield f"-A POSTROUTING -o {site.inside} -m mark --mark {HAIRPIN:#x}/{HAIRPIN:#x} -j ALLOCATE"
    address = site.addresses[0] if len(site.addresses) == 1 else f"{site.addresses[0]}-{site.addresses[-1]}"
    # Without --persistent SNAT chooses by source and destination, with it by source alone.
    pool = " --persistent" if len(site.addresses) > 1 and behavior.pooling is Pooling.PAIRED else ""
    first, last = behavior.port_range
    drawn = f"-j SNAT --to-source {address}:{first}-{last} --random-fully{pool}"
    for transport in TRANSPORTS:
        match behavior.port_allocation:
            case PortAllocation.RANDOM:
                yield f"-A ALLOCATE -p {transport} {drawn}"
            case PortAllocation.PRESERVING if not behavior.port_overloading:
                yield f"-A ALLOCATE -p {transport} -m mark --mark {CLASH:#x}/{CLASH:#x} {drawn}"
            case PortAllocation.BLOCKS:
                for owners, low, high in _blocks(first, last, behavior.block_size):
                    block = f"-j SNAT --to-source {address}:{low}-{high} --random-fully{pool}"
                    yield f"-A ALLOCATE -s {owners} -p {transport} {block}"
    yield f"-A ALLOCATE -j SNAT --to-source {address}{pool}"
    yield "COMMIT"


def sequence(site: Site) -> str:
    """The nft expression for an address of the pool and the next port of the sequence.

    The ports are spelled out in a map because nft 1.0.6 swaps the bytes of a counter that is used as a port.
    """
    behavior = site.behavior
    first, last = behavior.port_range
    steps = (
        range(first, last + 1, behavior.port_delta)
        if behavior.port_delta > 0
        else range(last, first - 1, behavior.port_delta)
    )
    ports = list(itertools.islice(steps, SEQUENCE_LENGTH))
    numbered = ", ".join(f"{number} : {port}" for number, port in enumerate(ports))
    address = site.addresses[0]
    if len(site.addresses) > 1:
        hashed = "ip saddr" if behavior.pooling is Pooling.PAIRED else "ip saddr . ip daddr"
        choices = ", ".join(f"{number} : {each}" for number, each in enumerate(site.addresses))
        address = f"jhash {hashed} mod {len(site.addresses)} map {{ {choices} }}"
    return f"{address} : numgen inc mod {len(ports)} map {{ {numbered} }}"


def _blocks(first: int, last: int, size: int) -> Iterator[tuple[str, int, int]]:
    """Each block, and the inside addresses that own it: a host's number, as far as there are blocks for it.

    The owners are written as an address and a mask of its last bits, so the rules need not know the inside network.
    """
    count = min((last - first + 1) // size, _BLOCKS)
    count = 1 << (count.bit_length() - 1)
    for number in range(count):
        low = first + number * size
        yield f"0.0.0.{number}/0.0.0.{count - 1}", low, low + size - 1
