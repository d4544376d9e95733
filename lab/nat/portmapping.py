"""Mappings that inside hosts ask for (UPnP IGD, PCP, NAT-PMP): what miniupnpd needs to work on the NAT's own rules.

miniupnpd writes a DNAT rule per mapping into a chain of ours; the filter table admits whatever that translates. The
chain comes before the NAT's own maps, so that a mapping that was asked for wins over one that a packet made.

It is as on any Linux router: a mapping admits everybody (a RemoteHost of UPnP or a filter of PCP is not heeded), and
neither side knows of the other's ports. What a host sends from a mapped port is a new flow like any other, unless it
answers one that came in by the mapping.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator

from punchlab.lab.nat.site import Site
from punchlab.punch.nat.behavior import PortMapping

DAEMON = "miniupnpd"
PACKAGE = "miniupnpd-nftables"
"""Of Debian and Ubuntu: the daemon for nft. (The one for iptables does not know the tables that iptables-nft makes.)"""

COMMAND = (DAEMON, "-d", "-f", "miniupnpd.conf", "-P", "miniupnpd.pid")
"""In the foreground, in a folder that holds the configuration under that name."""
CONFIGURATION = COMMAND[3]

TABLE = "inet miniupnpd"

SSDP_PORT, HTTP_PORT, PCP_PORT = 1900, 5000, 5351

_FORWARDED = "miniupnpd"


def speaks(site: Site, protocol: PortMapping) -> bool:
    """Whether the NAT speaks it."""
    return site.behavior.port_mapping in (protocol, PortMapping.ALL)


def openings(site: Site) -> Iterator[str]:
    """Rules of the filter table that let inside hosts ask."""
    ports = []
    if speaks(site, PortMapping.UPNP_IGD):
        ports += [("udp", SSDP_PORT), ("tcp", HTTP_PORT)]
    if speaks(site, PortMapping.PCP):
        ports += [("udp", PCP_PORT)]
    for transport, port in ports:
        yield f"-A INPUT -i {site.inside} -p {transport} --dport {port} -j ACCEPT"


def table(site: Site) -> Iterator[str]:
    """The nft table that miniupnpd fills; nothing for a NAT that speaks no such protocol."""
    if site.behavior.port_mapping is PortMapping.NONE:
        return
    yield f"table {TABLE} {{"
    yield f"  chain prerouting_{_FORWARDED} {{ }}"
    # It insists on these two as well; the filter table admits what is translated, and replies go back by themselves.
    yield f"  chain postrouting_{_FORWARDED} {{ }}"
    yield f"  chain {_FORWARDED} {{ }}"
    yield "  chain prerouting {"
    yield "    type nat hook prerouting priority dstnat - 10; policy accept;"
    yield f"    jump prerouting_{_FORWARDED}"
    yield "  }"
    yield "}"


def configuration(site: Site) -> Iterator[str]:
    """miniupnpd's configuration; nothing for a NAT that speaks no such protocol."""
    if site.behavior.port_mapping is PortMapping.NONE:
        return
    address = site.addresses[0]
    yes = {True: "yes", False: "no"}
    yield f"ext_ifname={site.outside}"
    # Behind another NAT it sees by itself that its address is not a public one, and refuses; told, it does not start.
    if ipaddress.IPv4Address(address).is_global:
        yield f"ext_ip={address}"
    yield f"listening_ip={site.inside}"
    yield "ipv6_disable=yes"
    yield f"enable_upnp={yes[speaks(site, PortMapping.UPNP_IGD)]}"
    yield f"enable_natpmp={yes[speaks(site, PortMapping.PCP)]}"
    yield f"http_port={HTTP_PORT}"
    yield "secure_mode=yes"
    # As short as the client wishes, where PCP suggests two minutes at least: a test may wait for the end of a mapping.
    yield "min_lifetime=1"
    yield "max_lifetime=86400"
    name = TABLE.split()[-1]
    yield f"upnp_table_name={name}"
    yield f"upnp_nat_table_name={name}"
    yield "lease_file=miniupnpd.leases"
    yield f"uuid={uuid.uuid5(uuid.NAMESPACE_OID, address)}"
    yield "allow 1024-65535 0.0.0.0/0 0-65535"
    yield "deny 0-65535 0.0.0.0/0 0-65535"
