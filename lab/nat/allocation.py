"""Port allocation for new mappings: iptables' SNAT, and nft maps for sequential ports and port blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from punchlab.lab.nat.site import CLASH, DYNAMIC, HAIRPIN, TRANSPORTS, Site
from punchlab.punch.nat.behavior import Hairpinning, Pooling, PortAllocation

SEQUENCE_LENGTH = 4096
"""The maximum length of a port sequence, to keep the rules readable. It then restarts at its first port."""

_BLOCK_PORTS = 16384
"""The maximum number of ports in all blocks together. A map lists every port."""

_MOST_BLOCKS = 256
_DRAWS = 4
"""The maximum number of draws until a port is free. Otherwise the packet is dropped, and its retransmission draws
again.
"""


def nat_table(site: Site) -> Iterator[str]:
    """Return the nat table, as `iptables-restore` input."""
    behavior = site.behavior
    yield from ("*nat", ":ALLOCATE -")
    yield f"-A POSTROUTING -o {site.outside} -j ALLOCATE"
    if behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield f"-A POSTROUTING -o {site.inside} -m mark --mark {HAIRPIN:#x}/{HAIRPIN:#x} -j ALLOCATE"
    address = site.addresses[0] if len(site.addresses) == 1 else f"{site.addresses[0]}-{site.addresses[-1]}"
    # With --persistent SNAT chooses the address by source, without it by source and destination.
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
    """Return the nft expression for an address of the pool and the next port of the sequence.

    A map lists the ports, because nft 1.0.6 swaps the bytes of a counter that is used as a port.
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
    """Return the nft map from number to port that `drawn_port` uses for both transports."""
    first, size = site.behavior.port_range[0], site.behavior.block_size
    ports = range(first, first + block_count(site) * size)
    numbered = ", ".join(f"{number} : {port}" for number, port in enumerate(ports, start=1))
    yield f"  map ports {{ type mark : inet_service; elements = {{ {numbered} }}; }}"


def block_chains(site: Site, transport: str) -> Iterator[str]:
    """Return a chain for each block that draws the number of a free port into the connection mark."""
    size = site.behavior.block_size
    yield f"  set drawn_{transport} {{ type mark; {DYNAMIC} }}"
    for number in range(block_count(site)):
        draw = f"ct mark set numgen random mod {size} offset {1 + number * size}"
        yield f"  chain block_{number}_{transport} {{"
        yield f"    {draw}"
        yield from (f"    ct mark @drawn_{transport} {draw}" for _ in range(_DRAWS - 1))
        yield "  }"


def drawn_port(site: Site, transport: str) -> Iterator[str]:
    """Return the ends of rules that draw from the block of the inside address's last bits and then translate."""
    count = block_count(site)
    owners = ", ".join(f"0.0.0.{number} : jump block_{number}_{transport}" for number in range(count))
    yield f"ip saddr & 0.0.0.{count - 1} vmap {{ {owners} }}"
    yield f"snat to {_one_address(site)} : ct mark map @ports"


def block_count(site: Site) -> int:
    """Return the number of blocks: a power of two, so that the last bits of an address select one."""
    first, last = site.behavior.port_range
    size = site.behavior.block_size
    most = max(1, min((last - first + 1) // size, _BLOCK_PORTS // size, _MOST_BLOCKS))
    return 1 << (most.bit_length() - 1)


def _one_address(site: Site) -> str:
    """Return the nft expression for an address of the pool."""
    if len(site.addresses) == 1:
        return site.addresses[0]
    hashed = "ip saddr" if site.behavior.pooling is Pooling.PAIRED else "ip saddr . ip daddr"
    choices = ", ".join(f"{number} : {each}" for number, each in enumerate(site.addresses))
    return f"jhash {hashed} mod {len(site.addresses)} map {{ {choices} }}"
