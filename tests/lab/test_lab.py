"""The lab as a library: topologies, paths, nodes, and invalid arguments."""

from __future__ import annotations

import ipaddress
import signal

import pytest

from punchlab import InputError, Lab
from punchlab.lab.graph import read
from punchlab.topologies import AB, ABCD, CD, TOPOLOGIES, Carrier, Firewalls, SameNat
from punchlab.topologies.internet import Internet
from tests.lab.homes import Homes


@pytest.mark.parametrize(("host", "edge"), [("a", "edge1"), ("b", "edge1"), ("c", "edge2"), ("d", "edge3")])
def test_each_host_is_routed_to_its_nearest_edge(host: str, edge: str) -> None:
    with Lab(ABCD()) as lab:
        listener = lab[edge].socket()
        listener.bind(("0.0.0.0", 5000))
        listener.listen()
        listener.settimeout(5)
        dialler = lab[host].socket()
        dialler.settimeout(5)
        dialler.connect((lab.anycast, 5000))
        accepted, _ = listener.accept()
        for made in (listener, dialler, accepted):
            made.close()


def test_a_region_without_an_edge_uses_the_nearest_of_another_region() -> None:
    class Uneven(Internet):
        pairs = (("a", "b"),)

        def build(self) -> None:
            self.begin()
            for name in ("west", "middle", "east"):
                self.region(name)
            self.edge("west", delay="0ms")
            self.edge("east", delay="0ms")
            self.home("middle", ["a"], "none", "drop")
            self.home("middle", ["b"], "none", "drop")
            self.long_link("west", "middle", delay="20ms")
            self.long_link("middle", "east", delay="5ms")
            self.finish()

    graph = read(Uneven())
    (to_anycast,) = [gateway for prefix, gateway in graph.nodes["core2"].routes if prefix == "11.0.0.1/32"]
    gateways = {
        end.address.split("/")[0]: end.node for link in graph.links for end in (link.one, link.other) if end.address
    }
    assert gateways[to_anycast] == "core3"


def test_the_path_between_two_hosts_names_its_nats_and_adds_up_its_delays() -> None:
    with Lab(CD(nat_c="full_cone", nat_d="none", delay="50ms", loss=1)) as lab:
        path = lab.path("c", "d")
    assert path.nodes == ["c", "nat_c", "core1", "core2", "d"]
    assert path.nats == ["nat_c"]
    assert path.delay_s == pytest.approx(0.05)
    assert path.loss == pytest.approx(1 - 0.99**2)


def test_the_path_between_hosts_of_one_home_uses_their_nat_or_their_lan() -> None:
    with Lab(SameNat()) as lab:
        path = lab.path("a", "b")
    assert path.nodes == ["a", "lan_a", "nat_a", "lan_a", "b"]
    assert path.nats == ["nat_a"]
    assert path.shortcut == []
    assert path.delay_s == 0


def test_the_path_between_homes_of_one_carrier_uses_its_nat() -> None:
    with Lab(Carrier(delay="30ms")) as lab:
        path, other = lab.path("a", "b"), lab.path("a", "c")
        inside = lab.path("a", "access1")
    assert path.nodes == ["a", "nat_a", "access1", "cgn1", "access1", "nat_b", "b"]
    assert path.nats == ["nat_a", "cgn1", "nat_b"]
    assert path.shortcut is None
    assert other.nats == ["nat_a", "cgn1", "nat_c"]
    assert path.delay_s == pytest.approx(0.03)
    assert other.delay_s == pytest.approx(0.045)
    assert inside.nats == ["nat_a"]


def test_a_host_without_a_home_nat_is_reached_without_crossing_the_carriers_nat() -> None:
    with Lab(Carrier(nat_a="none")) as lab:
        assert lab.path("a", "b").shortcut == ["nat_b"]
        assert lab.path("a", "b").nats == ["cgn1", "nat_b"]
        assert lab.path("a", "c").shortcut is None


def test_the_network_between_carrier_and_homes_is_shared_address_space() -> None:
    graph = read(Carrier())
    assert [graph.nodes[nat].address for nat in ("nat_a", "nat_b")] == ["100.64.1.2", "100.64.2.3"]
    assert not ipaddress.IPv4Address(graph.nodes["cgn1"].address).is_private


def test_hosts_of_one_home_reach_each_other_through_their_switch() -> None:
    with Lab(Homes(nat="symmetric")) as lab:
        assert "1 received" in lab["a"].run(["ping", "-c1", "-W2", lab["a2"].address]).stdout


def test_nodes_are_isolated_from_each_other() -> None:
    with Lab(AB()) as lab:
        shown = lab["a"].run(["ip", "-brief", "address"]).stdout
        assert "a-eth0" in shown
        assert "b-eth0" not in shown


def test_a_lab_ends_with_its_block_and_kills_its_processes() -> None:
    with Lab(AB()) as lab:
        sleeper = lab["a"].popen(["sleep", "1000"])
    assert sleeper.returncode == -signal.SIGKILL


def test_an_unknown_node_is_bad_input_and_lists_the_known_ones() -> None:
    with Lab(AB()) as lab, pytest.raises(InputError, match=r"node: 'z'.*nat_a"):
        lab["z"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nat_a": "cone"}, "nat: 'cone'"),
        ({"unsolicited": "maybe"}, "unsolicited: 'maybe'"),
        ({"delay": "soon"}, "delay: 'soon'"),
        ({"loss": -1}, "loss: -1"),
        ({"bw": 0}, "bw: 0"),
    ],
)
def test_a_topology_rejects_what_cannot_be_built(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AB(**parameters)


def test_a_carrier_must_translate_and_a_shared_home_has_one_nat() -> None:
    for cgn in ("none", "firewall"):
        with pytest.raises(InputError, match=f"cgn: '{cgn}'"):
            Carrier(cgn=cgn)
    with pytest.raises(InputError, match="nat_b: 'firewall'"):
        Carrier(nat_b="firewall")
    with pytest.raises(InputError, match="nat_b: 'symmetric'"):
        SameNat(nat_a="full_cone", nat_b="symmetric")
    with pytest.raises(InputError, match="nat_a: 'none'"):
        SameNat(nat_a="none")


def test_a_link_with_an_invalid_ipv6_address_is_rejected() -> None:
    topology = Firewalls()
    topology.linkInfo("a", "nat_a")["params1"]["ip6"] = "11.0.0.1/24"
    with pytest.raises(InputError, match=r"ip6 of .*: '11\.0\.0\.1/24'"):
        read(topology)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_host_of_every_topology_reaches_its_edge(name: str) -> None:
    with Lab(TOPOLOGIES[name]()) as lab:
        for host in [node for node in lab if node.kind == "host"]:
            assert "1 received" in host.run(["ping", "-c1", "-W2", lab.anycast]).stdout


def test_a_pair_must_be_two_hosts() -> None:
    with Lab(AB()) as lab:
        for one, other in (("a", "a"), ("a", "core1")):
            with pytest.raises(InputError, match="pair"):
                lab.punch(one, other)


def test_a_second_punch_in_one_lab_succeeds() -> None:
    with Lab(AB()) as lab:
        for _ in range(2):
            trial = lab.punch("a", "b")
            assert trial.direct, trial
            assert trial.agrees, trial
