"""A link of a running lab that can be set down and up."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from punchlab.lab.graph import Graph, GraphLink
from punchlab.lab.kernel import running
from punchlab.lab.process.node import Node


class RunningLink:
    """A link. `down` sets down the interface of the first node; the other end loses its carrier.

    `Internet.home` adds the inner node first: the host of a LAN, the NAT of an access link.
    """

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], link: GraphLink) -> None:
        self._graph, self._nodes, self._link = graph, nodes, link
        self._blackholes: list[str] | None = None

    @property
    def is_up(self) -> bool:
        """Whether the link passes packets."""
        return self._blackholes is None

    def down(self) -> None:
        """Set the link down. Packets are silently lost in both directions; nodes keep their state. Idempotent.

        A host loses its routes through the interface, and its sockets get errors. A router or NAT silently drops the
        packets that it would forward there, without ICMP errors.
        """
        if not self.is_up:
            return
        end = self._link.one
        node = self._nodes[end.node]
        blackholes = list(self._destinations()) if node.graph.forwarding else []
        with running.changes(node.namespace) as changes:
            for destination in blackholes:
                changes.add_blackhole(destination)
            changes.set_down(end.index)
        self._blackholes = blackholes

    def up(self) -> None:
        """Set the link up and restore the routes and neighbors that it lost. Idempotent."""
        if self._blackholes is None:
            return
        end, other = self._link.one, self._link.other
        node = self._nodes[end.node]
        with running.changes(node.namespace) as changes:
            changes.set_up(end.index)
            if end.address6 is not None:  # the kernel removed it when the interface went down, unlike an IPv4 address
                changes.add_address(end.index, end.address6)
            for here, there in self._graph.neighbors():
                if here is end:
                    for address in there.hosts[: len(end.hosts)]:
                        changes.replace_neighbor(end.index, address, there.mac)
            for destination, gateway in self._routes():
                changes.replace_route(destination, gateway)
            for destination in self._blackholes:
                changes.delete_blackhole(destination)
            changes.wait_until_up(end.index)
        node.wait_for_ipv6([end])
        with running.changes(self._nodes[other.node].namespace) as changes:
            changes.wait_until_up(other.index)
        self._blackholes = None

    def _destinations(self) -> Iterator[str]:
        """Yield the prefixes that the first node reaches through this link."""
        yield from (str(network) for network in self._networks())
        yield from (destination for destination, _gateway in self._routes())

    def _routes(self) -> Iterator[tuple[str, str]]:
        """Yield the (prefix, gateway) routes of the first node through this link."""
        networks = self._networks()
        for destination, gateway in self._graph.nodes[self._link.one.node].routes:
            if any(ipaddress.ip_address(gateway) in network for network in networks):
                yield destination, gateway

    def _networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        end = self._link.one
        return [ipaddress.ip_interface(each).network for each in (end.address, end.address6) if each is not None]


def find(graph: Graph, one: str, other: str) -> GraphLink | None:
    """Return the link between two nodes, in either order, or None."""
    return next((link for link in graph.links if {link.one.node, link.other.node} == {one, other}), None)
