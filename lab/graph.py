"""The graph of a Mininet topology as plain data: nodes, interfaces, and links with an impairment per direction.

Nodes have the options `kind` (host, router, edge, nat, switch), `routes`, `addresses`, `forwarding` and `behavior`.
Links have `params1` and `params2` with `ip` and optionally `ip6`, and Mininet's link options. Link options apply to
both directions; inside `params1` or `params2` they apply to packets that the first or second end sends. `routes` and
`addresses` accept IPv4 and IPv6.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from punchlab.lab.errors import InputError, LabError
from punchlab.lab.impair import Impairment
from punchlab.lab.inputs.choices import INTERFACE_NAME_LENGTH, node_name, one_of
from punchlab.lab.kernel.rtnetlink import hardware_address
from punchlab.punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

_BECAUSE = f"its interface names, such as NAME-eth0, have at most {INTERFACE_NAME_LENGTH}"
KINDS = ("host", "router", "edge", "nat", "switch")
_OTHER_INDEXES = 2
"""The indexes of the loopback interface and of a switch's bridge. Link ends have unique indexes across the lab: Linux
6.1 requires that the index is also free in the namespace that creates the veth pair.
"""
_LINK_OPTIONS = ("delay", "jitter", "loss", "bw")


@dataclass(slots=True, eq=False)
class Interface:
    """One end of a link. `address` is "a.b.c.d/len", None on a switch. `address6` is the optional IPv6 address.

    `address` can change while a NAT runs.
    """

    node: str
    name: str
    index: int
    mac: str
    address: str | None
    address6: str | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses without prefix lengths."""
        return tuple(each.partition("/")[0] for each in (self.address, self.address6) if each)


@dataclass(frozen=True, slots=True)
class GraphLink:
    """A veth pair. `forth` impairs packets from `one` to `other`, `back` packets from `other` to `one`."""

    one: Interface
    other: Interface
    forth: Impairment
    back: Impairment


