"""The mappings of a NAT: which external endpoint an inside endpoint has, for which remote endpoints, and for how long.

Mappings are elements of nft maps that packets add themselves. A mapping has a *key*: the inside endpoint, and the
remote address or endpoint if the mapping depends on it.

- `external_*` maps a key to its external endpoint, so that a mapping exists independently of its connections.
- `taken_*` and `claims_*` store which external port belongs to which key. Plain MASQUERADE overloads ports: two hosts
  with the same source port share an external port for different destinations. Here, a clashing packet is marked and
  gets a free port. A port is claimed on all addresses of a pool at once.
- `inside_*` maps an external endpoint back to its inside endpoint, for filtering and hairpinning.
- `contacted_*` stores the remote addresses that a mapping has contacted, for address-dependent filtering. It includes
  the ports for address-and-port-dependent filtering with pinholes that survive RSTs.

An element expires unless packets refresh it: outbound packets, and inbound ones if the behavior allows it.
"""

from __future__ import annotations

from collections.abc import Iterator

from punchlab.lab.nat.allocation import block_chains, drawn_port, sequence
from punchlab.lab.nat.site import CLASH, DYNAMIC, HAIRPIN, IPV4, Family, Site
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Refresh,
)

_KEY = (
    ("ipv4_addr", "ct original ip saddr"),
    ("inet_service", "ct original proto-src"),
    ("ipv4_addr", "ct original ip daddr"),
    ("inet_service", "ct original proto-dst"),
)
_KEY_LENGTH = {
    MappingBehavior.ENDPOINT_INDEPENDENT: 2,
    MappingBehavior.ADDRESS_DEPENDENT: 3,
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT: 4,
}


def has_pinholes(behavior: NatBehavior) -> bool:
    """Return whether packets other than replies of tracked connections can pass."""
    return behavior.filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT or not behavior.reset_closes


def pinhole(site: Site, transport: str, family: Family = IPV4) -> tuple[str, str, str]:
    """Return the remote part of a pinhole: its nft type, and its expressions for outbound and inbound packets.

    Each starts with a dot, to follow the inside endpoint. Each is empty if a pinhole is open to all remote endpoints.
    """
    match site.behavior.filtering:
        case FilteringBehavior.ENDPOINT_INDEPENDENT:
            return "", "", ""
        case FilteringBehavior.ADDRESS_DEPENDENT:
            return f" . {family.address}", f" . {family.ip} daddr", f" . {family.ip} saddr"
    ports = f" . {transport} dport", f" . {transport} sport"
    return (
        f" . {family.address} . inet_service",
        f" . {family.ip} daddr{ports[0]}",
        f" . {family.ip} saddr{ports[1]}",
    )


def needs_inside_map(site: Site) -> bool:
    """Return whether rules look up the inside endpoint of an external endpoint."""
    return has_pinholes(site.behavior) or site.behavior.hairpinning is not Hairpinning.NONE


def lifetimes(site: Site, transport: str) -> tuple[int, int]:
    """Return the idle lifetime of a mapping in seconds, before and after traffic in both directions."""
    timeouts = site.behavior.timeouts
    if transport == "tcp":
        return timeouts.tcp_transitory_s, timeouts.tcp_established_s
    return timeouts.udp_solitary_s, timeouts.udp_stream_s


def mappings(site: Site, transport: str) -> Iterator[str]:
    """Return the maps, and the chains around iptables' own chains that read and fill them."""
    behavior = site.behavior
    kind, key = _key(site)
    this, port = f"meta l4proto {transport}", f"{transport} sport"
    short, long = lifetimes(site, transport)

    yield f"  map external_{transport} {{ type {kind} : ipv4_addr . inet_service; {DYNAMIC} }}"
    yield f"  set taken_{transport} {{ type inet_service; {DYNAMIC} }}"
    yield f"  set claims_{transport} {{ type inet_service . {kind}; {DYNAMIC} }}"
    if short != long:
        yield f"  set held_{transport} {{ type inet_service; {DYNAMIC} }}"
    if needs_inside_map(site):
        yield f"  map inside_{transport} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {DYNAMIC} }}"
    if remote := pinhole(site, transport)[0]:
        yield f"  set contacted_{transport} {{ type ipv4_addr . inet_service{remote}; {DYNAMIC} }}"

    in_blocks = behavior.port_allocation is PortAllocation.BLOCKS
    if in_blocks:
        yield from block_chains(site, transport)

    # Before iptables (srcnat): a known key keeps its external endpoint; a packet whose port another key claims is
    # marked.
    if behavior.port_allocation is PortAllocation.PRESERVING:
        yield f"  chain mark_clash_{transport} {{"
        yield "    type filter hook postrouting priority srcnat - 10; policy accept;"
        for leaving in _leaving(site):
            yield (
                f"    {leaving} {this} ct direction original {port} @taken_{transport} "
                f"{port} . {key} != @claims_{transport} meta mark set meta mark | {CLASH:#x}"
            )
        yield "  }"
    yield f"  chain keep_mapping_{transport} {{"
    yield "    type nat hook postrouting priority srcnat - 10; policy accept;"
    for leaving in _leaving(site):
        yield f"    {leaving} {this} snat ip to {key} map @external_{transport}"
        if behavior.sequential:
            clash = f"meta mark & {CLASH:#x} == {CLASH:#x} "
            only = clash if behavior.port_allocation is PortAllocation.PRESERVING else ""
            yield f"    {leaving} {this} {only}snat to {sequence(site)}"
        if in_blocks:
            yield from (f"    {leaving} {this} {words}" for words in drawn_port(site, transport))
    yield "  }"

    for direction in ("out", "in") if has_pinholes(site.behavior) else ("out",):
        elements = _elements(site, direction)
        for name, life in (("claim", short), ("hold", long)) if short != long else (("claim", short),):
            yield f"  chain {name}_{direction}_{transport} {{"
            for element, value in elements.items():
                if element != "held" or name == "hold":
                    words, _, onto = value.partition(" : ")
                    yield (
                        f"    {this} update @{element}_{transport} "
                        f"{{ {words} timeout {life}s{' : ' if onto else ''}{onto} }}"
                    )
            yield "  }"
    yield f"  chain refresh_{transport} {{"
    yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
    for packets, direction, place in _refreshing(site):
        seen = f"    {packets} {this}"
        if direction == "out":
            # If the port is mapped to another key, drop the packet before connection tracking confirms it. NAT then
            # selects a new port for the retransmission.
            yield f"{seen} {place} @taken_{transport} {place} . {key} != @claims_{transport} drop"
        else:
            seen += f" {place} @taken_{transport}"
        if short != long:
            # After traffic in both directions, every packet refreshes the mapping with the long lifetime.
            yield f"{seen} ct status assured goto hold_{direction}_{transport}"
            yield f"{seen} {place} @held_{transport} goto hold_{direction}_{transport}"
        yield f"{seen} goto claim_{direction}_{transport}"
    yield "  }"


