"""From a NAT behavior to the rules that make a Linux node behave so.

Outbound is iptables: which external port a new mapping gets (SNAT), and what an unsolicited packet gets (INPUT). What
iptables has no words for is an nft table beside it, filled by the packets themselves, so that everything is in force
with the first packet and no daemon inserts rules after the fact:

- `external_*` remembers inside endpoint -> external port, so that a mapping is endpoint-independent for as long as it
  lives, and not only while some connection of it does;
- `taken_*` and `claims_*` say which external ports belong to which inside endpoint. Plain MASQUERADE overloads: two
  hosts with one source port share the external port towards different destinations. Here the second one is marked and
  gets a random free port;
- `inside_*` maps an external port back to its inside endpoint: endpoint-independent filtering;
- `contacted_*` narrows that to remote addresses which the inside endpoint has sent to: address-dependent filtering.

Address-and-port-dependent filtering is connection tracking itself: only replies pass. (Calling `ct state established` a
restricted cone is the commonest mislabelling of the field; it is a *port*-restricted one.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from punch.nat.behavior import Filtering, NatBehavior, PortAllocation, Unsolicited
from punch.nat.behavior import Mapping as MappingBehavior

MAPPING_LIFETIME_S = {"tcp": 7440, "udp": 300}
"""How long an idle mapping lives: RFC 5382 REQ-5 (2 h 04 min) and RFC 4787 REQ-5 (5 min)."""

_TRANSPORTS = ("tcp", "udp")
_CLASH_MARK = "0x1"

# Path below /proc/sys -> value, the same for every NAT.
SYSCTLS: Mapping[str, str] = {
    # Without this a NAT that lost its state takes up streams in the middle, untranslated ones too.
    "net/netfilter/nf_conntrack_tcp_loose": "0",
}


@dataclass(frozen=True, slots=True)
class NatRules:
    """What to load besides `SYSCTLS`: `iptables-restore` input, and `nft -f` input (empty when not needed)."""

    iptables: str
    nft: str


def rules(behavior: NatBehavior, *, inside: str, outside: str, address: str) -> NatRules:
    """The rules of a NAT with interfaces `inside` and `outside` and the external IPv4 address `address`."""
    remembers = behavior.mapping is MappingBehavior.ENDPOINT_INDEPENDENT
    return NatRules(
        iptables="\n".join([*_nat_table(behavior, outside, address), *_filter_table(behavior, inside, outside), ""]),
        nft="\n".join(_nft_table(behavior, inside, outside, address)) if remembers else "",
    )


def _nat_table(behavior: NatBehavior, outside: str, address: str) -> Iterator[str]:
    yield from ("*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT")
    out = f"-A POSTROUTING -o {outside}"
    any_port = f"-j SNAT --to-source {address}:1024-65535 --random-fully"
    for transport in _TRANSPORTS:
        if behavior.port_allocation is PortAllocation.RANDOM:
            yield f"{out} -p {transport} {any_port}"
        else:
            yield f"{out} -p {transport} -m mark --mark {_CLASH_MARK} {any_port}"
    yield f"{out} -j SNAT --to-source {address}"
    yield "COMMIT"


def _filter_table(behavior: NatBehavior, inside: str, outside: str) -> Iterator[str]:
    yield from ("*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT")
    yield "-A FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield f"-A FORWARD -i {inside} -o {outside} -j ACCEPT"
    yield f"-A FORWARD -i {outside} -o {inside} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT"
    yield "-A INPUT -i lo -j ACCEPT"
    yield "-A INPUT -p icmp -j ACCEPT"
    if behavior.unsolicited is Unsolicited.RESET:
        # Rejected, not accepted: an accepted packet would be confirmed in conntrack and take the port for a while.
        yield "-A INPUT -p tcp -j REJECT --reject-with tcp-reset"
    yield "COMMIT"


def _nft_table(behavior: NatBehavior, inside: str, outside: str, address: str) -> Iterator[str]:
    yield "table ip punchlab {"
    for transport in _TRANSPORTS:
        yield from _nft_transport(behavior, transport, f'iifname "{inside}" oifname "{outside}"', outside, address)
    yield "}"
    yield ""


def _nft_transport(behavior: NatBehavior, transport: str, outbound: str, outside: str, address: str) -> Iterator[str]:
    wide = behavior.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
    by_address = behavior.filtering is Filtering.ADDRESS_DEPENDENT
    life = f"timeout {MAPPING_LIFETIME_S[transport]}s"
    dynamic = "flags dynamic,timeout; size 65535;"
    this = f"meta l4proto {transport}"
    original = "ct original ip saddr . ct original proto-src"

    yield f"  map external_{transport} {{ type ipv4_addr . inet_service : inet_service; {dynamic} }}"
    yield f"  set taken_{transport} {{ type inet_service; {dynamic} }}"
    yield f"  set claims_{transport} {{ type inet_service . ipv4_addr . inet_service; {dynamic} }}"
    if wide:
        yield f"  map inside_{transport} {{ type inet_service : ipv4_addr . inet_service; {dynamic} }}"
    if by_address:
        yield f"  set contacted_{transport} {{ type inet_service . ipv4_addr; {dynamic} }}"

    # Before iptables (srcnat): a known inside endpoint keeps its external port; a port claimed by another is marked.
    yield f"  chain mark_clash_{transport} {{"
    yield "    type filter hook postrouting priority srcnat - 10; policy accept;"
    yield (
        f"    {outbound} {transport} sport @taken_{transport} "
        f"{transport} sport . ip saddr . {transport} sport != @claims_{transport} meta mark set {_CLASH_MARK}"
    )
    yield "  }"
    yield f"  chain keep_mapping_{transport} {{"
    yield "    type nat hook postrouting priority srcnat - 10; policy accept;"
    yield (f"    {outbound} {this} snat to {address} : ip saddr . {transport} sport map @external_{transport}")
    yield "  }"

    # After iptables: the packet carries its external port. One that is another's is dropped before connection tracking
    # confirms it, so that the retransmission draws again.
    yield f"  chain claim_{transport} {{"
    port = f"{transport} sport"
    yield f"    {this} {port} @taken_{transport} {port} . {original} != @claims_{transport} drop"
    yield f"    {this} update @taken_{transport} {{ {port} {life} }}"
    yield f"    {this} update @claims_{transport} {{ {port} . {original} {life} }}"
    yield f"    {this} update @external_{transport} {{ {original} {life} : {port} }}"
    if wide:
        yield f"    {this} update @inside_{transport} {{ {port} {life} : {original} }}"
    if by_address:
        yield f"    {this} update @contacted_{transport} {{ {port} . ip daddr {life} }}"
    yield "  }"
    yield f"  chain remember_{transport} {{"
    yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
    yield f"    {outbound} ct direction original {this} jump claim_{transport}"
    yield "  }"

    if wide:
        admitted = f"{transport} dport . ip saddr @contacted_{transport} " if by_address else ""
        yield f"  chain admit_{transport} {{"
        yield "    type nat hook prerouting priority dstnat; policy accept;"
        yield (f'    iifname "{outside}" {this} {admitted}dnat to {transport} dport map @inside_{transport}')
        yield "  }"