@dataclass(slots=True)
class GraphNode:
    """A node. `routes` are (prefix, gateway) pairs; `addresses` are additional addresses of the loopback interface."""

    name: str
    kind: str
    routes: Sequence[tuple[str, str]]
    addresses: Sequence[str]
    forwarding: bool
    behavior: NatBehavior | None
    interfaces: list[Interface] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of the first interface that has one, without prefix length.

        Raises `LabError` if no interface has an address.
        """
        found = next((i.address.partition("/")[0] for i in self.interfaces if i.address), None)
        if found is None:
            raise LabError(f"node {self.name} has no address")
        return found

    @property
    def address6(self) -> str | None:
        """The IPv6 address of the first interface that has one, without prefix length, or None."""
        return next((i.address6.partition("/")[0] for i in self.interfaces if i.address6), None)

    @property
    def translates(self) -> bool:
        """True for a NAT, False for a firewall that does not translate."""
        return self.behavior is not None and self.behavior.translates


@dataclass(frozen=True, slots=True)
class Path:
    """The path between two nodes.

    `nodes` includes both ends. Between hosts behind one NAT, the path goes through that NAT. `nats` are the NATs and
    firewalls on the path. `delay_s`, `jitter_s` and `loss` (a fraction) are one-way, end-to-end values. `bandwidth`
    (bit/s) is that of the slowest link, None for no limit. `shortcut` lists the NATs on a direct path inside the
    network of a shared NAT (empty on a LAN). It is None unless the shared NAT is the first NAT of at least one host.
    """

    nodes: Sequence[str]
    nats: Sequence[str]
    shortcut: Sequence[str] | None
    delay_s: float
    jitter_s: float
    loss: float
    bandwidth: float | None


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of a lab: nodes by name, and links."""

    nodes: Mapping[str, GraphNode]
    links: Sequence[GraphLink]

    def neighbors(self) -> Iterator[tuple[Interface, Interface]]:
        """Yield every ordered pair of interfaces with addresses on the same link or the same switch."""
        wires: dict[str, list[Interface]] = {}
        for number, link in enumerate(self.links):
            switches = [end.node for end in (link.one, link.other) if self.nodes[end.node].kind == "switch"]
            wire = wires.setdefault(switches[0] if switches else f"link {number}", [])
            wire += [end for end in (link.one, link.other) if end.address]
        for wire in wires.values():
            yield from ((one, other) for one in wire for other in wire if one is not other)

    def outwards(self, start: str) -> Sequence[str]:
        """Return the NATs and firewalls between a node and the public network, innermost first.

        The first interface of a NAT is its outside interface. The topology needs no edge.
        """
        crossed: list[str] = []
        here = self._reached_from(start, but=start if self.nodes[start].kind == "nat" else None)
        while True:
            nats = (node for node in self.nodes.values() if node.kind == "nat" and node.name not in (start, *crossed))
            nat = next((each for each in nats if any(end.name in here for end in each.interfaces[1:])), None)
            if nat is None:
                return crossed
            crossed.append(nat.name)
            here = self._reached_from(nat.name, but=nat.name)

    def _reached_from(self, start: str, but: str | None) -> set[str]:
        """Return the interfaces that a node reaches without crossing a NAT. From the NAT `but`, only its outside
        interface is used.
        """
        found: set[str] = set()
        queue = [start]
        while queue:
            here = queue.pop()
            for link in self.links:
                for out, into in ((link.one, link.other), (link.other, link.one)):
                    if out.node != here or into.name in found:
                        continue
                    if here == but and out is not self.nodes[here].interfaces[0]:
                        continue
                    found.add(into.name)
                    if self.nodes[into.node].kind != "nat":
                        queue.append(into.node)
        return found

    def steps(self, start: str, end: str) -> Sequence[tuple[Interface, Interface, Impairment]]:
        """Return the links on the path with the fewest hops as (outgoing interface, incoming interface, impairment).

        Routes are ignored: in these topologies, packets follow the path with the fewest hops. Raises `InputError` if
        the nodes are not connected.
        """
        arrived: dict[str, list[tuple[Interface, Interface, Impairment]]] = {start: []}
        frontier = [start]
        while frontier and end not in arrived:
            here = frontier.pop(0)
            for link in self.links:
                for out, into, impairment in (
                    (link.one, link.other, link.forth),
                    (link.other, link.one, link.back),
                ):
                    if out.node == here and into.node not in arrived:
                        arrived[into.node] = [*arrived[here], (out, into, impairment)]
                        frontier.append(into.node)
        if end not in arrived:
            raise InputError("pair", f"{start},{end}", "two hosts connected by a path")
        return arrived[end]

    def behavior(self, host: str) -> NatBehavior | None:
        """Return the behavior of the outermost NAT between the host and the Internet, or None for a public host."""
        outermost = self.in_front_of(host)[-1:]
        return self.nodes[outermost[0]].behavior if outermost else None

    def in_front_of(self, host: str) -> Sequence[str]:
        """Return the NATs and firewalls between the host and the Internet, innermost first."""
        edges = [name for name, node in self.nodes.items() if node.kind == "edge"]
        for edge in edges if self._known(host) else ():
            with contextlib.suppress(InputError):  # this edge is not connected to the host
                return self._nats(into.node for _out, into, _impairment in self.steps(host, edge))
        return self.outwards(host)

    def shared_nat(self, one: str, other: str) -> str | None:
        """Return the innermost translating NAT in front of both hosts, or None if they share no NAT."""
        others = self.in_front_of(other)
        both = (name for name in self.in_front_of(one) if name in others)
        return next((name for name in both if self.nodes[name].translates), None)

    def path(self, one: str, other: str) -> Path:
        """Return the path between two nodes. Raises `InputError` if the nodes are not connected."""
        ends = [self.nodes[self._known(name)] for name in (one, other)]
        steps = list(self.steps(one, other))
        shortcut = None
        if all(end.kind == "host" for end in ends) and (turn := self.shared_nat(one, other)) is not None:
            if turn in (self.in_front_of(one)[0], self.in_front_of(other)[0]):
                shortcut = self._nats(into.node for _out, into, _impairment in steps)
            steps = [*self.steps(one, turn), *self.steps(turn, other)]
        nodes = [one, *(into.node for _out, into, _impairment in steps)]
        kept = 1.0
        for _out, _into, impairment in steps:
            kept *= 1 - impairment.loss
        # Rounded, because floating-point sums depend on the order of the links.
        return Path(
            nodes=nodes,
            nats=self._nats(nodes),
            shortcut=shortcut,
            delay_s=round(sum(impairment.delay_s for *_ends, impairment in steps), 9),
            jitter_s=round(sum(impairment.jitter_s for *_ends, impairment in steps), 9),
            loss=round(1 - kept, 9),
            bandwidth=min((i.bandwidth for *_ends, i in steps if i.bandwidth is not None), default=None),
        )

    def _known(self, name: str) -> str:
        if name not in self.nodes:
            raise InputError("node", name, f"one of {', '.join(self.nodes)}")
        return name

    def _nats(self, names: Iterable[str]) -> Sequence[str]:
        return [name for name in names if self.nodes[name].kind == "nat"]


