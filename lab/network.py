"""A running topology as a context manager: nodes, links, NATs and edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from punchlab.lab import build, graph, impair
from punchlab.lab.client.edges import BUSES, Bus
from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import InputError, LabError
from punchlab.lab.events import link
from punchlab.lab.events.background import check_rate
from punchlab.lab.events.link import RunningLink
from punchlab.lab.events.nat import RunningNat
from punchlab.lab.graph import Graph, Path
from punchlab.lab.inputs import choices, numbers
from punchlab.lab.kernel import running
from punchlab.lab.process.node import Node, close_all
from punchlab.punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

    from punchlab.lab.client.edges import EdgeNetwork
    from punchlab.lab.nat.state import NodeState


class Network:
    """An emulated Internet. All resources are released at the end of the `with` block.

    `links` is "auto", "netem" or "nfqueue". `seed` makes loss, jitter (with NFQUEUE) and background traffic repeatable.
    `background` is the number of connections per second that other hosts open through each NAT. `bus` is the transport
    between edges, as in `lab.client.edges.EdgeNetwork`. Raises `InputError` for an invalid topology, `LabError` outside
    the sandbox.
    """

    def __init__(
        self,
        topology: Topo,
        *,
        links: impair.Links = "auto",
        seed: int = 0,
        background: float = 0.0,
        bus: Bus = "mesh",
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
            raise LabError("the lab is already running; use one `with` block at a time")
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
        """Kill the processes in the nodes and release the namespaces."""
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
        """The node called `name`. Raises `InputError`, and `LabError` outside the `with` block."""
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
        """The anycast address of the edges, or the address of the first edge if the edges share no address.

        Raises `InputError` for a topology without an edge.
        """
        self.require_edge()
        first, *others = (edge.graph.addresses for edge in self.edges)
        shared = next((each for each in first if all(each in addresses for addresses in others)), None)
        return self.edges[0].address if shared is None else shared.partition("/")[0]

    @property
    def edges_speak_ipv6(self) -> bool:
        """Whether the topology requires that edges also listen on IPv6."""
        return bool(getattr(self.topology, "edges_speak_ipv6", False))

    def announce(self, router: str, edge: str) -> None:
        """Change the router's route for the anycast address so that it leads to the edge. Raises `InputError`."""
        _out, into, _impairment = next(iter(self.graph.steps(self[router].name, self[edge].name)))
        gateway = str(into.address).partition("/")[0]
        with running.changes(self[router].namespace) as changes:
            changes.replace_route(f"{self.anycast}/32", gateway)

    def inspect(self, *names: str) -> Mapping[str, NodeState]:
        """Read the state of nodes from the kernel: interfaces, addresses, routes, qdiscs, connections and mappings.

        Returns node name -> state for the given nodes, by default for all. Raises `InputError` for an unknown node.
        """
        from punchlab.lab.kernel import inspection
        from punchlab.lab.nat.state import node_state

        nodes = [self[name] for name in names] if names else list(self)
        return {node.name: node_state(node, inspection.inspect(node.namespace, node.name)) for node in nodes}

    @property
    def links(self) -> str:
        """The implementation that impairs links: "netem", "nfqueue", or "none" if no link is impaired."""
        return self._impaired.name if self._impaired is not None else "none"

    @property
    def lateness_s(self) -> float:
        """The largest delay so far, in seconds, between the due time and the release of a packet. 0 if it is not
        measured.
        """
        counters = [] if self._impaired is None else self._impaired.counters()
        return max((each.lateness_worst_s or 0.0 for each in counters if each is not None), default=0.0)

    def behavior(self, host: str) -> NatBehavior | None:
        """As `lab.graph.Graph.behavior`."""
        return self.graph.behavior(host)

    def in_front_of(self, host: str) -> Sequence[str]:
        """As `lab.graph.Graph.in_front_of`."""
        return self.graph.in_front_of(host)

    def shared_nat(self, one: str, other: str) -> str | None:
        """As `lab.graph.Graph.shared_nat`."""
        return self.graph.shared_nat(one, other)

    @property
    def background_addresses(self) -> frozenset[str]:
        """The public addresses to which background traffic is sent."""
        return frozenset(
            nat.background_address for nat in self._running_nats.values() if nat.background_address is not None
        )

    def nat(self, name: str) -> RunningNat:
        """Return the NAT of that name, or the innermost NAT in front of the host of that name. Raises `InputError`."""
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
        """Return the link between two nodes, in either order. Raises `InputError` if there is none."""
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
        """As `lab.graph.Graph.path`. It also works before the lab runs."""
        return self.graph.path(one, other)

    def _require_running(self) -> None:
        if not self._nodes:
            raise LabError("the lab is not running; nodes exist only inside the `with` block")

    def require_edge(self) -> None:
        """Raise `InputError` if the topology has no edge."""
        self._require_running()
        if not self.edges:
            raise InputError("topology", type(self.topology).__name__, "a topology with an edge")

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
