"""From a graph to running nodes: namespaces, wires, addresses, routes and NAT rules, by netlink in one process.

Linear in the number of nodes: 0.3 ms for a namespace and 0.5 ms for a wire, almost all of it the kernel's. What waits
for other processes, the loading of rules, runs beside the rest.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from punchlab.lab.errors import LabError
from punchlab.lab.graph import Graph, GraphNode
from punchlab.lab.kernel import namespace, sysctl
from punchlab.lab.kernel.netlink import LOOPBACK_INDEX, RouteSocket
from punchlab.lab.nat.helpers import RunningProgram
from punchlab.lab.nat.loader import Loader, Wanted
from punchlab.lab.nat.portmapper import PortMapper
from punchlab.lab.nat.rules import NatRules, rules
from punchlab.lab.process.node import Helper, Node, close_all

_BRIDGE_INDEX = 2
_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1"}
# Where nothing speaks IPv6, its neighbor discovery would be noise in every capture.
_WITHOUT_IPV6 = {f"net/ipv6/conf/{which}/disable_ipv6": "1" for which in ("all", "default")}
# Only the addresses that the topology gives: no link-local ones (mode 1), and so no advertisements to listen to.
_WITH_IPV6 = {f"net/ipv6/conf/{which}/disable_ipv6": "0" for which in ("all", "default")} | {
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/default/accept_ra": "0",
}
_FORWARDING6 = {"net/ipv6/conf/all/forwarding": "1"}
_DESCRIPTORS_PER_NODE = 2
"""Its namespace, and while it is made a netlink socket."""
_OTHER_DESCRIPTORS = 256


def build(graph: Graph) -> dict[str, Node]:
    """Make every node and wire of the graph; on failure nothing is left. Raises `LabError`."""
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
    """Start what the rules loaded in the node need beside them, as a part of it; `wait` for each to be ready."""
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
            raise LabError(f"a lab of this size needs {wanted} open files, and the hard limit (`ulimit -Hn`) is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_sysctls(nodes: Iterable[Node]) -> None:
    # All namespaces start alike, and a sysctl takes the longer to find the more of them there are: write what differs.
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


def _nat_rules(nodes: Iterable[Node]) -> Iterator[Wanted]:
    for node in nodes:
        if (behavior := node.graph.behavior) is not None:
            # By the order of `Internet.home`: the way out first, then the inside.
            outside, inside = node.graph.interfaces
            ipv6 = inside.address6 is not None
            text = rules(behavior, inside=inside.name, outside=outside.name, address=node.address, ipv6=ipv6)
            yield Wanted(node.name, node.namespace, text)


def _wire(graph: Graph, nodes: Mapping[str, Node], pools: Mapping[str, Sequence[str]]) -> None:
    """`pools`: NAT -> the external addresses that it has beside that of its outside interface."""
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
        # Then, for a route needs both ends of its wire up.
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
