"""What a Mininet topology asks for, as plain data: nodes, their interfaces, and links with an impairment per direction.

Understands nodes with the options `kind` (host, router, edge, nat, switch), `routes`, `addresses`, `forwarding` and
`behavior`, and links with `params1`/`params2` (`ip`, and `ip6` where the link carries IPv6 too) and Mininet's link
options, for both directions or, within `params1` and `params2`, for what the first or the second end sends. `routes`
and `addresses` are of either family.
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
from punchlab.lab.kernel.netlink import hardware_address
from punchlab.punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

_BECAUSE = f"the names of its interfaces, such as NAME-eth0, have at most {INTERFACE_NAME_LENGTH}"
KINDS = ("host", "router", "edge", "nat", "switch")
_OTHER_INDEXES = 2
"""Those of the loopback interface and of a switch's bridge. No two ends of links have the same one: where both ends are
made from a third namespace, an older kernel (6.1) wants them to be free there too."""
_LINK_OPTIONS = ("delay", "jitter", "loss", "bw")


@dataclass(slots=True, eq=False)
class Interface:
    """One end of a link. `address` is "a.b.c.d/len", None on a switch; `address6` its IPv6 counterpart, if any.

    A running NAT may change its `address`.
    """

    node: str
    name: str
    index: int
    mac: str
    address: str | None
    address6: str | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """Its addresses, without prefix lengths."""
        return tuple(each.partition("/")[0] for each in (self.address, self.address6) if each)


@dataclass(frozen=True, slots=True)
class GraphLink:
    """A veth pair; `forth` impairs what `one` sends, `back` what `other` sends."""

    one: Interface
    other: Interface
    forth: Impairment
    back: Impairment


@dataclass(slots=True)
class GraphNode:
    """One node; `routes` are (prefix, gateway), `addresses` are extra ones on its loopback interface."""

    name: str
    kind: str
    routes: Sequence[tuple[str, str]]
    addresses: Sequence[str]
    forwarding: bool
    behavior: NatBehavior | None
    interfaces: list[Interface] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of its first interface, without the prefix length. Raises `LabError` for a node without one."""
        found = next((i.address.partition("/")[0] for i in self.interfaces if i.address), None)
        if found is None:
            raise LabError(f"{self.name}: a node without an address")
        return found

    @property
    def address6(self) -> str | None:
        """The IPv6 address of its first interface that has one, without the prefix length."""
        return next((i.address6.partition("/")[0] for i in self.interfaces if i.address6), None)

    @property
    def translates(self) -> bool:
        """Whether it is a NAT, and not a plain firewall."""
        return self.behavior is not None and self.behavior.translates


@dataclass(frozen=True, slots=True)
class Path:
    """What lies between two nodes, on the way from one to where the Internet finds the other.

    `nodes` from the first to the other, both included (between hosts behind one NAT, by that NAT); `nats` the NATs and
    firewalls among them; `delay_s`, `jitter_s` and `loss` (a fraction) one way, end to end; `bandwidth` (bit/s) of the
    narrowest link, None for no limit. `shortcut`: the NATs on the way past the one that both are behind, where one of
    them has an address of its own there (none on a LAN); None where there is no such way.
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
    """A whole lab to build: nodes by name, links, and who is whose neighbor on each wire."""

    nodes: Mapping[str, GraphNode]
    links: Sequence[GraphLink]

    def neighbors(self) -> Iterator[tuple[Interface, Interface]]:
        """Every ordered pair of addressed interfaces that share a wire, directly or through a switch."""
        wires: dict[str, list[Interface]] = {}
        for number, link in enumerate(self.links):
            switches = [end.node for end in (link.one, link.other) if self.nodes[end.node].kind == "switch"]
            wire = wires.setdefault(switches[0] if switches else f"link {number}", [])
            wire += [end for end in (link.one, link.other) if end.address]
        for wire in wires.values():
            yield from ((one, other) for one in wire for other in wire if one is not other)

    def outwards(self, start: str) -> Sequence[str]:
        """The NATs and firewalls between a node and the public network, from the node outwards.

        Their first interface is the way out. This needs no edge to look for.
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
        """The interfaces that a node reaches without crossing a NAT; of the NAT `but`, by its way out only."""
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
        """The links that a packet from one node to another crosses (fewest hops), each with its impairment.

        Addresses are not consulted: in our topologies the way with the fewest links is the way that is routed.
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
            raise InputError("pair", f"{start},{end}", "two hosts that a path joins")
        return arrived[end]

    def behavior(self, host: str) -> NatBehavior | None:
        """The behavior of the outermost NAT between the host and the Internet; None for a public host."""
        outermost = self.in_front_of(host)[-1:]
        return self.nodes[outermost[0]].behavior if outermost else None

    def in_front_of(self, host: str) -> Sequence[str]:
        """The NATs and firewalls between the host and the Internet, from the host outwards."""
        edges = [name for name, node in self.nodes.items() if node.kind == "edge"]
        for edge in edges if self._known(host) else ():
            with contextlib.suppress(InputError):  # a region that no long link joins to that one
                return self._nats(into.node for _out, into, _impairment in self.steps(host, edge))
        return self.outwards(host)

    def shared_nat(self, one: str, other: str) -> str | None:
        """The innermost NAT that is in front of both hosts, and translates; None if they have none in common."""
        others = self.in_front_of(other)
        both = (name for name in self.in_front_of(one) if name in others)
        return next((name for name in both if self.nodes[name].translates), None)

    def path(self, one: str, other: str) -> Path:
        """The way between two nodes. Raises `InputError` where there is none."""
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
        # Rounded, for sums differ in their last bits with the order of the links.
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
    """The graph of a Mininet topology. Raises `InputError` for what the lab cannot build."""
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
    """Raise `InputError` for a NAT that is not joined to two links, and for what is no behavior."""
    if node.behavior is None and node.kind != "nat":
        return
    if not isinstance(node.behavior, NatBehavior):
        raise InputError(f"behavior of node {node.name}", node.behavior, "a NatBehavior")
    if len(node.interfaces) != 2:
        raise InputError(
            "node",
            node.name,
            f"a NAT with two links, the way out first and then the inside; it has {len(node.interfaces)}",
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
