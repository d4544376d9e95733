"""The lab: a topology that runs, for the length of a `with`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lab import build, choices, graph, impair, link, numbers, sandbox
from lab.edges import BUSES
from lab.errors import InputError, LabError
from lab.graph import Graph
from lab.link import RunningLink
from lab.nat.background import check_rate
from lab.nat.running import RunningNat
from lab.node import Node, close_all
from punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

    from lab.edges import EdgeNetwork
    from lab.trial import Trial


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


class Lab:
    """An emulated Internet. Nothing of it outlives the `with` block.

    `links` is "auto", "netem" or "nfqueue"; `seed` makes the draws of loss and jitter (with NFQUEUE) and of background
    traffic repeatable; `background` is how many connections a second other hosts open through each NAT; `bus` is how
    edges talk to each other, as in `lab.edges.EdgeNetwork`.
    Raises `InputError` for a topology that cannot be built, `LabError` outside the sandbox.
    """

    def __init__(
        self, topology: Topo, *, links: str = "auto", seed: int = 0, background: float = 0.0, bus: str = "mesh"
    ) -> None:
        self.topology = topology
        self.graph: Graph = graph.read(topology)
        check_rate(background)
        self._links = choices.one_of("links", links, impair.CHOICES)
        self._seed = numbers.seed("seed", seed)
        choices.one_of("bus", bus, BUSES)
        self.background_per_s = background
        self.bus = bus
        self._nodes: dict[str, Node] = {}
        self._impaired: impair.Applied | None = None
        self._running_nats: dict[str, RunningNat] = {}
        self._running_links: dict[tuple[str, str], RunningLink] = {}
        self.edge_network: EdgeNetwork | None = None

    def __enter__(self) -> Self:
        sandbox.require()
        if self._nodes:
            raise LabError("the lab runs already: one `with` block at a time")
        self._nodes = build.build(self.graph)
        try:
            self._impaired = impair.apply(self._directed_links(), implementation=self._links, seed=self._seed)
            if self.background_per_s:
                for node in self:
                    if node.kind == "nat":
                        self.nat(node.name).background(self.background_per_s, seed=f"{self._seed}/{node.name}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for node in self:
                    node.check()
        finally:
            self.close()

    def close(self) -> None:
        """Kill what runs in the nodes and let the kernel free them."""
        if self.edge_network is not None:
            self.edge_network.close()
            self.edge_network = None
        for nat in self._running_nats.values():
            nat.close()
        try:
            if self._impaired is not None:
                self._impaired.close()
                self._impaired = None
        finally:
            close_all(self._nodes.values())
            self._nodes, self._running_nats, self._running_links = {}, {}, {}

    def __getitem__(self, name: str) -> Node:
        """The node called `name`. Raises `InputError`, and `LabError` outside of the `with` block."""
        self._require_running()
        if name not in self._nodes:
            raise InputError("node", name, f"one of {', '.join(self._nodes)}")
        return self._nodes[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    @property
    def edges(self) -> list[Node]:
        """The nodes that run edge endpoints."""
        return [node for node in self if node.kind == "edge"]

    @property
    def anycast(self) -> str:
        """The address that every edge answers on; the only edge's own where there is no such address.

        Raises `InputError` for a topology without an edge.
        """
        self._require_edge()
        first, *others = (edge.graph.addresses for edge in self.edges)
        shared = next((each for each in first if all(each in addresses for addresses in others)), None)
        return self.edges[0].address if shared is None else shared.partition("/")[0]

    @property
    def edges_speak_ipv6(self) -> bool:
        """Whether the topology wants its edges to listen on IPv6 as well."""
        return bool(getattr(self.topology, "edges_speak_ipv6", False))

    def announce(self, router: str, edge: str) -> None:
        """Have a router send what is for the anycast address towards that edge. Raises `InputError`."""
        _out, into, _impairment = next(iter(self.graph.path(self[router].name, self[edge].name)))
        gateway = str(into.address).partition("/")[0]
        self[router].run(["ip", "route", "replace", f"{self.anycast}/32", "via", gateway])

    def punch(self, one: str, other: str, **options: Any) -> Trial:
        """Let the client under test punch between two hosts; `options` are those of `lab.options.Options`.

        Raises `InputError`, also for a topology without an edge, at which the two could meet.
        """
        from lab import trial
        from lab.options import Options

        for name in options:
            choices.one_of("option", name, [each.name for each in fields(Options)])
        self._require_edge()
        return trial.run(self, one, other, Options(**options))

    @property
    def links(self) -> str:
        """What impairs the links: "netem", "nfqueue", or "none" where no link is impaired."""
        return self._impaired.name if self._impaired is not None else "none"

    @property
    def lateness_s(self) -> float:
        """How much too late a link let a packet go at worst, so far; 0 where nobody measures it."""
        counters = [] if self._impaired is None else self._impaired.counters()
        return max((each.lateness_worst_s or 0.0 for each in counters if each is not None), default=0.0)

    def behavior(self, host: str) -> NatBehavior | None:
        """The behavior of the outermost NAT between the host and the Internet; None for a public host."""
        outermost = self.in_front_of(host)[-1:]
        return self.graph.nodes[outermost[0]].behavior if outermost else None

    def in_front_of(self, host: str) -> Sequence[str]:
        """The NATs and firewalls between the host and the Internet, from the host outwards."""
        edges = [name for name, node in self.graph.nodes.items() if node.kind == "edge"]
        for edge in edges if self._known(host) else ():
            with contextlib.suppress(InputError):  # a region that no long link joins to that one
                return self._nats(into.node for _out, into, _impairment in self.graph.path(host, edge))
        return self.graph.outwards(host)

    def shared_nat(self, one: str, other: str) -> str | None:
        """The innermost NAT that is in front of both hosts, and translates; None if they have none in common."""
        others = self.in_front_of(other)
        both = (name for name in self.in_front_of(one) if name in others)
        return next((name for name in both if self.graph.nodes[name].translates), None)

    @property
    def background_addresses(self) -> frozenset[str]:
        """The public addresses that background traffic is for."""
        return frozenset(
            nat.background_address for nat in self._running_nats.values() if nat.background_address is not None
        )

    def nat(self, name: str) -> RunningNat:
        """The NAT of that name, or the nearest one in front of the host of that name. Raises `InputError`."""
        self._require_running()
        behind = {node.name: self.in_front_of(node.name) for node in self if node.kind == "host"}
        nats = {host: found[0] for host, found in behind.items() if found}
        nats |= {node.name: node.name for node in self if node.kind == "nat"}
        if name not in nats:
            raise InputError("nat", name, f"one of {', '.join(nats)}")
        node = self[nats[name]]
        if node.name not in self._running_nats:
            outside = next(each for each in self.graph.links if node.graph.interfaces[0] in (each.one, each.other))
            link = self.link(outside.one.node, outside.other.node)
            self._running_nats[node.name] = RunningNat(self.graph, self._nodes, node, link)
        return self._running_nats[node.name]

    def link(self, one: str, other: str) -> RunningLink:
        """The link between two nodes, in either order, to cut and to join. Raises `InputError` if there is none."""
        planned = link.find(self.graph, self[one].name, self[other].name)
        if planned is None:
            near = [each.other.node for each in self.graph.links if each.one.node == one]
            near += [each.one.node for each in self.graph.links if each.other.node == one]
            raise InputError("link", f"{one},{other}", f"{one} and one of {', '.join(near)}")
        ends = (planned.one.node, planned.other.node)
        if ends not in self._running_links:
            self._running_links[ends] = RunningLink(self.graph, self._nodes, planned)
        return self._running_links[ends]

    def path(self, one: str, other: str) -> Path:
        """The way between two nodes, also before the lab runs. Raises `InputError` where there is none."""
        ends = [self.graph.nodes[self._known(name)] for name in (one, other)]
        steps = list(self.graph.path(one, other))
        shortcut = None
        if all(end.kind == "host" for end in ends) and (turn := self.shared_nat(one, other)) is not None:
            if turn in (self.in_front_of(one)[0], self.in_front_of(other)[0]):
                shortcut = self._nats(into.node for _out, into, _impairment in steps)
            steps = [*self.graph.path(one, turn), *self.graph.path(turn, other)]
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

    def _require_running(self) -> None:
        if not self._nodes:
            raise LabError("the lab does not run: its nodes are there within the `with` block only")

    def _require_edge(self) -> None:
        self._require_running()
        if not self.edges:
            raise InputError("topology", type(self.topology).__name__, "a topology with an edge")

    def _known(self, name: str) -> str:
        if name not in self.graph.nodes:
            raise InputError("node", name, f"one of {', '.join(self.graph.nodes)}")
        return name

    def _nats(self, names: Iterable[str]) -> Sequence[str]:
        return [name for name in names if self.graph.nodes[name].kind == "nat"]

    def _directed_links(self) -> list[impair.DirectedLink]:
        directed = []
        for each in self.graph.links:
            one, other = (
                impair.LinkEnd(
                    self._nodes[end.node].namespace,
                    end.name,
                    end.index,
                    self.graph.nodes[end.node].kind,
                )
                for end in (each.one, each.other)
            )
            directed.append(impair.DirectedLink(one, other, each.forth))
            directed.append(impair.DirectedLink(other, one, each.back))
        return directed
