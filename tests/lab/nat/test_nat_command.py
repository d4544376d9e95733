"""`punchlab nat`: list and show presets, and print a script that implements one."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

import pytest

from punchlab import Lab
from punchlab.lab.nat import presets
from punchlab.lab.nat.script import script
from punchlab.punch.nat.behavior import Hairpinning, NatBehavior, PortAllocation, PortMapping
from tests.commands import assert_one_clear_line, punchlab, run
from tests.lab.homes import Homes
from tests.lab.nat.world import PORT, World


def test_the_list_has_every_preset_with_source_and_confidence() -> None:
    done = run(punchlab("nat", "list"))
    assert done.returncode == 0, done
    head, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(presets.PRESETS)
    for line, preset in zip(lines, presets.PRESETS.values(), strict=True):
        where = head.index("CONFIDENCE")
        assert line[where:].split()[0] == preset.confidence
        assert line[head.index("SOURCE") :] == preset.source


def test_a_preset_is_shown_field_by_field_with_unclaimed_fields() -> None:
    done = run(punchlab("nat", "show", "draytek_2005"))
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert ["mapping", "address-and-port-dependent"] in lines
    assert ["port_allocation", "random", "not claimed by the source"] in lines
    assert ["timeouts.udp_stream_s", "300", "not claimed by the source"] in lines


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["show", "cone"], ["nat", "'cone'", "full_cone"]),
        (["show", "none", "--rules"], ["nat", "'none'"]),
        (["show", "symmetric", "--rules", "--inside", "no such"], ["inside", "'no such'"]),
        (["show", "symmetric", "--rules", "--address", "1.2.3"], ["address", "'1.2.3'"]),
        (["dance"], ["dance"]),
    ],
)
def test_bad_input_gets_one_clear_line(words: list[str], parts: list[str]) -> None:
    assert_one_clear_line(run(punchlab("nat", *words)), *parts)


def test_the_rules_are_printed_as_a_script_for_the_given_router() -> None:
    options = ["--inside", "br0", "--outside", "eth9", "--address", "11.9.9.9"]
    done = run(punchlab("nat", "show", "full_cone", "--rules", *options))
    behavior = presets.behavior("full_cone")
    assert behavior is not None
    assert done.stdout == script("full_cone", behavior, inside="br0", outside="eth9", address="11.9.9.9")


CONE = presets.behavior("full_cone")
assert CONE is not None


@pytest.mark.parametrize(
    "nat",
    [
        CONE,
        replace(CONE, hairpinning=Hairpinning.EXTERNAL_SOURCE, pool_size=4),
        replace(CONE, port_allocation=PortAllocation.SEQUENTIAL),
        replace(CONE, port_allocation=PortAllocation.BLOCKS),
        replace(CONE, port_mapping=PortMapping.ALL),
    ],
    ids=["plain", "hairpin and pool", "sequential", "blocks", "port mapping"],
)
def test_the_script_turns_a_router_into_the_nat_and_can_run_twice(nat: NatBehavior) -> None:
    with Lab(Homes(nat="port_restricted_cone")) as lab, contextlib.ExitStack() as stack:
        router = lab["nat_a"]
        router.run(["sh", "-c", "nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0"])
        outside, inside = router.graph.interfaces
        text = script("test", nat, inside=inside.name, outside=outside.name, address=router.address)
        for _ in range(2):
            router.run(["sh"], stdin=text)
        w = World(lab, socket.SOCK_STREAM, stack)
        target = w.mapped("a", "server", 5000)
        assert w.mapped("a", "stranger", 5000) == target
        assert w.reached("stranger", 6000, target, ["a"]) == "a"
        reached = w.reached("a2", PORT + 1, target, ["a"])
        assert reached == (None if nat.hairpinning is Hairpinning.NONE else "a")
