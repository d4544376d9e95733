"""An independent test: coturn's `turnutils_natdiscovery` with its `turnserver` agrees over UDP.

It distinguishes every mapping and filtering, and hosts without a NAT, so every preset is tested. It does not test port
allocation, answers to unsolicited packets, ICMP errors, or TCP.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

from punchlab import Lab
from punchlab.lab.client.edges import STUN_PORTS
from punchlab.lab.nat import presets
from punchlab.lab.process.node import Node
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior
from punchlab.punch.probe.stun import Message, MessageClass
from punchlab.topologies.internet import Internet

PATIENCE_S = 60
RULE = "=" * 40


class EveryNat(Internet):
    """A host behind each of the NATs, and an edge with two addresses."""

    def build(self, nats: Sequence[str] = ()) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms", alternate=True)
        for nat, host in hosts(nats).items():
            self.home(west, [host], nat, "preset")
        self.finish()


def hosts(nats: Sequence[str]) -> dict[str, str]:
    """Return NAT -> the host behind it."""
    return {nat: f"h{number}" for number, nat in enumerate(nats)}


@contextlib.contextmanager
def turnserver(lab: Lab) -> Iterator[str]:
    """Run coturn as a STUN server for RFC 5780 at both addresses of the lab's edge. Yield its primary address."""
    edge = lab.edges[0]
    ips = edge.address, edge.graph.addresses[-1].partition("/")[0]
    listen = [word for ip in ips for word in ("-L", ip)]
    quiet = ["--no-auth", "--no-cli", "--no-tls", "--no-dtls", "-n", "--log-file", "/dev/null"]
    server = edge.popen(
        ["turnserver", *listen, *quiet, "--pidfile", "/dev/null"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for ip, port in ((ip, port) for ip in ips for port in STUN_PORTS):
        with edge.socket(socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.1)
            while True:
                asking.sendto(Message(MessageClass.REQUEST).encode(), (ip, port))
                with contextlib.suppress(TimeoutError):
                    asking.recv(1500)
                    break
                assert server.poll() is None
    yield ips[0]


def outputs_of(lab: Lab, words: dict[str, list[str]]) -> dict[str, str]:
    """Return host -> output of its command. All commands run in parallel."""
    processes = {
        host: lab[host].popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for host, command in words.items()
    }
    texts = {}
    for host, process in processes.items():
        texts[host], errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    return texts


def natdiscovery(node: Node, server: str) -> list[str]:
    return ["turnutils_natdiscovery", "-m", "-f", "-L", node.address, server]


def decisions(words: str) -> dict[str, list[str]]:
    """Return "Mapping" and "Filtering" -> the decisions in that part of the output, verbatim."""
    _head, *parts = re.split(r"-= (\w+) Behavior Discovery =-\n", words)
    return {
        name: re.findall(rf"^{RULE}\n(.+)\n{RULE}$", part, re.MULTILINE)
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }


def expected(behavior: NatBehavior | None) -> dict[str, list[str]]:
    """Return the decisions that the tester must make. Without a NAT it first says so and continues."""
    none = ["No NAT! (Endpoint Independent Mapping)"] if behavior is None or not behavior.translates else []
    mapping = MappingBehavior.ENDPOINT_INDEPENDENT if behavior is None else behavior.mapping
    filtering = FilteringBehavior.ENDPOINT_INDEPENDENT if behavior is None else behavior.filtering
    return {
        "Mapping": [*none, f"NAT with {in_its_words(mapping)} Mapping!"],
        "Filtering": [*none, f"NAT with {in_its_words(filtering)} Filtering!"],
    }


def in_its_words(kind: str) -> str:
    return " ".join(word if word == "and" else word.capitalize() for word in kind.split("-"))


def test_coturns_tester_agrees_on_every_preset() -> None:
    behind = hosts(tuple(presets.PRESETS))
    with Lab(EveryNat(nats=tuple(behind))) as lab, turnserver(lab) as server:
        texts = outputs_of(lab, {host: natdiscovery(lab[host], server) for host in behind.values()})
    assert {nat: decisions(texts[host]) for nat, host in behind.items()} == {
        nat: expected(presets.PRESETS[nat].behavior) for nat in behind
    }


def test_coturns_server_shows_our_probe_the_same_mappings() -> None:
    behind = hosts(presets.CLASSICS[1:])
    with Lab(EveryNat(nats=tuple(behind))) as lab, turnserver(lab) as server:
        probe = [sys.executable, "-m", "punchlab.punch", "probe", "--edge", f"stun:{server}", "--json"]
        texts = outputs_of(lab, dict.fromkeys(behind.values(), probe))
    found = {nat: json.loads(texts[host])["udp"]["mapping"] for nat, host in behind.items()}
    assert found == {nat: behavior.mapping for nat in behind if (behavior := presets.PRESETS[nat].behavior) is not None}
