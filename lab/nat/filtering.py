"""Filtering: the filter table, and nft chains that admit more than replies or hairpin packets.

Connection tracking by itself is address-and-port-dependent filtering: only replies pass. (`ct state established` is
often called a restricted cone; it is a *port*-restricted cone.)
"""

from __future__ import annotations

from collections.abc import Iterator

from punchlab.lab.nat import portmapping
from punchlab.lab.nat.mapping import has_pinholes, lifetimes, needs_inside_map, pinhole
from punchlab.lab.nat.site import ADMITTED, DYNAMIC, HAIRPIN, IPV4, OVERDUE, QUEUE, TRANSPORTS, Family, Site
from punchlab.punch.nat.behavior import Hairpinning, IcmpErrors, Unsolicited


def filter_table(site: Site, family: Family = IPV4) -> Iterator[str]:
    """Return the filter table, as input of `iptables-restore` or, for a firewall, `ip6tables-restore`."""
    behavior = site.behavior
    yield "*filter"
    yield "-A FORWARD -m conntrack --ctstate INVALID -j DROP"
    if behavior.icmp_errors is IcmpErrors.SWALLOWED:
        yield f"-A FORWARD -i {site.outside} -p {family.icmp} -m conntrack --ctstate RELATED -j DROP"
    yield f"-A FORWARD -i {site.inside} -o {site.outside} -j ACCEPT"
    yield f"-A FORWARD -i {site.outside} -o {site.inside} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT"
    if behavior.hairpinning is not Hairpinning.NONE:
        yield f"-A FORWARD -i {site.inside} -o {site.inside} -m conntrack --ctstate RELATED,DNAT -j ACCEPT"
    # REJECT, because conntrack would confirm an accepted packet and occupy the port for a while.
    answer = list(_answer(behavior.unsolicited, family))
    if not behavior.translates:
        if has_pinholes(site.behavior):
            yield f"-A FORWARD -m mark --mark {ADMITTED:#x}/{ADMITTED:#x} -j ACCEPT"
        yield from (f"-A FORWARD -i {site.outside} {words}" for words in answer)
    yield "-A INPUT -i lo -j ACCEPT"
    yield f"-A INPUT -p {family.icmp} -j ACCEPT"
    yield from portmapping.openings(site)
    yield from (f"-A INPUT {words}" for words in answer)
    # DROP rules instead of a policy: iptables-restore waits about 10 ms for the kernel when it changes an existing
    # chain.
    yield from ("-A INPUT -j DROP", "-A FORWARD -j DROP", "COMMIT")


def _answer(unsolicited: Unsolicited, family: Family) -> Iterator[str]:
    """Return the ends of rules that answer a TCP segment that no rule admitted."""
    if unsolicited is Unsolicited.SILENT_THEN_ICMP:
        reject = family.reject[Unsolicited.PORT_UNREACHABLE]
        # `lab.nat.silence` holds the packet in the queue, and sends it through the chain again with the mark for the
        # answer.
        yield f"-p tcp -m mark --mark {OVERDUE:#x}/{OVERDUE:#x} -j REJECT --reject-with {reject}"
        yield f"-p tcp --syn -j NFQUEUE --queue-num {QUEUE}"
    elif unsolicited in family.reject:
        yield f"-p tcp -j REJECT --reject-with {family.reject[unsolicited]}"


def inbound(site: Site, transport: str) -> Iterator[str]:
    """Return chains that translate packets to an external endpoint back to its inside endpoint, beyond replies."""
    this = f"meta l4proto {transport}"
    if needs_inside_map(site):
        back = f"dnat ip to ip daddr . {transport} dport map @inside_{transport}"
        yield f"  chain admit_{transport} {{"
        yield "    type nat hook prerouting priority dstnat; policy accept;"
        if has_pinholes(site.behavior):
            incoming = pinhole(site, transport)[2]
            admitted = f"ip daddr . {transport} dport{incoming} @contacted_{transport} " if incoming else ""
            yield f'    iifname "{site.outside}" {this} {admitted}{back}'
        if site.behavior.hairpinning is not Hairpinning.NONE:
            yield f'    iifname "{site.inside}" {this} ip daddr {site.external} {back}'
        yield "  }"


def around(site: Site) -> Iterator[str]:
    """Return the chains for both transports."""
    if site.behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield "  chain mark_hairpin {"
        yield "    type filter hook prerouting priority dstnat - 10; policy accept;"
        yield f'    iifname "{site.inside}" ip daddr {site.external} meta mark set meta mark | {HAIRPIN:#x}'
        yield "  }"
    if has_pinholes(site.behavior):
        # The inside endpoint may already have a connection to this remote endpoint through another mapping. Then
        # connection tracking would change the remote port, and the inside host would see an unknown source.
        yield "  chain unchanged_remote {"
        yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
        yield f'    iifname "{site.outside}" oifname "{site.inside}" ct direction original ct status snat drop'
        yield "  }"


def firewall(site: Site, family: Family = IPV4) -> Iterator[str]:
    """Return the sets and chains of a firewall that does not translate: contacted endpoints, and packets to admit."""
    for transport in TRANSPORTS:
        remote = pinhole(site, transport, family)
        kind, sent, incoming = (
            f"{family.address} . inet_service{remote[0]}",
            f"{family.ip} saddr . {transport} sport{remote[1]}",
            f"{family.ip} daddr . {transport} dport{remote[2]}",
        )
        short, long = lifetimes(site, transport)
        verb = "add" if transport == "tcp" else "update"
        out = f'    iifname "{site.inside}" oifname "{site.outside}" meta l4proto {transport}'
        yield f"  set opened_{transport} {{ type {kind}; {DYNAMIC} }}"
        yield f"  chain admit_{transport} {{"
        yield "    type filter hook forward priority filter - 10; policy accept;"
        yield f"{out} ct status assured update @opened_{transport} {{ {sent} timeout {long}s }} accept"
        yield f"{out} {verb} @opened_{transport} {{ {sent} timeout {short}s }}"
        yield f'    iifname "{site.outside}" {incoming} @opened_{transport} meta mark set meta mark | {ADMITTED:#x}'
        yield "  }"
