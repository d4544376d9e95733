"""Which external endpoint a new mapping gets: iptables' SNAT, and an nft map where ports follow one another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from punchlab.lab.nat.site import CLASH, DYNAMIC, HAIRPIN, TRANSPORTS, Site
from punchlab.punch.nat.behavior import Hairpinning, Pooling, PortAllocation

SEQUENCE_LENGTH = 4096
"""Sequential allocation starts anew at its first port after at most so many, to keep the rules readable."""

_BLOCK_PORTS = 16384
"""All blocks together have at most so many ports, which are spelled out in a map."""

_MOST_BLOCKS = 256
_DRAWS = 4
"""How often a port is drawn until it is a free one; if none is, the packet is lost, and its retransmission draws."""


def nat_table(site: Site) -> Iterator[str]:
    """The nat table, as `iptables-restore` input."""
    behavior = site.behavior
    yield from ("*nat", ":ALLOCATE -")
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
    return f"{_one_address(site)} : numgen inc mod {len(ports)} map {{ {numbered} }}"


def block_ports(site: Site) -> Iterator[str]:
    """The nft map of number to port that both transports' `drawn_port` look in."""
    first, size = site.behavior.port_range[0], site.behavior.block_size
    ports = range(first, first + block_count(site) * size)
    numbered = ", ".join(f"{number} : {port}" for number, port in enumerate(ports, start=1))
    yield f"  map ports {{ type mark : inet_service; elements = {{ {numbered} }}; }}"


def block_chains(site: Site, transport: str) -> Iterator[str]:
    """A chain for each block, which draws the number of a free port of it into the connection's mark."""
    size = site.behavior.block_size
    yield f"  set drawn_{transport} {{ type mark; {DYNAMIC} }}"
    for number in range(block_count(site)):
        draw = f"ct mark set numgen random mod {size} offset {1 + number * size}"
        yield f"  chain block_{number}_{transport} {{"
        yield f"    {draw}"
        yield from (f"    ct mark @drawn_{transport} {draw}" for _ in range(_DRAWS - 1))
        yield "  }"


def drawn_port(site: Site, transport: str) -> Iterator[str]:
    """Ends of rules: draw from the block that the last bits of the inside address own, then translate."""
    count = block_count(site)
    owners = ", ".join(f"0.0.0.{number} : jump block_{number}_{transport}" for number in range(count))
    yield f"ip saddr & 0.0.0.{count - 1} vmap {{ {owners} }}"
    yield f"snat to {_one_address(site)} : ct mark map @ports"


def block_count(site: Site) -> int:
    """How many blocks there are: a power of two, so that an address's last bits name one."""
    first, last = site.behavior.port_range
    size = site.behavior.block_size
    most = max(1, min((last - first + 1) // size, _BLOCK_PORTS // size, _MOST_BLOCKS))
    return 1 << (most.bit_length() - 1)


def _one_address(site: Site) -> str:
    """The nft expression for an address of the pool."""
    if len(site.addresses) == 1:
        return site.addresses[0]
    hashed = "ip saddr" if site.behavior.pooling is Pooling.PAIRED else "ip saddr . ip daddr"
    choices = ", ".join(f"{number} : {each}" for number, each in enumerate(site.addresses))
    return f"jhash {hashed} mod {len(site.addresses)} map {{ {choices} }}"
