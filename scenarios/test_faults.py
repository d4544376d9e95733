"""What goes wrong on real edge networks, fault by fault: two far hosts meet all the same, or are told why not.

A and B live beside edge1, C beside edge2, D beside edge3.
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
    """C beside edge1 and D beside edge2, with one link of the mesh between them."""
    with Lab(CD()) as lab, Pair(lab, tmp_path) as pair:
        yield pair


@pytest.fixture
def mesh_of_three(tmp_path: Path) -> Iterator[Pair]:
    with Lab(ABCD()) as lab, Pair(lab, tmp_path) as pair:
        yield pair


def one_way(pair: Pair, change: str, router: str, source: str, target: str, *only: str) -> None:
    """With -I: a router drops what one edge says to another, of TCP; with -D it does so no more."""
    ends = ["-s", pair.lab[source].address, "-d", pair.lab[target].address]
    pair.lab[router].run(["iptables", change, "FORWARD", "-p", "tcp", *ends, *only, "-j", "DROP"])


@pytest.mark.parametrize("deaf", ["edge2", "edge3"])
def test_a_bus_that_passes_one_way_only_is_gone_round(mesh_of_three: Pair, deaf: str) -> None:
    pair, mute = mesh_of_three, {"edge2": "edge3", "edge3": "edge2"}[deaf]
    one_way(pair, "-I", mute.replace("edge", "core"), mute, deaf)
    receiver = pair.receive("c")
    pair.meet(pair.send("d"), receiver)


@pytest.mark.parametrize(("mute", "deaf"), [("edge1", "edge2"), ("edge2", "edge1")])
def test_a_bus_that_passed_one_way_only_heals(two: Pair, mute: str, deaf: str) -> None:
    router = mute.replace("edge", "core")
    one_way(two, "-I", router, mute, deaf)
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_said("edge1", "left")
    two.edge_said("edge2", "left")
    assert not events(receiver, "peer_known")
    assert not events(sender, "peer_known")
    one_way(two, "-D", router, mute, deaf)
    two.meet(sender, receiver)


def test_a_mesh_heals_when_its_long_link_comes_back(two: Pair) -> None:
    link = two.lab.link("core1", "core2")
    link.down()
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_said("edge1", "left")
    two.edge_said("edge2", "left")
    link.up()
    two.meet(sender, receiver)


def test_a_message_that_is_lost_is_said_again(two: Pair) -> None:
    # Pings pass, which are short; the messages of the session are lost, each time they are sent.
    long = ["-m", "length", "--length", "120:65535"]
    one_way(two, "-I", "core1", "edge1", "edge2", *long)
    receiver, sender = two.receive("c"), two.send("d")
    two.edge_said("edge1", "bus_sent")
    two.edge_said("edge1", "left")
    assert not events(sender, "peer_known")
    one_way(two, "-D", "core1", "edge1", "edge2", *long)
    two.meet(sender, receiver)


def test_an_edge_that_joins_late_hears_of_who_waits(four: Pair) -> None:
    four.edges.kill("edge3")
    receiver = four.receive("c")
    four.edges.start("edge3")
    four.edge_said("edge3", "listening")
    sender = four.send("d")
    four.meet(sender, receiver)
    assert where(sender) == ["edge3"]


def test_clients_of_an_edge_gone_deaf_go_elsewhere(four: Pair) -> None:
    receiver = four.receive("c", edges=["edge2", "edge1"])
    four.edges.freeze("edge2")
    sender = four.send("d")
    four.meet(sender, receiver)
    assert where(receiver) == ["edge2", "edge1"]


def test_clients_of_the_only_edge_gone_deaf_say_so(four: Pair) -> None:
    receiver = four.receive("c", "--wait", "10", edges=["edge2"])
    four.edges.freeze("edge2")
    told = four.failure(receiver)
    assert told.startswith("no peer within 10 s: the connection to the edge was lost"), told


def test_clients_routed_to_another_region_meet(four: Pair) -> None:
    four.lab.announce("core2", "edge3")
    receiver = four.receive("c")
    sender = four.send("d")
    four.meet(sender, receiver)
    assert where(receiver) == where(sender) == ["edge3"]


def test_a_client_whose_route_changes_while_it_waits_goes_on_at_the_other_edge(four: Pair) -> None:
    receiver = four.receive("c")
    four.lab.announce("core2", "edge1")
    sender = four.send("d")
    four.meet(sender, receiver)


def test_earlier_rounds_of_a_session_do_not_disturb_it(four: Pair) -> None:
    receiver = four.receive("c")
    four.meet(four.send("d"), receiver)
    # Another receiver is left behind: nobody calls it off.
    stale = four.receive("c")
    four.edge_said("edge3", "bus_received", 2)
    four.edges.kill("edge2")
    stale.process.kill()
    four.edges.start("edge2")
    four.edge_said("edge2", "listening")
    sender = four.send("d")
    receiver = four.receive("c")
    four.meet(sender, receiver)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_two_senders_with_one_code_the_second_is_told(four: Pair, elsewhere: bool) -> None:
    first = four.send("d")
    if not elsewhere:
        second = four.start_sender("d")
        assert four.failure(second).endswith("already has a sender")
        four.meet(first, four.receive("c"))
        return
    second = four.send("a")
    receiver = four.receive("c")
    wait_for([first, second], lambda: any(events(each, "peer_known") for each in (first, second)), PATIENCE_S)
    loser, winner = (first, second) if events(second, "peer_known") else (second, first)
    four.meet(winner, receiver)
    assert four.failure(loser).endswith("already has a sender")


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_whose_edge_is_killed_goes_on_where_anycast_leads(four: Pair, role: str) -> None:
    orphan = four.send("c") if role == "sender" else four.receive("c")
    four.edges.kill("edge2")
    four.lab.announce("core2", "edge1")
    other = four.receive("d") if role == "sender" else four.send("d")
    four.meet(*((orphan, other) if role == "sender" else (other, orphan)))
    assert where(orphan) == ["edge2", "edge1"]


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_whose_edge_is_killed_goes_on_at_the_next_of_its_list(four: Pair, role: str) -> None:
    edges = ["edge2", "edge1"]
    orphan = four.send("c", edges=edges) if role == "sender" else four.receive("c", edges=edges)
    four.edges.kill("edge2")
    other = four.receive("d") if role == "sender" else four.send("d")
    four.meet(*((orphan, other) if role == "sender" else (other, orphan)))
    assert where(orphan) == edges


@pytest.mark.parametrize("ahead", ["edge2", "edge3"])
def test_clocks_of_edges_need_not_agree(four: Pair, ahead: str) -> None:
    # Eleven days apart; sessions live for ten minutes.
    four.edges.kill(ahead)
    four.edges.start(ahead, through=["unshare", "--time", "--monotonic", "1000000", "--boottime", "1000000"])
    four.edge_said(ahead, "listening")
    receiver = four.receive("c")
    four.meet(four.send("d"), receiver)
    for edge in ("edge2", "edge3"):
        four.edge_said(edge, "paired")
    near, far = (events(four.edges.process(edge), "paired")[0]["t"] for edge in ("edge2", "edge3"))
    assert abs(near - far) > 900_000


@needs("nats-server", "nats", "apt-get install nats-server, pip install 'punchlab[nats]'")
@pytest.mark.parametrize("killed", ["edge1", "edge2", "edge3"])
def test_a_nats_server_of_three_is_killed_in_the_middle(tmp_path: Path, killed: str) -> None:
    with Lab(ABCD(), bus="nats") as lab, Pair(lab, tmp_path) as pair:
        receiver = pair.receive("c")
        assert pair.edges.nats is not None
        pair.edges.nats.kill(killed)
        pair.meet(pair.send("d"), receiver)
