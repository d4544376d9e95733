"""`Lab.inspect` returns what `ip -j` and `tc -j` print, and the NAT state that the captured packets show."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from punchlab import InputError, Lab, LabError
from punchlab.lab.kernel.inspection import RouteState
from punchlab.lab.process.node import Node
from punchlab.topologies import AB, TOPOLOGIES, SameNat


def printed(node: Node, *command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(node.run(command).stdout or "[]")
    return found


def prefix(destination: str, *, ipv6: bool) -> str:
    if destination == "default":
        return "::/0" if ipv6 else "0.0.0.0/0"
    return destination if "/" in destination else f"{destination}/{128 if ipv6 else 32}"


def printed_routes(node: Node, *, ipv6: bool) -> set[RouteState]:
    family = "-6" if ipv6 else "-4"
    return {
        RouteState(
            prefix(each["dst"], ipv6=ipv6),
            each.get("type", "unicast"),
            each.get("gateway"),
            each.get("dev"),
            each.get("metric", 0),
        )
        for each in printed(node, "ip", "-d", "-j", family, "route", "show", "table", "main")
    }


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_interfaces_and_routes_are_those_of_ip(name: str) -> None:
    with Lab(TOPOLOGIES[name]()) as lab:
        states = lab.inspect()
        assert list(states) == [node.name for node in lab]
        for node in lab:
            state = states[node.name]
            assert state.kind == node.kind
            wired = {each.name for each in node.graph.interfaces}  # the kernel updates the state of a bridge later
            assert {
                (
                    *(each.index, each.name, each.mac, each.mtu, each.up, each.kind, each.addresses),
                    each.state if each.name in wired else None,
                )
                for each in state.interfaces
            } == {
                (
                    each["ifindex"],
                    each["ifname"],
                    each["address"],
                    each["mtu"],
                    "UP" in each["flags"],
                    each.get("linkinfo", {}).get("info_kind"),
                    tuple(f"{own['local']}/{own['prefixlen']}" for own in each["addr_info"]),
                    each["operstate"] if each["ifname"] in wired else None,
                )
                for each in printed(node, "ip", "-d", "-j", "address")
            }
            assert set(state.routes) == printed_routes(node, ipv6=False) | printed_routes(node, ipv6=True)


def test_qdiscs_are_those_of_tc() -> None:
    with Lab(AB()) as lab:
        node = lab["a"]
        interface = node.graph.interfaces[0].name
        node.run(["tc", "qdisc", "add", "dev", interface, "root", "handle", "1:", "tbf", *TBF])
        node.run(["tc", "qdisc", "add", "dev", interface, "parent", "1:1", "handle", "10:", "pfifo", "limit", "5"])
        node.run(["ping", "-c", "2", "-i", "0.01", lab.edges[0].address])
        found = [each for each in lab.inspect("a")["a"].qdiscs if each.interface == interface]
        assert [(each.kind, each.handle, each.parent, each.packets, each.bytes, each.drops) for each in found] == [
            (each["kind"], each["handle"], each.get("parent", "root"), each["packets"], each["bytes"], each["drops"])
            for each in printed(node, "tc", "-s", "-j", "qdisc", "show", "dev", interface)
        ]
        assert found[0].packets == 2


TBF = ("rate", "1gbit", "burst", "10kb", "latency", "1s")


def test_a_mapping_and_its_connection_are_those_of_the_punch() -> None:
    with Lab(AB(nat_a="symmetric", nat_b="full_cone", delay="2ms")) as lab:
        trial = lab.punch("a", "b")
        assert trial.direct, trial
        states = lab.inspect("nat_a", "nat_b", "core1")
        assert states["core1"].nat is None
        assert states["core1"].connections == ()
        for host, nat in (("a", "nat_a"), ("b", "nat_b")):
            agreed = trial.sides[host == "b"].last("agreed")
            assert agreed is not None
            state = states[nat]
            assert state.nat is not None
            assert state.nat.behavior == lab[nat].graph.behavior
            assert state.nat.addresses == (lab[nat].address,)
            inside = (str(agreed["local"]).partition(":")[0], int(str(agreed["local"]).partition(":")[2]))
            mappings = [each for each in state.nat.mappings if each.inside == inside and each.transport == "tcp"]
            assert mappings
            assert {each.external[0] for each in mappings} == {lab[nat].address}
            # The mapping of a symmetric NAT includes its destination.
            assert all(bool(each.remote) == (nat == "nat_a") for each in mappings)
            used = [each for each in state.connections if inside in (*each.original, *each.reply)]
            assert used
            assert all(each.transport == "tcp" and each.state for each in used)
            assert any(each.source_translated or each.destination_translated for each in used)
            external = {mapping.external for mapping in mappings}
            assert external & {endpoint for each in used for endpoint in (*each.original, *each.reply)}


def test_a_flush_removes_mappings_and_connections() -> None:
    with Lab(AB(nat_a="full_cone")) as lab:
        lab["a"].run(["ping", "-c", "1", lab.edges[0].address])
        with lab["a"].socket(socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (lab.edges[0].address, 9))
        state = lab.inspect("nat_a")["nat_a"]
        assert state.nat is not None
        assert len(state.nat.mappings) == 1
        assert {each.transport for each in state.connections} == {"icmp", "udp"}
        lab.nat("nat_a").flush()
        state = lab.inspect("nat_a")["nat_a"]
        assert state.nat is not None
        assert (state.nat.mappings, state.connections) == ((), ())


def test_a_changed_address_and_a_link_that_is_down_are_visible() -> None:
    with Lab(SameNat()) as lab:
        new = lab.nat("nat_a").change_address()
        state = lab.inspect("nat_a")["nat_a"]
        assert state.nat is not None
        assert state.nat.addresses == (new,)
        outside = lab["nat_a"].graph.interfaces[0].name
        assert [each.addresses[0].partition("/")[0] for each in state.interfaces if each.name == outside] == [new]
        lab.nat("nat_a").link_down()
        state = lab.inspect("nat_a")["nat_a"]
        assert [each.up for each in state.interfaces if each.name == outside] == [False]
        assert RouteState("0.0.0.0/0", "blackhole", None, None, 1 << 20) in state.routes


def test_an_unknown_node_and_a_lab_that_is_not_running_are_errors() -> None:
    lab = Lab(AB())
    with pytest.raises(LabError, match="the lab is not running"):
        lab.inspect("a")
    with lab, pytest.raises(InputError, match="node: 'nowhere' cannot be used; expected one of"):
        lab.inspect("nowhere")
