"""Translate a NAT behavior into rules for a Linux node.

iptables allocates external ports (SNAT, in `allocation`) and answers unsolicited packets (INPUT, in `filtering`). An
nft table does what iptables cannot (`mapping`). Packets fill its maps themselves, so rules apply from the first packet
on, and no daemon has to insert rules later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from punchlab.lab.nat import allocation, filtering, mapping, portmapping
from punchlab.lab.nat.helpers import Program
from punchlab.lab.nat.mapping import has_pinholes
from punchlab.lab.nat.site import IPV6, TRANSPORTS, Site, external_addresses
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited

IPV6_FIREWALL = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.PRESERVING,
    translates=False,
)
"""A home router's IPv6 firewall while it translates IPv4: replies and simultaneous opens pass (RFC 6092)."""


@dataclass(frozen=True, slots=True)
class NatRules:
    """Input of `iptables-restore`, `ip6tables-restore` and `nft -f`, empty if not needed, and sysctls to set after
    them.

    `tables` are the nft tables. `port_mapping` is the configuration of the helper process miniupnpd, empty if not
    needed. `sysctls` maps paths below /proc/sys to values; those of connection tracking exist once the iptables rules
    are loaded. `addresses` are the external addresses that the outside interface needs. `helpers` are programs that do
    what rules cannot.
    """

    iptables: str
    ip6tables: str
    nft: str
    tables: tuple[str, ...]
    port_mapping: str
    sysctls: Mapping[str, str]
    addresses: tuple[str, ...]
    helpers: tuple[Program, ...] = ()


def rules(behavior: NatBehavior, *, inside: str, outside: str, address: str, ipv6: bool = False) -> NatRules:
    """Return the rules of a NAT with interfaces `inside` and `outside` and the (first) external IPv4 address `address`.

    With `ipv6`, a firewall also filters IPv6, and a NAT, which translates only IPv4, filters IPv6 as `IPV6_FIREWALL`.
    """
    site = Site(behavior, inside, outside, external_addresses(address, behavior))
    site6 = replace(site, behavior=IPV6_FIREWALL) if behavior.translates else site
    nat = allocation.nat_table(site) if behavior.translates else ()
    chains = {
        "ip punchlab": list(_chains(site)),
        "ip6 punchlab": list(filtering.firewall(site6, IPV6)) if ipv6 and has_pinholes(site6.behavior) else [],
    }
    tables = {name: [f"table {name} {{", *lines, "}"] for name, lines in chains.items() if lines}
    if lines := list(portmapping.table(site)):
        tables[portmapping.TABLE] = lines
    return NatRules(
        iptables="\n".join([*nat, *filtering.filter_table(site), ""]),
        ip6tables="\n".join([*filtering.filter_table(site6, IPV6), ""]) if ipv6 else "",
        nft="".join(f"{line}\n" for lines in tables.values() for line in lines),
        tables=tuple(tables),
        port_mapping="".join(f"{line}\n" for line in portmapping.configuration(site)),
        sysctls=sysctls(behavior),
        addresses=site.addresses,
        helpers=tuple(_helpers(site)),
    )


def sysctls(behavior: NatBehavior) -> Mapping[str, str]:
    """Return paths below /proc/sys with their values."""
    timeouts = behavior.timeouts
    conntrack = {
        # Otherwise a NAT that lost its state would accept established connections midway, even untranslated ones.
        "tcp_loose": 0,
        **dict.fromkeys(("tcp_timeout_syn_sent", "tcp_timeout_syn_recv"), timeouts.tcp_transitory_s),
        "tcp_timeout_established": timeouts.tcp_established_s,
        **{
            f"tcp_timeout_{state}": timeouts.tcp_closing_s
            for state in ("fin_wait", "close_wait", "last_ack", "time_wait")
        },
        # A connection closed by RST would block new connections of the same endpoints that pinholes admit.
        **({"tcp_timeout_close": 0} if has_pinholes(behavior) else {}),
        "udp_timeout": timeouts.udp_solitary_s,
        "udp_timeout_stream": timeouts.udp_stream_s,
    }
    return {
        **{f"net/netfilter/nf_conntrack_{name}": str(value) for name, value in conntrack.items()},
        # Answer every rejected packet, not one per second. Hosts must not bypass the NAT after a hairpinned packet.
        "net/ipv4/icmp_ratelimit": "0",
        **({"net/ipv6/icmp/ratelimit": "0"} if not behavior.translates else {}),
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv4/conf/default/send_redirects": "0",
    }


def _helpers(site: Site) -> Iterator[Program]:
    if site.behavior.unsolicited is Unsolicited.SILENT_THEN_ICMP:
        seconds = site.behavior.silence_s
        yield Program(
            "punchlab.lab.nat.silence",
            ("--outside", site.outside, "--silence", str(seconds)),
            f"answers an unsolicited SYN after {seconds} s, unless a SYN of the same connection leaves before "
            "(RFC 5382 REQ-4); without it, SYNs are silently dropped",
        )


def _chains(site: Site) -> Iterator[str]:
    """Return the content of the nft table, empty for a NAT that needs only iptables."""
    if not site.behavior.translates:
        if has_pinholes(site.behavior):
            yield from filtering.firewall(site)
        return
    if site.behavior.port_overloading:
        return
    if site.behavior.port_allocation is PortAllocation.BLOCKS:
        yield from allocation.block_ports(site)
    for transport in TRANSPORTS:
        yield from mapping.mappings(site, transport)
        yield from filtering.inbound(site, transport)
    yield from mapping.drop_expired(site)
    yield from filtering.around(site)
