"""Topologies of the generated trials."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from punchlab.lab.graph import GraphNode
from punchlab.lab.lab import Lab
from punchlab.lab.nat.presets import preset
from punchlab.punch.nat.behavior import Pooling
from punchlab.topologies import AB, Carrier, DualStack, Firewalls, SameNat
from punchlab.topologies.internet import Internet
from tests.lab.trial.verdicts.count import End, Places
from tests.lab.trial.verdicts.generate import Case


class Three(Internet):
    """Two homes, and a public third host."""

    pairs = (("a", "b"),)

    def build(self, nat_a: str, nat_b: str, **access: Any) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west)
        for host, nat in (("a", nat_a), ("b", nat_b), ("c", "none")):
            self.home(west, [host], nat, "preset", **access)
        self.finish()


def topology(case: Case) -> Internet:
    """Return the topology of a trial."""
    return _TOPOLOGIES[case.topology](nat_a=case.nats[0], nat_b=case.nats[1], **case.options)


def places(lab: Lab) -> Places:
    """Return the roles of its addresses, only from the topology."""
    nodes = lab.graph.nodes

    def addresses(name: str) -> set[str]:
        extra = (each.partition("/")[0] for each in nodes[name].addresses)
        return {*extra, *(address for interface in nodes[name].interfaces for address in interface.hosts)}

    def end(host: str) -> End:
        own = addresses(host)
        nats = [nodes[nat] for nat in lab.in_front_of(host)]
        outside = {address for nat in nats for address in (*nat.interfaces[0].hosts, *_pool(nat))}
        return End(f"{host}-eth0", frozenset(own), frozenset(own | outside))

    def found(host: str) -> frozenset[str]:
        return end(host).found

    path = lab.path("a", "b")
    strangers = [node.name for node in lab if node.kind == "host" and node.name not in "ab"]
    nats = [node.name for node in lab if node.kind == "nat"]
    return Places(
        end("a"),
        end("b"),
        frozenset(address for edge in lab.edges for address in addresses(edge.name)),
        {interface.name: nat for nat in nats for interface in nodes[nat].interfaces},
        frozenset(frozenset(way) for way in (path.nats, path.shortcut) if way is not None),
        frozenset().union(*map(found, strangers)) - found("a") - found("b"),
    )


def _pool(nat: GraphNode) -> Sequence[str]:
    """Return the additional external addresses of a NAT."""
    assert nat.behavior is not None
    first = ipaddress.IPv4Address(nat.address)
    return [str(first + number) for number in range(1, nat.behavior.pool_size)]


def _pools(nat_a: str, nat_b: str, **access: Any) -> AB:
    """Both NATs have four external addresses and draw one for every mapping."""
    pooled = [preset(nat).behavior for nat in (nat_a, nat_b)]
    nats = [replace(each, pool_size=4, pooling=Pooling.ARBITRARY) for each in pooled if each is not None]
    return AB(*nats, **access)


_TOPOLOGIES: Mapping[str, Callable[..., Internet]] = {
    "pair": AB,
    "pools": _pools,
    "three": Three,
    "same_nat": SameNat,
    "carrier": Carrier,
    "firewalls": Firewalls,
    "dual_stack": DualStack,
}
