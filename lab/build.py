"""Build a lab from its graph: namespaces, links, addresses, routes and NAT rules.

One process builds everything over netlink. The time is linear in the number of nodes: 0.3 ms for a namespace and 0.5 ms
for a link, almost all of it in the kernel. iptables-restore and nft load the rules in parallel with this work.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from punchlab.lab.errors import LabError
from punchlab.lab.graph import Graph, GraphNode
from punchlab.lab.kernel import namespace, sysctl
from punchlab.lab.kernel.rtnetlink import LOOPBACK_INDEX, RouteSocket
from punchlab.lab.nat.helpers import RunningProgram
from punchlab.lab.nat.loader import Loader, Request
from punchlab.lab.nat.portmapper import PortMapper
from punchlab.lab.nat.rules import NatRules, rules
from punchlab.lab.process.node import Helper, Node, close_all

_BRIDGE_INDEX = 2
_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1"}
# In a lab without IPv6, neighbor discovery would only add packets to the captures.
_WITHOUT_IPV6 = {f"net/ipv6/conf/{which}/disable_ipv6": "1" for which in ("all", "default")}
# Interfaces have only the addresses that the topology assigns: no link-local address (mode 1), no router
# advertisements.
_WITH_IPV6 = {f"net/ipv6/conf/{which}/disable_ipv6": "0" for which in ("all", "default")} | {
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/default/accept_ra": "0",
}
_FORWARDING6 = {"net/ipv6/conf/all/forwarding": "1"}
_DESCRIPTORS_PER_NODE = 2
"""The namespace, and a netlink socket during the build."""
_OTHER_DESCRIPTORS = 256


def build(graph: Graph) -> dict[str, Node]:
    """Create every node and link of the graph and return the nodes by name.

    Raises `LabError`; then nothing remains of the lab.
    """
    _allow_descriptors(len(graph.nodes))
    namespaces = namespace.create(len(graph.nodes))
    nodes = {name: Node(planned, made) for (name, planned), made in zip(graph.nodes.items(), namespaces, strict=True)}
    try:
        nats = {wanted.name: wanted for wanted in _nat_rules(nodes.values())}
        with Loader(nats.values()) as loader:
            _set_sysctls(nodes.values())
            _wire(graph, nodes, {name: wanted.rules.addresses[1:] for name, wanted in nats.items()})
            loader.finish()
        helping = [helper for name, wanted in nats.items() for helper in start_helpers(nodes[name], wanted.rules)]
        for helper in helping:
            helper.wait()
    except BaseException:
        close_all(nodes.values())
        raise
    return nodes


def start_helpers(node: Node, made: NatRules) -> list[Helper]:
    """Start the helper processes that the loaded rules of the node need. `wait` blocks until a helper is ready."""
    _outside, inside = node.graph.interfaces
    started: list[Helper] = [RunningProgram(node, program) for program in made.helpers]
    if made.port_mapping:
        started.append(PortMapper(node, inside.name, made.port_mapping))
    return started


def _allow_descriptors(nodes: int) -> None:
    others = namespace.SELECT_DESCRIPTORS if nodes >= namespace.MANY else _OTHER_DESCRIPTORS
    wanted = _DESCRIPTORS_PER_NODE * nodes + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard < wanted:
            raise LabError(f"this lab needs {wanted} open files, but the hard limit (`ulimit -Hn`) is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_sysctls(nodes: Iterable[Node]) -> None:
    # All new namespaces have the same values, and opening a sysctl file takes longer with each namespace. Write only
    # the values that differ.
    fresh: dict[str, str | None] = {}
    for node in nodes:
        wanted = _sysctls(node.graph)
        with node.entered():
            fresh |= {path: sysctl.read(path) for path in wanted if path not in fresh}
            sysctl.write({path: value for path, value in wanted.items() if fresh[path] != value})


def _sysctls(planned: GraphNode) -> dict[str, str]:
    ipv6 = planned.address6 is not None
    wanted = _SYSCTLS | (_WITH_IPV6 if ipv6 else _WITHOUT_IPV6)
    if planned.forwarding:
        wanted |= _FORWARDING | (_FORWARDING6 if ipv6 else {})
    return wanted


def _nat_rules(nodes: Iterable[Node]) -> Iterator[Request]:
    for node in nodes:
        if (behavior := node.graph.behavior) is not None:
            # `Internet.home` adds the outside interface first, then the inside interface.
            outside, inside = node.graph.interfaces
            ipv6 = inside.address6 is not None
            text = rules(behavior, inside=inside.name, outside=outside.name, address=node.address, ipv6=ipv6)
            yield Request(node.name, node.namespace, text)


def _wire(graph: Graph, nodes: Mapping[str, Node], pools: Mapping[str, Sequence[str]]) -> None:
    """Create links, addresses and routes. `pools` maps a NAT to its additional external addresses."""
    neighbors: dict[str, list[tuple[int, str, str]]] = {name: [] for name in nodes}
    for here, there in graph.neighbors():
        neighbors[here.node] += [(here.index, address, there.mac) for address in there.hosts[: len(here.hosts)]]
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(RouteSocket(node.namespace)) for name, node in nodes.items()}
        first = next(iter(sockets.values()))
        for link in graph.links:
            peer = (link.other.name, link.other.index, link.other.mac, nodes[link.other.node].namespace)
            where = nodes[link.one.node].namespace
            first.add_veth(link.one.name, link.one.index, link.one.mac, peer, where=where)
        first.commit()
        for name, planned in graph.nodes.items():
            _address(planned, neighbors[name], sockets[name])
            for extra in pools.get(name, ()):
                sockets[name].add_address(planned.interfaces[0].index, f"{extra}/32")
            sockets[name].commit()
        # A route needs both ends of its link up, so routes come last.
        for name, planned in graph.nodes.items():
            for destination, gateway in planned.routes:
                sockets[name].add_route(destination, gateway)
            sockets[name].commit()
        for name, planned in graph.nodes.items():
            sockets[name].wait_until_up([interface.index for interface in planned.interfaces])
        for node in nodes.values():
            node.wait_for_ipv6(node.graph.interfaces)


def _address(planned: GraphNode, neighbors: Sequence[tuple[int, str, str]], route_socket: RouteSocket) -> None:
    route_socket.set_up(LOOPBACK_INDEX)
    for extra in planned.addresses:
        route_socket.add_address(LOOPBACK_INDEX, extra)
    if planned.kind == "switch":
        route_socket.add_bridge("bridge", _BRIDGE_INDEX)
    for interface in planned.interfaces:
        if planned.kind == "switch":
            route_socket.enslave(interface.index, _BRIDGE_INDEX)
        elif interface.address is not None:
            route_socket.add_address(interface.index, interface.address)
            if interface.address6 is not None:
                route_socket.add_address(interface.index, interface.address6)
            route_socket.set_up(interface.index)
    for index, address, mac in neighbors:
        route_socket.add_neighbor(index, address, mac)
