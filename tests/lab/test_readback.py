"""pyroute2 reads exactly what the topology specifies from the namespaces of a lab."""

from __future__ import annotations

import ipaddress
import socket
from collections import defaultdict

import pytest
from pyroute2 import IPRoute

from punchlab import Lab
from punchlab.lab.process.node import Node
from punchlab.topologies import TOPOLOGIES

Route = tuple[str, str]


def read(node: Node) -> tuple[dict[int, tuple[str, str, str]], dict[int, set[str]], set[Route]]:
    """Return links by index (name, MAC address, state), addresses by index, and routes (prefix, gateway)."""
    addresses: dict[int, set[str]] = defaultdict(set)
    routes: set[Route] = set()
    with node.entered(), IPRoute() as netlink:
        links = {
            link["index"]: (link.get("ifname"), link.get("address"), link.get("state")) for link in netlink.get_links()
        }
        for address in netlink.get_addr():
            addresses[address["index"]].add(f"{address.get('address')}/{address['prefixlen']}")
        for family, everything in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
            for route in netlink.get_routes(family=family, table=254):
                if (gateway := route.get("gateway")) is not None:
                    prefix = f"{route.get('dst')}/{route['dst_len']}" if route["dst_len"] else everything
                    routes.add((prefix, gateway))
    return links, addresses, routes


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_links_addresses_and_routes_are_those_of_the_topology(name: str) -> None:
    with Lab(TOPOLOGIES[name]()) as lab:
        for node in lab:
            links, addresses, routes = read(node)
            loopback = links.pop(1)
            assert loopback[0] == "lo"
            own = {"127.0.0.1/8", "::1/128"}
            extra = {str(ipaddress.ip_interface(each)) for each in node.graph.addresses}
            assert addresses.pop(1, set()) - own == extra, node.name
            wanted = {interface.index: (interface.name, interface.mac, "up") for interface in node.graph.interfaces}
            if node.graph.kind == "switch":
                bridges = set(links) - set(wanted)
                assert len(bridges) == 1
                links.pop(bridges.pop())
            assert links == wanted, node.name
            assert addresses == {
                interface.index: {each for each in (interface.address, interface.address6) if each}
                for interface in node.graph.interfaces
                if interface.address
            }, node.name
            assert routes == {(prefix, gateway) for prefix, gateway in node.graph.routes}, node.name