def read(topology: Topo) -> Graph:
    """Return the graph of a Mininet topology. Raises `InputError` if the lab cannot build it."""
    if not callable(getattr(topology, "iterLinks", None)) or isinstance(topology, type):
        raise InputError("topology", topology, "a Mininet topology, such as AB()")
    nodes: dict[str, GraphNode] = {}
    for name in topology.g.nodes():
        node_name("node", name, longest=INTERFACE_NAME_LENGTH - len("-eth0"), because=_BECAUSE)
        options = topology.nodeInfo(name)
        kind = options.get("kind", "switch" if topology.isSwitch(name) else "host")
        one_of(f"kind of node {name}", kind, KINDS)
        nodes[name] = GraphNode(
            name,
            kind,
            routes=options.get("routes", ()),
            addresses=options.get("addresses", ()),
            forwarding=bool(options.get("forwarding", False)),
            behavior=options.get("behavior"),
        )
    links = []
    number = 0
    for one, other, info in topology.iterLinks(withInfo=True):
        ends = []
        for node, port, side in ((one, info["port1"], "params1"), (other, info["port2"], "params2")):
            number += 1
            ends.append(_interface(nodes[node], port, info.get(side) or {}, number))
        impairments = [
            Impairment.from_options({k: merged[k] for k in _LINK_OPTIONS if merged.get(k) is not None})
            for merged in ({**info, **(info.get(side) or {})} for side in ("params1", "params2"))
        ]
        links.append(GraphLink(ends[0], ends[1], impairments[0], impairments[1]))
    for node in nodes.values():
        _check(node)
    if not nodes:
        raise InputError("topology", type(topology).__name__, "a topology with at least one node")
    return Graph(nodes, links)


def _check(node: GraphNode) -> None:
    """Raise `InputError` for a NAT without exactly two links, or for an invalid behavior."""
    if node.behavior is None and node.kind != "nat":
        return
    if not isinstance(node.behavior, NatBehavior):
        raise InputError(f"behavior of node {node.name}", node.behavior, "a NatBehavior")
    if len(node.interfaces) != 2:
        raise InputError(
            "node",
            node.name,
            f"a NAT with two links, outside first, then inside; it has {len(node.interfaces)}",
        )


def _interface(node: GraphNode, port: int, options: Mapping[str, object], number: int) -> Interface:
    name = f"{node.name}-eth{port}"
    if len(name) > INTERFACE_NAME_LENGTH:
        longest = INTERFACE_NAME_LENGTH - (len(name) - len(node.name))
        node_name("node", node.name, longest=longest, because=_BECAUSE)
    address = options.get("ip")
    if address is not None:
        try:
            ipaddress.IPv4Interface(str(address))
        except ValueError:
            raise InputError(f"ip of {name}", address, "an IPv4 address with a prefix length") from None
    elif node.kind != "switch":
        raise InputError(f"ip of {name}", address, "an IPv4 address with a prefix length")
    address6 = options.get("ip6")
    if address6 is not None:
        try:
            ipaddress.IPv6Interface(str(address6))
        except ValueError:
            raise InputError(f"ip6 of {name}", address6, "an IPv6 address with a prefix length") from None
    interface = Interface(
        node.name,
        name,
        _OTHER_INDEXES + number,
        hardware_address(number),
        None if address is None else str(address),
        None if address6 is None else str(address6),
    )
    node.interfaces.append(interface)
    return interface
