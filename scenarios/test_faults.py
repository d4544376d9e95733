"""Faults of edge networks: two distant hosts still connect, or report why not.

A and B are close to edge1, C to edge2, D to edge3.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.edges import Bus
from punchlab.lab.client.processes import wait_for
from punchlab.topologies import ABCD, CD
from scenarios.pairs import PATIENCE_S, Pair, events, where
from scenarios.requirements import needs


@pytest.fixture
def four(tmp_path: Path, bus: Bus) -> Iterator[Pair]:
    with Lab(ABCD(), bus=bus) as lab, Pair(lab, tmp_path) as pair:
        yield pair


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Pair]:
    """C is close to edge2 and D to edge3, with one mesh link between the edges."""
    with Lab(CD()) as lab, Pair(lab, tmp_path) as pair:
        yield pair


@pytest.fixture
def mesh_of_three(tmp_path: Path) -> Iterator[Pair]:
    with Lab(ABCD()) as lab, Pair(lab, tmp_path) as pair:
        yield pair


def one_way(pair: Pair, change: str, router: str, source: str, target: str, *only: str) -> None:
    """With -I, a router drops TCP from one edge to another; with -D, it stops doing so."""
    ends = ["-s", pair.lab[source].address, "-d", pair.lab[target].address]
    pair.lab[router].run(["iptables", change, "FORWARD", "-p", "tcp", *ends, *only, "-j", "DROP"])


@pytest.mark.parametrize("deaf", ["edge2", "edge3"])
def test_clients_avoid_an_edge_whose_bus_passes_one_way_only(mesh_of_three: Pair, deaf: str) -> None:
    pair, mute = mesh_of_three, {"edge2": "edge3", "edge3": "edge2"}[deaf]
    one_way(pair, "-I", mute.replace("edge", "core"), mute, deaf)
    receiver = pair.receive("c")
    pair.connect(pair.send("d"), receiver)


@pytest.mark.parametrize(("mute", "deaf"), [("edge1", "edge2"), ("edge2", "edge1")])
def test_a_bus_that_passed_one_way_only_recovers(two: Pair, mute: str, deaf: str) -> None:
    router = mute.replace("edge", "core")
    one_way(two, "-I", router, mute, deaf)
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_printed("edge1", "left")
    two.edge_printed("edge2", "left")
    assert not events(receiver, "peer_known")
    assert not events(sender, "peer_known")
    one_way(two, "-D", router, mute, deaf)
    two.connect(sender, receiver)


def test_a_mesh_recovers_when_its_long_link_is_up_again(two: Pair) -> None:
    link = two.lab.link("core1", "core2")
    link.down()
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_printed("edge1", "left")
    two.edge_printed("edge2", "left")
    link.up()
    two.connect(sender, receiver)


def test_a_lost_message_is_sent_again(two: Pair) -> None:
    # Pings are short and pass; every transmission of the session's messages is dropped.
    long = ["-m", "length", "--length", "120:65535"]
    one_way(two, "-I", "core1", "edge1", "edge2", *long)
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_printed("edge1", "bus_sent")
    two.edge_printed("edge1", "left")
    assert not events(sender, "peer_known")
    one_way(two, "-D", "core1", "edge1", "edge2", *long)
    two.connect(sender, receiver)


def test_an_edge_that_joins_late_receives_the_waiting_clients(four: Pair) -> None:
    four.edges.kill("edge3")
    receiver = four.receive("c")
    four.edges.start("edge3")
    four.edge_printed("edge3", "listening")
    sender = four.send("d")
    four.connect(sender, receiver)
    assert where(sender) == ["edge3"]


def test_clients_of_a_frozen_edge_register_at_another(four: Pair) -> None:
    receiver = four.receive("c", edges=["edge2", "edge1"])
    four.edges.freeze("edge2")
    sender = four.send("d")
    four.connect(sender, receiver)
    assert where(receiver) == ["edge2", "edge1"]


def test_clients_of_the_only_edge_report_that_it_is_frozen(four: Pair) -> None:
    receiver = four.receive("c", "--wait", "10", edges=["edge2"])
    four.edges.freeze("edge2")
    reason = four.failure(receiver)
    assert reason.startswith("no peer within 10 s: the connection to the edge was lost"), reason


def test_clients_routed_to_another_region_connect(four: Pair) -> None:
    four.lab.announce("core2", "edge3")
    receiver = four.receive("c")
    sender = four.send("d")
    four.connect(sender, receiver)
    assert where(receiver) == where(sender) == ["edge3"]


def test_a_waiting_client_whose_route_changes_registers_at_the_other_edge(four: Pair) -> None:
    receiver = four.receive("c")
    four.lab.announce("core2", "edge1")
    sender = four.send("d")
    four.connect(sender, receiver)


def test_earlier_rounds_do_not_disturb_a_session(four: Pair) -> None:
    receiver = four.receive("c")
    four.connect(four.send("d"), receiver)
    # A second receiver keeps waiting.
    stale = four.receive("c")
    four.edge_printed("edge3", "bus_received", 2)
    four.edges.kill("edge2")
    stale.process.kill()
    four.edges.start("edge2")
    four.edge_printed("edge2", "listening")
    sender = four.send("d")
    receiver = four.receive("c")
    four.connect(sender, receiver)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_second_sender_with_the_same_code_is_rejected(four: Pair, elsewhere: bool) -> None:
    first = four.send("d")
    if not elsewhere:
        second = four.start_sender("d")
        assert four.failure(second).endswith("already has a sender")
        four.connect(first, four.receive("c"))
        return
    second = four.send("a")
    receiver = four.receive("c")
    wait_for([first, second], lambda: any(events(each, "peer_known") for each in (first, second)), PATIENCE_S)
    loser, winner = (first, second) if events(second, "peer_known") else (second, first)
    four.connect(winner, receiver)
    assert four.failure(loser).endswith("already has a sender")


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_whose_edge_is_killed_registers_at_the_next_anycast_edge(four: Pair, role: str) -> None:
    orphan = four.send("c") if role == "sender" else four.receive("c")
    four.edges.kill("edge2")
    four.lab.announce("core2", "edge1")
    other = four.receive("d") if role == "sender" else four.send("d")
    four.connect(*((orphan, other) if role == "sender" else (other, orphan)))
    assert where(orphan) == ["edge2", "edge1"]


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_whose_edge_is_killed_registers_at_the_next_edge_of_its_list(four: Pair, role: str) -> None:
    edges = ["edge2", "edge1"]
    orphan = four.send("c", edges=edges) if role == "sender" else four.receive("c", edges=edges)
    four.edges.kill("edge2")
    other = four.receive("d") if role == "sender" else four.send("d")
    four.connect(*((orphan, other) if role == "sender" else (other, orphan)))
    assert where(orphan) == edges


@pytest.mark.parametrize("ahead", ["edge2", "edge3"])
def test_edges_with_different_clocks_cooperate(four: Pair, ahead: str) -> None:
    # A difference of eleven days. Sessions live for ten minutes.
    four.edges.kill(ahead)
    four.edges.start(ahead, through=["unshare", "--time", "--monotonic", "1000000", "--boottime", "1000000"])
    four.edge_printed(ahead, "listening")
    receiver = four.receive("c")
    four.connect(four.send("d"), receiver)
    for edge in ("edge2", "edge3"):
        four.edge_printed(edge, "paired")
    near, far = (events(four.edges.process(edge), "paired")[0]["t"] for edge in ("edge2", "edge3"))
    assert abs(near - far) > 900_000


@needs("nats-server", "nats", "apt-get install nats-server, pip install 'punchlab[nats]'")
@pytest.mark.parametrize("killed", ["edge1", "edge2", "edge3"])
def test_one_of_three_nats_servers_is_killed_during_a_session(tmp_path: Path, killed: str) -> None:
    with Lab(ABCD(), bus="nats") as lab, Pair(lab, tmp_path) as pair:
        receiver = pair.receive("c")
        assert pair.edges.nats is not None
        pair.edges.nats.kill(killed)
        pair.connect(pair.send("d"), receiver)
