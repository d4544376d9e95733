"""Explicit mappings that hosts request (UPnP IGD, PCP, NAT-PMP): rules and configuration for miniupnpd.

miniupnpd adds a DNAT rule per mapping to a chain of this project; the filter table admits all packets that it
translates. The chain precedes the NAT's own maps, so an explicit mapping takes precedence over an implicit one.

As on any Linux router, a mapping admits all remote hosts (UPnP's RemoteHost and PCP's FILTER are ignored), and neither
miniupnpd nor the NAT knows the ports of the other. Packets that a host sends from a mapped port are a new flow, unless
they answer a flow that came in through the mapping.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator

from punchlab.lab.nat.site import Site
from punchlab.punch.nat.behavior import PortMapping

DAEMON = "miniupnpd"
PACKAGE = "miniupnpd-nftables"
"""The package of Debian and Ubuntu with nft support. The iptables variant does not support the tables of iptables-nft.
"""

COMMAND = (DAEMON, "-d", "-f", "miniupnpd.conf", "-P", "miniupnpd.pid")
"""Runs in the foreground, in a folder with the configuration file of that name."""
CONFIGURATION = COMMAND[3]

TABLE = "inet miniupnpd"

SSDP_PORT, HTTP_PORT, PCP_PORT = 1900, 5000, 5351

_FORWARDED = "miniupnpd"


def supports(site: Site, protocol: PortMapping) -> bool:
    """Return whether the NAT supports the protocol."""
    return site.behavior.port_mapping in (protocol, PortMapping.ALL)


def openings(site: Site) -> Iterator[str]:
    """Return rules of the filter table that admit requests of inside hosts."""
    ports = []
    if supports(site, PortMapping.UPNP_IGD):
        ports += [("udp", SSDP_PORT), ("tcp", HTTP_PORT)]
    if supports(site, PortMapping.PCP):
        ports += [("udp", PCP_PORT)]
    for transport, port in ports:
        yield f"-A INPUT -i {site.inside} -p {transport} --dport {port} -j ACCEPT"


def table(site: Site) -> Iterator[str]:
    """Return the nft table that miniupnpd fills, empty for a NAT without port mapping."""
    if site.behavior.port_mapping is PortMapping.NONE:
        return
    yield f"table {TABLE} {{"
    yield f"  chain prerouting_{_FORWARDED} {{ }}"
    # miniupnpd requires these two chains too. The filter table admits translated packets, and conntrack handles
    # replies.
    yield f"  chain postrouting_{_FORWARDED} {{ }}"
    yield f"  chain {_FORWARDED} {{ }}"
    yield "  chain prerouting {"
    yield "    type nat hook prerouting priority dstnat - 10; policy accept;"
    yield f"    jump prerouting_{_FORWARDED}"
    yield "  }"
    yield "}"


def configuration(site: Site) -> Iterator[str]:
    """Return miniupnpd's configuration, empty for a NAT without port mapping."""
    if site.behavior.port_mapping is PortMapping.NONE:
        return
    address = site.addresses[0]
    yes = {True: "yes", False: "no"}
    yield f"ext_ifname={site.outside}"
    # Behind another NAT, miniupnpd detects that its address is private and rejects requests. With ext_ip it would not
    # start.
    if ipaddress.IPv4Address(address).is_global:
        yield f"ext_ip={address}"
    yield f"listening_ip={site.inside}"
    yield "ipv6_disable=yes"
    yield f"enable_upnp={yes[supports(site, PortMapping.UPNP_IGD)]}"
    yield f"enable_natpmp={yes[supports(site, PortMapping.PCP)]}"
    yield f"http_port={HTTP_PORT}"
    yield "secure_mode=yes"
    # Tests may wait until a mapping expires, so there is no minimum lifetime. PCP recommends 120 s.
    yield "min_lifetime=1"
    yield "max_lifetime=86400"
    name = TABLE.split()[-1]
    yield f"upnp_table_name={name}"
    yield f"upnp_nat_table_name={name}"
    yield "lease_file=miniupnpd.leases"
    yield f"uuid={uuid.uuid5(uuid.NAMESPACE_OID, address)}"
    yield "allow 1024-65535 0.0.0.0/0 0-65535"
    yield "deny 0-65535 0.0.0.0/0 0-65535"
