"""The lab: a topology that runs, for the length of a `with`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lab import build, graph, impair, sandbox
from lab.errors import InputError
from lab.graph import Graph
from lab.node import Node
from punch.nat.behavior import NatBehavior

if TYPE_CHECKING:
    from mininet.topo import Topo

    from lab.edges import EdgeNetwork
    from lab.trial import Trial


@dataclass(frozen=True, slots=True)
class Path:
    """What lies between two hosts.

    `nodes` from the first host to the other, both included; `nats` those that translate; `delay_s`, `jitter_s` and
    `loss` (a fraction) one way, end to end.
    """

    nodes: Sequence[str]
    nats: Sequence[str]
    delay_s: float
    jitter_s: float
    loss: float


class Lab:
    """An emulated Internet. Nothing of it outlives the `with` block.

    `links` is "auto", "netem" or "nfqueue"; `seed` makes the draws of loss and jitter repeatable (with NFQUEUE).
    Raises `InputError` for a topology that cannot be built, `LabError` outside the sandbox.
    """

    def __init__(self, topology: Topo, *, links: str = "auto", seed: int = 0) -> None:
        self.topology = topology
        self.graph: Graph = graph.read(topology)
        self._links, self._seed = links, seed
        self._nodes: dict[str, Node] = {}
        self._impaired: impair.Applied | None = None
        self.edge_network: EdgeNetwork | None = None

    def __enter__(self) -> Self:
        sandbox.require()
        self._nodes = build.build(self.graph)
        try:
            self._impaired = impair.apply(self._directed_links(), implementation=self._links, seed=self._seed)
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
        try:
            if self._impaired is not None:
                self._impaired.close()
                self._impaired = None
        finally:
            for node in self._nodes.values():
                node.close()
            self._nodes = {}

    def __getitem__(self, name: str) -> Node:
        """The node called `name`. Raises `InputError`."""
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
        """The address that every edge answers on; the only edge's own where there is no such address."""
        first, *others = (edge.graph.addresses for edge in self.edges)
        shared = next((each for each in first if all(each in addresses for addresses in others)), None)
        return self.edges[0].address if shared is None else shared.partition("/")[0]

    def punch(self, one: str, other: str, **options: Any) -> Trial:
        """Let the client under test punch between two hosts; `options` are those of `lab.trial.Options`."""
        from lab import trial

        return trial.run(self, one, other, trial.Options(**options))

    @property
    def links(self) -> str:
        """What impairs the links: "netem", "nfqueue", or "none" where no link is impaired."""
        return self._impaired.name if self._impaired is not None else "none"

    def nat(self, host: str) -> NatBehavior | None:
        """The behavior of the outermost NAT between the host and the Internet; None for a public host."""
        for name in self.path(host, self.edges[0].name).nodes[::-1]:
            if (behavior := self.graph.nodes[name].behavior) is not None:
                return behavior
        return None

    def path(self, one: str, other: str) -> Path:
        """The way between two nodes. Raises `InputError` where there is none."""
        steps = self.graph.path(self[one].name, self[other].name)
        nodes = [one, *(into.node for _out, into, _impairment in steps)]
        kept = 1.0
        for _out, _into, impairment in steps:
            kept *= 1 - impairment.loss
        return Path(
            nodes=nodes,
            nats=[name for name in nodes if self.graph.nodes[name].kind == "nat"],
            delay_s=sum(impairment.delay_s for *_ends, impairment in steps),
            jitter_s=sum(impairment.jitter_s for *_ends, impairment in steps),
            loss=1 - kept,
        )

    def _directed_links(self) -> list[impair.DirectedLink]:
        directed = []
        for link in self.graph.links:
            one, other = (
                impair.LinkEnd(
                    self._nodes[end.node].namespace,
                    end.name,
                    end.index,
                    self.graph.nodes[end.node].kind,
                )
                for end in (link.one, link.other)
            )
            directed.append(impair.DirectedLink(one, other, link.forth))
            directed.append(impair.DirectedLink(other, one, link.back))
        return directed
