"""What comes in: the filter table, and the nft chains that admit more than replies or turn packets back inside.

Address-and-port-dependent filtering is connection tracking itself: only replies pass. (Calling `ct state established` a
restricted cone is the commonest mislabelling of the field; it is a *port*-restricted one.)
"""

from __future__ import annotations

from collections.abc import Iterator

from punchlab.lab.nat import portmapping
from punchlab.lab.nat.mapping import doors, has_doors, lifetimes, looks_inside
from punchlab.lab.nat.site import ADMITTED, DYNAMIC, HAIRPIN, IPV4, OVERDUE, QUEUE, TRANSPORTS, Family, Site
from punchlab.punch.nat.behavior import Hairpinning, IcmpErrors, Unsolicited


def filter_table(site: Site, family: Family = IPV4) -> Iterator[str]:
    """The filter table, as input of `iptables-restore` or, for a firewall, `ip6tables-restore`."""
    behavior = site.behavior
    yield "*filter"
    yield "-A FORWARD -m conntrack --ctstate INVALID -j DROP"
    if behavior.icmp_errors is IcmpErrors.SWALLOWED:
        yield f"-A FORWARD -i {site.outside} -p {family.icmp} -m conntrack --ctstate RELATED -j DROP"
    yield f"-A FORWARD -i {site.inside} -o {site.outside} -j ACCEPT"
    yield f"-A FORWARD -i {site.outside} -o {site.inside} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT"
    if behavior.hairpinning is not Hairpinning.NONE:
        yield f"-A FORWARD -i {site.inside} -o {site.inside} -m conntrack --ctstate RELATED,DNAT -j ACCEPT"
    # Rejected, not accepted: an accepted packet would be confirmed in conntrack and take the port for a while.
    answer = list(_answer(behavior.unsolicited, family))
    if not behavior.translates:
        if has_doors(site.behavior):
            yield f"-A FORWARD -m mark --mark {ADMITTED:#x}/{ADMITTED:#x} -j ACCEPT"
        yield from (f"-A FORWARD -i {site.outside} {words}" for words in answer)
    yield "-A INPUT -i lo -j ACCEPT"
    yield f"-A INPUT -p {family.icmp} -j ACCEPT"
    yield from portmapping.openings(site)
    yield from (f"-A INPUT {words}" for words in answer)
    # Not by policy: for a chain that is changed, not made, iptables-restore waits for the kernel, some 10 ms.
    yield from ("-A INPUT -j DROP", "-A FORWARD -j DROP", "COMMIT")


def _answer(unsolicited: Unsolicited, family: Family) -> Iterator[str]:
    """Ends of rules: what a TCP segment gets that nothing has admitted, before it is dropped."""
    if unsolicited is Unsolicited.SILENT_THEN_ICMP:
        refusal = family.reject[Unsolicited.PORT_UNREACHABLE]
        # `lab.nat.silence` holds it back there, and gives it back with the mark if it is to be answered.
        yield f"-p tcp -m mark --mark {OVERDUE:#x}/{OVERDUE:#x} -j REJECT --reject-with {refusal}"
        yield f"-p tcp --syn -j NFQUEUE --queue-num {QUEUE}"
    elif unsolicited in family.reject:
        yield f"-p tcp -j REJECT --reject-with {family.reject[unsolicited]}"


def inbound(site: Site, transport: str) -> Iterator[str]:
    """The chains through which packets reach an inside endpoint by its external one, beyond replies."""
    this = f"meta l4proto {transport}"
    if looks_inside(site):
        back = f"dnat ip to ip daddr . {transport} dport map @inside_{transport}"
        yield f"  chain admit_{transport} {{"
        yield "    type nat hook prerouting priority dstnat; policy accept;"
        if has_doors(site.behavior):
            came = doors(site, transport)[2]
            admitted = f"ip daddr . {transport} dport{came} @contacted_{transport} " if came else ""
            yield f'    iifname "{site.outside}" {this} {admitted}{back}'
        if site.behavior.hairpinning is not Hairpinning.NONE:
            yield f'    iifname "{site.inside}" {this} ip daddr {site.external} {back}'
        yield "  }"


def around(site: Site) -> Iterator[str]:
    """The chains that see both transports."""
    if site.behavior.hairpinning is Hairpinning.EXTERNAL_SOURCE:
        yield "  chain mark_hairpin {"
        yield "    type filter hook prerouting priority dstnat - 10; policy accept;"
        yield f'    iifname "{site.inside}" ip daddr {site.external} meta mark set meta mark | {HAIRPIN:#x}'
        yield "  }"
    if has_doors(site.behavior):
        # An outside endpoint that the inside endpoint already talks to through another mapping: connection tracking
        # would give it another port of its own to tell the two apart, and the inside host would answer a stranger.
        yield "  chain unchanged_remote {"
        yield "    type filter hook postrouting priority srcnat + 50; policy accept;"
        yield f'    iifname "{site.outside}" oifname "{site.inside}" ct direction original ct status snat drop'
        yield "  }"


def firewall(site: Site, family: Family = IPV4) -> Iterator[str]:
    """For a firewall that does not translate: who was contacted, and who may therefore come in."""
    for transport in TRANSPORTS:
        door = doors(site, transport, family)
        kind, sent, came = (
            f"{family.address} . inet_service{door[0]}",
            f"{family.ip} saddr . {transport} sport{door[1]}",
            f"{family.ip} daddr . {transport} dport{door[2]}",
        )
        short, long = lifetimes(site, transport)
        verb = "add" if transport == "tcp" else "update"
        out = f'    iifname "{site.inside}" oifname "{site.outside}" meta l4proto {transport}'
        yield f"  set opened_{transport} {{ type {kind}; {DYNAMIC} }}"
        yield f"  chain admit_{transport} {{"
        yield "    type filter hook forward priority filter - 10; policy accept;"
        yield f"{out} ct status assured update @opened_{transport} {{ {sent} timeout {long}s }} accept"
        yield f"{out} {verb} @opened_{transport} {{ {sent} timeout {short}s }}"
        yield f'    iifname "{site.outside}" {came} @opened_{transport} meta mark set meta mark | {ADMITTED:#x}'
        yield "  }"
