"""From a NAT behavior to the rules that make a Linux node behave so.

Outbound is iptables: which external port a new mapping gets (SNAT, in `allocation`), and what an unsolicited packet
gets (INPUT, in `filtering`). What iptables has no words for is an nft table beside it, filled by the packets themselves
(`mapping`), so that everything is in force with the first packet and no daemon inserts rules after the fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from punchlab.lab.nat import allocation, filtering, mapping, portmapping
from punchlab.lab.nat.helpers import Program
from punchlab.lab.nat.mapping import has_doors
from punchlab.lab.nat.site import IPV6, TRANSPORTS, Site, external_addresses
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited

IPV6_WALL = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.PRESERVING,
    translates=False,
)
"""What a home router does with IPv6 while it translates IPv4: replies pass, and simultaneous opens (RFC 6092)."""


@dataclass(frozen=True, slots=True)
class NatRules:
    """What to load: input of `iptables-restore`, `ip6tables-restore` and `nft -f`, empty when not needed; then sysctls.

    `tables` are the tables of nft that it makes. `port_mapping` is the configuration of the helper process miniupnpd,
    empty for a NAT that needs none.

    `sysctls` are paths below /proc/sys and their values; those of connection tracking exist once iptables' rules do.
    `addresses` are the external addresses that the outside interface must have; `helpers` are the programs to run
    beside the rules, for what those cannot say.
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
    """The rules of a NAT with interfaces `inside` and `outside` and the (first) external IPv4 address `address`.

    With `ipv6` a firewall does the same for IPv6; a NAT, which translates IPv4 alone, is `IPV6_WALL` for that.
    """
    site = Site(behavior, inside, outside, external_addresses(address, behavior))
    site6 = replace(site, behavior=IPV6_WALL) if behavior.translates else site
    nat = allocation.nat_table(site) if behavior.translates else ()
    chains = {
        "ip punchlab": list(_chains(site)),
        "ip6 punchlab": list(filtering.firewall(site6, IPV6)) if ipv6 and has_doors(site6.behavior) else [],
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
    """Paths below /proc/sys and their values."""
    timeouts = behavior.timeouts
    conntrack = {
        # Without this a NAT that lost its state takes up streams in the middle, untranslated ones too.
        "tcp_loose": 0,
        **dict.fromkeys(("tcp_timeout_syn_sent", "tcp_timeout_syn_recv"), timeouts.tcp_transitory_s),
        "tcp_timeout_established": timeouts.tcp_established_s,
        **{
            f"tcp_timeout_{state}": timeouts.tcp_closing_s
            for state in ("fin_wait", "close_wait", "last_ack", "time_wait")
        },
        # What a RST leaves behind keeps new connections of the same endpoints out, which doors in memory let in.
        **({"tcp_timeout_close": 0} if has_doors(behavior) else {}),
        "udp_timeout": timeouts.udp_solitary_s,
        "udp_timeout_stream": timeouts.udp_stream_s,
    }
    return {
        **{f"net/netfilter/nf_conntrack_{name}": str(value) for name, value in conntrack.items()},
        # Every refusal is answered, not one a second; and a packet that turns back inside is nobody's shorter way.
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
            f"answers an unsolicited SYN after {seconds} s, unless a SYN of the same connection leaves by then "
            "(RFC 5382 REQ-4); without it there is no answer",
        )


def _chains(site: Site) -> Iterator[str]:
    """The nft table's content: nothing for a NAT that iptables can do by itself."""
    if not site.behavior.translates:
        if has_doors(site.behavior):
            yield from filtering.firewall(site)
        return
    if site.behavior.port_overloading:
        return
    if site.behavior.port_allocation is PortAllocation.BLOCKS:
        yield from allocation.block_ports(site)
    for transport in TRANSPORTS:
        yield from mapping.memory(site, transport)
        yield from filtering.inbound(site, transport)
    yield from mapping.forgetting(site)
    yield from filtering.around(site)
