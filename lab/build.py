"""From a graph to running nodes: namespaces, wires, addresses, routes and NAT rules, by netlink in one process."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from lab import namespace
from lab.errors import LabError, MissingCapabilityError
from lab.graph import Graph, GraphNode
from lab.nat.helpers import RunningProgram
from lab.nat.rules import NatRules, rules
from lab.netlink import LOOPBACK_INDEX, RouteSocket
from lab.node import Helper, Node
from lab.portmapper import PortMapper

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


def build(graph: Graph) -> dict[str, Node]:
    """Make every node and wire of the graph; on failure nothing is left. Raises `LabError`."""
    namespaces = namespace.create(len(graph.nodes))
    nodes = {name: Node(planned, made) for (name, planned), made in zip(graph.nodes.items(), namespaces, strict=True)}
    try:
        for node in nodes.values():
            set_sysctls(node, _sysctls(node.graph))
        _wire(graph, nodes)
        _make_nats([node for node in nodes.values() if node.graph.behavior is not None])
    except BaseException:
        for node in nodes.values():
            node.close()
        raise
    return nodes


def _wire(graph: Graph, nodes: Mapping[str, Node]) -> None:
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(RouteSocket(node.namespace)) for name, node in nodes.items()}
        for link in graph.links:
            peer = (link.other.name, link.other.index, link.other.mac, nodes[link.other.node].namespace)
            sockets[link.one.node].add_veth(link.one.name, link.one.index, link.one.mac, peer)
        for route_socket in sockets.values():
            route_socket.commit()
        for name, planned in graph.nodes.items():
            _address(planned, sockets[name])
        for here, there in graph.neighbors():
            for address in there.hosts[: len(here.hosts)]:
                sockets[here.node].add_neighbor(here.index, address, there.mac)
        for route_socket in sockets.values():
            route_socket.commit()
        # Then, for a route needs both ends of its wire up.
        for name, planned in graph.nodes.items():
            for destination, gateway in planned.routes:
                sockets[name].add_route(destination, gateway)
            sockets[name].commit()
        for name, planned in graph.nodes.items():
            sockets[name].wait_until_up([interface.index for interface in planned.interfaces])
        for node in nodes.values():
            node.wait_for_ipv6(node.graph.interfaces)


def _address(planned: GraphNode, route_socket: RouteSocket) -> None:
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


def _make_nats(nats: list[Node]) -> None:
    """Load the rules of all NATs at once: the loaders run side by side. Then start their helper processes."""
    loading: list[tuple[Node, subprocess.Popen[str]]] = []
    made: list[tuple[Node, NatRules]] = []
    for node in nats:
        # By the order of `Internet.home`: the way out first, then the inside.
        outside, inside = node.graph.interfaces
        behavior = node.graph.behavior
        if behavior is None:
            continue
        text = rules(
            behavior, inside=inside.name, outside=outside.name, address=node.address, ipv6=inside.address6 is not None
        )
        made.append((node, text))
        if extra := text.addresses[1:]:
            with RouteSocket(node.namespace) as route_socket:
                for address in extra:
                    route_socket.add_address(outside.index, f"{address}/32")
                route_socket.commit()
        for command, content in (
            (["iptables-restore"], text.iptables),
            (["ip6tables-restore"], text.ip6tables),
            (["nft", "-f", "-"], text.nft),
        ):
            if content:
                loading.append((node, _start(node, command, content)))
    for node, process in loading:
        _output, errors = process.communicate()
        if process.returncode != 0:
            raise LabError(f"{node.name}: {process.args!r}: {errors.strip()}")
    for node, text in made:
        set_sysctls(node, text.sysctls)
    helping = [helper for node, text in made for helper in start_helpers(node, text)]
    for helper in helping:
        helper.wait()


def start_helpers(node: Node, made: NatRules) -> list[Helper]:
    """Start what the rules loaded in the node need beside them, as a part of it; `wait` for each to be ready."""
    _outside, inside = node.graph.interfaces
    started: list[Helper] = [RunningProgram(node, program) for program in made.helpers]
    if made.port_mapping:
        started.append(PortMapper(node, inside.name, made.port_mapping))
    return started


def _start(node: Node, command: list[str], content: str) -> subprocess.Popen[str]:
    try:
        process: subprocess.Popen[str] = node.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        raise MissingCapabilityError(f"{command[0]}: not installed; run `apt-get install iptables nftables`") from None
    if process.stdin is None:
        raise LabError(f"{node.name}: {command[0]} has no standard input")
    with contextlib.suppress(BrokenPipeError):  # its own words, on standard error, say more
        process.stdin.write(content)
    return process


def _sysctls(planned: GraphNode) -> dict[str, str]:
    ipv6 = planned.address6 is not None
    wanted = _SYSCTLS | (_WITH_IPV6 if ipv6 else _WITHOUT_IPV6)
    if planned.forwarding:
        wanted |= _FORWARDING | (_FORWARDING6 if ipv6 else {})
    return wanted


def set_sysctls(node: Node, values: Mapping[str, str]) -> None:
    """Write to paths below /proc/sys inside the node."""
    with node.entered():
        for path, value in values.items():
            file = Path("/proc/sys") / path
            if path.startswith("net/ipv6") and not file.exists():
                continue  # a kernel without IPv6 is as good
            file.write_text(value)
