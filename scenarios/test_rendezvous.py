"""Rendezvous on the edge network: near hosts share an edge, far ones do not."""

from __future__ import annotations

import pytest

from punchlab.lab.graph import read
from punchlab.lab.trial.trial import Trial
from punchlab.topologies import ABCD
from scenarios.conftest import Punch

CONES = ("port_restricted_cone", "port_restricted_cone")


def edge_events(trial: Trial, *names: str) -> list[tuple[str, str]]:
    """Return (edge, event name) of the session's events of those names."""
    session = next(event["session"] for event in trial.sides[0].events if event["event"] == "registered")
    return [
        (edge, event["event"])
        for edge, log in trial.edge_log.items()
        for event in log
        if event.get("session") == session and event["event"] in names
    ]


def test_a_and_b_share_their_nearest_edge_and_do_not_use_the_bus(punch: Punch) -> None:
    trial = punch("abcd", *CONES, pair=("a", "b"))
    assert trial.direct, trial
    assert edge_events(trial, "client") == [("edge1", "client"), ("edge1", "client")]
    assert edge_events(trial, "paired") == [("edge1", "paired")]
    assert edge_events(trial, "bus_sent", "bus_received") == []


def test_c_and_d_use_different_edges_and_the_long_link_carries_the_session(punch: Punch) -> None:
    trial = punch("abcd", *CONES, pair=("c", "d"), full_capture=True)
    assert trial.direct, trial
    assert sorted(edge_events(trial, "client")) == [("edge2", "client"), ("edge3", "client")]
    sent, received = (set(edge_events(trial, name)) for name in ("bus_sent", "bus_received"))
    assert {("edge2", "bus_sent"), ("edge3", "bus_sent")} <= sent
    assert {("edge2", "bus_received"), ("edge3", "bus_received")} <= received
    # The frames between the two edges passed both ends of the long link between their regions.
    graph = read(ABCD())
    edges = {graph.nodes[edge].address for edge in ("edge2", "edge3")}
    carried = {
        frame.interface
        for frame in trial.recording.frames
        if {frame.packet["IP"].src, frame.packet["IP"].dst} == edges and len(frame.packet["TCP"].payload) > 0
    }
    long_link = {end.name for end, peer, _ in graph.steps("core2", "core3") for end in (end, peer)}
    assert long_link <= carried


@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_reuse_closes_the_rendezvous_before_it_punches_from_the_same_port(topology: str, punch: Punch) -> None:
    trial = punch(topology, *CONES, strategy="reuse")
    assert trial.direct, trial
    for host in trial.pair:
        assert trial.exchange.rendezvous_closed_before_punch(host), trial


def test_keep_leaves_the_rendezvous_open_while_it_punches(punch: Punch) -> None:
    trial = punch("ab", *CONES, strategy="keep")
    assert trial.direct, trial
    assert not any(trial.exchange.rendezvous_closed_before_punch(host) for host in trial.pair), trial
