"""A file crosses the tunnel, and the edge sees next to nothing of it."""

from __future__ import annotations

import json

import pytest

from lab import Lab
from scenarios.conftest import Punch
from topologies import AB

MEGABYTE = 1_000_000


@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_a_megabyte_arrives_as_it_was_sent(topology: str, punch: Punch) -> None:
    trial = punch(topology, "port_restricted_cone", "full_cone", file_size=MEGABYTE)
    assert trial.direct, trial
    (sent,), (received,) = (side.last("done")["files"] for side in trial.sides)  # type: ignore[index]  # it is direct
    assert sent["sha256"] == received["sha256"]
    assert received["size"] == MEGABYTE


def test_a_connection_of_crossed_syns_is_as_quick_as_an_accepted_one(punch: Punch) -> None:
    crossed = punch("cd", "port_restricted_cone", "port_restricted_cone", file_size=5 * MEGABYTE)
    accepted = punch("cd", "symmetric", "none", file_size=5 * MEGABYTE)
    assert crossed.exchange.simultaneous_open, crossed
    assert not accepted.exchange.simultaneous_open, accepted
    # Where the kernel's wrong idea of the round trip is left alone, this is 9.
    assert crossed.timings_s["transferred"] / accepted.timings_s["transferred"] < 3


def test_a_hundred_megabytes_pass_by_the_edge() -> None:
    with Lab(AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab:
        trial = lab.punch("a", "b", file_size=100 * MEGABYTE)
        assert trial.direct, trial
        shown = lab["edge1"].run(["ip", "-json", "-statistics", "link", "show", "dev", "edge1-eth0"])
    (counters,) = (link["stats64"] for link in json.loads(shown.stdout))
    assert counters["rx"]["bytes"] + counters["tx"]["bytes"] < 100_000
