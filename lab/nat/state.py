"""The mappings of a running NAT, read from its nft maps (`lab.nat.mapping`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from punchlab.lab.kernel.inspection import Connection, Endpoint, InterfaceState, NamespaceState, QdiscState, RouteState
from punchlab.lab.nat.site import TRANSPORTS, external_addresses
from punchlab.lab.process.node import Node
from punchlab.punch.nat.behavior import NatBehavior


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping. `remote` is the remote address, or address and port, on which it depends, empty if on none.

    It expires after `expires_s` unless packets refresh it.
    """

    transport: str
    inside: Endpoint
    external: Endpoint
    remote: tuple[str | int, ...]
    expires_s: int


@dataclass(frozen=True, slots=True)
class NatState:
    """A NAT or firewall: its behavior, external addresses (none for a firewall) and mappings.

    `mappings` is empty for NATs with port overloading, which have only conntrack entries.
    """

    behavior: NatBehavior
    addresses: tuple[str, ...]
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of one node, read from the kernel. `nat` is None for nodes that are no NAT or firewall.

    `routes` are those of the main table. `connections` are conntrack entries, none without connection tracking.
    """

    name: str
    kind: str
    interfaces: tuple[InterfaceState, ...]
    routes: tuple[RouteState, ...]
    qdiscs: tuple[QdiscState, ...]
    connections: tuple[Connection, ...]
    nat: NatState | None


def node_state(node: Node, found: NamespaceState) -> NodeState:
    """Return the state of the node, given that of its namespace. Raises `LabError`."""
    return NodeState(
        name=node.name,
        kind=node.kind,
        interfaces=found.interfaces,
        routes=found.routes,
        qdiscs=found.qdiscs,
        connections=found.connections,
        nat=None if node.graph.behavior is None else _nat_state(node, node.graph.behavior),
    )


def _nat_state(node: Node, behavior: NatBehavior) -> NatState:
    addresses = external_addresses(node.address, behavior) if behavior.translates else ()
    return NatState(behavior, addresses, tuple(_mappings(node)) if behavior.translates else ())


def _mappings(node: Node) -> Iterator[Mapping]:
    listed = json.loads(node.run(["nft", "-j", "list", "maps", "ip"]).stdout)["nftables"]
    names = {f"external_{transport}": transport for transport in TRANSPORTS}
    for found in (each["map"] for each in listed if "map" in each):
        if found["name"] in names:
            for key, value in found.get("elem", ()):
                yield _mapping(names[found["name"]], key["elem"], value["concat"])


def _mapping(transport: str, element: dict[str, Any], external: list[Any]) -> Mapping:
    address, port, *remote = element["val"]["concat"]
    return Mapping(transport, (address, port), (external[0], external[1]), tuple(remote), element["expires"])