def drop_expired(site: Site) -> Iterator[str]:
    """Return a chain for NATs that only outbound packets refresh: it drops inbound packets without a live mapping."""
    if site.behavior.refresh is Refresh.OUTBOUND:
        toward = f'    iifname "{site.outside}" ip daddr {site.external}'
        yield "  chain drop_expired {"
        yield "    type filter hook prerouting priority raw; policy accept;"
        yield f"{toward} udp dport != @taken_udp drop"
        # The filter table handles a SYN.
        yield f"{toward} tcp flags & (syn | ack) != syn tcp dport != @taken_tcp drop"
        yield "  }"


def _key(site: Site) -> tuple[str, str]:
    """Return the nft type of a mapping's key, and its expression for a packet's connection."""
    parts = _KEY[: _KEY_LENGTH[site.behavior.mapping]]
    kind, key = (" . ".join(words) for words in zip(*parts, strict=True))
    return kind, key


def _elements(site: Site, direction: str) -> dict[str, str]:
    """Return map or set -> element that a packet adds to it, for a first packet of the connection in `direction`.

    The expressions refer to the connection, so they are the same for packets of both directions.
    """
    outbound = direction == "out"
    if outbound:
        external, inside, remote = (
            ("ct reply ip daddr", "ct reply proto-dst"),
            ("ct original ip saddr", "ct original proto-src"),
            ("ct original ip daddr", "ct original proto-dst"),
        )
    else:
        external, inside, remote = (
            ("ct original ip daddr", "ct original proto-dst"),
            ("ct reply ip saddr", "ct reply proto-src"),
            ("ct original ip saddr", "ct original proto-src"),
        )
    elements = {"taken": external[1], "held": external[1]}
    if outbound or not site.behavior.destination_dependent:
        # A connection from outside does not contain the destination for which the mapping was created.
        key = _key(site)[1] if outbound else " . ".join(inside)
        elements["claims"] = f"{external[1]} . {key}"
        elements["external"] = f"{key} : {' . '.join(external)}"
    if needs_inside_map(site):
        elements["inside"] = f"{' . '.join(external)} : {' . '.join(inside)}"
    if site.behavior.filtering is FilteringBehavior.ADDRESS_DEPENDENT:
        elements["contacted"] = " . ".join((*external, remote[0]))
    elif has_pinholes(site.behavior) and site.behavior.filtering is FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
        elements["contacted"] = " . ".join((*external, *remote))
    if site.behavior.port_allocation is PortAllocation.BLOCKS and outbound:
        elements["drawn"] = "ct mark"
    return elements


def _refreshing(site: Site) -> Iterator[tuple[str, str, str]]:
    """Yield (packets that refresh their mapping, direction of the connection, expression for the external port)."""
    out, into = ((site.inside, site.outside), (site.outside, site.inside))
    both = site.behavior.refresh is Refresh.BOTH
    for leaving in _leaving(site):
        yield f"{leaving} ct direction original", "out", "ct reply proto-dst"
    if both:
        yield f'iifname "{into[0]}" oifname "{into[1]}" ct direction reply', "out", "ct reply proto-dst"
    if has_pinholes(site.behavior):
        # Connections that passed through these maps, not through a requested mapping (`lab.nat.portmapping`).
        dnat = "ct status dnat"
        yield f'iifname "{out[0]}" oifname "{out[1]}" {dnat} ct direction reply', "in", "ct original proto-dst"
        if both:
            yield f'iifname "{into[0]}" oifname "{into[1]}" {dnat} ct direction original', "in", "ct original proto-dst"


def _leaving(site: Site) -> Iterator[str]:
    """Yield the packets that get an external endpoint: outbound ones, and hairpinned ones with an external source."""
    yield f'iifname "{site.inside}" oifname "{site.outside}"'
    if site.behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield f'oifname "{site.inside}" meta mark & {HAIRPIN:#x} == {HAIRPIN:#x}'
