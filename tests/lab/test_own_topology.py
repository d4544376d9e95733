"""Topologies of a user: invalid ones are rejected when they are described, with the name and the limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from mininet.topo import Topo

from punchlab import InputError, Lab, LabError
from punchlab.lab.trial.options import TrialOptions
from punchlab.punch.nat.behavior import BehaviorError, FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation
from punchlab.topologies import AB
from punchlab.topologies.internet import Internet

POOL = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ENDPOINT_INDEPENDENT,
    PortAllocation.PRESERVING,
    pool_size=16,
)


def internet(describe: Callable[[Any], object]) -> Internet:
    """Return a topology that `describe` builds."""

    class Own(Internet):
        def build(self) -> None:
            describe(self)

    return Own()


def one_home(own: Internet, hosts: Any, nat: Any = "full_cone", block: Any = "11.0.0.0/8") -> object:
    own.begin(block)
    own.home(own.region("west"), hosts, nat, "preset")
    return own


def homes(count: int, block: str = "11.0.0.0/16", nat: Any = "none") -> Callable[[Internet], None]:
    def describe(own: Internet) -> None:
        own.begin(block)
        where = own.region("west")
        for number in range(count):
            own.home(where, [f"h{number}"], nat, "preset")

    return describe


def customers(count: int, nat: Any = "none") -> Callable[[Internet], None]:
    def describe(own: Internet) -> None:
        own.begin()
        isp = own.carrier(own.region("west"), "cgn_rfc6888")
        for number in range(count):
            own.home(isp, [f"h{number}"], nat, "preset")

    return describe


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("", ["host: ''", "letters"]),
        ("a b", ["host: 'a b'", "letters"]),
        ("a/b", ["host: 'a/b'", "letters"]),
        ("%d", ["host: '%d'", "letters"]),
        ("-a", ["host: '-a'", "does not begin"]),
        ("..", ["host: '..'"]),
        ("a\n", [r"host: 'a\n'"]),
        ("é", ["host: 'é'", "letters"]),
        (None, ["host", "letters"]),
        (7, ["host: 7", "letters"]),
        ("seventh", ["host: 'seventh'", "at most 6 characters", "nat_seventh-eth1"]),
        ("a" * 16, ["host", "at most 10 characters"]),
    ],
)
def test_the_name_of_a_host_fits_into_its_interface_names(name: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        internet(lambda own: one_home(own, [name]))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "nat"),
    [(["sixsix"], "full_cone"), (["tencharact"], "none"), (["a.b-c_", "tencharact"], "full_cone")],
)
def test_a_name_of_the_maximum_length_works(hosts: list[str], nat: str) -> None:
    with Lab(internet(lambda own: one_home(own, hosts, nat))) as lab:
        assert lab["core1"].run(["ping", "-c1", "-W2", lab[hosts[0]].address], check=nat == "none")
        assert [node.name for node in lab if node.kind == "host"] == hosts


@pytest.mark.parametrize(
    ("name", "longest"), [("a" * 11, 10), ("a b", None), ("%d", None)], ids=["long", "blank", "template"]
)
def test_node_names_of_mininet_topologies_are_checked(name: str, longest: int | None) -> None:
    topology = Topo()
    topology.addHost(name)
    topology.addHost("b")
    topology.addLink(name, "b", params1={"ip": "10.0.0.1/24"}, params2={"ip": "10.0.0.2/24"})
    with pytest.raises(InputError, match=f"node: '{name}'.*{longest or 'letters'}"):
        Lab(topology)


@pytest.mark.parametrize(
    ("describe", "parts"),
    [
        (lambda own: one_home(own, "ab"), ["hosts: 'ab'", "a list"]),
        (lambda own: one_home(own, []), ["hosts: []", "a list"]),
        (lambda own: one_home(own, [f"h{n}" for n in range(254)]), ["hosts", "1 to 253"]),
        (lambda own: one_home(own, ["a", "a"]), ["host: 'a'", "an unused name"]),
        (lambda own: (one_home(own, ["nat_a"], "none"), own.home("west", ["a"], "symmetric", "drop")), ["nat_a"]),
        (lambda own: own.region("west"), ["topology: 'Own'", "begin()"]),
        (lambda own: own.home("west", ["a"], "none", "preset"), ["begin()"]),
        (lambda _own: None, ["begin()"]),
        (lambda own: (own.begin(), own.begin()), ["begin"]),
        (lambda own: (own.begin(), own.finish(), own.finish()), ["finish()"]),
        (lambda own: (own.begin(), own.finish(), own.region("west")), ["finish()"]),
        (lambda own: (own.begin(), own.home("west", ["a"], "none", "preset")), ["region: 'west'"]),
        (lambda own: (one_home(own, ["a"]), own.edge("wets")), ["region: 'wets'", "did you mean west?"]),
        (lambda own: (one_home(own, ["a"]), own.region("west")), ["region: 'west'", "an unused name"]),
        (lambda own: (one_home(own, ["a"]), own.edge("west"), own.edge("west")), ["edge: 'west'", "one edge"]),
        (lambda own: (one_home(own, ["a"]), own.long_link("west", "west")), ["long link", "two different"]),
        (lambda own: (one_home(own, ["a"]), own.carrier("east", "symmetric")), ["region: 'east'"]),
        (lambda own: (own.begin(), [own.region(f"r{n}") for n in range(16)]), ["region: 'r15'", "15"]),
        (homes(16), ["home: 16", "at most 15 homes in 11.0.16.0/20"]),
        (homes(8, nat="firewall"), ["home: 16", "at most 15"]),
        (customers(254), ["home: 254", "at most 253 homes in 100.64.0.0/10"]),
        (customers(239, nat=POOL), ["pool_size: 16", "100.64.239.240"]),
        (lambda own: one_home(own, ["a"], "full_con"), ["nat: 'full_con'", "did you mean full_cone?"]),
        (lambda own: one_home(own, ["a"], 5), ["nat: 5", "full_cone"]),
        (lambda own: one_home(own, ["a"], ["full_cone"]), ["nat: ['full_cone']"]),
        *((lambda own, block=block: one_home(own, ["a"], block=block), ["block", block]) for block in (
            *("172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "0.0.0.0/8"),
            *("224.0.0.0/8", "240.0.0.0/8", "169.254.0.0/16", "172.0.0.0/8", "11.0.0.0/17", "11.0.0.1/8", "twelve"),
        )),
    ],
)  # fmt: skip
def test_an_invalid_description_is_rejected(describe: Callable[[Internet], None], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        internet(describe)
    for part in parts:
        assert part in str(caught.value)


def test_a_full_region_uses_only_its_own_addresses() -> None:
    with Lab(internet(homes(15))) as lab:
        assert lab["h14"].address == "11.0.31.2"
        assert lab["h14"].run(["ping", "-c1", "-W2", lab["h0"].address])


def test_an_unfinished_topology_is_finished_after_build() -> None:
    def describe(own: Internet) -> None:
        own.begin()
        for name in ("west", "east"):
            own.home(own.region(name), [name], "none", "preset")
        own.long_link("west", "east", delay="1ms")

    with Lab(internet(describe)) as lab:
        assert lab["west"].run(["ping", "-c1", "-W2", lab["east"].address])


def test_a_topology_without_an_edge_has_nats_paths_and_background_traffic() -> None:
    def describe(own: Internet) -> None:
        own.begin()
        west = own.region("west")
        own.home(west, ["a"], "full_cone", "preset", delay="3ms")
        own.home(own.carrier(west, "cgn_rfc6888"), ["b"], "symmetric", "preset")
        own.home(west, ["server"], "none", "preset")

    with Lab(internet(describe), background=5) as lab:
        assert lab.path("a", "server").delay_s == 0.003
        assert lab.path("a", "b").nats == ["nat_a", "cgn1", "nat_b"]
        assert (lab.nat("a").name, lab.nat("cgn1").name) == ("nat_a", "cgn1")
        assert (lab.in_front_of("b"), lab.in_front_of("server")) == (["nat_b", "cgn1"], [])
        assert lab.in_front_of("nat_b") == ["cgn1"]
        lab.nat("a").reboot()
        for attempt in (lambda: lab.anycast, lambda: lab.punch("a", "b")):
            with pytest.raises(InputError, match="topology: 'Own' cannot be used; expected a topology with an edge"):
                attempt()


def test_a_host_without_a_path_to_the_first_edge_uses_another() -> None:
    def describe(own: Internet) -> None:
        own.begin()
        for name in ("west", "east"):
            own.edge(own.region(name))
            own.home(name, [name], "full_cone", "preset")

    with Lab(internet(describe)) as lab:
        assert lab.nat("east").name == "nat_east"
        with pytest.raises(InputError, match="pair: 'west,east'"):
            lab.path("west", "east")


def test_a_lab_that_is_not_running_is_an_error() -> None:
    lab = Lab(AB())
    attempts: list[Callable[[], object]] = [
        *(lambda: lab["a"], lambda: lab.nat("a"), lambda: lab.link("a", "nat_a"), lambda: lab.anycast),
        lambda: lab.punch("a", "b"),
    ]
    for _when in ("before", "after"):
        for attempt in attempts:
            with pytest.raises(LabError, match="is not running"):
                attempt()
        with lab, pytest.raises(LabError, match="already running"):
            lab.__enter__()
    assert lab.path("a", "b").nats == ["nat_a", "nat_b"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"links": "rope"}, ["links: 'rope'", "netem"]),
        ({"links": None}, ["links", "auto"]),
        ({"seed": 1.5}, ["seed: 1.5", "whole"]),
        ({"seed": 2**70}, ["seed"]),
        ({"background": math.nan}, ["background: nan"]),
        ({"background": "5"}, ["background: '5'"]),
        ({"background": True}, ["background: True"]),
        ({"bus": "meshh"}, ["bus: 'meshh'", "did you mean mesh?"]),
    ],
)
def test_options_of_a_lab_are_checked_at_construction(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Lab(AB(), **options)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("thing", [AB, None, "ab"])
def test_an_object_that_is_no_topology_is_rejected(thing: Any) -> None:
    with pytest.raises(InputError, match=r"topology: .*expected a Mininet topology"):
        Lab(thing)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"strategy": "reuze"}, ["strategy: 'reuze'", "did you mean reuse?"]),
        ({"client": "punch"}, ["client: 'punch'", "a Client"]),
        ({"deadline_s": math.nan}, ["deadline: nan"]),
        ({"deadline_s": 1e9}, ["deadline: 1000000000.0", "3600"]),
        ({"deadline_s": "5"}, ["deadline: '5'"]),
        ({"max_attempts": 2.0}, ["max_attempts: 2.0"]),
        ({"skew_s": math.inf}, ["skew_s: inf", "-60 to 60"]),
        ({"file_size": 0}, ["file_size: 0"]),
        ({"file_size": True}, ["file_size: True"]),
        ({"relay": "no"}, ["relay: 'no'", "True or False"]),
        ({"full_capture": 1}, ["full_capture: 1"]),
    ],
)
def test_options_of_a_punch_are_checked_at_construction(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        TrialOptions(**options)
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(InputError, match="parameter of AB: 'nat_c' cannot be used; expected one of nat_a, nat_b"):
        AB(nat_c="symmetric")
    with Lab(AB()) as lab, pytest.raises(TypeError, match=r"punch\(\) got an unexpected keyword argument 'deadline'"):
        lab.punch("a", "b", deadline=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"delay": 20}, "delay"),
        ({"delay": "nanms"}, "delay"),
        ({"delay": "9" * 5000 + "s"}, "delay"),
        ({"edge_delay": ""}, "delay"),
        ({"jitter": "20ms"}, "jitter"),
        ({"loss": math.nan}, "loss"),
        ({"loss": 10**5000}, "loss"),
        ({"bw": 0}, "bw"),
        ({"bw": "wide"}, "bw"),
        ({"unsolicited": "rst"}, "unsolicited"),
        ({"port_mapping": "upnp"}, "port_mapping"),
    ],
)
def test_parameters_of_a_topology_are_checked_at_construction(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        AB(**parameters)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_an_invalid_nat_event_is_rejected_and_changes_nothing() -> None:
    with Lab(AB(nat_a="full_cone")) as lab:
        nat = lab.nat("a")
        attempts: list[Callable[[], object]] = [
            *(lambda: nat.reboot(math.nan), lambda: nat.reboot(-1), lambda: nat.reboot(math.inf)),
            *(lambda: nat.background(math.nan), lambda: nat.background(5, udp=2), lambda: nat.background(5, silent=-1)),
            *(lambda: nat.behave("full_con"), lambda: nat.behave("none"), lambda: nat.change_address("11.0.0")),
            *(lambda: lab.link("a", "b"), lambda: lab["z"], lambda: lab.nat("core1"), lambda: lab.path("a", "z")),
            lambda: lab.punch("a", "a"),
        ]
        for attempt in attempts:
            with pytest.raises(InputError):
                attempt()
        assert (nat.address, nat.behavior.filtering) == ("11.16.1.2", FilteringBehavior.ENDPOINT_INDEPENDENT)
        assert nat.background_address is None
        assert lab["a"].run(["ping", "-c1", "-W2", lab.anycast])


def test_a_misspelt_behavior_in_a_topology_is_rejected() -> None:
    with pytest.raises(BehaviorError, match=r"filtering: 'open' cannot be used"):
        AB(nat_a=NatBehavior("endpoint-independent", "open", "preserving"))  # type: ignore[arg-type]


def test_command_output_that_is_not_utf_8_becomes_text() -> None:
    with Lab(AB()) as lab:
        assert lab["a"].run(["printf", r"\377 ok"]).stdout == r"\xff ok"
        with pytest.raises(LabError, match=r"a: sh -c .*\\xfe"):
            lab["a"].run(["sh", "-c", r"printf '\376' >&2; exit 1"])
