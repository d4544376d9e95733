"""The memory of a NAT: which inside endpoint has which external endpoint, towards whom, and for how long.

Kept in nft maps that the packets fill themselves. A mapping has a *key*: the inside endpoint, and with it the remote
address or endpoint if the mapping depends on them.

- `external_*` remembers key -> external endpoint, so that a mapping lives its own life, and not only while some
  connection of it does;
- `taken_*` and `claims_*` say which external ports belong to which key. Plain MASQUERADE overloads: two hosts with one
  source port share the external port towards different destinations. Here the second one is marked and gets a free
  port. A port is claimed on every address of a pool at once;
- `inside_*` maps an external endpoint back to its inside endpoint, where filtering or hairpinning asks for it;
- `contacted_*` holds the remote addresses that a mapping was used towards, for address-dependent filtering; with their
  ports, for address-and-port-dependent filtering whose doors no RST shuts.

All of them live as long as packets refresh them: those from inside, and where the behavior says so those from outside.
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


def has_doors(behavior: NatBehavior) -> bool:
    """Whether more may come in than replies, which connection tracking knows."""
    return behavior.filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT or not behavior.reset_closes


def doors(site: Site, transport: str, family: Family = IPV4) -> tuple[str, str, str]:
    """For whom a door is open besides the inside endpoint: its nft type, and what it is in packets out and in.

    Each is empty where a door is open for all, else it begins with a dot, to be joined to the inside endpoint.
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


def looks_inside(site: Site) -> bool:
    """Whether the inside endpoint of an external one is ever asked for."""
    return has_doors(site.behavior) or site.behavior.hairpinning is not Hairpinning.NONE


def lifetimes(site: Site, transport: str) -> tuple[int, int]:
    """Seconds that a mapping lives idle, before and after traffic has gone both ways."""
    timeouts = site.behavior.timeouts
    if transport == "tcp":
        return timeouts.tcp_transitory_s, timeouts.tcp_established_s
    return timeouts.udp_solitary_s, timeouts.udp_stream_s


def memory(site: Site, transport: str) -> Iterator[str]:
    """The maps, and the chains around iptables' own that read and fill them."""
    behavior = site.behavior
    kind, key = _key(site)
    this, port = f"meta l4proto {transport}", f"{transport} sport"
    short, long = lifetimes(site, transport)

    yield f"  map external_{transport} {{ type {kind} : ipv4_addr . inet_service; {DYNAMIC} }}"
    yield f"  set taken_{transport} {{ type inet_service; {DYNAMIC} }}"
    yield f"  set claims_{transport} {{ type inet_service . {kind}; {DYNAMIC} }}"
    if short != long:
        yield f"  set held_{transport} {{ type inet_service; {DYNAMIC} }}"
    if looks_inside(site):
        yield f"  map inside_{transport} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {DYNAMIC} }}"
    if door := doors(site, transport)[0]:
        yield f"  set contacted_{transport} {{ type ipv4_addr . inet_service{door}; {DYNAMIC} }}"

    in_blocks = behavior.port_allocation is PortAllocation.BLOCKS
    if in_blocks:
        yield from block_chains(site, transport)

    # Before iptables (srcnat): a known key keeps its external endpoint; a port claimed by another is marked.
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

    for direction in ("out", "in") if has_doors(site.behavior) else ("out",):
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
    yield f"  chain remember_{transport} {{"
    yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
    for packets, direction, place in _refreshing(site):
        seen = f"    {packets} {this}"
        if direction == "out":
            # One whose port is another's is dropped before connection tracking confirms it, so that the
            # retransmission draws again.
            yield f"{seen} {place} @taken_{transport} {place} . {key} != @claims_{transport} drop"
        else:
            seen += f" {place} @taken_{transport}"
        if short != long:
            # Once traffic has gone both ways through a mapping, every packet gives it the longer life.
            yield f"{seen} ct status assured goto hold_{direction}_{transport}"
            yield f"{seen} {place} @held_{transport} goto hold_{direction}_{transport}"
        yield f"{seen} goto claim_{direction}_{transport}"
    yield "  }"


def forgetting(site: Site) -> Iterator[str]:
    """Where only packets from inside refresh: others find no mapping once it is idle, and keep no connection alive."""
    if site.behavior.refresh is Refresh.OUTBOUND:
        toward = f'    iifname "{site.outside}" ip daddr {site.external}'
        yield "  chain forget {"
        yield "    type filter hook prerouting priority raw; policy accept;"
        yield f"{toward} udp dport != @taken_udp drop"
        # A SYN is left to the filter and its answers.
        yield f"{toward} tcp flags & (syn | ack) != syn tcp dport != @taken_tcp drop"
        yield "  }"


def _key(site: Site) -> tuple[str, str]:
    """The nft type of a mapping's key, and the expression for the connection that a packet belongs to."""
    parts = _KEY[: _KEY_LENGTH[site.behavior.mapping]]
    kind, key = (" . ".join(words) for words in zip(*parts, strict=True))
    return kind, key


def _elements(site: Site, direction: str) -> dict[str, str]:
    """What a packet says about its mapping, by map or set; `direction` is that of the connection's first packet.

    In words of the connection, which are the same for its packets of both directions.
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
        # Which destination a mapping was made for, a connection from outside does not tell.
        key = _key(site)[1] if outbound else " . ".join(inside)
        elements["claims"] = f"{external[1]} . {key}"
        elements["external"] = f"{key} : {' . '.join(external)}"
    if looks_inside(site):
        elements["inside"] = f"{' . '.join(external)} : {' . '.join(inside)}"
    if site.behavior.filtering is FilteringBehavior.ADDRESS_DEPENDENT:
        elements["contacted"] = " . ".join((*external, remote[0]))
    elif has_doors(site.behavior) and site.behavior.filtering is FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
        elements["contacted"] = " . ".join((*external, *remote))
    if site.behavior.port_allocation is PortAllocation.BLOCKS and outbound:
        elements["drawn"] = "ct mark"
    return elements


def _refreshing(site: Site) -> Iterator[tuple[str, str, str]]:
    """Packets that refresh their mapping, the direction of their connection, and where they carry the external port."""
    out, into = ((site.inside, site.outside), (site.outside, site.inside))
    both = site.behavior.refresh is Refresh.BOTH
    for leaving in _leaving(site):
        yield f"{leaving} ct direction original", "out", "ct reply proto-dst"
    if both:
        yield f'iifname "{into[0]}" oifname "{into[1]}" ct direction reply', "out", "ct reply proto-dst"
    if has_doors(site.behavior):
        # Those that came in by these maps, and not by a mapping that was asked for (`lab.nat.portmapping`).
        dnat = "ct status dnat"
        yield f'iifname "{out[0]}" oifname "{out[1]}" {dnat} ct direction reply', "in", "ct original proto-dst"
        if both:
            yield f'iifname "{into[0]}" oifname "{into[1]}" {dnat} ct direction original', "in", "ct original proto-dst"


def _leaving(site: Site) -> Iterator[str]:
    """What gets an external endpoint: what goes out, and what turns back to an inside host as if from outside."""
    yield f'iifname "{site.inside}" oifname "{site.outside}"'
    if site.behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield f'oifname "{site.inside}" meta mark & {HAIRPIN:#x} == {HAIRPIN:#x}'
