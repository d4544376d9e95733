"""The memory of a NAT: which inside endpoint has which external endpoint, towards whom, and for how long.

Kept in nft maps that the packets fill themselves. A mapping has a *key*: the inside endpoint, and with it the remote
address or endpoint if the mapping depends on them.

- `external_*` remembers key -> external endpoint, so that a mapping lives its own life, and not only while some
  connection of it does;
- `taken_*` and `claims_*` say which external ports belong to which key. Plain MASQUERADE overloads: two hosts with one
  source port share the external port towards different destinations. Here the second one is marked and gets a free
  port. A port is claimed on every address of a pool at once;
- `inside_*` maps an external endpoint back to its inside endpoint, where filtering or hairpinning asks for it;
- `contacted_*` holds the remote addresses that a mapping was used towards, for address-dependent filtering.
"""

from __future__ import annotations

from collections.abc import Iterator

from lab.nat.allocation import block_chains, drawn_port, sequence
from lab.nat.site import CLASH, HAIRPIN, Site
from punch.nat.behavior import Filtering, Hairpinning, Mapping, PortAllocation

_KEY = (
    ("ipv4_addr", "ct original ip saddr"),
    ("inet_service", "ct original proto-src"),
    ("ipv4_addr", "ct original ip daddr"),
    ("inet_service", "ct original proto-dst"),
)
_KEY_LENGTH = {
    Mapping.ENDPOINT_INDEPENDENT: 2,
    Mapping.ADDRESS_DEPENDENT: 3,
    Mapping.ADDRESS_AND_PORT_DEPENDENT: 4,
}
DYNAMIC = "flags dynamic,timeout; size 65535;"


def wide(site: Site) -> bool:
    """Whether more may come in than replies, which connection tracking knows."""
    return site.behavior.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT


def looks_inside(site: Site) -> bool:
    """Whether the inside endpoint of an external one is ever asked for."""
    return wide(site) or site.behavior.hairpinning is not Hairpinning.NONE


def lifetimes(site: Site, transport: str) -> tuple[int, int]:
    """Seconds that a mapping lives idle, before and after traffic has gone both ways."""
    timeouts = site.behavior.timeouts
    if transport == "tcp":
        return timeouts.tcp_transitory_s, timeouts.tcp_established_s
    return timeouts.udp_solitary_s, timeouts.udp_stream_s


def memory(site: Site, transport: str) -> Iterator[str]:
    """The maps, and the chains around iptables' own that read and fill them."""
    behavior = site.behavior
    parts = _KEY[: _KEY_LENGTH[behavior.mapping]]
    kind, key = (" . ".join(words) for words in zip(*parts, strict=True))
    by_address = behavior.filtering is Filtering.ADDRESS_DEPENDENT
    in_blocks = behavior.port_allocation is PortAllocation.BLOCKS
    this, port = f"meta l4proto {transport}", f"{transport} sport"

    yield f"  map external_{transport} {{ type {kind} : ipv4_addr . inet_service; {DYNAMIC} }}"
    yield f"  set taken_{transport} {{ type inet_service; {DYNAMIC} }}"
    yield f"  set claims_{transport} {{ type inet_service . {kind}; {DYNAMIC} }}"
    if looks_inside(site):
        yield f"  map inside_{transport} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; {DYNAMIC} }}"
    if by_address:
        yield f"  set contacted_{transport} {{ type ipv4_addr . inet_service . ipv4_addr; {DYNAMIC} }}"

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

    # After iptables: the packet carries its external port. One that is another's is dropped before connection tracking
    # confirms it, so that the retransmission draws again.
    elements = {
        "taken": port,
        "claims": f"{port} . {key}",
        "external": (key, f"ip saddr . {port}"),
    }
    if looks_inside(site):
        elements["inside"] = (f"ip saddr . {port}", "ct original ip saddr . ct original proto-src")
    if by_address:
        elements["contacted"] = f"ip saddr . {port} . ip daddr"
    if in_blocks:
        elements["drawn"] = "ct mark"
    short, long = lifetimes(site, transport)
    # A SYN does not shorten the life of a mapping that an established connection has.
    first = "add" if transport == "tcp" else "update"
    for name, verb, life in (("claim", first, short), ("hold", "update", long)):
        if name == "hold" and short == long and verb == first:
            continue
        yield f"  chain {name}_{transport} {{"
        for element, words in elements.items():
            if isinstance(words, str):
                yield f"    {this} {verb} @{element}_{transport} {{ {words} timeout {life}s }}"
            else:
                yield f"    {this} {verb} @{element}_{transport} {{ {words[0]} timeout {life}s : {words[1]} }}"
        yield "  }"
    yield f"  chain remember_{transport} {{"
    yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
    for leaving in _leaving(site):
        outbound = f"    {leaving} {this} ct direction original"
        yield f"{outbound} {port} @taken_{transport} {port} . {key} != @claims_{transport} drop"
        if not (short == long and first == "update"):
            yield f"{outbound} ct status assured goto hold_{transport}"
        yield f"{outbound} goto claim_{transport}"
    yield "  }"


def _leaving(site: Site) -> Iterator[str]:
    """What gets an external endpoint: what goes out, and what turns back to an inside host as if from outside."""
    yield f'iifname "{site.inside}" oifname "{site.outside}"'
    if site.behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield f'oifname "{site.inside}" meta mark & {HAIRPIN:#x} == {HAIRPIN:#x}'
