"""Builders to compare: punchlab, Mininet, and a handwritten shell script.

Each builds the same complete topology, including NAT rules, and tears it down.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mininet.link import Link
from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import Topo

from punchlab import Lab
from punchlab.lab import graph
from punchlab.lab.graph import Graph, GraphNode
from punchlab.lab.nat.rules import rules

Builder = Callable[[Topo], tuple[float, float]]
"""Builds the topology and tears it down; returns the seconds of both."""


def by_punchlab(topology: Topo) -> tuple[float, float]:
    """Build with `Lab(topology)`."""
    begun = time.perf_counter()
    lab = Lab(topology)
    with lab:
        built = time.perf_counter()
    return built - begun, time.perf_counter() - built


def by_mininet(topology: Topo) -> tuple[float, float]:
    """Build with Mininet: direct links, Linux bridges as switches, no controller."""
    setLogLevel("critical")
    begun = time.perf_counter()
    network = Mininet(topo=topology, switch=LinuxBridge, link=Link, controller=None)
    network.start()
    built = time.perf_counter()
    network.stop()
    return built - begun, time.perf_counter() - built


def by_shell(topology: Topo) -> tuple[float, float]:
    """Build with `ip -batch` for links and nodes, and `iptables-restore` and `nft` for all NATs in parallel."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        up, down = script(graph.read(topology), Path(folder))
        begun = time.perf_counter()
        subprocess.run(["sh", "-e", up], check=True, stdout=subprocess.DEVNULL)
        built = time.perf_counter()
        subprocess.run(["sh", "-e", down], check=True)
        return built - begun, time.perf_counter() - built


BUILDERS: Mapping[str, Builder] = {"punchlab": by_punchlab, "Mininet": by_mininet, "shell script": by_shell}


def script(planned: Graph, folder: Path) -> tuple[Path, Path]:
    """Write both scripts with their batch and rule files to the folder; return their paths (up, down)."""
    links = [
        f"link add {link.one.name} address {link.one.mac} netns {link.one.node} type veth "
        f"peer name {link.other.name} address {link.other.mac} netns {link.other.node}"
        for link in planned.links
    ]
    _write(folder / "links", [*(f"netns add {name}" for name in planned.nodes), *links])
    lines = [f"ip -batch {folder}/links"]
    for node in planned.nodes.values():
        _write(folder / node.name, _inside(node))
        lines.append(f"ip -n {node.name} -batch {folder}/{node.name}")
    lines += [
        f"ip netns exec {node.name} sysctl -qw net.ipv4.ip_forward=1"
        for node in planned.nodes.values()
        if node.forwarding
    ]
    for node in planned.nodes.values():
        lines += _rules(node, folder)
    _write(folder / "up", [*lines, "wait"])
    _write(folder / "names", [f"netns del {name}" for name in planned.nodes])
    _write(folder / "down", [f"ip -batch {folder}/names"])
    return folder / "up", folder / "down"


def _inside(node: GraphNode) -> Iterator[str]:
    yield "link set lo up"
    yield from (f"address add {address} dev lo" for address in node.addresses)
    if node.kind == "switch":
        yield "link add bridge type bridge"
        yield "link set bridge up"
    for interface in node.interfaces:
        if node.kind == "switch":
            yield f"link set {interface.name} master bridge"
        else:
            yield f"address add {interface.address} dev {interface.name}"
        yield f"link set {interface.name} up"
    yield from (
        f"route add {destination} via {gateway} onlink dev {node.interfaces[0].name}"
        if destination == "0.0.0.0/0"
        else f"route add {destination} via {gateway}"
        for destination, gateway in node.routes
    )


def _rules(node: GraphNode, folder: Path) -> Iterator[str]:
    if node.behavior is None:
        return
    outside, inside = node.interfaces
    text = rules(node.behavior, inside=inside.name, outside=outside.name, address=node.address)
    (folder / f"{node.name}.iptables").write_text(text.iptables)
    (folder / f"{node.name}.nft").write_text(text.nft)
    load = f"iptables-restore {folder}/{node.name}.iptables"
    if text.nft:
        load += f"; nft -f {folder}/{node.name}.nft"
    settings = " ".join(f"{path.replace('/', '.')}={value}" for path, value in text.sysctls.items())
    _write(folder / f"{node.name}.sh", [f"{load}; sysctl -qw {settings}"])
    yield f"ip netns exec {node.name} sh -e {folder}/{node.name}.sh &"


def _write(path: Path, lines: list[str] | Iterator[str]) -> None:
    path.write_text("".join(f"{line}{os.linesep}" for line in lines))
